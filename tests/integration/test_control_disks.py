"""Disks while they are in use: locks compatible with QEMU's, disk.refresh after growth."""

import os
import subprocess
import time
from pathlib import Path

import pytest

import harness
from hammer import Hammer
import peers
from harness import run

SIZE = 1 << 20


# --- locks ---


@pytest.fixture
def storage_daemon(daemon):
    """Starts a qemu-storage-daemon that holds an image; a function (path, read_only)."""
    started = []

    def start(path, read_only=False):
        monitor = daemon.root / f"qmp{len(started)}"
        process = subprocess.Popen(
            ["qemu-storage-daemon", "--blockdev",
             f"driver=file,node-name=f,filename={path},read-only={'on' if read_only else 'off'}",
             "--blockdev", f"driver=raw,node-name=r,file=f,read-only={'on' if read_only else 'off'}",
             "--nbd-server", f"addr.type=unix,addr.path={monitor}",
             "--export", f"nbd,id=e,node-name=r,name=e,writable={'off' if read_only else 'on'}",
             "--pidfile", f"{monitor}.pid"],
            stdin=subprocess.DEVNULL)
        started.append(process)
        # The socket is there before the export is, which takes the lock; this comes last.
        assert harness.wait_for(Path(f"{monitor}.pid").exists)
        return process

    yield start
    for process in started:
        process.terminate()
        process.wait(60 * harness.SLOW)


def refused_by_qemu(path, read_only):
    words = ["qemu-io", *(["-r"] if read_only else []), "-f", "raw", path,
             "-c", "read 0 512" if read_only else "write 0 512"]
    return "lock" in run(*words, check=False)[1]


HOLDERS = [
    # nbdd reads only, QEMU reads only, they refuse each other
    (False, False, True),
    (True, False, True),  # what somebody else writes to is not served
    (False, True, False),  # QEMU lets its readers look at what is being written
    (True, True, False),
]
holders = pytest.mark.parametrize("ours,theirs,refused", HOLDERS)


@peers.need("qemu-io", "qemu-img")
@holders
def test_qemu_finds_it_held_by_nbdd(daemon, ours, theirs, refused):
    """QEMU refuses to write to what nbdd holds; `-U` looks at it all the same."""
    path = daemon.image("a.img", SIZE)
    daemon.call("disk.add", name="a", path=str(path), read_only=ours)
    daemon.call("export.add", name="a", disk="a", read_only=ours)
    assert refused_by_qemu(path, theirs) == refused
    run("qemu-img", "info", "-U", "-f", "raw", path)
    daemon.call("export.remove", name="a")
    daemon.call("disk.remove", name="a")
    assert not refused_by_qemu(path, theirs), "it was let go"


@peers.need("qemu-storage-daemon")
@holders
def test_nbdd_finds_it_held_by_qemu(daemon, storage_daemon, ours, theirs, refused):
    """The other way round, the same: busy, and the error says what to look for."""
    path = daemon.image("a.img", SIZE)
    process = storage_daemon(path, read_only=theirs)
    if refused:
        error = daemon.refused("disk.add", "busy", name="a", path=str(path), read_only=ours)
        assert "lock" in error.detail and str(path) in error.detail
        daemon.refused("export.add", "busy", name="a", path=str(path), read_only=ours)
        process.terminate()
        process.wait(60 * harness.SLOW)
    daemon.call("disk.add", name="a", path=str(path), read_only=ours)


def test_two_daemons_refuse_each_other(daemon, make_daemon):
    path = daemon.serve("a", SIZE)
    other = make_daemon()
    error = other.refused("disk.add", "busy", name="a", path=str(path))
    assert "lock" in error.detail
    other.refused("disk.add", "busy", name="a", path=str(path), read_only=True)
    daemon.kill()
    # The kernel may need a moment to let go of what was killed (see test_control_restart.py).
    assert harness.wait_for(lambda: "error" not in other.rpc.exchange(
        "disk.add", {"name": "a", "path": str(path), "if_exists": "same"}))
    daemon.start()
    assert daemon.call("disk.show", name="a")["state"] == "missing"


def test_lock_is_let_go_with_the_disk(daemon):
    path = daemon.image("a.img", SIZE)
    for _ in range(3):
        daemon.call("disk.add", name="a", path=str(path))
        daemon.call("disk.remove", name="a")
    daemon.call("disk.add", name="a", path=str(path), dry_run=True)
    daemon.call("disk.add", name="b", path=str(path))


# --- growth ---


def test_refresh_after_growth(daemon):
    """The new end becomes visible to new connections, counts as dirty in every bitmap, and those
    that are connected go on within what they know."""
    path = daemon.serve("a", SIZE, sharing="shared")
    daemon.call("bitmap.add", disk="a", name="b0")
    daemon.call("bitmap.add", disk="a", name="coarse", granularity=1 << 20)
    old = daemon.open("a")
    os.truncate(path, 2 * SIZE + 100)
    assert daemon.call("disk.show", name="a")["size"] == SIZE
    assert daemon.call("disk.refresh", name="a", dry=False)["size"] == 2 * SIZE + 100
    assert daemon.call("export.show", name="a")["size"] == 2 * SIZE + 100
    assert old.read(SIZE - 512, 512).error == 0
    assert old.size == SIZE
    with daemon.open("a", contexts=["qemu:dirty-bitmap:b0", "qemu:dirty-bitmap:coarse"]) as new:
        assert new.size == 2 * SIZE + 100
        assert new.extents("qemu:dirty-bitmap:b0") == [(0, SIZE, 0), (SIZE, SIZE + 100, 1)]
        assert new.extents("qemu:dirty-bitmap:coarse") == [(0, SIZE, 0), (SIZE, SIZE + 100, 1)]
        assert new.write(2 * SIZE + 99, b"!").error == 0
        assert new.read(2 * SIZE + 99, 1).data == b"!"
    assert daemon.call("bitmap.show", disk="a", name="b0")["dirty_bytes"] == SIZE + 100
    old.close()
    daemon.no_clients()
    daemon.restart()
    assert daemon.call("disk.show", name="a")["size"] == 2 * SIZE + 100
    shown = daemon.call("bitmap.show", disk="a", name="b0")
    assert shown["state"] == "recording" and shown["dirty_bytes"] == SIZE + 100


def test_refresh_within_a_block(daemon):
    """Growth that begins in the middle of a block makes that block dirty."""
    path = daemon.serve("a", SIZE + 100)
    daemon.call("bitmap.add", disk="a", name="b0")
    os.truncate(path, SIZE + 200)
    daemon.call("disk.refresh", name="a", dry=False)
    extents = daemon.call("bitmap.extents", disk="a", name="b0")["extents"]
    assert extents == [{"offset": SIZE, "length": 200}]


def test_refresh_without_change(daemon):
    daemon.serve("a", SIZE)
    daemon.call("bitmap.add", disk="a", name="b0")
    before = daemon.call("disk.show", name="a")
    assert daemon.call("disk.refresh", name="a") == before
    assert daemon.call("bitmap.show", disk="a", name="b0")["dirty_bytes"] == 0
    daemon.refused("disk.refresh", "not-found", name="b")


def test_refresh_under_load(daemon):
    """Growth in small steps while a client writes: not one error."""
    path = daemon.serve("a", SIZE, sharing="shared")
    daemon.call("bitmap.add", disk="a", name="b0", granularity=4096)
    hammer = Hammer(daemon.open("a"))
    hammer.start()
    for step in range(1, 20):
        answered = hammer.answered
        os.truncate(path, SIZE + step * 100000)
        daemon.rpc.plain("disk.refresh", name="a")
        assert harness.wait_for(lambda: hammer.answered > answered or hammer.failure)
    daemon.rpc.plain("export.remove", name="a", mode="drain")
    hammer.join(60 * harness.SLOW)
    assert not hammer.is_alive()
    hammer.check(path)
    assert daemon.call("disk.show", name="a")["size"] == SIZE + 1900000


def test_shrink_makes_bitmaps_invalid(daemon):
    """What a bitmap says of an end that is gone is about nothing: invalid, with the reason; the
    disk is served at its new size."""
    path = daemon.serve("a", SIZE)
    daemon.call("bitmap.add", disk="a", name="b0")
    os.truncate(path, SIZE // 2)
    daemon.rpc.plain("disk.refresh", name="a")
    shown = daemon.call("bitmap.show", disk="a", name="b0")
    assert shown["state"] == "invalid" and shown["reason"]
    daemon.refused("bitmap.extents", "invalid-state", disk="a", name="b0")
    with daemon.open("a") as wire:
        assert wire.size == SIZE // 2
        assert "qemu:dirty-bitmap:b0" not in wire.contexts
    daemon.no_clients()
    daemon.call("bitmap.clear", disk="a", name="b0")
    assert daemon.call("bitmap.show", disk="a", name="b0")["state"] == "recording"


@pytest.mark.skipif(os.getuid() != 0, reason="loop devices need root")
def test_refresh_of_a_block_device(daemon):
    path = daemon.image("loop.img", SIZE)
    code, device = run("losetup", "-f", "--show", path, check=False)
    if code:
        pytest.skip(f"no loop device: {device}")
    device = device.strip()
    try:
        daemon.call("disk.add", name="loop", path=device)
        os.truncate(path, 2 * SIZE)
        run("losetup", "-c", device)
        assert daemon.call("disk.refresh", name="loop", dry=False)["size"] == 2 * SIZE
    finally:
        daemon.finish()
        run("losetup", "-d", device)


def sqlite_locks(daemon):
    """Whoever opens a file of SQLite's and closes it has taken these away. (Those of disks are of
    another kind.)"""
    lines = [line.split()[1:] for line in Path("/proc/locks").read_text().splitlines()]
    return sorted(line for line in lines if line[0] == "POSIX" and line[3] == str(daemon.process.pid))


def kept_locks(daemon):
    """Those that are there all the time: a transaction takes more for a moment."""
    samples = [sqlite_locks(daemon)]
    while len(samples) < 10:
        time.sleep(0.02)
        samples.append(sqlite_locks(daemon))
    return min(samples, key=len)


def test_the_state_of_the_daemon_is_no_disk(daemon, tmp_path):
    """Under whatever name; and nothing has happened to it, or to who holds it."""
    daemon.serve("disk", 1 << 20)
    (tmp_path / "link").symlink_to(daemon.state / "state.db")
    os.link(daemon.state / "state.db", daemon.root / "other")
    own = [path for path in daemon.state.iterdir() if path.is_file()]
    assert daemon.state / "state.db" in own
    locks = kept_locks(daemon)
    assert locks
    for path in [*own, tmp_path / "link", daemon.root / "other"]:
        error = daemon.refused("disk.add", "invalid-argument", name="own", path=str(path))
        assert error.path == "/params/path"
        daemon.refused("export.add", "invalid-argument", name="own", path=str(path))
    assert harness.wait_for(lambda: sqlite_locks(daemon) == locks)
    daemon.rpc.plain("bitmap.add", disk="disk", name="b0")
    os.unlink(daemon.root / "other")
    daemon.restart()
    assert [b["name"] for b in daemon.call("bitmap.list")["bitmaps"]] == ["b0"]


def test_a_disk_does_not_become_the_state_of_the_daemon(daemon):
    """Its path leads there one day: at the start, and when it is refreshed."""
    path = daemon.serve("disk", SIZE)
    daemon.stop()
    path.unlink()
    path.symlink_to(daemon.state / "state.db")
    daemon.start()
    locks = kept_locks(daemon)
    assert locks
    disk = daemon.call("disk.show", name="disk")
    assert disk["state"] == "missing" and "state of this daemon" in disk["problem"]
    daemon.refused("disk.refresh", "invalid-state", name="disk")
    assert harness.wait_for(lambda: sqlite_locks(daemon) == locks)
    path.unlink()
    daemon.image("disk.img", SIZE)
    assert daemon.call("disk.refresh", name="disk", dry=False)["state"] == "ready"
