"""The rows about extended headers (64-bit lengths), spoken on the wire, so that they run with
whatever libnbd and QEMU are installed. What extended headers share with the other encodings is
in test_wire_transmission.py, which runs all of it in this mode too. One test each:

lengths up to 2^63                                       test_lengths_*
WRITE without PAYLOAD_LEN: EINVAL, close; QEMU excepted  test_write_without_payload_flag*
a payload over the maximum: close                        test_payload_over_the_maximum
a payload on a command that takes none                   test_payload_on_*
BLOCK_STATUS with a payload: only the contexts asked for test_block_status_payload_*
replies: extended only, with the request's offset        test_replies_are_extended (and the client)
compact magic on an extended connection and vice versa   test_magic_of_the_other_kind
"""

import os
import struct

import pytest

from nbdproto import (
    EXTENDED, EXTENDED_REPLY_MAGIC, EXTENDED_REQUEST_MAGIC, MAX_PAYLOAD, REQUEST_MAGIC, SIMPLE,
    STRUCTURED, Cmd, CmdFlag, Err, InfoType,
)
from nbdwire import Closed

SIZE = 1 << 20
TOP = (1 << 63) - 4096  # about the largest file there can be
BASE, DEPTH, B0 = "base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b0"


@pytest.fixture(scope="module", autouse=True)
def exports(server, tmpfs):
    server.serve("disk", SIZE, {65536: b"x" * 65536}, tmpfs, sharing="shared")
    server.rpc.plain("bitmap.add", disk="disk", name="b0")
    server.serve("vast", TOP, {}, tmpfs, sharing="shared")


def alive(wire):
    assert wire.read(0, 512).error == Err.OK


# --- lengths ---


@pytest.mark.parametrize("length", [1 << 32, (1 << 32) + 1, 1 << 40, 1 << 62, TOP])
def test_lengths_beyond_32_bits(server, length):
    """TRIM, WRITE_ZEROES, CACHE, BLOCK_STATUS take lengths of 64 bits, exactly."""
    with server.open("vast", EXTENDED, [BASE, DEPTH]) as wire:
        for offset in {0, TOP - length}:
            assert wire.trim(offset, length).error == Err.OK
            assert wire.zero(offset, length).error == Err.OK
            assert wire.zero(offset, length, CmdFlag.FAST_ZERO).error == Err.OK
            assert wire.cache(offset, length).error == Err.OK
            for flags in (0, CmdFlag.REQ_ONE):
                reply = wire.block_status(offset, length, flags)
                assert reply.status[wire.contexts[BASE]] == [(length, 3)]
                assert reply.status[wire.contexts[DEPTH]] == [(length, 0)]


@pytest.mark.parametrize("name,size", [("disk", SIZE), ("vast", TOP)])
@pytest.mark.parametrize("length", [1 << 63, (1 << 63) + 1, (1 << 64) - 1, (1 << 64) - SIZE])
def test_lengths_that_overflow(server, name, size, length):
    """length up to 2^63 and beyond, on any export: past the end, not wrapped around it."""
    with server.open(name, EXTENDED, [BASE]) as wire:
        for offset in (0, 4096, size - 512, size, 1 << 63, (1 << 64) - 512):
            assert wire.read(offset, length).error in (Err.EINVAL, Err.EOVERFLOW)
            assert wire.trim(offset, length).error == Err.EINVAL
            assert wire.zero(offset, length).error == Err.ENOSPC
            assert wire.cache(offset, length).error == Err.EINVAL
            assert wire.block_status(offset, length).error == Err.EINVAL
        alive(wire)


@pytest.mark.parametrize("length", [MAX_PAYLOAD + 1, 1 << 32, (1 << 32) + 512, 1 << 40])
def test_lengths_of_read(server, length):
    """READ stays bounded by the maximum payload: the upper half of the length is not cut off."""
    with server.open("vast", EXTENDED) as wire:
        assert wire.read(0, length).error == Err.EINVAL
        assert wire.read(0, length, CmdFlag.DF).error in (Err.EINVAL, Err.EOVERFLOW)
        alive(wire)


def test_lengths_on_a_small_export(server):
    """2^32 more than what fits does not fit."""
    with server.open("disk", EXTENDED, [BASE]) as wire:
        for length in ((1 << 32) + 512, (1 << 32) + SIZE, 1 << 32):
            assert wire.trim(0, length).error == Err.EINVAL
            assert wire.zero(0, length).error == Err.ENOSPC
            assert wire.block_status(0, length).error == Err.EINVAL
        assert wire.read(65536, 4).data == b"xxxx"


# --- payloads ---


def test_write_without_payload_flag(server):
    """extended WRITE without PAYLOAD_LEN: EINVAL, close."""
    with server.open("disk", EXTENDED) as wire:
        cookie = wire.submit(Cmd.WRITE, 0, 512)
        assert wire.wait(cookie).error == Err.EINVAL
        wire.expect_close()
    with server.open("disk", EXTENDED) as wire:
        assert wire.read(65536, 4).data == b"xxxx"


def bare_write(wire, offset, data, length=None):
    """WRITE as QEMU sends it: the payload behind it, without the flag that says so."""
    cookie, header = wire.prepare(Cmd.WRITE, offset, len(data) if length is None else length)
    wire.send(header + data)
    return cookie


def test_write_without_payload_flag_by_qemu(server):
    """QEMU (8.2 and later) negotiates extended headers and does not set the flag. A client that
    negotiated exactly as it does is understood; compliant requests are, too."""
    with server.open("disk", EXTENDED, [BASE], [InfoType.BLOCK_SIZE]) as wire:
        for data in (b"q", b"qemu" * 128, b"Q" * 100000):
            assert wire.wait(bare_write(wire, 300000, data)).error == Err.OK
            assert wire.read(300000, len(data)).data == data
        assert wire.write(300000, b"flag").error == Err.OK
        assert wire.read(300000, 4).data == b"flag"
        assert wire.wait(bare_write(wire, SIZE - 1, b"past the end")).error == Err.ENOSPC
        assert wire.zero(300000, 131072).error == Err.OK
    with server.open("vast", EXTENDED, [BASE], [InfoType.BLOCK_SIZE]) as wire:
        with pytest.raises(Closed):
            wire.wait(bare_write(wire, 0, b"", MAX_PAYLOAD + 1))


@pytest.mark.parametrize(
    "contexts,infos",
    [
        ([], [InfoType.BLOCK_SIZE]),
        ([BASE], []),
        ([BASE], [InfoType.NAME, InfoType.BLOCK_SIZE]),
        ([BASE], [InfoType.NAME]),
        ([BASE, DEPTH], [InfoType.BLOCK_SIZE]),
    ],
    ids=["no context", "no information", "more information", "other information", "more contexts"],
)
def test_write_without_payload_flag_by_others(server, contexts, infos):
    """... and nobody else."""
    with server.open("disk", EXTENDED, contexts, infos) as wire:
        assert wire.wait(bare_write(wire, 65536, b"\xee" * 512)).error == Err.EINVAL
        wire.expect_close()
    with server.open("disk", EXTENDED) as wire:
        assert wire.read(65536, 4).data == b"xxxx"


@pytest.mark.parametrize("command", [Cmd.WRITE, Cmd.READ, Cmd.BLOCK_STATUS, 99])
@pytest.mark.parametrize("length", [MAX_PAYLOAD + 1, 1 << 32, (1 << 32) + 4, 1 << 63, (1 << 64) - 1])
def test_payload_over_the_maximum(server, command, length):
    """an extended payload over the maximum: close."""
    with server.open("vast", EXTENDED, [BASE]) as wire:
        wire.send(wire.header(command, CmdFlag.PAYLOAD_LEN, 1, 0, length))
        with pytest.raises(Closed):
            for _ in range(64):
                wire.send(bytes(1 << 20))
            wire.recv(1)


@pytest.mark.parametrize("size", [1, 8, 512, 65536, 1 << 20])
@pytest.mark.parametrize(
    "command", [Cmd.READ, Cmd.FLUSH, Cmd.TRIM, Cmd.CACHE, Cmd.WRITE_ZEROES, 99], ids=str
)
def test_payload_on_a_command_without(server, command, size):
    """A payload where none is due is read away; EINVAL; the connection goes on."""
    with server.open("disk", EXTENDED) as wire:
        assert wire.call(command, 65536, 512, payload=b"\xee" * size).error == Err.EINVAL
        assert wire.read(65536, 4).data == b"xxxx"


def test_payload_of_write(server):
    """WRITE with PAYLOAD_LEN: the header's length is the payload's."""
    with server.open("disk", EXTENDED) as wire:
        for data in (b"a", b"b" * 512, b"c" * 65536):
            assert wire.write(262144, data).error == Err.OK
            assert wire.read(262144, len(data)).data == data
        assert wire.zero(262144, 65536).error == Err.OK


# --- BLOCK_STATUS with a payload ---


def status_request(wire, names, length=SIZE, offset=0, flags=0, ids=None):
    numbers = [wire.contexts[name] for name in names] if ids is None else ids
    payload = struct.pack(">Q", length) + b"".join(struct.pack(">I", n) for n in numbers)
    return wire.call(
        Cmd.BLOCK_STATUS, offset, length, flags, payload=payload, contexts=set(numbers)
    )


@pytest.mark.parametrize(
    "names", [[BASE], [B0], [DEPTH, BASE], [B0, DEPTH, BASE]], ids=lambda n: "+".join(n)
)
def test_block_status_payload_filters(server, names):
    """Only the contexts named are reported (the client checks that it is those and no other)."""
    with server.open("disk", EXTENDED, [BASE, DEPTH, B0]) as wire:
        whole = wire.block_status(0, SIZE)
        some = status_request(wire, names)
        assert some.error == Err.OK
        assert some.status == {wire.contexts[n]: whole.status[wire.contexts[n]] for n in names}
        one = status_request(wire, names, flags=CmdFlag.REQ_ONE)
        assert one.error == Err.OK
        assert status_request(wire, names, length=100, offset=65500).error == Err.OK


def test_block_status_payload_refused(server):
    """duplicate or unknown ids, a wrong length: EINVAL, and the payload is read away."""
    with server.open("disk", EXTENDED, [BASE, B0]) as wire:
        base, bitmap = wire.contexts[BASE], wire.contexts[B0]
        unknown = max(base, bitmap) + 1000
        for ids in ([base, base], [base, bitmap, base], [unknown], [base, unknown], [0xFFFFFFFF]):
            assert status_request(wire, (), ids=ids).error == Err.EINVAL
            alive(wire)
        for payload in (b"", b"x", bytes(7), bytes(9), bytes(11), bytes(14), bytes(70000)):
            reply = wire.call(Cmd.BLOCK_STATUS, 0, SIZE, payload=payload)
            assert reply.error == Err.EINVAL, payload[:20]
            alive(wire)
        for length in (0, SIZE + 1, 1 << 63, (1 << 64) - 1):
            assert status_request(wire, [BASE], length=length).error == Err.EINVAL
            alive(wire)


def test_block_status_payload_without_contexts(server):
    """Without a selection there is nothing to filter: EINVAL."""
    with server.open("disk", EXTENDED) as wire:
        assert status_request(wire, (), ids=[0]).error == Err.EINVAL
        assert status_request(wire, (), ids=[1]).error == Err.EINVAL
        alive(wire)


@pytest.mark.parametrize("cache", ["writeback", "direct"])
def test_block_status_payload_after_growth(server, cache):
    """A payload changes nothing about which ranges there are: those of the size that the client was
    told, though the disk has grown; and its last block, if it is a partial one, ends there."""
    size = SIZE + 100
    path = server.serve("grows", size, {}, sharing="shared", cache=cache)
    try:
        with server.open("grows", EXTENDED, [BASE], [InfoType.BLOCK_SIZE]) as wire:
            os.truncate(path, 2 * SIZE)
            server.rpc.plain("disk.refresh", name="grows")
            for offset, length, error in [
                (0, size, Err.OK),
                (SIZE, 100, Err.OK),
                (0, size + 1, Err.EINVAL),
                (0, 2 * SIZE, Err.EINVAL),
                (SIZE, SIZE, Err.EINVAL),
                (SIZE + 4096, 4096, Err.EINVAL),
            ]:
                assert wire.block_status(offset, length).error == error, (offset, length)
                reply = status_request(wire, [BASE], length, offset)
                assert reply.error == error, (offset, length)
            alive(wire)
    finally:
        server.drop("grows")


# --- framing ---


def test_replies_are_extended(server):
    """Every reply is an extended one, without a payload too, errors included."""
    with server.open("disk", EXTENDED) as wire:
        for command, length in ((Cmd.FLUSH, 0), (Cmd.CACHE, 512), (99, 0), (Cmd.TRIM, 1 << 40)):
            wire.send(wire.header(command, 0, 5, 1024 if length else 0, length))
            magic, _, _, cookie, offset, size = wire.unpack(">IHHQQQ")
            wire.recv(size)
            assert (magic, cookie) == (EXTENDED_REPLY_MAGIC, 5)
            assert offset == (1024 if length else 0)


@pytest.mark.parametrize(
    "mode,magic",
    [
        (EXTENDED, REQUEST_MAGIC),
        (SIMPLE, EXTENDED_REQUEST_MAGIC),
        (STRUCTURED, EXTENDED_REQUEST_MAGIC),
    ],
)
def test_magic_of_the_other_kind(server, mode, magic):
    """The encoding is what was negotiated, and no other is understood: close."""
    with server.open("disk", mode) as wire:
        wire.send(struct.pack(">IHHQQQ", magic, 0, Cmd.READ, 1, 0, 512))
        wire.expect_close()


@pytest.mark.parametrize("split", [1, 16, 28, 31])
def test_header_in_pieces(server, split):
    """A request header may arrive in any pieces."""
    with server.open("disk", EXTENDED) as wire:
        cookie, data = wire.prepare(Cmd.READ, 65536, 512)
        for start in range(0, len(data), split):
            wire.send(data[start : start + split])
        assert wire.wait(cookie).data == b"x" * 512


def test_zero_length_payload(server):
    """PAYLOAD_LEN with length 0 is against the specification; it must not upset the stream."""
    with server.open("disk", EXTENDED) as wire:
        reply = wire.call(Cmd.WRITE, 0, 0, payload=b"")
        assert reply.error in (Err.OK, Err.EINVAL)
        alive(wire)
