"""The tools of the other tests can fail: the wire client notices a server that breaks the
specification, the RPC client an answer that breaks the contract, the harness a crash. None of
this needs nbdd; where qemu-nbd is installed the wire client is tried on it too."""

import json
import os
import shutil
import socket
import struct
import subprocess

import pytest

import harness
import rpc
from nbdproto import EXTENDED, SIMPLE, STRUCTURED, Chunk, Cmd, CmdFlag, Opt
from nbdwire import Closed, ProtocolError, Wire, open_export


@pytest.fixture
def pair():
    """(client in the transmission phase of 1 MiB, the server's end of its socket)."""
    ours, theirs = socket.socketpair()
    wire = Wire(None, sock=ours)
    wire.size, wire.mode = 1 << 20, STRUCTURED
    wire.contexts = {"base:allocation": 1, "qemu:dirty-bitmap:b": 2}
    yield wire, theirs
    ours.close()
    theirs.close()


def structured(kind, cookie, payload=b"", done=True, magic=0x668E33EF):
    return struct.pack(">IHHQI", magic, done, kind, cookie, len(payload)) + payload


def data(cookie, offset, size, done=True):
    return structured(Chunk.OFFSET_DATA, cookie, struct.pack(">Q", offset) + bytes(size), done)


def hole(cookie, offset, size, done=True):
    return structured(Chunk.OFFSET_HOLE, cookie, struct.pack(">QI", offset, size), done)


def status(cookie, number, extents, done):
    body = struct.pack(">I", number) + b"".join(struct.pack(">II", *e) for e in extents)
    return structured(Chunk.BLOCK_STATUS, cookie, body, done)


def error(cookie, number, text=b"", lie=0):
    body = struct.pack(">IH", number, len(text) + lie) + text
    return structured(Chunk.ERROR, cookie, body)


READS = {
    "good": (lambda c: data(c, 512, 512), True),
    "good in two": (lambda c: hole(c, 512, 100, False) + data(c, 612, 412), True),
    "good with an end": (lambda c: data(c, 512, 512, False) + structured(Chunk.NONE, c), True),
    "other cookie": (lambda c: data(c + 1, 512, 512), False),
    "simple reply": (lambda c: struct.pack(">IIQ", 0x67446698, 0, c) + bytes(512), False),
    "magic": (lambda c: structured(Chunk.NONE, c, magic=0x668E33EE), False),
    "nothing sent": (lambda c: structured(Chunk.NONE, c), False),
    "too little": (lambda c: data(c, 512, 511), False),
    "too much": (lambda c: data(c, 512, 513), False),
    "before the range": (lambda c: data(c, 511, 512), False),
    "overlap": (lambda c: data(c, 512, 300, False) + data(c, 712, 312), False),
    "empty hole": (lambda c: hole(c, 512, 0, False) + data(c, 512, 512), False),
    "NONE without DONE": (lambda c: structured(Chunk.NONE, c, done=False), False),
    "unknown chunk": (lambda c: structured(77, c), False),
    "reply flags": (
        lambda c: struct.pack(">IHHQI", 0x668E33EF, 3, Chunk.NONE, c, 0),
        False,
    ),
    "strange errno": (lambda c: error(c, 111), False),
    "error 0": (lambda c: error(c, 0), False),
    "text that lies": (lambda c: error(c, 22, b"hello", lie=3), False),
    "block status": (lambda c: status(c, 1, [(512, 0)], True), False),
}


@pytest.mark.parametrize("name", READS)
def test_wire_holds_read_against_the_specification(pair, name):
    wire, server = pair
    answer, good = READS[name]
    cookie = wire.submit(Cmd.READ, 512, 512)
    server.sendall(answer(cookie))
    server.shutdown(socket.SHUT_WR)
    if good:
        assert wire.wait(cookie).data == bytes(512)
    else:
        with pytest.raises(ProtocolError):
            wire.wait(cookie)


def test_wire_holds_df_against_the_specification(pair):
    wire, server = pair
    cookie = wire.submit(Cmd.READ, 0, 1024, CmdFlag.DF)
    server.sendall(data(cookie, 0, 512, False) + data(cookie, 512, 512))
    with pytest.raises(ProtocolError, match="fragmented"):
        wire.wait(cookie)


B, D = [(300, 0), (212, 3)], [(512, 1)]
STATUSES = {
    "good": (lambda c: status(c, 1, B, False) + status(c, 2, D, True), True),
    "one is missing": (lambda c: status(c, 1, B, True), False),
    "one twice": (lambda c: status(c, 1, B, False) + status(c, 1, B, True), False),
    "unknown context": (lambda c: status(c, 1, B, False) + status(c, 3, D, True), False),
    "past the request": (lambda c: status(c, 1, [(513, 0)], False) + status(c, 2, D, True), False),
    "not merged": (
        lambda c: status(c, 1, [(300, 3), (212, 3)], False) + status(c, 2, D, True),
        False,
    ),
    "no extent": (lambda c: status(c, 1, [], False) + status(c, 2, D, True), False),
    "extent of 0": (lambda c: status(c, 1, [(0, 0)], False) + status(c, 2, D, True), False),
    "flag of another": (lambda c: status(c, 1, B, False) + status(c, 2, [(512, 2)], True), False),
    "simple": (lambda c: struct.pack(">IIQ", 0x67446698, 0, c), False),
}


@pytest.mark.parametrize("name", STATUSES)
def test_wire_holds_block_status_against_the_specification(pair, name):
    wire, server = pair
    answer, good = STATUSES[name]
    cookie = wire.submit(Cmd.BLOCK_STATUS, 0, 512)
    server.sendall(answer(cookie))
    server.shutdown(socket.SHUT_WR)
    if good:
        assert wire.wait(cookie).status == {1: B, 2: D}
    else:
        with pytest.raises(ProtocolError):
            wire.wait(cookie)


@pytest.mark.parametrize("offset", [512, 513])
def test_wire_wants_the_offset_repeated(pair, offset):
    wire, server = pair
    wire.mode = EXTENDED
    cookie = wire.submit(Cmd.TRIM, 512, 512)
    server.sendall(struct.pack(">IHHQQQ", 0x6E8A278C, 1, Chunk.NONE, cookie, offset, 0))
    if offset == 512:
        assert wire.wait(cookie).error == 0
    else:
        with pytest.raises(ProtocolError):
            wire.wait(cookie)


def test_wire_notices_the_end(pair):
    wire, server = pair
    cookie = wire.submit(Cmd.READ, 0, 512)
    server.sendall(data(cookie, 0, 512)[:100])
    server.close()
    with pytest.raises(Closed) as end:
        wire.wait(cookie)
    assert end.value.got


def test_wire_expect_close(pair):
    wire, server = pair
    with pytest.raises(ProtocolError, match="did not close"):
        wire.expect_close(0.1)
    server.sendall(b"more")
    with pytest.raises(ProtocolError, match="expected the end"):
        wire.expect_close(1)
    server.close()
    wire.expect_close(1)


def test_wire_holds_the_handshake_against_the_specification(pair):
    wire, server = pair
    server.sendall(struct.pack(">QIII", 0x3E889045565A9, Opt.INFO, 1, 0))
    with pytest.raises(ProtocolError, match="without EXPORT"):
        wire.info("x")
    server.sendall(struct.pack(">QIII", 0x3E889045565A9, Opt.LIST, 1, 0))
    with pytest.raises(ProtocolError, match="reply to option"):
        wire.info("x")


def listens(path):
    """The socket is there before anybody listens on it."""
    rows = [line.split() for line in open("/proc/net/unix", encoding="utf-8")]
    # The flag is __SO_ACCEPTCON.
    return any(row[3] == "00010000" and row[-1] == str(path) for row in rows)


@pytest.mark.skipif(not shutil.which("qemu-nbd"), reason="no qemu-nbd")
@pytest.mark.parametrize("mode", (SIMPLE, STRUCTURED))
def test_wire_speaks_with_qemu(mode):
    """Another server finds nothing wrong with this client, nor this client with it."""
    folder = harness.Daemon().root  # a path short enough for a socket
    image, path = folder / "image", folder / "s"
    image.write_bytes(bytes(65536) + b"hello" + bytes(65531))
    server = subprocess.Popen(["qemu-nbd", "-k", path, "-f", "raw", "-x", "e", "-A", image])
    try:
        assert harness.wait_for(lambda: listens(path))
        contexts = ["base:allocation", "qemu:allocation-depth"] if mode == STRUCTURED else []
        with open_export(f"unix:{path}", "e", mode, contexts) as wire:
            assert wire.read(65536, 5).data == b"hello"
            assert wire.write(0, b"x").error == 0
            assert wire.flush().error == 0
            if contexts:
                assert wire.extents("qemu:allocation-depth") == [(0, 131072, 1)]
            wire.disconnect()
            wire.expect_close()
        assert server.wait(60 * harness.SLOW) == 0
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder)


GOOD = {"jsonrpc": "2.0", "id": 1, "result": {}}
REFUSAL = {"kind": "not-found", "detail": "no such disk", "path": "/params/name"}


def refusal(**changes):
    failure = {"code": 1001, "message": "not found", "data": {**REFUSAL, **changes}}
    return {"jsonrpc": "2.0", "id": 1, "error": failure}


@pytest.mark.parametrize(
    "answer,good",
    [
        (GOOD, True),
        (refusal(), True),
        (refusal(path=None), True),
        ({**GOOD, "jsonrpc": "2"}, False),
        ({**GOOD, "result": []}, False),
        ({**GOOD, "extra": 1}, False),
        ({**GOOD, **refusal()}, False),
        ({"jsonrpc": "2.0", "id": 1}, False),
        (refusal(kind="busy"), False),
        (refusal(kind="lost"), False),
        (refusal(detail=""), False),
        (refusal(path="params"), False),
    ],
)
def test_rpc_holds_answers_against_the_contract(answer, good):
    if good:
        rpc.check_answer(answer)
    else:
        with pytest.raises(AssertionError):
            rpc.check_answer(answer)


@pytest.mark.parametrize("text", ['{"a":1,"a":2}', '{"a":NaN}', "[Infinity]"])
def test_rpc_reads_strictly(text):
    with pytest.raises(AssertionError):
        rpc.strict_loads(text.encode())


def test_rpc_schema_can_refuse(tmp_path):
    path = tmp_path / "api.schema.json"
    document = {
        "$defs": {"name": {"type": "string", "maxLength": 3}},
        "methods": {"x.y": {"params": {"properties": {"a": {"$ref": "#/$defs/name"}}}}},
    }
    path.write_text(json.dumps(document))
    schema = rpc.Schema(path)
    schema.check("x.y", "params", {"a": "abc"})
    with pytest.raises(AssertionError, match="too long"):
        schema.check("x.y", "params", {"a": "abcd"})


@pytest.mark.parametrize(
    "line",
    [
        "==12==ERROR: AddressSanitizer: heap-use-after-free",
        "x.c:3:4: runtime error: signed integer overflow",
        "WARNING: ThreadSanitizer: data race",
        "(process:1): GLib-CRITICAL **: g_free: assertion 'x' failed",
    ],
)
def test_harness_notices_a_crash(line, tmp_path):
    instance = harness.Daemon(root=tmp_path)
    instance.log_path.write_text("nbdd: listening\n")
    instance.check_log()
    instance.log_path.write_text(f"nbdd: listening\n{line}\n")
    with pytest.raises(AssertionError):
        instance.check_log()


def test_faults_are_injected_and_counted(tmp_path):
    """fault.c does what it says, shown on dd."""
    faults = harness.Faults(tmp_path)
    target = tmp_path / "target"
    target.write_bytes(bytes(8192))
    faults.target(target)

    def sync():
        words = ["dd", f"of={target}", "if=/dev/zero", "count=1", "conv=notrunc,fdatasync"]
        return harness.run(*words, check=False, env=faults.env)

    assert sync()[0] == 0
    assert faults.calls(faults.SYNC) == 1
    faults.set(faults.SYNC, 5)
    code, text = sync()
    assert code != 0 and os.strerror(5) in text
    faults.clear()
    assert sync()[0] == 0
    assert faults.calls(faults.SYNC) >= 3
