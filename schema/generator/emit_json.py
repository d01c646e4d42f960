"""JSON about the API: the OpenRPC document that rpc.discover answers, and api.schema.json for tests:
JSON Schemas (draft 7) of every method's parameters and results, with the examples."""

import json

from .emit_c import NOTE, comment, quote
from .model import INT64_MAX, Enum, Object

VERSION = "@NBDD_VERSION@"


# --- JSON Schema ---

class Schemas:
    """Schemas of types, as references below prefix."""

    def __init__(self, schema, prefix, strict):
        self.schema, self.prefix, self.strict = schema, prefix, strict

    def reference(self, kind):
        return {"$ref": "%s/%s" % (self.prefix, kind.name)}

    def type(self, kind):
        """Of one value, without the bounds of a field."""
        if kind == "boolean":
            return {"type": "boolean"}
        if kind == "integer":
            return {"type": "integer"}
        if kind == "json":
            return {}
        if kind == "action":
            names = sorted(m.name for m in self.schema.methods.values() if m.transaction)
            return {"type": "object", "required": ["method"], "additionalProperties": False,
                    "properties": {"method": {"enum": names}, "params": {"type": "object"}}}
        if kind == "action-result":
            return {"type": "object"}
        return self.reference(kind)

    def definition(self, kind):
        if isinstance(kind, Enum):
            return {"description": kind.description, "oneOf": [
                {"const": name, "description": text} for name, text in kind.values.items()]}
        if isinstance(kind, Object):
            return dict(self.object(kind.fields), description=kind.description)
        out = {"description": kind.description, "type": kind.base}
        if kind.base == "string":
            # Lengths are in bytes; characters are at most that many.
            out["maxLength"] = kind.maximum
            if kind.minimum:
                out["minLength"] = 1
            if kind.pattern:
                out["pattern"] = kind.pattern
        else:
            out.update(minimum=kind.minimum, maximum=kind.maximum)
        return out

    def field(self, field):
        out = self.type(field.type)
        bounded = field.high != INT64_MAX or field.low
        if field.list:
            out = {"type": "array", "items": out}
            if field.maximum is not None:
                out["maxItems"] = field.maximum
            if field.minimum is not None:
                out["minItems"] = field.minimum
        elif field.is_integer() and bounded:
            out = {"type": "integer", "minimum": field.low, "maximum": field.high}
        elif field.type == "integer":
            out = {"type": "integer", "minimum": 0}
        elif field.is_string() and field.maximum is not None:
            out = {"allOf": [out, {"maxLength": field.maximum}]}
        if field.nullable:
            out = {"oneOf": [out, {"type": "null"}]}
        if "$ref" in out:
            out = {"allOf": [out]}  # draft 7 ignores what stands beside a $ref
        out = dict(out, description=field.description)
        if field.has_default:
            out["default"] = field.default
        if self.strict and field.volatile:
            out["volatile"] = True
        return out

    def object(self, fields):
        out = {"type": "object", "additionalProperties": False,
               "properties": {field.name: self.field(field) for field in fields}}
        required = [f.name for f in fields if not f.optional and not f.has_default]
        if required:
            out["required"] = required
        return out

    def params(self, method):
        out = self.object(method.params)
        if method.one_of:
            out["oneOf"] = [{"required": [name]} for name in method.one_of]
        return out

    def result(self, method):
        if method.result == "json":
            return {"type": "object"}
        if method.result.name in self.schema.types:
            return self.reference(method.result)
        return self.object(method.result.fields)

    def definitions(self):
        return {kind.name: self.definition(kind) for kind in self.schema.types.values()}


# --- examples, as tests want them: without what differs each time ---

def without_volatile(fields, value):
    out = {}
    for field in fields:
        if field.name not in value or field.volatile:
            continue
        item = value[field.name]
        if isinstance(field.type, Object) and item is not None:
            items = [without_volatile(field.type.fields, v) for v in
                     (item if field.list else [item])]
            item = items if field.list else items[0]
        out[field.name] = item
    return out


def foretold(schema, method, example):
    """The members of the result that are the same each time."""
    result = example["result"]
    if method.result == "json":
        return result
    out = without_volatile(method.result.fields, result)
    for field in method.result.fields:
        if field.type == "action-result":
            out[field.name] = [
                without_volatile(schema.methods[action["method"]].result.fields, item)
                for action, item in zip(example["params"]["actions"], result[field.name])]
    return out


def test_example(schema, method, example):
    if "result" not in example:
        return example
    return dict(example, result=foretold(schema, method, example))


def api_schema(schema):
    schemas = Schemas(schema, "#/$defs", True)
    methods = {}
    for method in schema.methods.values():
        methods[method.name] = {
            "summary": method.summary, "access": method.access, "inline": method.inline,
            "mutates": method.mutates, "transaction": bool(method.transaction),
            "params": schemas.params(method), "result": schemas.result(method),
            "errors": method.errors,
            "examples": [test_example(schema, method, e) for e in method.examples]}
    errors = {e.name: {"code": e.code, "description": e.description}
              for e in schema.errors.values()}
    events = {e.name: {"description": e.description, "events": e.events, "members": e.members}
              for e in schema.events.values()}
    document = {"$schema": "http://json-schema.org/draft-07/schema#",
                "$defs": schemas.definitions(), "methods": methods, "errors": errors,
                "events": events}
    return [json.dumps(document, indent=1, ensure_ascii=False) + "\n"]


# --- OpenRPC ---

def openrpc_examples(method):
    out = []
    for example in method.examples:
        if "result" in example:
            out.append({"name": example["title"],
                        "params": [{"name": name, "value": value}
                                   for name, value in example["params"].items()],
                        "result": {"name": "result", "value": example["result"]}})
    return out


def openrpc_method(schema, schemas, method):
    out = {"name": method.name, "summary": method.summary}
    if method.description:
        out["description"] = method.description
    out["tags"] = [{"name": method.noun}]
    out["paramStructure"] = "by-name"
    params = []
    for field in method.params:
        item = schemas.field(field)
        params.append({"name": field.name, "description": item.pop("description"),
                       "required": not field.optional and not field.has_default, "schema": item})
    out["params"] = params
    out["result"] = {"name": "result", "schema": schemas.result(method)}
    out["errors"] = [{"code": schema.errors[name].code, "message": name} for name in method.errors]
    out["x-access"] = method.access
    if openrpc_examples(method):
        out["examples"] = openrpc_examples(method)
    return out


def openrpc_document(schema):
    schemas = Schemas(schema, "#/components/schemas", False)
    return {
        "openrpc": "1.3.2",
        "info": {"title": "nbdd", "version": VERSION,
                 "description": "Control protocol of nbdd: JSON-RPC 2.0 over a Unix stream socket, "
                                "one JSON text per line. Parameters go by name. Every error has "
                                "`data` with `kind`, `detail` and `path`."},
        "methods": [openrpc_method(schema, schemas, m) for m in schema.methods.values()],
        "components": {"schemas": schemas.definitions(), "errors": {
            e.name: {"code": e.code, "message": e.description} for e in schema.errors.values()}},
        "x-events": {e.name: {"description": e.description, "members": e.members,
                              "events": e.events} for e in schema.events.values()},
    }


def openrpc(schema):
    text = json.dumps(openrpc_document(schema), ensure_ascii=False, separators=(",", ":"))
    header = NOTE + ("#ifndef SCHEMA_OPENRPC_H\n#define SCHEMA_OPENRPC_H\n\n" +
                     comment("The OpenRPC document of the API, on one line.") +
                     "extern const char api_openrpc_document[];\n\n#endif\n")
    before, after = text.split(VERSION)
    source = NOTE + '#include "schema/openrpc.h"\n\nconst char api_openrpc_document[] =\n'
    source += literal(before) + "    NBDD_VERSION\n" + literal(after)
    return [header, source.rstrip("\n") + ";\n"]


def literal(text):
    return "".join("    %s\n" % quote(text[at:at + 80]) for at in range(0, len(text), 80))
