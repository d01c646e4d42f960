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


def words(method, params):
    """The words after `nbdctl` that call method with these parameters."""
    if any(field.type in ("action", "json") for field in method.params):
        return ["call", method.name, json.dumps(params, ensure_ascii=False)]
    out = [method.noun] + ([method.verb] if method.verb else [])
    for field in method.params:
        if field.name not in params:
            continue
        value = params[field.name]
        if not field.positional:
            out += flag_words(field, value)
        elif field.list:
            out += [value_text(field, item) for item in value]
        else:
            out.append(value_text(field, value))
    return out


def command(method, params):
    return "nbdctl " + " ".join(shlex.quote(word) for word in words(method, params))


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
