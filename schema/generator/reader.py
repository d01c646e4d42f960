"""Reading JSON objects of which every key must be known and of the right type."""


class SchemaError(Exception):
    """Something in a schema file is wrong; the text begins with the file and the place in it."""


def unique_pairs(pairs):
    result = {}
    for key, value in pairs:
        if key in result:
            raise ValueError("the key %s is there twice" % key)
        result[key] = value
    return result


class Reader:
    """Reads one JSON object and insists that every key is known and of the right type."""

    def __init__(self, where, data):
        if not isinstance(data, dict):
            raise SchemaError("%s: an object is expected" % where)
        self.where, self.data, self.used = where, data, set()

    def fail(self, text):
        raise SchemaError("%s: %s" % (self.where, text))

    def get(self, key, kind, default=None, required=False):
        self.used.add(key)
        if key not in self.data:
            if required:
                self.fail("`%s` is missing" % key)
            return default
        value = self.data[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            self.fail("`%s` has the wrong type" % key)
        return value

    def text(self, key, required=True):
        value = self.get(key, str, required=required)
        if value is not None and (not value or value != value.strip() or "\n" in value):
            self.fail("`%s` is empty, or has spaces around it or line breaks in it" % key)
        if value is not None and value[-1] not in ".:)" and key in ("description", "summary"):
            self.fail("`%s` does not end in a full stop" % key)
        return value

    def done(self):
        for key in self.data:
            if key not in self.used:
                self.fail("unknown key `%s`" % key)
