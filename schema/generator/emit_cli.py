"""C for nbdctl: cli.h and cli.c, tables of nouns, methods, parameters, results and errors."""

from .command import command
from .emit_c import NOTE, comment, quote
from .model import Enum, Object

HEADER = """\
#ifndef SCHEMA_CLI_H
#define SCHEMA_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum CliType {
    CLI_STRING,
    CLI_INTEGER, /* no suffixes */
    CLI_SIZE,    /* bytes: k M G T suffixes when typed; rendered for people */
    CLI_TIME,    /* RFC 3339 (results) */
    CLI_BOOLEAN,
    CLI_ENUM,   /* choices */
    CLI_OBJECT, /* object */
    CLI_ACTION, /* {method, params} */
    CLI_JSON,   /* any JSON */
} CliType;

typedef struct CliChoice { /* arrays end with name NULL */
    const char *name;
    const char *description;
} CliChoice;

typedef struct CliObject CliObject;

/* One parameter, or one member of a result. */
typedef struct CliField {
    const char *name;        /* "read_only"; arrays end with name NULL */
    const char *flag;        /* "read-only" */
    const char *placeholder; /* "NAME", "SIZE", "PATH", "NUMBER"; enums, booleans, objects NULL */
    const char *type_name;   /* the schema's: "name", "export-name", "size", "sharing", "boolean" */
    const char *description;
    CliType type;
    bool positional, list, required, nullable, power_of_two;
    uint64_t minimum, maximum; /* of the number, the string's bytes, or the list's length */
    const char *default_text;  /* "65536", "writeback", "true", "false"; NULL: none */
    const CliChoice *choices;  /* CLI_ENUM, else NULL */
    const CliObject *object;   /* CLI_OBJECT, else NULL */
    const char *names;         /* noun whose names complete it, "file", or NULL */
} CliField;

struct CliObject {
    const char *name; /* "disk" */
    const char *description;
    const CliField *fields;
};

typedef struct CliExample { /* arrays end with title NULL */
    const char *title;
    const char *command; /* "nbdctl disk add vm1 /var/lib/images/vm1.img", quoted for a shell */
} CliExample;

typedef struct CliMethod {
    const char *name; /* "disk.add"; sorted; ends with name NULL */
    const char *noun; /* "disk", "stats" */
    const char *verb; /* "add"; NULL for stats and transaction */
    const char *summary;
    const char *description; /* NULL: none */
    const char *access;      /* "read", "operate", "admin" */
    bool mutates, pages, in_transaction;
    const char *const *one_of; /* parameters of which exactly one is given; NULL-terminated */
    const CliField *params;    /* positionals first */
    const CliObject *result;   /* NULL: any JSON */
    const CliExample *examples;
} CliMethod;

typedef struct CliNoun { /* ends with name NULL */
    const char *name;
    const char *description;
} CliNoun;

typedef struct CliError { /* ends with name NULL */
    const char *name; /* "not-found" */
    int code;
    int exit_status;
    const char *description;
} CliError;

extern const CliMethod cli_methods[];
extern const CliNoun cli_nouns[];
extern const CliError cli_errors[];

#endif
"""

TYPES = {"boolean": "CLI_BOOLEAN", "integer": "CLI_INTEGER", "action": "CLI_ACTION",
         "action-result": "CLI_JSON", "json": "CLI_JSON"}


def type_row(kind):
    """(CliType, placeholder, name)"""
    if isinstance(kind, str):
        return TYPES[kind], {"integer": "NUMBER", "action": "JSON", "json": "JSON"}.get(kind), kind
    if isinstance(kind, Enum):
        return "CLI_ENUM", None, kind.name
    if isinstance(kind, Object):
        return "CLI_OBJECT", None, kind.name
    special = {"size": "CLI_SIZE", "time": "CLI_TIME"}
    plain = "CLI_STRING" if kind.base == "string" else "CLI_INTEGER"
    return special.get(kind.name, plain), kind.cli, kind.name


def field_row(field):
    cli_type, placeholder, type_name = type_row(field.type)
    row = {"name": quote(field.name), "flag": quote(field.flag), "type_name": quote(type_name),
           "description": quote(field.description), "type": cli_type,
           "minimum": "%dU" % field.low, "maximum": "%dU" % field.high}
    if placeholder:
        row["placeholder"] = quote(placeholder)
    for name in ("positional", "list", "nullable", "power_of_two"):
        if getattr(field, name):
            row[name] = "true"
    if not field.optional and not field.has_default:
        row["required"] = "true"
    if field.has_default:
        row["default_text"] = quote(str(field.default).lower() if isinstance(field.default, bool)
                                    else str(field.default))
    if isinstance(field.type, Enum):
        row["choices"] = "choices_" + field.type.snake
    if isinstance(field.type, Object):
        row["object"] = "&object_" + field.type.snake
    if field.names:
        row["names"] = quote(field.names)
    return "    {%s},\n" % ", ".join(".%s = %s" % item for item in row.items())


def fields_text(name, fields):
    return "static const CliField %s[] = {\n%s    {NULL},\n};\n" % (
        name, "".join(field_row(field) for field in fields))


def object_text(kind):
    return fields_text("fields_" + kind.snake, kind.fields) + (
        "static const CliObject object_%s = {%s, %s, fields_%s};\n" %
        (kind.snake, quote(kind.name), quote(kind.description), kind.snake))


def needed_objects(schema):
    """Object types that parameters or results have in them, inner ones first."""
    order, seen = [], set()

    def visit(kind):
        if not isinstance(kind, Object) or kind.name in seen:
            return
        seen.add(kind.name)
        for field in kind.fields:
            visit(field.type)
        order.append(kind)

    for method in schema.methods.values():
        for field in method.params:
            visit(field.type)
        visit(method.result)
    return order


def nouns(schema):
    """name -> description"""
    out = {}
    for method in schema.methods.values():
        if method.noun not in out:
            show = schema.methods.get(method.noun + ".show")
            kind = show.result if show else schema.types.get(method.noun)
            single = [m for m in schema.methods.values() if m.noun == method.noun]
            out[method.noun] = kind.description if isinstance(kind, Object) and len(single) > 1 \
                else method.summary
    return out


def method_text(schema, method):
    """(tables, row) of one method"""
    out = fields_text("params_" + method.snake, method.params)
    examples = [e for e in method.examples if "result" in e]
    out += "static const CliExample examples_%s[] = {\n" % method.snake
    for example in examples:
        out += "    {%s, %s},\n" % (quote(example["title"]),
                                    quote(command(schema, method, example["params"])))
    out += "    {NULL, NULL},\n};\n"
    row = {"name": quote(method.name), "noun": quote(method.noun),
           "verb": quote(method.verb or None), "summary": quote(method.summary),
           "description": quote(method.description), "access": quote(method.access),
           "params": "params_" + method.snake, "examples": "examples_" + method.snake}
    if method.one_of:
        out += "static const char *const one_of_%s[] = {%s, NULL};\n" % (
            method.snake, ", ".join(quote(name) for name in method.one_of))
        row["one_of"] = "one_of_" + method.snake
    for key, on in [("mutates", method.mutates), ("pages", method.pages),
                    ("in_transaction", method.transaction)]:
        if on:
            row[key] = "true"
    if isinstance(method.result, Object):
        row["result"] = "&object_" + method.result.snake
    return out + "\n", "    {%s},\n" % ", ".join(".%s = %s" % item for item in row.items())


def source(schema):
    out = NOTE + '#include "schema/cli.h"\n\n'
    for kind in schema.types.values():
        if isinstance(kind, Enum):
            users = [f for o in needed_objects(schema) for f in o.fields if f.type is kind]
            users += [f for m in schema.methods.values() for f in m.params if f.type is kind]
            if users:
                rows = "".join("    {%s, %s},\n" % (quote(n), quote(d))
                               for n, d in kind.values.items())
                out += "static const CliChoice choices_%s[] = {\n%s    {NULL, NULL},\n};\n" % (
                    kind.snake, rows)
    out += "\n"
    for kind in needed_objects(schema):
        out += object_text(kind)
    out += "\n"
    rows = ""
    for method in schema.methods.values():
        tables, row = method_text(schema, method)
        out += tables
        rows += row
    out += "const CliMethod cli_methods[] = {\n%s    {NULL},\n};\n\n" % rows
    out += "const CliNoun cli_nouns[] = {\n%s    {NULL, NULL},\n};\n\n" % "".join(
        "    {%s, %s},\n" % (quote(n), quote(d)) for n, d in sorted(nouns(schema).items()))
    out += "const CliError cli_errors[] = {\n%s    {NULL, 0, 0, NULL},\n};\n" % "".join(
        "    {%s, %d, %d, %s},\n" % (quote(e.name), e.code, e.exit_status, quote(e.description))
        for e in schema.errors.values())
    return out


def cli(schema):
    header = NOTE + comment("The API as nbdctl needs it: nouns, verbs, parameters, results, errors. "
                            "Constant data; nothing of the daemon.")
    return [header + HEADER, source(schema)]
