"""What makes a bitmap dirty, who sees it, what survives; and the backup that all of it is for."""

import filecmp
import json
import random
import shutil

import pytest

import harness
import peers
from harness import run
from nbdproto import EXTENDED, MODES, SIMPLE, STRUCTURED, Cmd, CmdFlag, Err

SIZE = 16 << 20
B0 = "qemu:dirty-bitmap:b0"


@pytest.fixture
def disk(server):
    server.serve("d", SIZE, {0: b"o" * SIZE}, sharing="shared")
    server.rpc.plain("bitmap.add", disk="d", name="b0", granularity=4096)
    yield server
    server.no_clients()
    server.drop("d")


def extents(daemon, name="b0"):
    found = daemon.call("bitmap.extents", disk="d", name=name, limit=65536)["extents"]
    return [(extent["offset"], extent["length"]) for extent in found]


CHANGING = {
    "write": lambda w, o, n: w.write(o, b"x" * n),
    "write fua": lambda w, o, n: w.write(o, b"x" * n, CmdFlag.FUA),
    "zeroes": lambda w, o, n: w.zero(o, n),
    "zeroes no hole": lambda w, o, n: w.zero(o, n, CmdFlag.NO_HOLE),
    "zeroes fast": lambda w, o, n: w.zero(o, n, CmdFlag.FAST_ZERO),
    "zeroes fua": lambda w, o, n: w.zero(o, n, CmdFlag.FUA),
    "trim": lambda w, o, n: w.trim(o, n),
}


@pytest.mark.parametrize("how", CHANGING)
def test_changes_dirty(disk, mode, how):
    """WRITE, WRITE_ZEROES and TRIM dirty every block they touch, and no other."""
    with disk.open("d", mode) as wire:
        for offset, length, expected in (
            (0, 1, (0, 4096)),
            (4095, 2, (0, 8192)),
            (8192, 4096, (8192, 4096)),
            (8193, 4096, (8192, 8192)),
            (SIZE - 1, 1, (SIZE - 4096, 4096)),
            (1 << 20, 1 << 20, (1 << 20, 1 << 20)),
        ):
            disk.rpc.plain("bitmap.clear", disk="d", name="b0")
            reply = CHANGING[how](wire, offset, length)
            if reply.error == Err.ENOTSUP and how == "zeroes fast":
                continue
            assert reply.error == 0
            assert extents(disk) == [expected], (offset, length)


def test_others_do_not_dirty(disk, mode):
    """READ, FLUSH, CACHE, BLOCK_STATUS change nothing; nor do changes that were refused."""
    contexts = [B0] if mode != SIMPLE else []
    with disk.open("d", mode, contexts) as wire:
        assert wire.read(0, 65536).error == 0
        assert wire.flush().error == 0
        assert wire.cache(0, 65536).error == 0
        if contexts:
            assert wire.block_status(0, SIZE).error == 0
        assert wire.write(SIZE, b"x").error
        assert wire.write(SIZE - 1, b"xx").error
        assert wire.zero(0, SIZE + 1).error
        assert wire.trim(0, SIZE + 1).error
        assert wire.call(Cmd.WRITE, 0, 512, CmdFlag.DF, payload=bytes(512)).error
    assert extents(disk) == []


def test_all_bitmaps_of_a_disk_record(disk):
    """Through any export of the disk, whatever bitmaps that export offers."""
    disk.rpc.plain("bitmap.add", disk="d", name="b1", granularity=1 << 20)
    disk.rpc.plain("bitmap.add", disk="d", name="off", recording=False)
    disk.rpc.plain("export.add", name="side", disk="d", sharing="shared", bitmaps=[])
    with disk.open("side") as wire:
        assert wire.write(5 << 20, b"x").error == 0
    assert extents(disk, "b0") == [(5 << 20, 4096)]
    assert extents(disk, "b1") == [(5 << 20, 1 << 20)]
    assert extents(disk, "off") == []
    disk.rpc.plain("export.remove", name="side", mode="hard")


@pytest.mark.parametrize("kind", [Cmd.WRITE, Cmd.WRITE_ZEROES, Cmd.TRIM], ids=lambda c: c.name)
def test_failed_changes_are_dirty(broken, kind):
    """A change that failed on the way may have changed something: dirty, never clean."""
    daemon, faults = broken
    daemon.rpc.plain("bitmap.add", disk="broken", name="b0", granularity=4096)
    with daemon.open("broken") as wire:
        faults.set(faults.WRITE, 5)
        faults.set(faults.ZERO, 5)
        payload = bytes(4096) if kind == Cmd.WRITE else None
        reply = wire.call(kind, 8192, 4096, payload=payload)
        assert reply.error or kind == Cmd.TRIM
    found = daemon.call("bitmap.extents", disk="broken", name="b0")["extents"]
    assert found == [{"offset": 8192, "length": 4096}]


def test_dirty_before_the_data(broken):
    """The record comes before the data: while the write still hangs on its way to the disk the
    block is dirty already."""
    daemon, faults = broken
    daemon.rpc.plain("bitmap.add", disk="broken", name="b0", granularity=4096)
    with daemon.open("broken") as wire:
        before = faults.calls(faults.WRITE)
        faults.set(faults.WRITE, delay=faults.FOREVER)
        cookie = wire.submit(Cmd.WRITE, 0, 4096, payload=bytes(4096))
        assert harness.wait_for(lambda: faults.calls(faults.WRITE) > before)
        found = daemon.rpc.plain("bitmap.extents", disk="broken", name="b0")["extents"]
        assert found == [{"offset": 0, "length": 4096}]
        assert not wire.readable(), "it hangs still"
        faults.clear()
        assert wire.wait(cookie).error == 0


@pytest.mark.parametrize("mode", (STRUCTURED, EXTENDED))
def test_visible_to_the_next_negotiation(disk, mode):
    """A bitmap added to a live export is there for the next metadata negotiation; clients that are
    connected keep what they selected."""
    old = disk.open("d", mode, [B0])
    disk.rpc.plain("bitmap.add", disk="d", name="late")
    with disk.wire(mode) as wire:
        assert "qemu:dirty-bitmap:late" in wire.list_meta("d")
        assert wire.set_meta("d", ["qemu:dirty-bitmap:late"]) == ["qemu:dirty-bitmap:late"]
        assert wire.go("d").ok
        assert old.write(0, b"x").error == 0
        assert wire.extents("qemu:dirty-bitmap:late", 0, 65536) == [(0, 65536, 1)]
        assert old.extents(B0, 0, 8192) == [(0, 4096, 1), (4096, 4096, 0)]
    disk.rpc.plain("bitmap.remove", disk="d", name="late")
    with disk.wire(mode) as wire:
        assert "qemu:dirty-bitmap:late" not in wire.list_meta("d")
    old.close()


def test_clear_shows_at_once_to_those_connected(disk):
    with disk.open("d", contexts=[B0]) as wire:
        assert wire.write(0, b"x").error == 0
        assert wire.extents(B0, 0, 4096) == [(0, 4096, 1)]
        disk.rpc.plain("bitmap.clear", disk="d", name="b0")
        assert wire.extents(B0) == [(0, SIZE, 0)]


def test_random_writes_match(disk, mode):
    """The bitmap is exactly the union of the blocks touched, over control and wire alike."""
    rng = random.Random(mode)
    dirty = set()
    contexts = [B0] if mode != SIMPLE else []
    with disk.open("d", mode, contexts) as wire:
        for _ in range(400):
            offset = rng.randrange(SIZE)
            length = min(rng.choice([1, 512, 4096, 70000]), SIZE - offset)
            how = rng.choice(["write", "zeroes", "trim", "zeroes no hole"])
            assert CHANGING[how](wire, offset, length).error == 0
            dirty.update(range(offset // 4096, (offset + length - 1) // 4096 + 1))
        if contexts:
            seen = [(o, n) for o, n, flags in wire.extents(B0) if flags]
            assert seen == extents(disk)
    found = {block for offset, length in extents(disk)
             for block in range(offset // 4096, (offset + length) // 4096)}
    assert found == dirty


# --- survival ---


def test_survives_a_restart_exactly(daemon):
    rng = random.Random(9)
    daemon.serve("d", SIZE)
    for name, granularity in (("b0", 512), ("b1", 1 << 20), ("off", 4096)):
        daemon.rpc.plain("bitmap.add", disk="d", name=name, granularity=granularity)
    for round_ in range(3):
        with daemon.open("d") as wire:
            for _ in range(100):
                assert wire.write(rng.randrange(SIZE - 512), b"x" * 512).error == 0
        daemon.no_clients()
        if round_ == 1:
            daemon.rpc.plain("bitmap.disable", disk="d", name="off")
        before = {b["name"]: (b, extents(daemon, b["name"]))
                  for b in daemon.rpc.plain("bitmap.list")["bitmaps"]}
        daemon.restart()
        after = {b["name"]: (b, extents(daemon, b["name"]))
                 for b in daemon.rpc.plain("bitmap.list")["bitmaps"]}
        assert after == before
        assert after["b0"][0]["state"] == "recording"
    assert after["off"][0]["missed_writes"] is True


def test_stopped_with_clients_writing(daemon):
    """A clean stop in the middle of writes: whatever is in the file is dirty in the bitmap."""
    path = daemon.serve("d", SIZE, {0: bytes(SIZE)}, sharing="shared")
    daemon.rpc.plain("bitmap.add", disk="d", name="b0", granularity=4096)
    wires = [daemon.open("d") for _ in range(3)]
    rng = random.Random(10)
    for wire in wires:
        for _ in range(60):
            wire.submit(Cmd.WRITE, rng.randrange(SIZE // 4096) * 4096, 4096, payload=b"x" * 4096)
    daemon.stop()
    daemon.start()
    assert daemon.call("bitmap.show", disk="d", name="b0")["state"] == "recording"
    dirty = {block for offset, length in extents(daemon)
             for block in range(offset // 4096, (offset + length) // 4096)}
    data = path.read_bytes()
    changed = {block for block in range(SIZE // 4096) if data[block * 4096]}
    assert changed <= dirty
    for wire in wires:
        wire.close()


def test_killed_never_says_clean(daemon):
    """After kill -9 each changed block is dirty, or the bitmap is invalid and says why."""
    daemon.serve("d", SIZE)
    daemon.rpc.plain("bitmap.add", disk="d", name="b0", granularity=4096)
    daemon.restart()
    with daemon.open("d") as wire:
        for block in range(0, 200, 7):
            assert wire.write(block * 4096, b"x").error == 0
        daemon.kill()
    daemon.start()
    shown = daemon.call("bitmap.show", disk="d", name="b0")
    if shown["state"] == "invalid":
        assert shown["reason"]
        daemon.refused("bitmap.extents", "invalid-state", disk="d", name="b0")
        daemon.refused("bitmap.merge", "invalid-state", disk="d", target="b0", sources=["b0"])
    else:
        dirty = {block for offset, length in extents(daemon)
                 for block in range(offset // 4096, (offset + length - 1) // 4096 + 1)}
        assert set(range(0, 200, 7)) <= dirty


def test_killed_while_nothing_happened(daemon):
    """Without a write since the last clean start there is nothing to doubt, or at least the
    answer is honest."""
    daemon.serve("d", SIZE)
    daemon.rpc.plain("bitmap.add", disk="d", name="b0")
    with daemon.open("d") as wire:
        assert wire.write(0, b"x").error == 0
    daemon.no_clients()
    daemon.restart()
    daemon.kill()
    daemon.start()
    shown = daemon.call("bitmap.show", disk="d", name="b0")
    assert shown["state"] in ("recording", "recovered", "invalid")
    if shown["state"] != "invalid":
        assert (0, 65536) == extents(daemon)[0]


# --- what it is for ---


def copy_dirty(daemon, target, mode):
    """Copies what the bitmap says is dirty, read through an NBD client, into the file target."""
    copied = 0
    with daemon.open("d", mode, [B0]) as wire, open(target, "r+b") as file:
        for offset, length, flags in wire.extents(B0):
            if not flags:
                continue
            while length:
                part = min(length, 1 << 20)
                file.seek(offset)
                file.write(wire.read(offset, part).data)
                offset, length, copied = offset + part, length - part, copied + part
    return copied


@pytest.mark.parametrize("mode", (STRUCTURED, EXTENDED))
def test_incremental_backup(daemon, mode):
    """A full copy, changes, restarts, and copies of nothing but what is dirty: byte for byte the
    disk, and no more copied than was changed."""
    rng = random.Random(12)
    image = daemon.serve("d", SIZE, {0: rng.randbytes(SIZE)}, sharing="shared")
    backup = daemon.root / "backup.img"
    daemon.rpc.plain("bitmap.add", disk="d", name="b0")
    shutil.copyfile(image, backup)
    for round_ in range(4):
        touched = 0
        with daemon.open("d", rng.choice(MODES)) as wire:
            for _ in range(30):
                offset, length = rng.randrange(SIZE - 9000), rng.randrange(1, 9000)
                how = rng.choice(["write", "zeroes", "trim"])
                assert CHANGING[how](wire, offset, length).error == 0
                touched += (offset + length - 1) // 65536 - offset // 65536 + 1
        if round_ % 2:
            daemon.restart()
        daemon.no_clients()
        # freeze: a second bitmap takes over at the same instant
        daemon.rpc.plain("transaction", actions=[
            {"method": "bitmap.add", "params": {"disk": "d", "name": "next"}},
            {"method": "bitmap.disable", "params": {"disk": "d", "name": "b0"}}])
        assert not filecmp.cmp(image, backup, shallow=False)
        copied = copy_dirty(daemon, backup, mode)
        assert copied <= touched * 65536
        assert filecmp.cmp(image, backup, shallow=False), f"round {round_}"
        daemon.no_clients()
        daemon.rpc.plain("transaction", actions=[
            {"method": "bitmap.remove", "params": {"disk": "d", "name": "b0"}},
            {"method": "bitmap.add", "params": {"disk": "d", "name": "b0"}},
            {"method": "bitmap.merge", "params": {"disk": "d", "target": "b0", "sources": ["next"]}},
            {"method": "bitmap.remove", "params": {"disk": "d", "name": "next"}}])


def test_incremental_backup_can_fail(daemon):
    """The comparison above notices a block that was not copied."""
    image = daemon.serve("d", SIZE, {0: b"o" * SIZE})
    daemon.rpc.plain("bitmap.add", disk="d", name="b0")
    backup = daemon.root / "backup.img"
    shutil.copyfile(image, backup)
    with daemon.open("d") as wire:
        assert wire.write(65536, b"changed").error == 0
    daemon.no_clients()
    daemon.rpc.plain("bitmap.clear", disk="d", name="b0")
    assert copy_dirty(daemon, backup, STRUCTURED) == 0
    assert not filecmp.cmp(image, backup, shallow=False)


@peers.need("nbdinfo", "nbdcopy", "qemu-io")
def test_incremental_backup_with_everyday_tools(daemon):
    """The same as people do it: nbdcopy for the full copy, nbdinfo --map for the dirty extents."""
    image = daemon.serve("d", SIZE, {0: b"o" * SIZE}, sharing="shared")
    backup = daemon.root / "backup.img"
    daemon.rpc.plain("bitmap.add", disk="d", name="b0")
    run("nbdcopy", daemon.uri("d"), backup)
    run("qemu-io", "-f", "raw", daemon.uri("d"), "-c", "write -P 7 1M 100k", "-c",
        "write -z 5M 64k", "-c", "discard 9M 1M")
    daemon.restart()
    rows = json.loads(run("nbdinfo", f"--map={B0}", "--json", daemon.uri("d")))
    dirty = [(row["offset"], row["length"]) for row in rows if row["type"] & 1]
    assert dirty == [(1 << 20, 131072), (5 << 20, 65536), (9 << 20, 1 << 20)]
    for offset, length in dirty:
        part = daemon.root / "part"
        with daemon.open("d") as wire:
            part.write_bytes(wire.read(offset, length).data)
        run("dd", f"if={part}", f"of={backup}", "bs=64k", "conv=notrunc",
            f"seek={offset // 65536}")
    assert filecmp.cmp(image, backup, shallow=False)
