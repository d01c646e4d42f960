"""Rows about what the disk below does: its errors, zeroes and holes, durability; in every encoding of
replies, spoken on the wire. One test each:

disk error in a structured READ                          test_disk_error_in_read*
what the file has lost: EIO, never zeroes                test_what_the_file_has_lost
FAST_ZERO                                                test_fast_zero*
NO_HOLE                                                  test_no_hole_*
FUA                                                      test_fua_*
FLUSH covers every connection of the disk                test_flush_*
EDQUOT, EFBIG: ENOSPC                                    test_errno_mapping
"""

import errno
import os
import resource
import time

import pytest

from nbdproto import EXTENDED, SIMPLE, STRUCTURED, Chunk, Cmd, CmdFlag, Err
from nbdwire import COMMANDS, ask

SIZE = 1 << 20
BASE = "base:allocation"
STRUCTURED_MODES = (STRUCTURED, EXTENDED)
PATTERN = bytes(range(256)) * 16  # 4 KiB


@pytest.fixture(scope="module", autouse=True)
def exports(server):
    server.serve("disk", SIZE, sharing="shared")


def alive(wire):
    """The connection is in step: whatever was sent before has been read away."""
    reply = wire.read(0, 512)
    assert reply.error == Err.OK


# --- errors of the disk ---


@pytest.mark.parametrize("mode", STRUCTURED_MODES)
@pytest.mark.parametrize("flags", [0, CmdFlag.DF], ids=["plain", "df"])
@pytest.mark.parametrize("length", [512, 4096, 65536, 524288])
def test_disk_error_in_read(broken, mode, flags, length):
    """disk error in a structured READ: ERROR_OFFSET chunk, and the connection goes on."""
    daemon, faults = broken
    with daemon.open("broken", mode) as wire:
        faults.set(faults.READ, errno.EIO, start=262144, end=262145)
        start = 262144 - length // 2
        reply = wire.read(start, length, flags)
        assert reply.error == Err.EIO
        assert any(piece.type == Chunk.ERROR_OFFSET for piece in reply.pieces), reply.pieces
        assert all(offset <= 262144 for offset in reply.error_offsets)
        assert wire.read(0, 4096).data == b"\x5a" * 4096
        faults.clear()
        assert wire.read(start, length).data == b"\x5a" * length


@pytest.mark.parametrize("cache", ["writeback", "direct"])
@pytest.mark.parametrize("data", [b"x" * SIZE, b"x" * 4096], ids=["data", "hole"])
def test_what_the_file_has_lost(server, mode, cache, data):
    """Somebody has made the file shorter: its bytes are gone. No reply of any encoding and length
    calls them zeroes, and no map does."""
    path = server.serve("lost", SIZE, {0: data}, cache=cache)
    try:
        with server.open("lost", mode, [] if mode == SIMPLE else [BASE]) as wire:
            os.truncate(path, 65536)
            for offset, length in [(131072, 4096), (131072, 65536), (0, 131072), (65536, SIZE - 65536)]:
                assert wire.read(offset, length).error == Err.EIO, (offset, length)
            assert wire.read(0, 65536).data == data[:65536].ljust(65536, b"\0")
            if mode != SIMPLE:
                found = wire.extents(BASE)
                assert all(offset + length <= 65536 or not flags & 2 for offset, length, flags in found)
    finally:
        server.drop("lost")


def test_disk_error_in_read_simple(broken):
    """With simple replies: the error without a payload, and the connection goes on."""
    daemon, faults = broken
    with daemon.open("broken", SIMPLE) as wire:
        faults.set(faults.READ, errno.EIO, start=262144, end=262145)
        for length in (512, 65536, 524288):
            assert wire.read(262144, length).error == Err.EIO
            assert wire.read(0, 4096).data == b"\x5a" * 4096


ERRNOS = [
    (errno.EDQUOT, Err.ENOSPC),
    (errno.EFBIG, Err.ENOSPC),
    (errno.ENOSPC, Err.ENOSPC),
    (errno.EIO, Err.EIO),
    (errno.ENOMEM, Err.ENOMEM),
    (errno.EPERM, Err.EPERM),
    (errno.EACCES, Err.EPERM),
    (errno.EROFS, Err.EPERM),
]


@pytest.mark.parametrize("number,expected", ERRNOS[:6], ids=lambda n: errno.errorcode.get(n, n))
def test_errno_mapping(broken, mode, number, expected):
    """EDQUOT, EFBIG from the disk: ENOSPC; others by their meaning."""
    daemon, faults = broken
    with daemon.open("broken", mode) as wire:
        faults.set(faults.WRITE, number)
        assert wire.write(0, b"x" * 512).error == expected
        assert wire.write(0, b"x" * 512, CmdFlag.FUA).error == expected
        faults.clear()
        alive(wire)


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENODEV, errno.ESTALE, errno.EAGAIN])
def test_errno_never_means_something_else(broken, mode, number):
    """ENOTSUP is for FAST_ZERO alone: from a WRITE or READ such an errno is EIO or EINVAL."""
    daemon, faults = broken
    with daemon.open("broken", mode) as wire:
        if number != errno.EAGAIN:  # means "not at once" where the daemon asks that
            faults.set(faults.WRITE, number)
            assert wire.write(0, b"x" * 512).error in (Err.EIO, Err.EINVAL)
            faults.set(faults.READ, number)
            assert wire.read(0, 512).error in (Err.EIO, Err.EINVAL)
        faults.clear()
        alive(wire)


def test_real_efbig(make_daemon, mode):
    """EFBIG for real: a file size limit of the process. It answers ENOSPC and lives on."""
    daemon = make_daemon()
    daemon.serve("disk", 64 << 20)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (16 << 20, 16 << 20))
    with daemon.open("disk", mode) as wire:
        assert wire.write(32 << 20, b"x" * 4096).error == Err.ENOSPC
        assert wire.write(1 << 20, b"x" * 4096).error == Err.OK
        alive(wire)


# --- zeroes ---


def test_write_zeroes(server, mode):
    """The range reads as zeroes, its neighbours are whole, whatever the flags and alignment."""
    with server.open("disk", mode) as wire:
        for flags in (0, CmdFlag.NO_HOLE, CmdFlag.FUA, CmdFlag.NO_HOLE | CmdFlag.FUA):
            for offset, length in ((0, 4096), (1, 10), (4095, 4098), (100, 65536), (0, SIZE)):
                assert wire.write(0, b"\xab" * 131072).error == Err.OK
                assert wire.zero(offset, length, flags).error == Err.OK
                data = wire.read(0, 131072).data
                end = min(offset + length, 131072)
                assert data[offset:end] == bytes(end - offset)
                assert data[:offset] == b"\xab" * offset
                assert data[end:] == b"\xab" * (131072 - end)


def test_trim(server, mode):
    """TRIM leaves what lies around the range alone; inside, nobody is promised anything."""
    with server.open("disk", mode) as wire:
        assert wire.write(0, b"\xab" * 131072).error == Err.OK
        for offset, length in ((1, 10), (4096, 4096), (5000, 60000)):
            assert wire.trim(offset, length).error == Err.OK
        data = wire.read(0, 131072).data
        assert data[:1] + data[11:4096] == b"\xab" * 4086
        assert data[65000:] == b"\xab" * (131072 - 65000)


def test_fast_zero_that_would_be_slow(broken, mode):
    """FAST_ZERO that would be slow (the file system zeroes nothing by itself): ENOTSUP, with nothing
    written and nothing changed."""
    daemon, faults = broken
    with daemon.open("broken", mode) as wire:
        faults.set(faults.ZERO, errno.EOPNOTSUPP)
        for flags in (CmdFlag.FAST_ZERO, CmdFlag.FAST_ZERO | CmdFlag.NO_HOLE):
            writes = faults.calls(faults.WRITE)
            assert wire.zero(0, SIZE, flags).error == Err.ENOTSUP
            assert faults.calls(faults.WRITE) == writes
            assert wire.read(0, SIZE).data == b"\x5a" * SIZE


@pytest.mark.parametrize("flags", [0, CmdFlag.NO_HOLE], ids=["may hole", "no hole"])
def test_fast_zero_where_it_is_fast(server, tmpfs, mode, flags):
    """... and done where it is not (a tmpfs has no operation of its own for zeroes that stay
    allocated; either answer is right, half of it is not)."""
    server.serve("fast", SIZE, {0: b"\xab" * SIZE}, tmpfs)
    try:
        with server.open("fast", mode) as wire:
            reply = wire.zero(0, SIZE, CmdFlag.FAST_ZERO | flags)
            assert reply.error in ({Err.OK, Err.ENOTSUP} if flags else {Err.OK})
            assert wire.read(0, SIZE).data == (b"\xab" if reply.error else b"\0") * SIZE
    finally:
        server.drop("fast")


def test_fast_zero_and_no_enotsup_elsewhere(broken, mode):
    """ENOTSUP nowhere else: a file system that zeroes nothing by itself gets zeroes written."""
    daemon, faults = broken
    with daemon.open("broken", mode) as wire:
        faults.set(faults.ZERO, errno.EOPNOTSUPP)
        assert wire.zero(4096, 65536, CmdFlag.FAST_ZERO).error == Err.ENOTSUP
        assert wire.read(4096, 65536).data == b"\x5a" * 65536
        assert wire.zero(4096, 65536).error == Err.OK
        assert wire.zero(131072, 65536, CmdFlag.NO_HOLE).error == Err.OK
        assert wire.read(4096, 65536).data == bytes(65536)
        assert wire.read(131072, 65536).data == bytes(65536)
        assert wire.trim(262144, 65536).error == Err.OK, "a hint that cannot be followed is no error"


@pytest.mark.parametrize("where", ["disk", "tmpfs"])
def test_no_hole_allocates(server, tmpfs, mode, where):
    """NO_HOLE: zeroes are allocated; without it they may be a hole."""
    name = f"holes-{where}"
    path = server.serve(name, SIZE, {}, tmpfs if where == "tmpfs" else None)
    try:
        with server.open(name, mode) as wire:
            assert wire.zero(0, SIZE, CmdFlag.NO_HOLE | CmdFlag.FUA).error == Err.OK
            assert path.stat().st_blocks * 512 >= SIZE
            assert wire.write(0, b"x" * SIZE, CmdFlag.FUA).error == Err.OK
            assert wire.zero(0, SIZE, CmdFlag.NO_HOLE | CmdFlag.FUA).error == Err.OK
            assert path.stat().st_blocks * 512 >= SIZE, "an allocation that was there is kept"
            assert wire.read(0, SIZE).data == bytes(SIZE)
            assert wire.zero(0, SIZE, CmdFlag.FUA).error == Err.OK
            assert path.stat().st_blocks * 512 < SIZE
    finally:
        server.drop(name)


def test_trim_frees(server, tmpfs, mode):
    """TRIM gives the space back where the file system can."""
    path = server.serve("trimmed", SIZE, {0: b"x" * SIZE}, tmpfs)
    try:
        with server.open("trimmed", mode) as wire:
            assert wire.trim(0, SIZE).error == Err.OK
            assert path.stat().st_blocks == 0
    finally:
        server.drop("trimmed")


# --- durability ---


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.name)
def test_fua_is_accepted_on_every_command(server, mode, command):
    contexts = [BASE] if mode != SIMPLE else []
    if command == Cmd.BLOCK_STATUS and not contexts:
        return
    with server.open("disk", mode, contexts) as wire:
        assert ask(wire, command, CmdFlag.FUA).error == Err.OK
        alive(wire)


@pytest.mark.parametrize("command", [Cmd.WRITE, Cmd.WRITE_ZEROES, Cmd.TRIM], ids=lambda c: c.name)
def test_fua_is_durable_before_the_reply(broken, mode, command):
    """FUA on WRITE, WRITE_ZEROES, TRIM: durable before the reply; not synced without it."""
    daemon, faults = broken
    with daemon.open("broken", mode) as wire:
        syncs = faults.calls(faults.SYNC)
        assert ask(wire, command, 0).error == Err.OK
        assert faults.calls(faults.SYNC) == syncs
        faults.set(faults.SYNC, delay=0.3)
        begin = time.monotonic()
        assert ask(wire, command, CmdFlag.FUA).error == Err.OK
        assert time.monotonic() - begin >= 0.3, "the reply did not wait for the sync"
        assert faults.calls(faults.SYNC) > syncs


@pytest.mark.parametrize("cache", ["writeback", "direct"])
def test_fua_of_a_write_syncs_that_write_alone(faulty, cache):
    """Not what others have written, as a flush does."""
    daemon, faults = faulty
    faults.target(daemon.serve("fua", 1 << 20, cache=cache))
    try:
        with daemon.open("fua") as wire:
            for offset in (0, 4096, 4096 + 77):
                syncs, whole = faults.calls(faults.SYNC), faults.calls(faults.WHOLE_SYNC)
                assert wire.write(offset, b"f" * 4096, CmdFlag.FUA).error == Err.OK
                assert faults.calls(faults.SYNC) == syncs + 1
                assert faults.calls(faults.WHOLE_SYNC) == whole
            assert wire.flush().error == Err.OK
            assert faults.calls(faults.WHOLE_SYNC) == whole + 1
    finally:
        faults.clear()
        daemon.drop("fua")


@pytest.mark.parametrize("command", [Cmd.WRITE, Cmd.WRITE_ZEROES, Cmd.TRIM], ids=lambda c: c.name)
def test_fua_that_fails_says_so(broken, command):
    daemon, faults = broken
    with daemon.open("broken") as wire:
        faults.set(faults.SYNC, errno.EIO)
        assert ask(wire, command, CmdFlag.FUA).error == Err.EIO
        faults.clear()


def test_flush_covers_other_connections(broken, mode):
    """FLUSH: everything answered before it, on any connection of the disk, is durable; also
    through another export of the disk."""
    daemon, faults = broken
    daemon.rpc.plain("export.add", name="side", disk="broken", sharing="shared")
    try:
        with daemon.open("broken", mode) as first, daemon.open("broken", mode) as second:
            with daemon.open("side", mode) as third:
                assert first.flush().error == Err.OK
                for other in (second, third):
                    assert first.write(0, b"x").error == Err.OK
                    syncs = faults.calls(faults.SYNC)
                    faults.set(faults.SYNC, delay=0.2)
                    begin = time.monotonic()
                    assert other.flush().error == Err.OK
                    assert time.monotonic() - begin >= 0.2
                    assert faults.calls(faults.SYNC) > syncs
                    faults.clear()
    finally:
        daemon.rpc.plain("export.remove", name="side", mode="hard")


def test_flush_that_fails_is_latched(broken, mode):
    """A data fsync that failed is reported once by the kernel: every FLUSH and FUA answers EIO
    until the disk is opened again, also on other connections; reads go on."""
    daemon, faults = broken
    with daemon.open("broken", mode) as wire, daemon.open("broken", mode) as other:
        assert wire.write(0, b"x").error == Err.OK
        faults.set(faults.SYNC, errno.EIO)
        assert wire.flush().error == Err.EIO
        faults.clear()
        assert wire.flush().error == Err.EIO
        assert other.flush().error == Err.EIO
        assert other.write(0, b"x", CmdFlag.FUA).error == Err.EIO
        assert other.read(4096, 512).data == b"\x5a" * 512
        alive(wire)


def test_requests_overlap_where_they_block(broken, mode):
    """A flush that takes long does not hold up a read behind it on the same connection."""
    daemon, faults = broken
    with daemon.open("broken", mode) as wire:
        faults.set(faults.SYNC, delay=faults.FOREVER)
        slow = wire.submit(Cmd.FLUSH)
        assert wire.read(0, 4096).error == Err.OK
        assert slow in wire.pending
        faults.clear()
        assert wire.wait(slow).error == Err.OK


def test_answers_do_not_wait_for_what_blocks(broken, mode):
    """A read that is done is answered, though what was sent along with it waits for the disk; with a
    client, too, that had one request at a time before, each of which was done quickly."""
    daemon, faults = broken
    with daemon.open("broken", mode) as wire:
        for _ in range(10):
            assert wire.flush().error == Err.OK
        faults.set(faults.SYNC, delay=faults.FOREVER)
        read, first = wire.prepare(Cmd.READ, 0, 4096)
        flush, second = wire.prepare(Cmd.FLUSH)
        wire.send(first + second)
        assert wire.wait(read).data == b"\x5a" * 4096
        faults.clear()
        assert wire.wait(flush).error == Err.OK
