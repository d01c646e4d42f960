"""The state database: damaged, lost, copied while it is busy, put back, of an older schema. The
daemon comes up wherever it can, says what it found, and never answers "clean" from what it does not
know."""

import os
import random
import re
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

import harness
from harness import run

SIZE = 4 << 20
PAGE = 4096


def extents(daemon, disk, name):
    found = daemon.call("bitmap.extents", disk=disk, name=name, limit=65536)["extents"]
    return [(extent["offset"], extent["length"]) for extent in found]


def bitmaps(daemon):
    return {(b["disk"], b["name"]): b for b in daemon.rpc.plain("bitmap.list")["bitmaps"]}


def write(daemon, export, *offsets):
    with daemon.open(export) as wire:
        for offset in offsets:
            assert wire.write(offset, b"x").error == 0
    daemon.no_clients()


def furnish(daemon):
    for name in ("a", "b", "c"):
        daemon.serve(name, SIZE, sharing="shared", description=f"the {name}" * 20,
                     allow=["!ip:192.0.2.7", "unix:0", f"unix:{os.getuid()}"])
        for bitmap in ("b0", "b1"):
            daemon.rpc.plain("bitmap.add", disk=name, name=bitmap, granularity=512)
        write(daemon, name, *range(0, SIZE, 100 * 512))
    daemon.rpc.plain("listener.add", name="extra", address=f"unix:{daemon.root}/extra.sock")


def database(daemon):
    return daemon.state / "state.db"


def unchanged(daemon, before):
    """Whatever is not invalid says what it said before; the answer is how many were checked."""
    good = 0
    for key, shown in bitmaps(daemon).items():
        if shown["state"] == "invalid":
            assert shown["reason"]
            daemon.refused("bitmap.extents", "invalid-state", disk=key[0], name=key[1])
        else:
            assert set(before[key]) <= set(extents(daemon, *key)), key
            good += 1
    return good


def listing(daemon):
    return sorted(path.name for path in daemon.state.iterdir())


# --- damage ---


@pytest.mark.long
def test_every_page_damaged_in_turn(daemon):
    """One page after the other is zeroed, or overwritten with noise. Each time the daemon comes up;
    what is damaged is said, kept aside, and its bitmaps are invalid; the rest of the configuration
    is there as far as its pages go; refusals are not forgotten."""
    furnish(daemon)
    daemon.stop()
    original = database(daemon).read_bytes()
    before = {}
    daemon.start()
    for key in bitmaps(daemon):
        before[key] = extents(daemon, *key)
    daemon.stop()
    original = database(daemon).read_bytes()
    pages = len(original) // PAGE
    assert pages > 15
    rng = random.Random(4)
    noticed = survived = 0
    for page in range(pages):
        data = bytearray(original)
        damage = bytes(PAGE) if page % 2 else rng.randbytes(PAGE)
        data[page * PAGE : (page + 1) * PAGE] = damage
        for path in daemon.state.glob("state.db*"):
            path.unlink()
        database(daemon).write_bytes(data)
        daemon.log_path.write_text("")
        daemon.start()
        kept = list(daemon.state.glob("state.db-damaged-*"))
        if kept:
            noticed += 1
            assert "was damaged" in daemon.log()
            assert kept[0].read_bytes() == bytes(data), "kept as it was"
            assert unchanged(daemon, before) == 0, "none is trusted"
            assert all("damaged" in shown["reason"] for shown in bitmaps(daemon).values())
            for shown in daemon.rpc.plain("export.list")["exports"]:
                allow = shown["allow"]
                assert allow == [] or allow[0] == "!ip:192.0.2.7", (page, allow)
                survived += 1
        else:
            assert unchanged(daemon, before) == len(before), f"page {page}"
        daemon.stop()
        # It is in order again, and says nothing more.
        if kept:
            daemon.log_path.write_text("")
            daemon.start()
            assert "damaged" not in daemon.log()
            daemon.stop()
    assert noticed > pages // 2
    assert survived > noticed


DAMAGES = {
    "half of it": lambda data: data[: len(data) // 2 // PAGE * PAGE],
    "half a page less": lambda data: data[: -PAGE // 2],
    "noise": lambda data: random.Random(1).randbytes(len(data)),
    "the header": lambda data: b"not a database, sorry" + data[21:],
    "the page size": lambda data: data[:16] + b"\x00\x07" + data[18:],
    "zeroes": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_damage_as_a_whole(daemon, how):
    furnish(daemon)
    before = {key: extents(daemon, *key) for key in bitmaps(daemon)}
    daemon.stop()
    data = DAMAGES[how](database(daemon).read_bytes())
    database(daemon).write_bytes(data)
    daemon.start()
    assert re.search("was damaged|has been lost", daemon.log()), daemon.log()
    assert unchanged(daemon, before) == 0
    # And it is good for use: what is missing can be made anew.
    for name in ("a", "b", "c"):
        daemon.rpc.plain("export.remove", name=name, missing_ok=True)
        daemon.rpc.plain("disk.remove", name=name, force=True, missing_ok=True)
        daemon.rpc.plain("export.add", name=name, path=str(daemon.root / f"{name}.img"))
        daemon.rpc.plain("bitmap.add", disk=name, name="b0")
    write(daemon, "a", 0)
    daemon.restart()
    assert bitmaps(daemon)[("a", "b0")]["state"] == "recording"


@pytest.mark.parametrize("what", ["state.db", "state.db-wal", "both", "emptied"])
def test_lost_files(daemon, what):
    """After an unclean stop the log holds what the database does not. Without either the daemon
    says so, or what it still has is older than the disks, which it notices."""
    furnish(daemon)
    before = {key: extents(daemon, *key) for key in bitmaps(daemon)}
    daemon.kill()
    assert "state.db-wal" in listing(daemon)
    if what in ("state.db", "both"):
        database(daemon).unlink()
    if what in ("state.db-wal", "both"):
        (daemon.state / "state.db-wal").unlink()
    if what == "emptied":
        database(daemon).write_bytes(b"")
        (daemon.state / "state.db-wal").write_bytes(b"")
    daemon.start()
    assert unchanged(daemon, before) == 0 or what == "state.db"
    unchanged(daemon, before)
    if not bitmaps(daemon):
        assert "has been lost" in daemon.log(), daemon.log()


def test_an_older_log(daemon):
    """The log was checkpointed, and then lost with what came after."""
    daemon.serve("a", SIZE)
    daemon.rpc.plain("bitmap.add", disk="a", name="b0", granularity=512)
    daemon.restart()
    write(daemon, "a", 0, 512 * 7)
    before = extents(daemon, "a", "b0")
    daemon.kill()
    (daemon.state / "state.db-wal").unlink()
    daemon.start()
    shown = bitmaps(daemon)[("a", "b0")]
    assert shown["state"] == "invalid" or set(before) <= set(extents(daemon, "a", "b0"))
    assert shown["state"] == "invalid"


@pytest.mark.skipif(os.getuid() != 0, reason="mounts need root")
def test_read_only_state(daemon):
    """Nothing can be kept: it does not start, and says why; later all is as it was."""
    daemon.serve("a", SIZE)
    daemon.rpc.plain("bitmap.add", disk="a", name="b0")
    daemon.stop()
    run("mount", "--bind", daemon.state, daemon.state)
    try:
        code, text = run("mount", "-o", "remount,ro,bind", daemon.state, check=False)
        if code:
            pytest.skip(f"no read-only mount: {text}")
        daemon.spawn()
        assert daemon.process.wait(20 * harness.SLOW) == 1
        assert "Read-only" in daemon.log(), daemon.log()
    finally:
        run("umount", daemon.state)
    daemon.start()
    assert bitmaps(daemon)[("a", "b0")]["state"] == "recording"


# --- copies ---


def put_back(daemon, copy):
    """The daemon is stopped; its database is that copy from here on."""
    for path in daemon.state.glob("state.db*"):
        path.unlink()
    shutil.copyfile(copy, database(daemon))


def hammer(daemon, stop, errors):
    """Writes, bitmaps that come and go, and settings that change, until told to stop."""
    from rpc import Rpc

    rng = random.Random(7)
    control = Rpc(str(daemon.socket), harness.schema())
    try:
        with daemon.open("busy") as wire:
            while not stop.is_set():
                for _ in range(20):
                    assert wire.write(rng.randrange(SIZE - 512), b"x" * 512).error == 0
                name = f"t{rng.randrange(5)}"
                control.plain("bitmap.remove", disk="busy", name=name, missing_ok=True)
                control.plain("bitmap.add", disk="busy", name=name)
                control.plain("export.set", name="busy", description=name)
    except Exception as error:  # noqa: BLE001
        errors.append(error)
    finally:
        control.close()


@pytest.mark.long
def test_copies_of_a_busy_daemon(daemon, tmp_path):
    """Each copy is whole. Put back, it says of a disk that was written since that it cannot know;
    of one that was left alone it still knows everything."""
    daemon.serve("quiet", SIZE)
    daemon.rpc.plain("bitmap.add", disk="quiet", name="b0", granularity=512)
    write(daemon, "quiet", 0, 512 * 9)
    daemon.restart()
    daemon.serve("busy", SIZE, sharing="shared")
    daemon.rpc.plain("bitmap.add", disk="busy", name="b0", granularity=512)
    stop, errors = threading.Event(), []
    thread = threading.Thread(target=hammer, args=(daemon, stop, errors))
    thread.start()
    copies = []
    try:
        for index in range(6):
            copy = tmp_path / f"copy{index}"
            run(harness.NBDCTL, "--socket", daemon.socket, "state", "backup", copy)
            copies.append(copy)
            code, text = run(harness.NBDCTL, "--socket", daemon.socket, "state", "backup", copy,
                             check=False)
            assert code == 5, text
    finally:
        stop.set()
        thread.join(60 * harness.SLOW)
    assert not errors, errors
    write(daemon, "busy", 0)  # after the last copy, too
    assert not list(tmp_path.glob("copy*-*")), "one file each"
    daemon.no_clients()
    daemon.stop()
    for copy in copies:
        assert os.stat(copy).st_mode & 0o777 == 0o600
        with sqlite3.connect(f"file:{copy}?mode=ro&immutable=1", uri=True) as handle:
            assert handle.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert handle.execute("PRAGMA foreign_key_check").fetchall() == []
            assert handle.execute("SELECT count(*) FROM disks").fetchone() == (2,)
        put_back(daemon, copy)
        daemon.start()
        found = bitmaps(daemon)
        assert found[("quiet", "b0")]["state"] == "recording"
        assert extents(daemon, "quiet", "b0") == [(0, 512), (512 * 9, 512)]
        busy = [shown for key, shown in found.items() if key[0] == "busy"]
        assert busy and all(shown["state"] == "invalid" and shown["reason"] for shown in busy)
        assert daemon.call("export.show", name="busy")["state"] == "ready"
        daemon.stop()


def test_an_older_state_put_back(daemon, tmp_path):
    """A copy of the whole directory, made while nothing ran; the disk went on, and then the old
    state comes back."""
    daemon.serve("a", SIZE)
    daemon.serve("left", SIZE)
    for name in ("a", "left"):
        daemon.rpc.plain("bitmap.add", disk=name, name="b0", granularity=512)
        write(daemon, name, 0)
    daemon.stop()
    shutil.copyfile(database(daemon), tmp_path / "old")
    daemon.start()
    write(daemon, "a", 512 * 8)
    daemon.stop()
    put_back(daemon, tmp_path / "old")
    daemon.start()
    found = bitmaps(daemon)
    assert found[("a", "b0")]["state"] == "invalid" and found[("a", "b0")]["reason"]
    assert found[("left", "b0")]["state"] == "recording"


def copy_running(daemon, folder):
    """The database and its log as they lie there, raw: of an unclean state, after a kill."""
    folder.mkdir()
    for path in daemon.state.glob("state.db*"):
        shutil.copyfile(path, folder / path.name)


def put_raw_back(daemon, folder):
    for path in daemon.state.glob("state.db*"):
        path.unlink()
    for path in folder.iterdir():
        shutil.copyfile(path, daemon.state / path.name)


BUSY = [index * index * 7 % 97 * (1 << 20) for index in range(6)]


def a_copy_of_an_unclean_state(daemon, folder):
    daemon.serve("a", 128 << 20, sharing="shared")
    daemon.rpc.plain("bitmap.add", disk="a", name="b0", granularity=65536)
    write(daemon, "a", *BUSY)
    daemon.kill()
    copy_running(daemon, folder)
    daemon.start()
    assert bitmaps(daemon)[("a", "b0")]["state"] == "recovered"


def removed_and_added(daemon):
    daemon.rpc.plain("bitmap.remove", disk="a", name="b0")
    daemon.restart()
    daemon.rpc.plain("bitmap.add", disk="a", name="b0", granularity=65536)


def removed_and_added_at_once(daemon):
    daemon.rpc.plain("bitmap.remove", disk="a", name="b0")
    daemon.rpc.plain("bitmap.add", disk="a", name="b0", granularity=65536)


def disk_removed_and_added(daemon):
    daemon.rpc.plain("export.remove", name="a")
    daemon.rpc.plain("disk.remove", name="a", force=True)
    daemon.rpc.plain("disk.add", name="a", path=str(daemon.root / "a.img"))
    daemon.rpc.plain("export.add", name="a", disk="a")
    daemon.rpc.plain("bitmap.add", disk="a", name="b0", granularity=65536)


@pytest.mark.parametrize("how", [removed_and_added, removed_and_added_at_once,
                                 disk_removed_and_added])
def test_an_unclean_state_of_an_earlier_bitmap_put_back(daemon, tmp_path, how):
    """Another bitmap has taken its place since; what that one counted is not less than what the
    copy has."""
    a_copy_of_an_unclean_state(daemon, tmp_path / "old")
    how(daemon)
    write(daemon, "a", 99 << 20)
    daemon.kill()
    put_raw_back(daemon, tmp_path / "old")
    daemon.start()
    shown = bitmaps(daemon)[("a", "b0")]
    assert shown["state"] == "invalid" and shown["reason"]


def test_two_unclean_states_put_back(daemon, tmp_path):
    """The older one first, which is noticed, and cleared; then the newer one, which is no less
    foreign to what was written since."""
    a_copy_of_an_unclean_state(daemon, tmp_path / "first")
    write(daemon, "a", *(offset + (30 << 20) for offset in BUSY))
    daemon.kill()
    copy_running(daemon, tmp_path / "second")
    daemon.start()
    write(daemon, "a", 80 << 20)
    daemon.kill()
    put_raw_back(daemon, tmp_path / "first")
    daemon.start()
    assert bitmaps(daemon)[("a", "b0")]["state"] == "invalid"
    daemon.call("bitmap.clear", disk="a", name="b0")
    write(daemon, "a", 99 << 20)
    daemon.kill()
    put_raw_back(daemon, tmp_path / "second")
    daemon.start()
    shown = bitmaps(daemon)[("a", "b0")]
    assert shown["state"] == "invalid" and shown["reason"]


# --- older schemas ---


def frozen():
    """The SQL of tests/unit/state_1.h, and what schema 2 had beside it."""
    text = (Path(harness.REPO) / "tests/unit/state_1.h").read_text()
    literals = re.findall(r'^ +"((?:[^"\\]|\\.)*)"', text[text.index("state_1[]") :], re.M)
    return "".join(literals)


SCHEMA_2 = """
CREATE TABLE credentials (name TEXT PRIMARY KEY, kind INTEGER NOT NULL, dir TEXT, keys TEXT,
  priority TEXT, verify_client INTEGER NOT NULL CHECK (verify_client IN (0, 1)))
  STRICT, WITHOUT ROWID;
INSERT INTO credentials VALUES ('cred', 1, NULL, '/nonexistent/keys', NULL, 0);
PRAGMA user_version=2;
"""


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged"])
def test_older_schemas(make_daemon, version, damaged):
    """A frozen database of each older schema: all that is configured is there, as it was; also what
    can be saved of a damaged one. The bitmaps are about another file, and say so."""
    daemon = make_daemon(start=False)
    daemon.state.mkdir(mode=0o700)
    images = [daemon.image(name, 1 << 30) for name in ("vm1.img", "d.img")]
    with sqlite3.connect(database(daemon)) as handle:
        handle.executescript(frozen() + (SCHEMA_2 if version == 2 else ""))
        handle.execute("UPDATE disks SET path = ?, cache = 0 WHERE id = 1", (str(images[0]),))
        handle.execute("UPDATE disks SET path = ? WHERE id = 7", (str(images[1]),))
        handle.execute("UPDATE bitmaps SET generation ="
                       " generation || '0000-3a54-4a0e-9d59-6f0e5d1b2c3d'")
        handle.execute("UPDATE listeners SET address = 'tcp:127.0.0.1:0'")
        handle.commit()
        (page,) = handle.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'bits'").fetchone()
    handle.close()
    if damaged:
        with open(database(daemon), "r+b") as file:
            file.seek((page - 1) * PAGE)
            file.write(b"\xa5" * PAGE)
    daemon.start()
    assert ("was damaged" in daemon.log()) == damaged
    first = daemon.call("export.show", name="vm1")
    assert first["description"] == "the first" and first["sharing"] == "shared"
    assert first["max_clients"] == 5 and first["tls"] == "require"
    assert first["allow"] == ["x509:CN=alice", "!ip:10.0.0.0/8"] and first["bitmaps"] == ["b0", "b1"]
    second = daemon.call("export.show", name="open")
    assert second["read_only"] and second["allow"] is None and second["bitmaps"] is None
    assert daemon.call("disk.show", name="d")["implicit"]
    (listener,) = [entry for entry in daemon.rpc.plain("listener.list")["listeners"]
                   if entry["name"] == "main"]
    assert listener["tls"] == "cred" and listener["max_clients"] == 9
    names = [entry["name"] for entry in daemon.rpc.plain("tls.list")["credentials"]]
    assert names == (["cred"] if version == 2 else [])
    found = bitmaps(daemon)
    assert set(found) == {("vm1", "b0"), ("vm1", "b1"), ("d", "b2")}
    assert all(shown["state"] == "invalid" for shown in found.values())
    assert found[("d", "b2")]["reason"] == "lost"
    daemon.call("bitmap.clear", disk="vm1", name="b0")
    daemon.restart()
    assert bitmaps(daemon)[("vm1", "b0")]["state"] == "recording"


def test_a_refusal_that_was_lost_admits_nobody(daemon):
    """What is left of an allow list without one of its refusals would admit whom it refused."""
    furnish(daemon)
    daemon.stop()
    with sqlite3.connect(database(daemon)) as handle:
        handle.execute("DELETE FROM export_allow WHERE position = 0 AND export ="
                       " (SELECT id FROM exports WHERE name = 'a')")
        handle.execute("DELETE FROM export_allow WHERE position = 1 AND export ="
                       " (SELECT id FROM exports WHERE name = 'b')")
        handle.commit()
        (page,) = handle.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'bits'").fetchone()
    handle.close()
    with open(database(daemon), "r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(b"\xa5" * PAGE)
    daemon.start()
    allow = {shown["name"]: shown["allow"] for shown in daemon.rpc.plain("export.list")["exports"]}
    assert allow["a"] == [] and allow["b"] == []
    assert len(allow["c"]) == 3
