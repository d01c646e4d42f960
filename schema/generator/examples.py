"""Checks values, such as those of examples, against the schema."""

import re

from .model import Enum, Object, Scalar
from .reader import Reader, SchemaError


def check_value(field_type, value, where):
    if field_type in ("action", "action-result", "json"):
        return
    if field_type == "boolean":
        good = isinstance(value, bool)
    elif field_type == "integer" or (isinstance(field_type, Scalar) and
                                     field_type.base == "integer"):
        good = isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(field_type, Scalar):
        good = isinstance(value, str) and (
            field_type.pattern is None or re.search(field_type.pattern, value) is not None)
    elif isinstance(field_type, Enum):
        good = value in field_type.values
    else:
        check_object(field_type.fields, value, where)
        return
    if not good:
        raise SchemaError("%s: %r does not fit its type" % (where, value))


def check_field(field, value, where):
    if value is None:
        if not field.nullable:
            raise SchemaError("%s: null is not allowed" % where)
        return
    if field.list:
        if not isinstance(value, list):
            raise SchemaError("%s: a list is expected" % where)
        for index, item in enumerate(value):
            check_value(field.type, item, "%s/%d" % (where, index))
        return
    check_value(field.type, value, where)
    if field.is_integer() and not field.low <= value <= field.high:
        raise SchemaError("%s: %d is out of bounds" % (where, value))


def check_object(fields, value, where):
    if not isinstance(value, dict):
        raise SchemaError("%s: an object is expected" % where)
    names = {field.name: field for field in fields}
    for key in value:
        if key not in names:
            raise SchemaError("%s: unknown key `%s`" % (where, key))
    for field in fields:
        if field.name in value:
            check_field(field, value[field.name], where + "/" + field.name)
        elif not field.optional and not field.has_default:
            raise SchemaError("%s: `%s` is missing" % (where, field.name))


def check_call(schema, call, where):
    reader = Reader(where, call)
    method = schema.methods.get(reader.get("method", str, required=True))
    params = reader.get("params", dict, required=True)
    reader.done()
    if method is None:
        raise SchemaError("%s: there is no such method" % where)
    check_object(method.params, params, where)


def check_example(schema, method, example, where):
    reader = Reader(where, example)
    reader.text("title")
    for image in reader.get("images", list, []):
        inner = Reader(where + ": images", image)
        inner.get("path", str, required=True)
        inner.get("size", int, required=True)
        inner.done()
    for file in reader.get("files", list, []):
        inner = Reader(where + ": files", file)
        inner.get("path", str, required=True)
        inner.get("text", str, required=True)
        inner.done()
    for call in reader.get("setup", list, []):
        check_call(schema, call, where + ": setup")
    params = reader.get("params", dict, required=True)
    error = reader.get("error", str)
    result = reader.get("result", dict)
    reader.done()
    if (error is None) == (result is None):
        raise SchemaError("%s: either `result` or `error`" % where)
    if error is not None and error not in method.errors:
        raise SchemaError("%s: `%s` is not among the errors of the method" % (where, error))
    if error != "invalid-params":
        check_object(method.params, params, where + ": params")
    if result is not None and isinstance(method.result, Object):
        check_object(method.result.fields, result, where + ": result")


def check(schema):
    for method in schema.methods.values():
        for number, example in enumerate(method.examples):
            check_example(schema, method, example,
                          "methods/%s.json: examples/%d" % (method.name, number))
