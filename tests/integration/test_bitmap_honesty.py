"""When the promise of a bitmap cannot be kept: who is told, and what it costs where it can."""

import contextlib
import os
import random
import subprocess
import time
import uuid
from pathlib import Path

import pytest

import harness
from harness import run
from nbdproto import EXTENDED, CmdFlag, Err
from test_control_events import Listener

SIZE = 64 << 20
REGION = 1 << 20


def show(daemon, name="b0", disk="d"):
    return daemon.call("bitmap.show", disk=disk, name=name)


def tracking(daemon):
    return daemon.rpc.plain("stats")["daemon"]["tracking"]


def extents(daemon, name="b0", disk="d"):
    found = daemon.call("bitmap.extents", disk=disk, name=name, limit=65536)["extents"]
    return [(extent["offset"], extent["length"]) for extent in found]


# --- a state directory that is full ---


@pytest.fixture
def small_state(tmp_path):
    """A file system of 4 MiB, and a function that fills it or makes room again."""
    folder = tmp_path / "small"
    folder.mkdir()
    code, text = run("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder, check=False)
    if code:
        pytest.skip(f"no tmpfs can be mounted: {text}")

    def fill(full):
        plug = folder / "plug"
        with contextlib.suppress(FileNotFoundError):
            plug.unlink()
        with contextlib.suppress(OSError):
            if full:
                with open(plug, "wb", buffering=0) as file:
                    while True:
                        file.write(bytes(4096))

    fill.folder = folder
    yield fill
    run("umount", "-l", folder)


def start_on(make_daemon, small_state, *args):
    daemon = make_daemon("--region-size", REGION, "--checkpoint-seconds", 1,
                         "--tracking-failure-seconds", 1, *args, start=False)
    os.symlink(small_state.folder, daemon.state)
    daemon.start()
    daemon.serve("d", SIZE, sharing="shared")
    for name in ("b0", "b1"):
        daemon.rpc.plain("bitmap.add", disk="d", name=name, granularity=4096)
    return daemon


def fill_up(daemon, wire, small_state):
    """From here on nothing new goes on record: the log of the database grows in place first, so
    that takes a few writes."""
    small_state(True)
    for index in range(1, 40):
        if wire.write(index * REGION, b"x" * 4096).error:
            return index
        if show(daemon)["state"] == "invalid":
            return index
    raise AssertionError("a full file system has gone unnoticed")


@pytest.mark.long
def test_full_state_refuses(make_daemon, small_state):
    """The default: a write that cannot be put on record fails, and nothing is lost or invalid; what
    is on record already goes on; with room again, so does everything."""
    daemon = start_on(make_daemon, small_state)
    with daemon.open("d") as wire:
        assert wire.write(0, b"x" * 4096).error == 0
        refused = fill_up(daemon, wire, small_state)
        assert wire.write(refused * REGION, b"x" * 4096).error == Err.EIO
        assert wire.write(4096, b"y" * 4096).error == 0, "this region is on record"
        assert wire.read(4096, 1).data == b"y"
        assert wire.flush().error == 0
        assert show(daemon)["state"] == "recording"
        assert tracking(daemon)["failures"] > 0
        daemon.refused("bitmap.clear", "io", disk="d", name="b0", dry=False)
        small_state(False)
        assert harness.wait_for(lambda: wire.write(refused * REGION, b"x" * 4096).error == 0)
    before = extents(daemon)
    daemon.kill()
    daemon.start()
    found = {offset for offset, _ in extents(daemon)}
    assert show(daemon)["state"] == "recovered"
    assert {offset for offset, _ in before} >= {0} and 0 in found


@pytest.mark.long
@pytest.mark.threads
def test_full_state_invalidates(make_daemon, small_state):
    """As asked: the write goes through, after the bitmaps were made invalid durably (the database
    cannot know: it is full), and everybody is told."""
    daemon = start_on(make_daemon, small_state, "--tracking-failure", "invalidate")
    daemon.rpc.plain("bitmap.disable", disk="d", name="b1")
    listener = Listener(daemon, topics=["bitmap"])
    with daemon.open("d", contexts=["qemu:dirty-bitmap:b0"]) as wire:
        assert wire.write(0, b"x" * 4096).error == 0
        index = fill_up(daemon, wire, small_state)
        assert wire.write(index * REGION, b"z" * 4096).error == 0
        assert wire.read(index * REGION, 1).data == b"z"
        for name in ("b0", "b1"):
            event = listener.until("bitmap", "changed", name=name, state="invalid")
            assert event["object"]["disk"] == "d" and "state database" in event["object"]["reason"]
            assert show(daemon, name)["state"] == "invalid"
            assert show(daemon, name)["reason"] == event["object"]["reason"]
        # A client that had it selected reads no "clean" from it.
        assert wire.block_status(0, SIZE).error
        assert "is invalid" in daemon.log()
    daemon.no_clients()
    listener.close()
    daemon.kill()  # and still there is no room
    # The start itself needs some.
    small_state(False)
    daemon.start()
    for name in ("b0", "b1"):
        assert show(daemon, name)["state"] == "invalid" and show(daemon, name)["reason"]
        with daemon.wire() as wire:
            assert f"qemu:dirty-bitmap:{name}" not in wire.list_meta("d")
    daemon.call("bitmap.clear", disk="d", name="b0")
    with daemon.open("d") as wire:
        assert wire.write(0, b"x" * 4096).error == 0
    daemon.no_clients()
    daemon.restart()
    assert show(daemon)["state"] == "recording" and extents(daemon) == [(0, 4096)]
    assert show(daemon, "b1")["state"] == "invalid"


def test_full_state_at_the_start(make_daemon, small_state):
    """Without room a new state cannot begin: said so, no crash."""
    small_state(True)
    daemon = make_daemon(start=False)
    os.symlink(small_state.folder, daemon.state)
    daemon.spawn()
    assert daemon.process.wait(20 * harness.SLOW) == 1
    assert "No space left" in daemon.log() or "full" in daemon.log(), daemon.log()
    daemon.finished = True


# --- told at once ---


def test_shrink_is_an_event(daemon):
    path = daemon.serve("d", SIZE)
    daemon.rpc.plain("bitmap.add", disk="d", name="b0")
    listener = Listener(daemon, topics=["bitmap"])
    os.truncate(path, SIZE // 2)
    daemon.rpc.plain("disk.refresh", name="d")
    event = listener.until("bitmap", "changed", name="b0")
    assert event["object"] == {"name": "b0", "disk": "d", "state": "invalid",
                               "reason": "the disk has shrunk",
                               "detail": "invalid: the disk has shrunk"}
    text = run(harness.NBDCTL, "--socket", daemon.socket, "bitmap", "show", "d", "b0")
    assert "invalid" in text and "the disk has shrunk" in text
    listener.close()


def test_change_behind_the_back_is_an_event(daemon):
    """A disk that comes back while the daemon runs, and was written by others meanwhile."""
    path = daemon.serve("d", SIZE)
    daemon.rpc.plain("bitmap.add", disk="d", name="b0")
    daemon.stop()
    os.rename(path, f"{path}.away")
    daemon.start()
    with open(f"{path}.away", "r+b") as file:
        file.write(b"by others")
    os.rename(f"{path}.away", path)
    listener = Listener(daemon, topics=["bitmap", "disk"])
    daemon.rpc.plain("disk.refresh", name="d")
    event = listener.until("bitmap", "changed", name="b0", state="invalid")
    assert event["object"]["reason"] == show(daemon)["reason"]
    listener.close()
    # Told once, not at each opening.
    seen = daemon.log().count("is invalid")
    daemon.restart()
    assert show(daemon)["state"] == "invalid"
    assert daemon.log().count("is invalid") == seen == 1


# --- what a removed disk leaves behind ---


def pages(folder):
    return sorted(name for name in os.listdir(folder) if name.startswith("nbdd-"))


@pytest.fixture
def private(make_daemon, tmp_path):
    """(daemon, its runtime directory): an ordinary user's, or root's in a namespace of its own."""
    if os.getuid() == 0:
        folder = tmp_path / "run"
        folder.mkdir()
        Path("/run/nbdd").mkdir(exist_ok=True)
        code, _ = run("unshare", "-m", "true", check=False)
        if code:
            pytest.skip("no namespaces to be had")
        wrap = ["unshare", "-m", "sh", "-c", f'mount --bind {folder} /run/nbdd && exec "$@"', "sh"]
        return make_daemon(wrap=wrap), folder
    folder = tmp_path
    (folder / "nbdd").mkdir()
    return make_daemon(env={"XDG_RUNTIME_DIR": str(folder)}), folder / "nbdd"


def test_removed_disks_leave_no_page(private):
    daemon, folder = private
    plain = daemon.rpc.plain
    path = daemon.serve("d", SIZE)
    assert len(pages(folder)) == 1
    plain("bitmap.add", disk="d", name="b0")
    with daemon.open("d") as wire:
        assert wire.write(0, b"x").error == 0
    daemon.no_clients()
    (page,) = pages(folder)
    plain("export.remove", name="d")
    plain("disk.remove", name="d", force=True)
    assert pages(folder) == []

    # Of an unclean stop, and the file was never there again.
    plain("disk.add", name="d", path=str(path))
    plain("bitmap.add", disk="d", name="b0")
    assert pages(folder) == [page]
    daemon.kill()
    os.rename(path, f"{path}.away")
    daemon.start()
    plain = daemon.rpc.plain
    assert daemon.call("disk.show", name="d")["state"] == "missing"
    plain("disk.remove", name="d", force=True)
    assert pages(folder) == []

    # Without bitmaps nothing is kept over a stop of any kind.
    os.rename(f"{path}.away", path)
    plain("disk.add", name="d", path=str(path))
    daemon.kill()
    daemon.start()
    daemon.stop()
    assert pages(folder) == []


def test_another_disk_of_the_same_name(private):
    """Removed and added again with another file in one transaction: nothing of the old one is taken
    over, a transaction that fails leaves the old one as it was, and the new one survives kill -9."""
    daemon, folder = private
    plain = daemon.rpc.plain
    other = daemon.image("other.img", SIZE)
    path = daemon.image("d.img", SIZE)
    plain("disk.add", name="d", path=str(path))
    plain("bitmap.add", disk="d", name="b0", granularity=4096)
    swap = [{"method": "disk.remove", "params": {"name": "d", "force": True}},
            {"method": "disk.add", "params": {"name": "d", "path": str(other)}},
            {"method": "bitmap.add", "params": {"disk": "d", "name": "new", "granularity": 4096}}]
    fails = [*swap, {"method": "bitmap.remove", "params": {"disk": "d", "name": "none"}}]
    plain("transaction", actions=swap, dry_run=True)
    daemon.rpc.refused("transaction", "not-found", actions=fails)
    assert [b["name"] for b in plain("bitmap.list")["bitmaps"]] == ["b0"]
    plain("export.add", name="d", disk="d")
    with daemon.open("d") as wire:
        assert wire.write(8192, b"x").error == 0
    daemon.no_clients()
    daemon.kill()
    daemon.start()
    plain = daemon.rpc.plain
    assert show(daemon)["state"] == "recovered", show(daemon)
    plain("export.remove", name="d")
    plain("transaction", actions=swap)
    assert len(pages(folder)) == 1
    assert [b["name"] for b in plain("bitmap.list")["bitmaps"]] == ["new"]
    plain("export.add", name="d", disk="d")
    with daemon.open("d") as wire:
        assert wire.write(12288, b"x").error == 0
    daemon.no_clients()
    daemon.kill()
    daemon.start()
    assert show(daemon, "new")["state"] == "recovered", show(daemon, "new")
    daemon.stop()
    assert pages(folder) == []
    daemon.start()
    assert [b["name"] for b in daemon.rpc.plain("bitmap.list")["bitmaps"]] == ["new"]


# --- what a write costs ---


@pytest.mark.parametrize("how", ["under an intent", "stored as dirty"])
def test_steady_state_commits_nothing(make_daemon, how):
    """10,000 writes, some of them FUA, and flushes between them, to blocks that are on record
    already: not one transaction, not one fsync of the database. (tests/unit/test_steady.c counts
    locks and system calls.)"""
    daemon = make_daemon("--region-size", REGION, "--checkpoint-seconds", 3600)
    daemon.serve("d", SIZE)
    daemon.rpc.plain("bitmap.add", disk="d", name="b0", granularity=4096)
    daemon.rpc.plain("bitmap.add", disk="d", name="b1")
    with daemon.open("d") as wire:
        for index in range(16):
            assert wire.write(index * REGION, b"x" * REGION).error == 0
    daemon.no_clients()
    if how == "stored as dirty":
        daemon.restart()  # exact bits, no intents
        # The first write after a start takes the clean flag away, durably.
        with daemon.open("d") as wire:
            assert wire.write(0, b"x").error == 0
        daemon.no_clients()
    rng = random.Random(5)

    def nothing_is_committed():
        """But for what is done when nobody writes for some seconds, as when the machine has no time for
        us; or what came before, and late."""
        assert harness.wait_for(lambda: settled(daemon))
        before = tracking(daemon)
        with daemon.open("d") as wire:
            for index in range(10000 // 50):
                cookies = [wire.submit(1, rng.randrange(16 * REGION - 4096), 4096,
                                       CmdFlag.FUA if index % 10 == 0 and part == 0 else 0,
                                       payload=b"y" * 4096)
                           for part in range(50)]
                for cookie in cookies:
                    assert wire.wait(cookie).error == 0
                assert wire.flush().error == 0
        return tracking(daemon) == before

    assert harness.succeeds(nothing_is_committed, 3)


def settled(daemon):
    before = tracking(daemon)
    time.sleep(0.1)
    return tracking(daemon) == before


def test_first_touches_are_counted(make_daemon):
    """The counters above can move: each new region is put on record once."""
    daemon = make_daemon("--region-size", REGION, "--checkpoint-seconds", 3600)
    daemon.serve("d", SIZE)
    daemon.rpc.plain("bitmap.add", disk="d", name="b0", granularity=4096)
    before = tracking(daemon)
    with daemon.open("d") as wire:
        for index in (3, 17, 40):
            assert wire.write(index * REGION, b"x").error == 0
            assert wire.write(index * REGION + 4096, b"x").error == 0
    after = tracking(daemon)
    assert after["intents_added"] == before["intents_added"] + 3
    assert after["syncs"] > before["syncs"]


# --- settings of the record, at their edges ---


@pytest.mark.parametrize("words", [
    ["--region-size", "65535"], ["--region-size", "32k"], ["--region-size", "98304"],
    ["--region-size", "2048G"], ["--region-size", "0"], ["--region-size", "-1"],
    ["--max-intents", "15"], ["--max-intents", "1048577"], ["--max-intents", ""],
    ["--checkpoint-seconds", "86401"], ["--tracking-failure", "ignore"],
    ["--tracking-failure-seconds", "86401"],
], ids=" ".join)  # fmt: skip
def test_settings_refused(make_daemon, words):
    daemon = make_daemon(*words, start=False)
    daemon.spawn()
    assert daemon.process.wait(20 * harness.SLOW) == 2
    daemon.finished = True
    assert words[0] in daemon.log()


@pytest.mark.parametrize("region,intents", [("64k", 16), ("64k", 1 << 20), ("1024G", 16),
                                            ("4M", 2048)])
def test_over_reporting_is_bounded(make_daemon, region, intents):
    """After kill -9 no more is reported than was written and (intents x region size), and the
    daemon says how much that is; many regions through few intents lose nothing."""
    daemon = make_daemon("--region-size", region, "--max-intents", intents)
    size = {"k": 10, "M": 20, "G": 30}
    unit = int(region[:-1]) << size[region[-1]]
    daemon.serve("d", SIZE)
    daemon.rpc.plain("bitmap.add", disk="d", name="b0", granularity=4096)
    rng = random.Random(region)
    touched = set()
    with daemon.open("d") as wire:
        for _ in range(300):
            block = rng.randrange(SIZE // 4096)
            assert wire.write(block * 4096, b"x").error == 0
            touched.add(block)
        daemon.kill()
    daemon.start()
    shown = show(daemon)
    assert shown["state"] == "recovered"
    dirty = {block for offset, length in extents(daemon)
             for block in range(offset // 4096, (offset + length) // 4096)}
    assert touched <= dirty
    assert shown["dirty_bytes"] == len(dirty) * 4096
    assert len(dirty) - len(touched) <= intents * max(unit // 4096, 1)
    assert (len(dirty) - len(touched)) * 4096 <= shown["over_reported_bytes"] <= SIZE


# --- what each durability survives ---


SURVIVES = {"power": "survives anything, a power loss included",
            "process": "survives the end of nbdd, not that of the machine",
            "none": "survives nothing but a clean stop"}  # fmt: skip


@pytest.mark.parametrize("durability,state", [("power", "recovered"), ("process", "recovered"),
                                              ("none", "invalid")])
def test_durability_and_kill(make_daemon, durability, state):
    daemon = make_daemon()
    daemon.serve("d", SIZE)
    shown = daemon.call("bitmap.add", disk="d", name="b0", granularity=4096, durability=durability)
    assert shown["durability"] == durability and shown["watch"] == "full"
    text = run(harness.NBDCTL, "--socket", daemon.socket, "bitmap", "list")
    assert durability in text
    text = run(harness.NBDCTL, "--socket", daemon.socket, "bitmap", "show", "d", "b0")
    assert SURVIVES[durability] in text and "writes by others are noticed" in text
    with daemon.open("d", EXTENDED) as wire:
        for block in (5, 500, 5000):
            assert wire.write(block * 4096, b"x").error == 0
    daemon.no_clients()
    daemon.restart()
    assert show(daemon)["state"] == "recording", "a clean stop is survived by all"
    assert extents(daemon) == [(block * 4096, 4096) for block in (5, 500, 5000)]
    with daemon.open("d") as wire:
        assert wire.write(9000 * 4096, b"x").error == 0
        daemon.kill()
    daemon.start()
    shown = show(daemon)
    assert shown["state"] == state
    if state == "invalid":
        assert "durability none" in shown["reason"]
    else:
        covered = [(o, o + n) for o, n in extents(daemon)]
        for block in (5, 500, 5000, 9000):
            assert any(o <= block * 4096 < end for o, end in covered)


@pytest.fixture
def reboots(daemon, tmp_path):
    """reboots(): the daemon's next start is in a machine that was booted just now: another boot id,
    the clock since the boot at zero, an empty runtime directory."""
    if os.getuid() != 0:
        pytest.skip("namespaces need root")
    Path("/run/nbdd").mkdir(exist_ok=True)
    boot, empty = tmp_path / "boot_id", tmp_path / "run"
    empty.mkdir()

    def reboot():
        boot.write_text(f"{uuid.uuid4()}\n")
        for name in pages(empty):
            (empty / name).unlink()
        time.sleep(1.2)  # whatever was before was before the boot, whose second is the unit here
        up = int(time.clock_gettime(time.CLOCK_BOOTTIME))
        daemon.wrap = ["unshare", "-m", "-T", "--boottime", str(-up), "sh", "-c",
                       f"mount --bind {boot} /proc/sys/kernel/random/boot_id && "
                       f'mount --bind {empty} /run/nbdd && exec "$@"', "sh"]
        code, text = run(*daemon.wrap, "cat", "/proc/uptime", check=False)
        if code or float(text.split()[0]) > 10:
            pytest.skip(f"no other clock to be had: {text}")

    return reboot


STATES = {"power": "recovered", "process": "invalid", "none": "invalid"}


@pytest.mark.long
@pytest.mark.parametrize("end", ["clean", "killed", "killed, written after the boot"])
def test_durability_and_a_reboot(daemon, reboots, end):
    path = daemon.serve("d", SIZE)
    for name in STATES:
        daemon.rpc.plain("bitmap.add", disk="d", name=name, durability=name, granularity=4096)
    with daemon.open("d") as wire:
        assert wire.write(40960, b"x").error == 0
        daemon.stop() if end == "clean" else daemon.kill()
    reboots()
    if end.endswith("boot"):
        time.sleep(1.2)
        with open(path, "r+b") as file:
            file.write(b"by others")
    daemon.start()
    for name, state in STATES.items():
        shown = show(daemon, name)
        if end == "clean":
            assert shown["state"] == "recording" and extents(daemon, name) == [(40960, 4096)]
        elif end == "killed":
            assert shown["state"] == state, shown
        else:
            assert shown["state"] == "invalid", shown
    if end == "killed":
        assert extents(daemon, "power")[0][0] <= 40960
        assert "machine did not stop cleanly" in show(daemon, "process")["reason"]
    elif end != "clean":
        assert "after the reboot" in show(daemon, "power")["reason"]


@pytest.mark.skipif(os.getuid() != 0, reason="loop devices need root")
def test_block_devices_say_what_is_watched(daemon):
    path = daemon.image("loop.img", SIZE)
    code, device = run("losetup", "-f", "--show", path, check=False)
    if code:
        pytest.skip(f"no loop device: {device}")
    device = device.strip()
    try:
        daemon.call("disk.add", name="d", path=device)
        daemon.call("bitmap.add", disk="d", name="b0")
        assert show(daemon)["watch"] == "boot"
        text = run(harness.NBDCTL, "--socket", daemon.socket, "bitmap", "show", "d", "b0")
        assert "while the machine was booted anew are not seen" in text
        daemon.stop()
        run("dd", "if=/dev/urandom", f"of={device}", "bs=4k", "count=1", "oflag=direct")
        daemon.start()
        assert show(daemon)["state"] == "invalid", "within one boot it is noticed"
    finally:
        daemon.finish()
        subprocess.run(["losetup", "-d", device], check=False)
