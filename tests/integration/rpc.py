"""A JSON-RPC client for the control socket that holds every call against the schema.

`Rpc.call` checks the parameters before they go out (a test that sends wrong ones on purpose says
`check=False`), the result or the error as they come in, and, for every method that takes
`dry_run`, makes the call dry first: the dry call must answer the same (result or kind of error)
and leave the configuration as it was.

`Rpc.send` and `Rpc.receive` work on raw lines, for tests of the framing.
"""

import json
import os
import socket

import jsonschema

EMPTY = object()


class RpcError(Exception):
    """An error answer."""

    def __init__(self, error):
        super().__init__(json.dumps(error))
        self.code = error["code"]
        self.message = error["message"]
        data = error.get("data") or {}
        self.kind = data.get("kind")
        self.detail = data.get("detail")
        self.path = data.get("path")


class Disconnected(Exception):
    """The daemon closed the control connection."""


class Schema:
    """api.schema.json as the build made it: per method a schema of params and of the result."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            self.document = json.load(file)
        self.methods = self.document["methods"]
        self.validators = {}

    def check(self, method, what, value):
        """Raises AssertionError when value is not what the schema says of params, result..."""
        validator = self.validators.get((method, what))
        if validator is None:
            schema = dict(self.methods[method][what])
            schema["$defs"] = self.document["$defs"]
            validator = jsonschema.Draft7Validator(schema)
            self.validators[(method, what)] = validator
        errors = sorted(validator.iter_errors(value), key=str)
        assert not errors, f"{method} {what}: {errors[0].message} at {list(errors[0].path)}: {value}"

    def check_error(self, method, error):
        """Raises AssertionError when the method does not say that it may answer this."""
        kind = error["data"]["kind"]
        known = self.methods[method]["errors"] if method in self.methods else [kind]
        assert kind in known, f"{method} does not tell of `{kind}` among its errors: {error}"

    def takes_dry_run(self, method):
        return "dry_run" in self.methods[method]["params"].get("properties", {})


class Rpc:
    """One control connection."""

    def __init__(self, path, schema=None, timeout=120.0):
        self.path = path
        self.schema = schema
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout)
        self.sock.connect(path)
        self.buffer = b""
        self.number = 0
        self.notifications = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    # --- lines ---

    def send(self, data):
        """Raw bytes (nothing is added), or a value, which goes out as one line."""
        if not isinstance(data, bytes):
            data = json.dumps(data).encode() + b"\n"
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Disconnected from error

    def receive_line(self):
        while b"\n" not in self.buffer:
            try:
                part = self.sock.recv(1 << 20)
            except ConnectionResetError:
                part = b""
            if not part:
                assert not self.buffer, f"half a line at the end: {self.buffer[:100]!r}"
                raise Disconnected
            self.buffer += part
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line

    def receive(self):
        """The next line, parsed; it must be one strict JSON text."""
        return strict_loads(self.receive_line())

    # --- calls ---

    def exchange(self, method, params=EMPTY):
        """Sends one request, returns the whole answer; notifications are put aside."""
        self.number += 1
        request = {"jsonrpc": "2.0", "id": self.number, "method": method}
        if params is not EMPTY:
            request["params"] = params
        self.send(request)
        while True:
            answer = self.receive()
            if isinstance(answer, dict) and "method" in answer:
                self.notifications.append(answer)
                continue
            check_answer(answer)
            assert answer["id"] == self.number
            return answer

    def plain(self, method, **params):
        """One call without a dry run before it."""
        return self.finish(method, self.exchange(method, params))

    def finish(self, method, answer):
        if "error" in answer:
            if self.schema:
                self.schema.check_error(method, answer["error"])
            raise RpcError(answer["error"])
        if self.schema and method in self.schema.methods:
            self.schema.check(method, "result", answer["result"])
        return answer["result"]

    def call(self, method, *, check=True, dry=True, **params):
        if check and self.schema:
            self.schema.check(method, "params", params)
        if not (dry and self.schema and method in self.schema.methods):
            return self.plain(method, **params)
        if "dry_run" in params or not self.schema.takes_dry_run(method):
            return self.plain(method, **params)
        before = configuration(self)
        rehearsal = self.exchange(method, dict(params, dry_run=True))
        after = configuration(self)
        assert before == after, f"a dry {method} changed something: {difference(before, after)}"
        answer = self.exchange(method, params)
        if "error" in rehearsal or "error" in answer:
            dry_kind = rehearsal.get("error", {}).get("data", {}).get("kind")
            kind = answer.get("error", {}).get("data", {}).get("kind")
            assert dry_kind == kind, f"{method}: dry {rehearsal}, then {answer}"
        else:
            expected, got = stable(rehearsal["result"]), stable(answer["result"])
            assert expected == got, f"{method}: dry {expected}, then {got}"
        return self.finish(method, answer)

    def refused(self, method, kind, /, *, check=True, **params):
        """The call must be refused with that kind; the error."""
        try:
            result = self.call(method, check=check, **params)
        except RpcError as error:
            assert error.kind == kind, f"expected {kind}: {error}"
            return error
        raise AssertionError(f"{method} should have been refused with {kind}, answered {result}")


def strict_loads(line):
    """json.loads that takes neither duplicate keys nor NaN."""

    def pairs(items):
        keys = [key for key, _ in items]
        assert len(keys) == len(set(keys)), f"duplicate keys: {keys}"
        return dict(items)

    def constant(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(line.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant)


KINDS = {
    "parse-error": -32700,
    "invalid-request": -32600,
    "method-not-found": -32601,
    "invalid-params": -32602,
    "internal": -32603,
    "not-found": 1001,
    "already-exists": 1002,
    "busy": 1003,
    "invalid-state": 1004,
    "invalid-argument": 1005,
    "denied": 1006,
    "limit": 1007,
    "io": 1008,
    "tls": 1009,
    "timeout": 1010,
    "cancelled": 1011,
}


def check_answer(answer):
    """The shape of a JSON-RPC answer, and of the contract's errors."""
    assert isinstance(answer, dict), answer
    assert answer.get("jsonrpc") == "2.0", answer
    assert "id" in answer, answer
    assert ("result" in answer) != ("error" in answer), answer
    assert set(answer) <= {"jsonrpc", "id", "result", "error"}, answer
    if "result" in answer:
        assert isinstance(answer["result"], dict), "results are always objects"
        return
    error = answer["error"]
    assert set(error) == {"code", "message", "data"}, error
    assert isinstance(error["message"], str) and error["message"], error
    data = error["data"]
    assert set(data) <= {"kind", "detail", "path"}, data
    assert KINDS.get(data.get("kind")) == error["code"], error
    assert isinstance(data["detail"], str) and data["detail"], error
    path = data.get("path")
    assert path is None or path == "" or path.startswith("/"), error


# Fields that may change between two looks at the same configuration.
VOLATILE = {
    "generation",
    "clients",
    "dirty_bytes",
    "over_reported_bytes",
    "missed_writes",
    "busy",
    "uptime_seconds",
    "seq",
    "in_flight",
    "counters",
    "connected_at",
    "id",
    "loaded_at",
}


def stable(value, volatile=frozenset(VOLATILE)):
    """The value without its volatile fields; lists keep their order."""
    if isinstance(value, dict):
        kept = {key: stable(item, volatile) for key, item in value.items() if key not in volatile}
        if isinstance(kept.get("address"), str) and kept["address"].startswith("tcp:"):
            kept["address"] = kept["address"].rpartition(":")[0]  # port 0 picks one
        return kept
    if isinstance(value, list):
        return [stable(item, volatile) for item in value]
    return value


def listing(rpc, noun, **params):
    """Every object of NOUN.list, over all pages."""
    found, cursor = [], None
    while True:
        extra = {"cursor": cursor} if cursor is not None else {}
        result = rpc.plain(f"{noun}.list", **params, **extra)
        found += result["credentials" if noun == "tls" else f"{noun}s"]
        cursor = result.get("next_cursor")
        if cursor is None:
            return found


def configuration(rpc, exact=False):
    """Everything that is configured; exact also holds generations and dirty counts."""
    keep = VOLATILE - {"generation", "dirty_bytes", "missed_writes"} if exact else VOLATILE
    return {
        noun: [stable(item, keep) for item in listing(rpc, noun)]
        for noun in ("disk", "export", "bitmap", "listener", "tls")
    }


def difference(before, after):
    """The objects that differ between two configurations, for messages."""
    return {
        noun: ([x for x in before[noun] if x not in after[noun]],
               [x for x in after[noun] if x not in before[noun]])
        for noun in before
        if before[noun] != after[noun]
    }


def find_schema(build):
    path = os.path.join(build, "schema", "api.schema.json")
    return Schema(path) if os.path.exists(path) else None
