"""What a call looks like as a command line of nbdctl."""

import json
import shlex

from .model import Enum, Object


def value_text(field, value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def flag_words(field, value):
    if value is None:
        return ["--no-" + field.flag]
    if field.type == "boolean":
        return ["--" + field.flag] if value else ["--no-" + field.flag]
    if field.list:
        words = []
        for item in value:
            words += ["--" + field.flag, value_text(field, item)]
        return words or ["--" + field.flag, ""]
    return ["--" + field.flag, value_text(field, value)]


def positional_words(schema, field, value):
    items = value if field.list else [value]
    if field.type == "action":
        # One word that is itself a command: 'bitmap add vm1 b0'.
        return [shlex.join(words(schema, schema.methods[item["method"]], item.get("params", {})))
                for item in items]
    return [value_text(field, item) for item in items]


def words(schema, method, params):
    """The words after `nbdctl` that call method with these parameters."""
    out = [method.noun] + ([method.verb] if method.verb else [])
    for field in method.params:
        if field.name not in params:
            continue
        if field.positional:
            out += positional_words(schema, field, params[field.name])
        else:
            out += flag_words(field, params[field.name])
    return out


def command(schema, method, params):
    return "nbdctl " + shlex.join(words(schema, method, params))


def usage(method):
    """NAME PATH [--read-only] [--cache writeback|direct]"""
    out = []
    for field in method.params:
        if field.positional:
            text = placeholder(field)
            if field.list:
                text += "..."
            out.append(text if not field.optional else "[%s]" % text)
        else:
            text = "--" + field.flag
            if field.type == "boolean" and field.default is True:
                text = "--no-" + field.flag
            if field.type != "boolean":
                text += " " + placeholder(field)
            required = not (field.optional or field.has_default)
            text = text if required else "[%s]" % text
            out.append(text + ("..." if field.list else ""))
    return out


def placeholder(field):
    """What stands for a value: the parameter's name for positionals, else its kind."""
    if field.positional and field.name != "id":
        name = field.name[:-1] if field.list and field.name.endswith("s") else field.name
        return name.upper()
    if isinstance(field.type, Enum):
        return "|".join(field.type.values)
    if isinstance(field.type, Object):
        return field.type.name.upper()
    if field.type in ("action", "json"):
        return "JSON"
    if field.type == "integer":
        return "ID" if field.name == "id" else "NUMBER"
    return field.type.cli
