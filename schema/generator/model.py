"""Loads the schema files and refuses what is wrong in them.

A Schema holds everything the emitters need: methods, types, events and errors, each a small object
with its description, in sorted order. Fields keep the order of their file: it is the order of
positionals and of members in answers.
"""

import json
import os
import re

from .layout import file_text
from .reader import Reader, SchemaError, unique_pairs

ACCESS = ["read", "operate", "admin"]
# json: any JSON value. action: {method, params} of a method that can be part of a transaction;
# action-result: what such a method answers.
PRIMITIVES = {"action", "action-result", "boolean", "integer", "json"}
# What every method may answer beside its own errors; limit: memory, or the length of a batch's answers.
COMMON_ERRORS = ["denied", "internal", "invalid-params", "limit"]
# The same of what can be part of a transaction, which waits for others, for writes and for the store,
# and is refused when the daemon stops.
TRANSACTION_ERRORS = ["busy", "invalid-state", "io", "timeout"]
UNIT = re.compile(r"byte|second|number|count|how many|clients|requests|disks|exports|bitmaps|events|"
                  r"connections|extents|objects|listeners|id\b|seq|size|microsecond", re.I)
INT64_MAX = 2**63 - 1
UINT32_MAX = 2**32 - 1


class Named:
    def __init__(self, name):
        self.name = name
        self.snake = name.replace(".", "_").replace("-", "_")
        self.camel = "".join(p.capitalize() for p in re.split(r"[._-]", name))
        self.upper = self.snake.upper()


class Error(Named):
    pass


class Enum(Named):
    """values: name -> description, in the order of their numbers."""


class Scalar(Named):
    """A string or integer with bounds; cli is its placeholder in usage texts."""


class Object(Named):
    """fields: list of Field."""


class Field(Named):
    """One parameter or member. type is a primitive's name or an Enum, Scalar or Object."""

    def is_string(self):
        return isinstance(self.type, Scalar) and self.type.base == "string"

    def is_integer(self):
        return self.type == "integer" or (isinstance(self.type, Scalar) and
                                          self.type.base == "integer")


class Event(Named):
    """One topic. events: name -> description; members: which fields of event it has."""


class Method(Named):
    """params: list of Field; result: Object or 'json'."""

    def struct_name(self, part):
        return self.camel + part


class Schema:
    def __init__(self, root):
        self.root = root
        self.files = []
        self.errors, self.types, self.events, self.methods = {}, {}, {}, {}
        self._load_errors()
        self._load_types()
        common = self._read("common.json")
        self.common = {name: self._field(name, data, "common.json") for name, data in common.items()}
        self.nbdctl = self._load_nbdctl()
        self._load_events()
        self._load_methods()
        self._set_names()
        self._check_use()
        from . import examples
        examples.check(self)

    # --- files ---

    def _read(self, path):
        full = os.path.join(self.root, path)
        self.files.append(full)
        with open(full, encoding="utf-8") as file:
            text = file.read()
        try:
            data = json.loads(text, object_pairs_hook=unique_pairs)
        except ValueError as error:
            raise SchemaError("%s: %s" % (path, error)) from None
        if text != file_text(data):
            raise SchemaError("%s: not in the layout that `generate.py --format` gives it" % path)
        return data

    def _folder(self, folder):
        names = sorted(os.listdir(os.path.join(self.root, folder)))
        for name in names:
            if not re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*\.json", name):
                raise SchemaError("%s/%s: not a name for a schema file" % (folder, name))
            yield name[:-5], Reader("%s/%s" % (folder, name), self._read("%s/%s" % (folder, name)))

    # --- errors, types, events ---

    def _load_errors(self):
        codes = {}
        for name, reader in self._folder("errors"):
            error = Error(name)
            error.code = reader.get("code", int, required=True)
            error.exit_status = reader.get("exit_status", int, required=True)
            error.description = reader.text("description")
            reader.done()
            if error.code in codes:
                reader.fail("code %d is that of %s" % (error.code, codes[error.code]))
            codes[error.code] = name
            self.errors[name] = error

    def _load_types(self):
        pending = []
        for name, reader in self._folder("types"):
            if name in PRIMITIVES:
                reader.fail("this is the name of a primitive type")
            if "values" in reader.data:
                kind = Enum(name)
                kind.values = reader.get("values", dict, required=True)
                for value, text in kind.values.items():
                    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", value) or not text.endswith("."):
                        reader.fail("`values/%s`" % value)
            elif "base" in reader.data:
                kind = Scalar(name)
                kind.base = reader.get("base", str, required=True)
                if kind.base not in ("string", "integer"):
                    reader.fail("`base` is string or integer")
                kind.minimum = reader.get("minimum", int, required=True)
                kind.maximum = reader.get("maximum", int, required=True)
                kind.expected = reader.text("expected")
                kind.pattern = reader.get("pattern", str)
                kind.cli = reader.get("cli", str, required=True)
            else:
                kind = Object(name)
                pending.append((kind, reader))
            kind.description = reader.text("description")
            self.types[name] = kind
            if not isinstance(kind, Object):
                reader.done()
        for kind, reader in pending:
            kind.fields = self._fields(reader, "fields")
            reader.done()

    def _load_events(self):
        for name, reader in self._folder("events"):
            event = Event(name)
            event.description = reader.text("description")
            event.members = reader.get("members", list, required=True)
            known = [field.name for field in self.types["event"].fields]
            if event.members != [member for member in known if member in event.members]:
                reader.fail("`members` are fields of event, in their order")
            event.events = reader.get("events", dict, required=True)
            for key, text in event.events.items():
                if not re.fullmatch(r"[a-z]+", key) or not text.endswith("."):
                    reader.fail("`events/%s`" % key)
            reader.done()
            self.events[name] = event
        topics = list(self.types["event-topic"].values)
        if topics != sorted(self.events):
            raise SchemaError("types/event-topic.json: values are not the files in events/")

    def _load_nbdctl(self):
        """What nbdctl has beside the methods: see the file."""
        data = self._read("nbdctl.json")
        reader = Reader("nbdctl.json", data)
        reader.text("summary")
        for index, item in enumerate(reader.get("flags", list, required=True)):
            flag = Reader("nbdctl.json: flags/%d" % index, item)
            flag.get("flag", str, required=True)
            flag.text("description")
            if flag.get("value", str):
                flag.get("kind", str, required=True)
            flag.done()
        for index, item in enumerate(reader.get("commands", list, required=True)):
            own = Reader("nbdctl.json: commands/%d" % index, item)
            own.get("noun", str, required=True)
            own.get("verb", str)
            own.get("usage", str, required=True)
            own.get("positional", list, required=True)
            own.text("summary")
            own.done()
        statuses = reader.get("exit_status", dict, required=True)
        for error in self.errors.values():
            if str(error.exit_status) not in statuses:
                reader.fail("exit status %d of %s has no description" %
                            (error.exit_status, error.name))
        reader.get("environment", dict, required=True)
        reader.done()
        return data

    # --- fields ---

    def _fields(self, reader, key):
        data = reader.get(key, dict, required=True)
        return [self._field(name, value, "%s: %s" % (reader.where, key)) for name, value in
                data.items()]

    def _field(self, name, data, where):
        reader = Reader("%s/%s" % (where, name), data)
        if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
            reader.fail("not a name for a field")
        field = Field(name)
        type_name = reader.get("type", str, required=True)
        if type_name not in PRIMITIVES and type_name not in self.types:
            reader.fail("there is no type `%s`" % type_name)
        field.type = type_name if type_name in PRIMITIVES else self.types[type_name]
        field.list = reader.get("list", bool, False)
        field.optional = reader.get("optional", bool, False)
        field.nullable = reader.get("nullable", bool, False)
        field.positional = reader.get("positional", bool, False)
        field.volatile = reader.get("volatile", bool, False)
        field.power_of_two = reader.get("power_of_two", bool, False)
        field.flag = reader.get("flag", str, name.replace("_", "-"))
        field.names = reader.get("names", str)
        field.has_default = "default" in data
        field.default = reader.get("default", (bool, int, str), None)
        field.minimum = reader.get("minimum", int)
        field.maximum = reader.get("maximum", int)
        field.description = reader.text("description")
        reader.done()
        self._bounds(field, reader)
        if field.optional and field.nullable and not field.list and not field.is_string():
            if not field.is_integer():
                reader.fail("only strings, lists and numbers can be absent and null")
        self._check_default(field, reader)
        if field.is_integer() and not UNIT.search(field.description):
            reader.fail("the description of a number names its unit, or what is counted")
        return field

    def _bounds(self, field, reader):
        """Bounds of the number, of the string's bytes, or of the list's length."""
        if field.list and isinstance(field.type, Enum):
            if field.maximum is not None:
                reader.fail("a list of these is bounded by how many values there are")
            field.maximum = len(field.type.values)
        if field.list:
            field.low = field.minimum if field.minimum is not None else 0
            field.high = field.maximum if field.maximum is not None else UINT32_MAX
        elif field.type == "integer":
            field.low = field.minimum if field.minimum is not None else 0
            field.high = field.maximum if field.maximum is not None else INT64_MAX
        elif isinstance(field.type, Scalar):
            field.low = field.type.minimum if field.minimum is None else field.minimum
            field.high = field.type.maximum if field.maximum is None else field.maximum
            if field.low < field.type.minimum or field.high > field.type.maximum:
                reader.fail("bounds are wider than those of its type")
        elif field.minimum is not None or field.maximum is not None:
            reader.fail("bounds for a type that has none")
        else:
            field.low = field.high = 0
        if field.low < 0 or field.low > field.high:
            reader.fail("bounds are negative or crossed")
        if field.power_of_two and not field.is_integer():
            reader.fail("`power_of_two` is for numbers")

    def _check_default(self, field, reader):
        if not field.has_default:
            return
        if field.optional or field.nullable or field.list:
            reader.fail("a default goes with neither `optional` nor `nullable` nor `list`")
        good = {bool: field.type == "boolean",
                int: field.is_integer(),
                str: isinstance(field.type, Enum)}[type(field.default)]
        if not good or (isinstance(field.type, Enum) and field.default not in field.type.values):
            reader.fail("the default does not fit the type")
        if field.is_integer() and not field.low <= field.default <= field.high:
            reader.fail("the default is out of bounds")

    # --- methods ---

    def _load_methods(self):
        for name, reader in self._folder("methods"):
            method = Method(name)
            method.noun, _, method.verb = name.partition(".")
            method.summary = reader.text("summary")
            method.description = reader.text("description", required=False)
            method.access = reader.get("access", str, required=True)
            if method.access not in ACCESS:
                reader.fail("`access` is one of %s" % ", ".join(ACCESS))
            method.inline = reader.get("inline", bool, False)
            method.transaction = reader.get("transaction", (bool, str), False)
            if method.transaction not in (False, True, "when safe"):
                reader.fail("`transaction` is true or \"when safe\"")
            method.mutates = reader.get("mutates", bool, False) or bool(method.transaction)
            method.handler = reader.get("handler", str, "methods")
            if method.handler not in ("methods", "control"):
                reader.fail("`handler` is methods or control")
            method.pages = reader.get("pages", bool, False)
            method.if_exists = reader.get("if_exists", bool, False)
            method.missing_ok = reader.get("missing_ok", bool, False)
            method.one_of = reader.get("one_of", list, [])
            method.params = self._fields(reader, "params")
            method.result = self._result(method, reader)
            method.errors = self._method_errors(method, reader)
            method.examples = reader.get("examples", list, required=True)
            reader.done()
            self._add_common(method, reader)
            self._check_method(method, reader)
            self.methods[name] = method

    def _result(self, method, reader):
        result = reader.get("result", (str, dict), required=True)
        if result == "json":
            return "json"
        if isinstance(result, str):
            if not isinstance(self.types.get(result), Object):
                reader.fail("there is no object type `%s`" % result)
            return self.types[result]
        inner = Reader(reader.where + ": result", result)
        kind = Object(method.name + "-result")
        kind.description = "What %s answers." % method.name
        kind.fields = self._fields(inner, "fields")
        if method.pages:
            kind.fields.append(self.common["next_cursor"])
        inner.done()
        return kind

    def _method_errors(self, method, reader):
        errors = reader.get("errors", list, required=True)
        for error in errors:
            if error not in self.errors:
                reader.fail("there is no error `%s`" % error)
        if errors != sorted(set(errors)):
            reader.fail("`errors` is not sorted, or names one twice")
        common = COMMON_ERRORS + (TRANSACTION_ERRORS if method.transaction else [])
        if set(errors) & set(common):
            reader.fail("`errors` names one that every such method may answer")
        return sorted(errors + common)

    def _add_common(self, method, reader):
        names = [f.name for f in method.params]
        extra = []
        if method.if_exists:
            extra.append("if_exists")
        if method.missing_ok:
            extra.append("missing_ok")
        if method.mutates:
            extra.append("dry_run")
        if method.pages:
            extra += ["cursor", "limit"]
        for name in extra:
            if name in names:
                reader.fail("the parameter `%s` is added by the generator" % name)
            method.params.append(self.common[name])

    def _check_method(self, method, reader):
        if method.transaction and method.inline:
            reader.fail("a change may wait, so it cannot be `inline`")
        if method.mutates and method.access == "read":
            reader.fail("the access level `read` changes nothing")
        positional = [f for f in method.params if f.positional]
        if method.params[:len(positional)] != positional:
            reader.fail("positionals come first")
        for field in positional[:-1]:
            if field.list or field.optional:
                reader.fail("only the last positional is a list or optional")
        if method.one_of:
            by_name = {f.name: f for f in method.params}
            for name in method.one_of:
                if name not in by_name or not by_name[name].optional:
                    reader.fail("`one_of` names optional parameters")
        if not method.examples:
            reader.fail("`examples` is empty")

    def _set_names(self):
        """What completes a parameter: the names of a noun, `file`, or nothing."""
        nouns = {method.noun for method in self.methods.values()}
        for method in self.methods.values():
            flags = set()
            for field in method.params:
                if field.flag in flags:
                    raise SchemaError("methods/%s.json: two flags --%s" % (method.name, field.flag))
                flags.add(field.flag)
                if field.names is None:
                    field.names = self._names_of(method, field, nouns)
                elif field.names not in nouns:
                    raise SchemaError("methods/%s.json: `names` of %s is no noun" %
                                      (method.name, field.name))

    @staticmethod
    def _names_of(method, field, nouns):
        kind = getattr(field.type, "name", field.type)
        if kind == "path":
            return "file"
        if field.name == "id":
            return method.noun
        if kind not in ("name", "export-name"):
            return "client" if field.name == "client" else None
        if field.name in nouns:
            return field.name
        is_new = method.verb in ("add", "begin")
        return method.noun if field.name == "name" and not is_new else None

    def _check_use(self):
        """Every type and error is used by something."""
        seen = set()

        def visit(kind):
            if isinstance(kind, str) or kind.name in seen:
                return
            seen.add(kind.name)
            for field in getattr(kind, "fields", []):
                visit(field.type)

        for method in self.methods.values():
            visit(method.result)
            for field in method.params:
                visit(field.type)
        visit(self.types["event"])
        visit(self.types["access"])
        for name in self.types:
            if name not in seen:
                raise SchemaError("types/%s.json: used by nothing" % name)


def load(root):
    return Schema(root)
