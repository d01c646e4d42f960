"""The control socket as a stream of lines: JSON-RPC 2.0 framing, strict JSON, identifiers,
batches, notifications, bounds; and clients that misbehave, which must harm nobody."""

import json
import socket
import struct
import time
from decimal import Decimal

import pytest

import harness
import rpc
from rpc import Disconnected, Rpc, check_answer

MIB = 1 << 20


@pytest.fixture
def line(server):
    """A fresh connection."""
    with Rpc(str(server.socket)) as connection:
        yield connection


def request(method="daemon.info", number=1, **more):
    return {"jsonrpc": "2.0", "id": number, "method": method, **more}


def alive(connection):
    connection.send(request(number="alive"))
    answer = connection.receive()
    assert answer["id"] == "alive" and "result" in answer


# --- JSON ---

GOOD = b'{"jsonrpc":"2.0","id":7,"method":"daemon.info"}'

NOT_JSON = {
    "garbage": b"hello",
    "cut short": GOOD[:-1],
    "text behind it": GOOD + b" x",
    "two texts": GOOD + GOOD,
    "single quotes": b"{'jsonrpc':'2.0','id':7,'method':'daemon.info'}",
    "single quoted key": GOOD.replace(b'"id"', b"'id'"),
    "bare key": GOOD.replace(b'"id"', b"id"),
    "trailing comma": GOOD.replace(b"}", b",}"),
    "comment": b"/* hi */" + GOOD,
    "NaN": GOOD.replace(b"7", b"NaN"),
    "Infinity": GOOD.replace(b"7", b"Infinity"),
    "-Infinity": GOOD.replace(b"7", b"-Infinity"),
    "True": GOOD.replace(b"7", b"True"),
    "1.": GOOD.replace(b"7", b"1."),
    ".5": GOOD.replace(b"7", b".5"),
    "+1": GOOD.replace(b"7", b"+1"),
    "01": GOOD.replace(b"7", b"01"),
    "-": GOOD.replace(b"7", b"-"),
    "1e": GOOD.replace(b"7", b"1e"),
    "0x7": GOOD.replace(b"7", b"0x7"),
    "raw control": GOOD.replace(b"7", b'"a\x01b"'),
    "raw tab": GOOD.replace(b"7", b'"a\tb"'),
    "NUL": GOOD.replace(b"7", b'"a\x00b"'),
    "bad escape": GOOD.replace(b"7", b'"\\x41"'),
    "half an escape": GOOD.replace(b"7", b'"\\u12"'),
    "bad UTF-8": GOOD.replace(b"7", b'"\xff\xfe"'),
    "overlong UTF-8": GOOD.replace(b"7", b'"\xc0\xaf"'),
    "surrogate in UTF-8": GOOD.replace(b"7", b'"\xed\xa0\x80"'),
    "beyond U+10FFFF": GOOD.replace(b"7", b'"\xf5\x80\x80\x80"'),
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "unclosed string": b'{"jsonrpc":"2.0',
    "deep": b"[" * 100000,
    "deep and closed": b"[" * 100000 + b"]" * 100000,
    "deep objects": b'{"a":' * 50000,
}


@pytest.mark.parametrize("name", NOT_JSON)
def test_not_json(line, name):
    """What RFC 8259 does not allow is a parse error without an id; the connection goes on."""
    line.send(NOT_JSON[name] + b"\n")
    answer = line.receive()
    check_answer(answer)
    assert answer["error"]["code"] == -32700
    assert answer["id"] is None
    alive(line)


JSON = {
    "spaces": b' \t{ "jsonrpc" : "2.0" , "id" : 7 , "method" : "daemon.info" } \t\r',
    "escapes": b'{"jsonrpc":"2.0","id":7,"method":"daemon\\u002einfo"}',
    "escaped key": b'{"jsonrpc":"2.0","\\u0069d":7,"method":"daemon.info"}',
    "empty params": b'{"jsonrpc":"2.0","id":7,"method":"daemon.info","params":{}}',
    "another order": b'{"method":"daemon.info","id":7,"jsonrpc":"2.0"}',
}


@pytest.mark.parametrize("name", JSON)
def test_json(line, name):
    line.send(JSON[name] + b"\n")
    answer = line.receive()
    check_answer(answer)
    assert answer["id"] == 7 and "result" in answer


DUPLICATES = [
    b'{"jsonrpc":"2.0","id":7,"id":8,"method":"daemon.info"}',
    b'{"jsonrpc":"2.0","id":7,"method":"daemon.info","method":"daemon.info"}',
    b'{"jsonrpc":"2.0","id":7,"\\u0069d":7,"method":"daemon.info"}',
    b'{"jsonrpc":"2.0","id":7,"method":"disk.show","params":{"name":"a","name":"a"}}',
    b'{"jsonrpc":"2.0","id":7,"method":"transaction","params":{"actions":'
    b'[{"method":"disk.remove","params":{"name":"a","na\\u006de":"b"}}]}}',
]


@pytest.mark.parametrize("text", DUPLICATES, ids=range(len(DUPLICATES)))
def test_duplicate_keys(line, text):
    """Duplicate keys are errors, on every level, however they are spelt."""
    line.send(text + b"\n")
    answer = line.receive()
    check_answer(answer)
    assert answer["error"]["code"] in (-32700, -32600, -32602), answer
    assert "twice" in answer["error"]["data"]["detail"]
    alive(line)


def test_nul_in_a_key(line):
    """A NUL does not end a key: `name\\u0000x` is not `name`."""
    text = b'{"jsonrpc":"2.0","id":7,"method":"disk.show","params":{"name\\u0000x":"a"}}\n'
    line.send(text)
    answer = line.receive()
    assert answer["error"]["code"] in (-32602, -32700)
    alive(line)


# --- requests ---

INVALID_REQUESTS = [
    1,
    "text",
    None,
    True,
    {},
    {"id": 1, "method": "daemon.info"},
    {"jsonrpc": "1.0", "id": 1, "method": "daemon.info"},
    {"jsonrpc": 2.0, "id": 1, "method": "daemon.info"},
    {"jsonrpc": "2.0", "id": 1},
    {"jsonrpc": "2.0", "id": 1, "method": 5},
    {"jsonrpc": "2.0", "id": 1, "method": None},
    {"jsonrpc": "2.0", "id": 1, "method": "daemon.info", "params": 3},
    {"jsonrpc": "2.0", "id": 1, "method": "daemon.info", "params": "x"},
    {"jsonrpc": "2.0", "id": 1, "method": "daemon.info", "params": None},
    {"jsonrpc": "2.0", "id": 1, "method": "daemon.info", "extra": 1},
    {"jsonrpc": "2.0", "id": {}, "method": "daemon.info"},
    {"jsonrpc": "2.0", "id": [1], "method": "daemon.info"},
    {"jsonrpc": "2.0", "id": True, "method": "daemon.info"},
    {"jsonrpc": "2.0", "id": 1, "result": {}},
]


@pytest.mark.parametrize("value", INVALID_REQUESTS, ids=json.dumps)
def test_invalid_request(line, value):
    line.send(value)
    answer = line.receive()
    check_answer(answer)
    assert answer["error"]["code"] == -32600
    legal = isinstance(value, dict) and type(value.get("id")) is int
    assert answer["id"] in ((1, None) if legal else (None,))
    alive(line)


@pytest.mark.parametrize("method", ["nothing", "", "disk", "disk.", "Disk.list", "disk.list ", "x" * 9999])
def test_unknown_method(line, method):
    line.send(request(method))
    answer = line.receive()
    check_answer(answer)
    assert answer["error"]["code"] == -32601
    assert len(json.dumps(answer)) < 2000
    alive(line)


def test_params_by_position(line):
    """Parameters by name only."""
    line.send(request("disk.show", params=["a"]))
    answer = line.receive()
    check_answer(answer)
    assert answer["error"]["code"] == -32602
    assert answer["error"]["data"]["path"] in ("/params", None)
    alive(line)


IDS = [
    "0", "-1", "9007199254740993", "18446744073709551615", "-9223372036854775808",
    "123456789012345678901234567890", "1.5", "-0.25", "1e3", "0.1", '""', '"x"', '"a\\u00fc\\n\\"b"',
    '"\\ud83d\\udc0d"', '"%s"' % ("y" * 1000), "null",
]


@pytest.mark.parametrize("text", IDS)
def test_ids_come_back_exactly(line, text):
    """ids of every legal kind: strings, numbers of any size, null."""
    line.send(b'{"jsonrpc":"2.0","method":"daemon.info","id":' + text.encode() + b"}\n")
    raw = line.receive_line().decode()

    def exact(value):
        return json.loads(value, parse_float=Decimal, parse_int=Decimal)

    answer = exact(raw)
    assert "result" in answer, raw
    assert answer["id"] == exact(text)
    assert type(answer["id"]) is type(exact(text))


def test_notification(server, line):
    """Without an id there is no answer, to a mistake either; the work is done all the same."""
    path = server.image("notified.img")
    for method, params in (
        ("disk.add", {"name": "notified", "path": str(path)}),
        ("disk.add", {"name": "notified", "path": str(path)}),
        ("no.such.method", {}),
        ("disk.show", {"bogus": 1}),
    ):
        line.send({"jsonrpc": "2.0", "method": method, "params": params})
    alive(line)
    assert server.call("disk.show", name="notified")["path"] == str(path)
    server.call("disk.remove", name="notified")


# --- batches ---


def batch(connection, items):
    connection.send(items)
    answers = connection.receive()
    assert isinstance(answers, list)
    for answer in answers:
        check_answer(answer)
    return answers


def test_batch(line):
    answers = batch(line, [request(number=1), request("no.such", 2), request("disk.list", 3)])
    found = {answer["id"]: answer for answer in answers}
    assert set(found) == {1, 2, 3} and len(answers) == 3
    assert "result" in found[1] and "disks" in found[3]["result"]
    assert found[2]["error"]["code"] == -32601


def test_batch_with_notifications(line):
    quiet = {"jsonrpc": "2.0", "method": "daemon.info"}
    answers = batch(line, [quiet, request(number=5), quiet])
    assert [answer["id"] for answer in answers] == [5]


def test_batch_of_notifications_alone(line):
    line.send([{"jsonrpc": "2.0", "method": "daemon.info"}] * 3)
    alive(line)


def test_batch_that_is_empty(line):
    line.send([])
    answer = line.receive()
    check_answer(answer)
    assert answer["error"]["code"] == -32600 and answer["id"] is None
    alive(line)


def test_batch_with_nonsense(line):
    answers = batch(line, [1, "x", None, [], [request()], {}, request(number=9)])
    codes = [answer["error"]["code"] for answer in answers if "error" in answer]
    assert codes == [-32600] * 6
    assert sum("result" in answer for answer in answers) == 1
    alive(line)


def test_batch_is_no_transaction(server, line):
    """Each request of a batch stands for itself, and they run in order."""
    path = server.image("batch.img")
    add = {"name": "batch", "path": str(path)}
    answers = batch(line, [
        request("disk.add", 1, params=add),
        request("disk.add", 2, params=add),
        request("disk.show", 3, params={"name": "batch"}),
        request("disk.remove", 4, params={"name": "batch"}),
        request("disk.show", 5, params={"name": "batch"}),
    ])
    found = {answer["id"]: answer for answer in answers}
    assert [("result" in found[i]) for i in range(1, 6)] == [True, False, True, True, False]


def test_batch_of_many(line):
    answers = batch(line, [request(number=i) for i in range(2000)])
    assert sorted(answer["id"] for answer in answers) == list(range(2000))


def test_batch_of_too_many(line):
    """What is no request is answered as well, so the bound is on how many there are."""
    line.send(b"[" + b"1," * 500000 + b"1]\n")
    text = line.receive_line()
    assert len(text) < 1000, f"{len(text)} bytes"
    error = rpc.strict_loads(text)["error"]
    assert error["data"]["kind"] == "limit" and "500001" in error["message"]


# --- parameters ---


def parameter_error(connection, method, params):
    connection.send(request(method, params=params))
    answer = connection.receive()
    check_answer(answer)
    assert "error" in answer, answer
    assert answer["error"]["code"] == -32602, answer
    return answer["error"]["data"]["path"]


def test_unknown_parameter(line):
    assert parameter_error(line, "disk.show", {"name": "a", "bogus": 1}) == "/params/bogus"
    assert parameter_error(line, "daemon.info", {"bogus": {}}) == "/params/bogus"
    path = parameter_error(line, "disk.show", {"name": "a", "b/o~g": 1})
    assert path == "/params/b~1o~0g", "a JSON pointer escapes / and ~"


def test_missing_parameter(line):
    assert parameter_error(line, "disk.show", {}) == "/params/name"
    line.send(request("disk.show"))
    assert line.receive()["error"]["code"] == -32602


WRONG = [
    ("disk.show", "name", [1, None, True, [], {}, "", ".x", "a b", "a" * 129, "ä", "a/b", "a\0b", "a\n"]),
    ("export.show", "name", [1, None, "", "/x", "a" * 256, "a\\b"]),
    ("disk.add", "read_only", ["true", 1, 0, None, [], {}]),
    ("disk.add", "cache", ["none", "", "Writeback", 1, None]),
    ("disk.add", "path", [1, "", "relative", None, "/a\0b", "/" + "x" * 5000]),
    ("bitmap.add", "granularity",
     [0, 1, 256, 513, 65535, 1 << 32, -512, "65536", 65536.5, 1e300, None, [], 2**63, 2**64]),
    ("bitmap.extents", "offset", [-1, 0.5, "0", 2**64, -(2**63), 1e300, True, None]),
    ("bitmap.extents", "limit", [0, -1, 1 << 40, "1"]),
    ("bitmap.merge", "sources", ["b", None, {}, [1], [None], ["a b"], [[]]]),
    ("export.add", "sharing", ["all", 1, None]),
    ("export.add", "max_clients", [0, -1, "1", 1.5, 2**64]),
    ("export.add", "allow", ["x", [1], ["nonsense"], ["unix:"], {}]),
    ("client.disconnect", "id", ["1", 1.5, None, 2**64, -1]),
]
BASE = {
    "disk.show": {},
    "export.show": {},
    "disk.add": {"name": "a", "path": "/a"},
    "bitmap.add": {"disk": "a", "name": "b"},
    "bitmap.extents": {"disk": "a", "name": "b"},
    "bitmap.merge": {"disk": "a", "target": "b", "sources": []},
    "export.add": {"name": "a", "disk": "a"},
    "client.disconnect": {},
}


@pytest.mark.parametrize("method,key,value", [(m, k, v) for m, k, vs in WRONG for v in vs])
def test_wrong_value(line, method, key, value):
    """Wrong types, values out of range, numbers that are no integers: invalid-params or
    invalid-argument, with the path of what is wrong. Nothing is coerced or clamped."""
    line.send(request(method, params={**BASE[method], key: value}))
    answer = line.receive()
    check_answer(answer)
    assert "error" in answer, answer
    assert answer["error"]["code"] in (-32602, 1005), answer
    assert answer["error"]["data"]["path"].startswith(f"/params/{key}"), answer
    alive(line)


@pytest.mark.parametrize("text", ["1e400", "-1e400", "99999999999999999999999", "1E+2147483648"])
def test_enormous_numbers(line, text):
    """Numbers beyond any type are refused, not clamped."""
    line.send(
        b'{"jsonrpc":"2.0","id":1,"method":"bitmap.extents","params":{"disk":"a","name":"b",'
        b'"offset":' + text.encode() + b"}}\n"
    )
    answer = line.receive()
    assert answer["error"]["code"] == -32602
    assert answer["error"]["data"]["path"] == "/params/offset"
    alive(line)


# --- bounds ---


def padded(size):
    """A request of exactly that many bytes, without its newline."""
    text = json.dumps(request()).encode()
    return text + b" " * (size - len(text))


def test_request_of_one_mib(line):
    line.send(padded(MIB - 1) + b"\n")
    assert "result" in line.receive()
    alive(line)


@pytest.mark.parametrize("size", [MIB + 2, 2 * MIB, 16 * MIB])
def test_request_over_one_mib(server, size):
    """More is refused with an error, and then the end. It is read away to its last byte: a client
    whose send fails may never look for the answer."""
    with Rpc(str(server.socket)) as connection:
        connection.send(padded(size) + b"\n")
        answer = connection.receive()
        check_answer(answer)
        assert answer["error"]["code"] == -32700
        assert str(MIB) in answer["error"]["data"]["detail"]
        with pytest.raises(Disconnected):
            connection.receive()
    server.rpc.plain("daemon.info")


def test_line_without_end(server):
    """A line that never ends is not kept in memory, and not read away for ever."""
    before = server.proc_status("VmRSS")
    with Rpc(str(server.socket)) as connection:
        with pytest.raises(Disconnected):
            for _ in range(128):
                connection.send(b"x" * MIB)
        server.grew_less_than(before, 16 << 10)
    server.rpc.plain("daemon.info")


@pytest.mark.long
def test_who_stays_after_an_error_is_closed(server):
    """A client that was told why and does not go gives its place back all the same."""
    with Rpc(str(server.socket)) as connection:

        def is_closed():
            try:
                connection.send(b" ")
                return False
            except Disconnected:
                return True

        begin = time.monotonic()
        connection.send(padded(MIB + 2) + b"\n")
        assert "error" in connection.receive()
        assert harness.wait_for(is_closed, step=0.1)
        assert time.monotonic() - begin > 1, "it was given no time to go by itself"


def test_requests_in_pieces_and_in_heaps(line):
    """Lines may arrive byte by byte, or many at once; answers come in order."""
    text = json.dumps(request(number=1)).encode() + b"\n"
    for byte in text:
        line.send(bytes([byte]))
    assert line.receive()["id"] == 1
    line.send(b"".join(json.dumps(request(number=i)).encode() + b"\n" for i in range(500)))
    assert [line.receive()["id"] for _ in range(500)] == list(range(500))


def test_half_closed(server):
    """A client that shuts its sending side after a request still gets the answer, then the end."""
    with Rpc(str(server.socket)) as connection:
        connection.send(request())
        connection.sock.shutdown(socket.SHUT_WR)
        assert "result" in connection.receive()
        with pytest.raises(Disconnected):
            connection.receive()


# --- clients that misbehave ---


def test_half_a_line_holds_up_nobody(server):
    lame = [Rpc(str(server.socket)) for _ in range(10)]
    for connection in lame:
        connection.send(b'{"jsonrpc":"2.0","id":1,')
    for _ in range(50):
        server.rpc.plain("daemon.info")
    for connection in lame:
        connection.close()


def test_never_reading_holds_up_nobody(server):
    """A client that asks and never reads is held back itself: neither memory nor others suffer."""
    deaf = Rpc(str(server.socket), timeout=1)
    before = server.proc_status("VmRSS")
    text = json.dumps(request("rpc.discover")).encode() + b"\n"
    try:
        for _ in range(2000):
            deaf.send(text)
    except (socket.timeout, Disconnected):
        pass
    for _ in range(50):
        server.rpc.plain("daemon.info")
    server.grew_less_than(before, 32 << 10)
    deaf.close()


def test_gone_without_reading(server):
    """Clients that vanish with answers under way, or with a reset."""
    server.rpc.plain("daemon.info")
    fds = server.fd_count()
    for index in range(30):
        connection = Rpc(str(server.socket))
        connection.send(json.dumps(request("rpc.discover")).encode() + b"\n")
        if index % 2:
            linger = struct.pack("ii", 1, 0)
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.close()
    server.rpc.plain("daemon.info")
    assert harness.wait_for(lambda: server.fd_count() <= fds)


def test_stop_with_a_never_reading_client(daemon):
    """... nor does it hold up the end."""
    deaf = Rpc(str(daemon.socket), timeout=1)
    try:
        for _ in range(2000):
            deaf.send(request("rpc.discover"))
    except (socket.timeout, Disconnected):
        pass
    daemon.stop()
    deaf.close()


def test_connections_are_bounded(make_daemon):
    """Beyond the bound new connections are closed; when some have gone there is room again."""
    daemon = make_daemon("--control-connections", 8)
    held = [daemon.rpc]
    for _ in range(7):
        connection = Rpc(str(daemon.socket))
        connection.plain("daemon.info")
        held.append(connection)
    with pytest.raises((Disconnected, rpc.RpcError, OSError, AssertionError)):
        with Rpc(str(daemon.socket), timeout=5) as extra:
            extra.plain("daemon.info")
    held.pop().close()

    def room():
        try:
            with Rpc(str(daemon.socket), timeout=5) as again:
                return again.plain("daemon.info")
        except (Disconnected, rpc.RpcError, OSError, AssertionError):
            return None

    assert harness.wait_for(room)
    for connection in held:
        connection.close()


def test_many_clients_at_once(server):
    """Several clients, each with requests under way, each gets its own answers."""
    lines = [Rpc(str(server.socket)) for _ in range(50)]
    for index, connection in enumerate(lines):
        for part in range(10):
            connection.send(request(number=f"{index}/{part}"))
    for index, connection in enumerate(lines):
        assert [connection.receive()["id"] for _ in range(10)] == [
            f"{index}/{part}" for part in range(10)
        ]
        connection.close()
