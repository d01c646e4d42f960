"""Rows about BLOCK_STATUS, spoken on the wire. One test each:

BLOCK_STATUS without a context or of length 0            test_block_status_refused
BLOCK_STATUS: extents                                    test_block_status_*
"""

import itertools
import os
import random
import threading
import time

import pytest

from nbdproto import EXTENDED, MAX_EXTENTS, SIMPLE, STRUCTURED, Chunk, Cmd, CmdFlag, Err

SIZE = 1 << 20
BASE = "base:allocation"
STRUCTURED_MODES = (STRUCTURED, EXTENDED)
PATTERN = bytes(range(256)) * 16  # 4 KiB


@pytest.fixture(scope="module", autouse=True)
def exports(server, tmpfs):
    data = {65536: PATTERN * 4, 196608: PATTERN}
    server.serve("sparse", SIZE, data, tmpfs, sharing="shared")


def alive(wire):
    """The connection is in step: whatever was sent before has been read away."""
    reply = wire.read(0, 512)
    assert reply.error == Err.OK


# --- BLOCK_STATUS ---


def test_block_status_refused(server, mode):
    """BLOCK_STATUS without a context, or of length 0: EINVAL."""
    with server.open("sparse", mode) as wire:
        assert wire.block_status(0, SIZE).error == Err.EINVAL
        alive(wire)
    if mode != SIMPLE:
        with server.open("sparse", mode, [BASE]) as wire:
            assert wire.block_status(0, 0).error == Err.EINVAL
            assert wire.block_status(SIZE, 0).error == Err.EINVAL
            alive(wire)


MAP = [(0, 65536, 3), (65536, 16384, 0), (81920, 114688, 3), (196608, 4096, 0), (200704, 847872, 3)]


@pytest.mark.parametrize("mode", STRUCTURED_MODES)
def test_block_status_starts_at_the_offset(server, mode):
    """first extent starts exactly at the offset; extents never pass the request (the client
    checks that, and that equal neighbours are merged)."""
    with server.open("sparse", mode, [BASE]) as wire:
        assert wire.extents(BASE) == MAP
        rng = random.Random(2)
        ranges = [(0, 1), (65535, 2), (65536, 1), (65536, 16384), (SIZE - 1, 1), (65537, 16383)]
        ranges += [(o := rng.randrange(SIZE), rng.randrange(1, SIZE - o + 1)) for _ in range(50)]
        for offset, length in ranges:
            found = wire.extents(BASE, offset, length)
            assert found == clipped(MAP, offset, length), (offset, length)


def clipped(extents, offset, length):
    out = []
    for start, size, flags in extents:
        low, high = max(start, offset), min(start + size, offset + length)
        if low < high:
            out.append((low, high - low, flags))
    return out


@pytest.mark.parametrize("mode", STRUCTURED_MODES)
def test_block_status_req_one(server, mode):
    """with REQ_ONE exactly one extent for each context, no longer than the request."""
    with server.open("sparse", mode, [BASE, "qemu:allocation-depth"]) as wire:
        for offset, length in ((0, SIZE), (0, 100), (65536, SIZE - 65536), (70000, 1)):
            reply = wire.block_status(offset, length, CmdFlag.REQ_ONE)
            assert reply.error == Err.OK
            ((size, flags),) = reply.status[wire.contexts[BASE]]
            assert (offset, size, flags) == clipped(MAP, offset, length)[0]
            assert len(reply.status) == 2


@pytest.mark.parametrize("mode", STRUCTURED_MODES)
def test_block_status_one_chunk_for_each_context(server, mode):
    """one chunk per context, DONE on the last and on no other."""
    with server.open("sparse", mode, [BASE, "qemu:allocation-depth"]) as wire:
        reply = wire.block_status(0, SIZE)
        assert [piece.done for piece in reply.pieces] == [False, True]
        assert all(p.type in (Chunk.BLOCK_STATUS, Chunk.BLOCK_STATUS_EXT) for p in reply.pieces)


@pytest.mark.long
def test_block_status_most_extents(server, tmpfs):
    """at most 131072 extents a reply (the client checks); going on from there gives the rest."""
    count = MAX_EXTENTS + 1000
    size = count * 512
    server.serve("striped", size, {}, tmpfs, sharing="shared")
    server.rpc.plain("bitmap.add", disk="striped", name="b0", granularity=512)
    context = "qemu:dirty-bitmap:b0"
    try:
        with server.open("striped") as wire:
            for start in range(0, count, 8192):
                batch = [
                    wire.prepare(Cmd.WRITE_ZEROES, block * 512, 512)[1]
                    for block in range(start, min(start + 8192, count), 2)
                ]
                sender = threading.Thread(target=wire.send, args=(b"".join(batch),))
                sender.start()
                assert all(reply.error == 0 for reply in wire.wait_all().values())
                sender.join()
        for mode in STRUCTURED_MODES:
            with server.open("striped", mode, [context]) as wire:
                first = wire.block_status(0, size).status[wire.contexts[context]]
                assert 1 < len(first) <= MAX_EXTENTS
                found = wire.extents(context)
                assert len(found) == count
                assert all(flags == (i + 1) % 2 for i, (_, _, flags) in enumerate(found))
                assert all(length == 512 for _, length, _ in found)
    finally:
        server.drop("striped")


class Others:
    """A disk of which a hole was mapped, and somebody who writes into it and takes no lock."""

    SIZE = 8 << 20
    MAP = [(0, 65536, 3), (65536, 4096, 0), (69632, SIZE - 69632, 3)]

    def __init__(self, daemon, folder, how):
        read_only = how == "read_only"
        self.how = how
        self.path = daemon.image(f"{how}.img", self.SIZE, {65536: PATTERN}, folder)
        daemon.rpc.plain("disk.add", name=how, path=str(self.path), read_only=read_only)
        daemon.rpc.plain("export.add", name=how, disk=how, read_only=read_only, sharing="shared")

    def write(self, wire, offset):
        with open(self.path, "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), PATTERN, offset)
        if self.how == "written":
            assert wire.write(7 << 20, PATTERN).error == Err.OK


@pytest.mark.parametrize("folder", [None, "tmpfs"], ids=["disk", "memory"])
def test_block_status_what_others_write(daemon, request, folder):
    """What others write into a hole that was mapped is data: for reads at once, and in the next
    map, on a disk that clients only read, could write, and do write."""
    folder = folder and request.getfixturevalue(folder)
    disks = [Others(daemon, folder, how) for how in ("read_only", "idle", "written")]
    time.sleep(2.5)  # what has been left alone for a while is not looked at for every map
    for disk, mode in itertools.product(disks, STRUCTURED_MODES):
        with daemon.open(disk.how, mode, [BASE]) as wire:
            before = wire.extents(BASE)
            assert mode == EXTENDED or before == Others.MAP
            assert wire.read(1 << 20, 1 << 18).holes == [(1 << 20, 1 << 18)]
            start = (2 if mode == STRUCTURED else 4) << 20
            for offset in range(start, start + (2 << 20), 1 << 19):
                disk.write(wire, offset + 4096)
                expected = bytes(4096) + PATTERN + bytes(65536 - 8192)
                for flags in (0, CmdFlag.DF):
                    assert wire.read(offset, 65536, flags).data == expected
                assert (offset + 4096, 4096, 0) in wire.extents(BASE)
            disk.write(wire, 6 << 20)
    time.sleep(2.5)
    for disk in disks:
        with daemon.open(disk.how, STRUCTURED, [BASE]) as wire:
            assert (6 << 20, 4096, 0) in wire.extents(BASE)
