"""The transmission rows of what NBD clients see, in every encoding of replies (simple, structured,
extended headers); rows about extended headers alone are in test_wire_extended.py. The disk's
errors and durability: test_wire_disk.py; BLOCK_STATUS and the end have files of their own. One test each:


READ, structured, without and with DF                    test_read_chunks, test_read_df
READ past the end, unaligned; unknown command or flag    test_read_outside, test_unaligned_*,
                                                         test_unknown_command, test_unknown_flag,
                                                         test_misplaced_flag
WRITE, WRITE_ZEROES past the end ENOSPC, TRIM EINVAL     test_change_outside
changes on a read-only export EPERM, payload read away   test_read_only
payload over 32 MiB                                      test_read_over_the_maximum, test_write_over_*
lengths up to 2^32-1 (2^63 in test_wire_extended.py)     test_huge_*
"""

import random
import struct
import threading
import time

import pytest

import harness
from nbdproto import EXTENDED, MAX_PAYLOAD, SIMPLE, STRUCTURED, Cmd, CmdFlag, Err, InfoType
from nbdwire import COMMANDS, Closed, ask

SIZE = 1 << 20
BASE = "base:allocation"
STRUCTURED_MODES = (STRUCTURED, EXTENDED)
PATTERN = bytes(range(256)) * 16  # 4 KiB


@pytest.fixture(scope="module", autouse=True)
def exports(server, tmpfs):
    server.serve("disk", SIZE, sharing="shared")
    data = {65536: PATTERN * 4, 196608: PATTERN}
    server.serve("sparse", SIZE, data, tmpfs, sharing="shared")
    server.serve("ro", SIZE, {0: PATTERN}, sharing="shared", read_only=True)
    server.serve("big", 128 << 20, {}, tmpfs, sharing="shared")
    server.serve("vast", 1 << 62, {}, tmpfs, sharing="shared")


def alive(wire):
    """The connection is in step: whatever was sent before has been read away."""
    reply = wire.read(0, 512)
    assert reply.error == Err.OK


# --- READ, WRITE and what is refused ---


@pytest.mark.parametrize("mode", STRUCTURED_MODES)
def test_read_chunks(server, mode):
    """READ, structured, no DF: data and hole chunks as the file has them."""
    with server.open("sparse", mode) as wire:
        reply = wire.read(0, SIZE)
        assert reply.data == (
            bytes(65536) + PATTERN * 4 + bytes(196608 - 65536 - 16384) + PATTERN
            + bytes(SIZE - 196608 - 4096)
        )
        assert merged(reply.holes) == [
            (0, 65536),
            (65536 + 16384, 196608 - 65536 - 16384),
            (196608 + 4096, SIZE - 196608 - 4096),
        ]
        assert merged(reply.chunks) == [(65536, 16384), (196608, 4096)]
        inner = wire.read(65536 + 100, 1000)
        assert inner.data == (PATTERN * 4)[100:1100]
        assert not inner.holes
        assert wire.read(300000, 65536).holes == [(300000, 65536)]


def merged(ranges):
    """Sorted (offset, length) pairs with adjacent ones joined."""
    out = []
    for offset, length in sorted(ranges):
        if out and sum(out[-1]) == offset:
            out[-1] = (out[-1][0], out[-1][1] + length)
        else:
            out.append((offset, length))
    return out


@pytest.mark.parametrize("mode", STRUCTURED_MODES)
@pytest.mark.parametrize("offset,length", [(0, 65536), (60000, 65536), (0, SIZE), (65536, 4096)])
def test_read_df(server, mode, offset, length):
    """with DF one data chunk (the client checks that there is one, and no hole)."""
    with server.open("sparse", mode) as wire:
        plain = wire.read(offset, length)
        whole = wire.read(offset, length, CmdFlag.DF)
        assert whole.data == plain.data
        assert whole.chunks == [(offset, length)]


def test_read_simple_is_one_piece(server):
    with server.open("sparse", SIMPLE) as wire:
        assert wire.read(60000, 65536).data[5536:5536 + 16384] == PATTERN * 4


@pytest.mark.parametrize("size", [1, 511, 512, 4095, 4097, 65535, 65536, 262144, 262145, SIZE])
def test_read_of_any_size(server, mode, size):
    """Contents come out right whatever path (copied, zero-copy) a size takes."""
    rng = random.Random(size)
    blob = rng.randbytes(SIZE)
    with server.open("disk", mode) as wire:
        assert wire.write(0, blob).error == Err.OK
        for offset in (0, 1, 4096, SIZE - size):
            if offset + size <= SIZE:
                assert wire.read(offset, size).data == blob[offset : offset + size]


OUTSIDE = [
    (SIZE, 1),
    (SIZE - 1, 2),
    (SIZE - 512, 1024),
    (SIZE + 4096, 512),
    (0, SIZE + 1),
    (1 << 32, 512),
    (1 << 63, 512),
    ((1 << 64) - 1, 1),
    ((1 << 64) - 512, 1024),
    ((1 << 64) - 1, SIZE),
]


@pytest.mark.parametrize("offset,length", OUTSIDE)
def test_read_outside(server, mode, offset, length):
    """READ beyond the end: EINVAL. So are CACHE and BLOCK_STATUS."""
    contexts = [BASE] if mode != SIMPLE else []
    with server.open("disk", mode, contexts) as wire:
        assert wire.read(offset, length).error == Err.EINVAL
        assert wire.cache(offset, length).error == Err.EINVAL
        if contexts:
            assert wire.block_status(offset, length).error == Err.EINVAL
        alive(wire)


@pytest.mark.parametrize("offset,length", OUTSIDE)
def test_change_outside(server, mode, offset, length):
    """WRITE, WRITE_ZEROES beyond the end: ENOSPC (QEMU: EINVAL); TRIM beyond the end: EINVAL.
    Not a byte of what lies inside is changed."""
    with server.open("disk", mode) as wire:
        last = wire.read(SIZE - 4096, 4096).data
        assert wire.write(offset, b"\xee" * length).error == Err.ENOSPC
        assert wire.zero(offset, length).error == Err.ENOSPC
        assert wire.zero(offset, length, CmdFlag.NO_HOLE).error == Err.ENOSPC
        assert wire.zero(offset, length, CmdFlag.FAST_ZERO).error == Err.ENOSPC
        assert wire.trim(offset, length).error == Err.EINVAL
        assert wire.read(SIZE - 4096, 4096).data == last


def test_end_is_inside(server, mode):
    """The last byte belongs to the export."""
    with server.open("disk", mode) as wire:
        assert wire.write(SIZE - 1, b"!").error == Err.OK
        assert wire.read(SIZE - 1, 1).data == b"!"
        assert wire.zero(SIZE - 1, 1).error == Err.OK
        assert wire.read(SIZE - 1, 1).data == b"\0"
        assert wire.trim(SIZE - 1, 1).error == Err.OK
        assert wire.cache(SIZE - 1, 1).error == Err.OK


@pytest.mark.parametrize("command", [8, 9, 100, 255, 256, 0xFFFF])
@pytest.mark.parametrize("length", [0, 512])
def test_unknown_command(server, mode, command, length):
    """unknown command: EINVAL."""
    with server.open("disk", mode) as wire:
        assert wire.call(command, 0, length).error == Err.EINVAL
        alive(wire)


ALLOWED = {
    Cmd.READ: CmdFlag.DF,
    Cmd.WRITE_ZEROES: CmdFlag.NO_HOLE | CmdFlag.FAST_ZERO,
    Cmd.BLOCK_STATUS: CmdFlag.REQ_ONE,
}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.name)
@pytest.mark.parametrize("flag", [1 << bit for bit in range(6, 16)], ids=hex)
def test_unknown_flag(server, mode, command, flag):
    """unknown flag: EINVAL, with nothing done and the payload read away."""
    contexts = [BASE] if mode != SIMPLE else []
    with server.open("disk", mode, contexts) as wire:
        assert wire.write(0, b"keep").error == Err.OK
        assert ask(wire, command, flag).error == Err.EINVAL
        assert wire.read(0, 4).data == b"keep"


MISPLACED = [
    (command, flag)
    for command in COMMANDS
    for flag in (CmdFlag.NO_HOLE, CmdFlag.DF, CmdFlag.REQ_ONE, CmdFlag.FAST_ZERO)
    if not flag & ALLOWED.get(command, CmdFlag.NONE)
]


@pytest.mark.parametrize("command,flag", MISPLACED, ids=[f"{c.name}-{f.name}" for c, f in MISPLACED])
def test_misplaced_flag(server, mode, command, flag):
    """misplaced flag: EINVAL, with nothing done and the payload read away."""
    contexts = [BASE] if mode != SIMPLE else []
    with server.open("disk", mode, contexts) as wire:
        assert wire.write(0, b"keep").error == Err.OK
        assert ask(wire, command, flag).error == Err.EINVAL
        assert wire.read(0, 4).data == b"keep"


def test_misplaced_df_without_structured_replies(server):
    """DF was not offered to a client with simple replies: EINVAL."""
    with server.open("disk", SIMPLE) as wire:
        assert wire.read(0, 512, CmdFlag.DF).error == Err.EINVAL
        alive(wire)


@pytest.mark.parametrize("mode", (SIMPLE, STRUCTURED))
@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.name)
def test_misplaced_payload_len(server, mode, command):
    """PAYLOAD_LEN belongs to extended headers: EINVAL."""
    contexts = [BASE] if mode != SIMPLE else []
    with server.open("disk", mode, contexts) as wire:
        assert ask(wire, command, CmdFlag.PAYLOAD_LEN).error == Err.EINVAL
        alive(wire)


def test_length_0_does_no_harm(server, mode):
    """Length 0 is unspecified but for this: the server does not disconnect."""
    with server.open("disk", mode) as wire:
        for command in (Cmd.READ, Cmd.TRIM, Cmd.CACHE, Cmd.WRITE_ZEROES):
            for offset in (0, SIZE):
                wire.call(command, offset, 0)
                alive(wire)
        if mode != EXTENDED:
            wire.call(Cmd.WRITE, 0, 0)
            alive(wire)


def test_unaligned_is_refused_where_a_minimum_was_agreed_on(server, mode):
    """unaligned: EINVAL, for a client that asked for the block sizes of a direct disk."""
    path = server.image("aligned.img", SIZE, {0: PATTERN})
    try:
        server.rpc.plain("disk.add", name="aligned", path=str(path), cache="direct")
    except harness.rpc.RpcError as error:
        pytest.skip(f"no O_DIRECT here: {error}")
    server.rpc.plain("export.add", name="aligned", disk="aligned", sharing="shared")
    contexts = [BASE] if mode != SIMPLE else []
    try:
        with server.open("aligned", mode, contexts, [InfoType.BLOCK_SIZE]) as wire:
            for offset, length in ((1, 512), (0, 511), (511, 513), (0, 1)):
                assert wire.read(offset, length).error == Err.EINVAL
                assert wire.write(offset, b"\xee" * length).error == Err.EINVAL
                assert wire.zero(offset, length).error == Err.EINVAL
                assert wire.trim(offset, length).error == Err.EINVAL
            assert wire.read(0, 4096).data == PATTERN
    finally:
        server.drop("aligned")


# --- read-only ---


@pytest.mark.parametrize("flags", [0, CmdFlag.FUA], ids=["plain", "fua"])
def test_read_only(server, mode, flags):
    """WRITE, TRIM, WRITE_ZEROES on a read-only export: EPERM (QEMU: EINVAL); the payload is read
    away first."""
    with server.open("ro", mode) as wire:
        for length in (1, 4096, SIZE):
            assert wire.write(0, b"\xee" * length, flags).error == Err.EPERM
            assert wire.zero(0, length, flags).error == Err.EPERM
            assert wire.trim(0, length, flags).error == Err.EPERM
        assert wire.zero(0, 512, CmdFlag.NO_HOLE).error == Err.EPERM
        assert wire.zero(0, 512, CmdFlag.FAST_ZERO).error == Err.EPERM
        assert wire.flush().error == Err.OK
        assert wire.cache(0, SIZE).error == Err.OK
        assert wire.read(0, 4096).data == PATTERN


# --- the maximum payload ---


def test_maximum_payload_is_served(server, mode):
    """32 MiB exactly, both ways."""
    blob = random.Random(1).randbytes(MAX_PAYLOAD)
    with server.open("big", mode) as wire:
        assert wire.write(4096, blob).error == Err.OK
        assert wire.read(4096, MAX_PAYLOAD).data == blob
        assert wire.zero(0, 128 << 20).error == Err.OK


@pytest.mark.parametrize("flags", [0, CmdFlag.DF], ids=["plain", "df"])
@pytest.mark.parametrize("length", [MAX_PAYLOAD + 1, 64 << 20, 0xFFFFFFFF])
def test_read_over_the_maximum(server, mode, length, flags):
    """READ over 32 MiB: EINVAL; EOVERFLOW only where the specification has it (structured DF)."""
    if mode == SIMPLE and flags:
        return  # DF is not for it: test_misplaced_df_without_structured_replies
    allowed = {Err.EINVAL, Err.EOVERFLOW} if flags else {Err.EINVAL}
    with server.open("vast", mode) as wire:
        assert wire.read(0, length, flags).error in allowed
        alive(wire)


@pytest.mark.parametrize("mode", (SIMPLE, STRUCTURED))
def test_write_over_the_maximum_is_drained(server, mode):
    """WRITE over 32 MiB: drain and answer up to a bound."""
    with server.open("big", mode) as wire:
        assert wire.write(0, b"\xee" * (MAX_PAYLOAD + 1)).error == Err.EINVAL
        assert wire.read(0, 4096).data == bytes(4096)


@pytest.mark.parametrize("mode", (SIMPLE, STRUCTURED))
def test_write_over_the_bound_drops(server, mode):
    """... drop past it, without reading gigabytes."""
    with server.open("vast", mode) as wire:
        sent, part = 0, bytes(1 << 20)
        with pytest.raises(Closed):
            wire.submit(Cmd.WRITE, 0, 0xFFFFFFFF)
            while sent < 512 << 20:
                wire.send(part)
                sent += len(part)
        assert sent < 300 << 20


# --- lengths ---


def test_huge_ranges_narrow(server, mode):
    """length up to 2^32-1, on any export: no 32-bit overflow anywhere."""
    top = 1 << 62
    length = 0xFFFFFFFF
    contexts = [BASE, "qemu:allocation-depth"] if mode != SIMPLE else []
    with server.open("vast", mode, contexts) as wire:
        for offset in (0, 1, 512, (1 << 32) - 1, (1 << 32) - 4096, 1 << 61, top - length):
            assert wire.trim(offset, length).error == Err.OK
            assert wire.zero(offset, length).error == Err.OK
            assert wire.cache(offset, length).error == Err.OK
            if contexts:
                reply = wire.block_status(offset, length)
                assert reply.status[wire.contexts[BASE]] == [(length, 3)]
                reply = wire.block_status(offset, length, CmdFlag.REQ_ONE)
                assert reply.status[wire.contexts[BASE]] == [(length, 3)]
        for offset in (top - length + 1, top - 1, top, (1 << 64) - 1):
            assert wire.trim(offset, length).error == Err.EINVAL
            assert wire.zero(offset, length).error == Err.ENOSPC
            assert wire.cache(offset, length).error == Err.EINVAL
            assert wire.read(offset, 512).error == (Err.EINVAL if offset > top - 512 else Err.OK)


def test_huge_offsets_hold_data(server, mode):
    """Data far beyond 4 GiB is where it was put."""
    with server.open("vast", mode) as wire:
        for bit in (31, 32, 33, 40, 61):
            mark = struct.pack(">Q", 1 << bit)
            assert wire.write((1 << bit) - 4, mark).error == Err.OK
            assert wire.read((1 << bit) - 4, 8).data == mark
            assert wire.trim((1 << bit) - 4096, 8192).error == Err.OK


# --- many at once ---


def test_pipelined_requests_are_all_answered(server, mode):
    """Thousands of requests ahead of the replies: each is answered once, with its own data."""
    rng = random.Random(3)
    blob = rng.randbytes(SIZE)
    with server.open("disk", mode) as wire:
        assert wire.write(0, blob).error == Err.OK
        expected, batch = {}, []
        for _ in range(4000):
            offset, length = rng.randrange(SIZE - 4096), rng.randrange(1, 4096)
            cookie, data = wire.prepare(Cmd.READ, offset, length)
            expected[cookie] = blob[offset : offset + length]
            batch.append(data)
        sender = threading.Thread(target=wire.send, args=(b"".join(batch),))
        sender.start()
        replies = wire.wait_all()
        sender.join()
        assert {cookie: reply.data for cookie, reply in replies.items()} == expected


def test_slow_reader_holds_up_itself_alone(server, mode):
    """A client that asks for much and reads nothing harms nobody, and gets it all in the end."""
    with server.open("big", mode) as slow, server.open("big", mode) as quick:
        asked = 200
        parts = [slow.prepare(Cmd.READ, (i % 128) << 20, 1 << 20)[1] for i in range(asked)]
        sender = threading.Thread(target=slow.send, args=(b"".join(parts),))
        sender.start()
        time.sleep(0.3)
        # The slow one reads when these have been answered, and no sooner.
        for _ in range(200):
            assert quick.read(0, 4096).error == Err.OK
        server.grew_less_than(0, 300 << 10)
        assert all(reply.error == 0 for reply in slow.wait_all().values())
        sender.join()


def test_same_cookie_twice(server, mode):
    """Cookies are the client's business: two requests with one cookie get two replies."""
    with server.open("disk", mode) as wire:
        header = wire.header(Cmd.FLUSH, 0, 77, 0, 0)
        wire.send(header + header)
        if mode == EXTENDED:
            replies = [wire.unpack(">IHHQQQ") for _ in range(2)]
            assert [reply[3] for reply in replies] == [77, 77]
        elif mode == SIMPLE:
            assert [wire.unpack(">IIQ")[2] for _ in range(2)] == [77, 77]
        else:
            for _ in range(2):
                (magic,) = wire.unpack(">I")
                rest = wire.unpack(">IQ") if magic == 0x67446698 else wire.unpack(">HHQI")
                assert 77 in rest
        alive(wire)
