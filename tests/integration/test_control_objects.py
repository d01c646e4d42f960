"""Disks, exports, listeners: add, set, show, list, remove; what is refused, and why."""

import fcntl
import os
import socket
import subprocess

import pytest

import harness
from nbdproto import SIMPLE
from nbdwire import Closed, open_export, open_wire
from rpc import listing

SIZE = 1 << 20


# --- disks ---


def test_disk_life(daemon):
    path = daemon.image("a.img", 1000001)
    added = daemon.call("disk.add", name="a", path=str(path))
    assert (added["size"], added["backend"], added["state"]) == (1000001, "file", "ready")
    assert added["read_only"] is False and added["cache"] == "writeback"
    assert daemon.call("disk.show", name="a") == added
    assert daemon.call("disk.list")["disks"] == [added]
    assert daemon.call("disk.remove", name="a")["removed"] is True
    assert daemon.call("disk.list")["disks"] == []
    daemon.refused("disk.show", "not-found", name="a")


def test_disk_add_refused(daemon):
    """The error names the path and what is wrong with it."""
    path = daemon.image("a.img")
    daemon.call("disk.add", name="a", path=str(path))
    error = daemon.refused("disk.add", "not-found", name="b", path=str(daemon.root / "missing"))
    assert error.path == "/params/path" and "missing" in error.detail
    assert daemon.refused("disk.add", "invalid-argument", name="b", path=str(daemon.root)).path
    assert daemon.refused("disk.add", "invalid-argument", name="b", path="/dev/null")
    fifo = daemon.root / "fifo"
    os.mkfifo(fifo)
    daemon.refused("disk.add", "invalid-argument", name="b", path=str(fifo))
    assert daemon.refused("disk.add", "already-exists", name="a", path=str(path)).path == "/params/name"
    other = daemon.image("b.img")
    daemon.refused("disk.add", "already-exists", name="a", path=str(other))


def test_disk_add_same(daemon):
    """if_exists=same succeeds when what exists is identical, and only then."""
    path, other = daemon.image("a.img"), daemon.image("b.img")
    first = daemon.call("disk.add", name="a", path=str(path))
    assert daemon.call("disk.add", name="a", path=str(path), if_exists="same") == first
    for change in ({"path": str(other)}, {"read_only": True}, {"cache": "direct"}):
        params = {"name": "a", "path": str(path), "if_exists": "same", **change}
        daemon.refused("disk.add", "already-exists", **params)


@pytest.mark.parametrize("how", ["same path", "symlink", "hard link", "dot"])
def test_one_file_is_one_disk(daemon, how):
    """One inode is one disk, whatever it is called."""
    path = daemon.image("a.img")
    daemon.call("disk.add", name="a", path=str(path))
    other = daemon.root / "other"
    if how == "symlink":
        other.symlink_to(path)
    elif how == "hard link":
        os.link(path, other)
    elif how == "dot":
        other = f"{daemon.root}/./a.img"
    else:
        other = path
    error = daemon.refused("disk.add", "already-exists", name="b", path=str(other))
    assert "'a'" in error.detail and error.path == "/params/path"
    daemon.refused("disk.add", "already-exists", name="b", path=str(other), read_only=True)


def test_disk_read_only(daemon):
    """A disk that may only be read is served for reading, whatever the export asks for."""
    path = daemon.image("a.img", data={0: b"r"})
    daemon.call("disk.add", name="a", path=str(path), read_only=True)
    assert daemon.call("export.add", name="a", disk="a")["read_only"] is True
    with daemon.open("a") as wire:
        assert wire.read(0, 1).data == b"r"
        assert wire.write(0, b"w").error == 1


def test_disk_remove_refused(daemon):
    """A disk with bitmaps needs force; one with exports is busy, force or not."""
    daemon.serve("a")
    daemon.call("bitmap.add", disk="a", name="b0")
    for force in (False, True):
        assert "a" in daemon.refused("disk.remove", "busy", name="a", force=force).detail
    daemon.call("export.remove", name="a")
    daemon.refused("disk.remove", "invalid-state", name="a")
    daemon.call("disk.remove", name="a", force=True)
    daemon.refused("bitmap.show", "not-found", disk="a", name="b0")


def test_missing_ok(daemon):
    daemon.refused("disk.remove", "not-found", name="a")
    assert daemon.call("disk.remove", name="a", missing_ok=True)["removed"] is False
    daemon.refused("export.remove", "not-found", name="a")
    assert daemon.call("export.remove", name="a", missing_ok=True)["removed"] is False
    daemon.refused("listener.remove", "not-found", name="a")
    assert daemon.call("listener.remove", name="a", missing_ok=True)["removed"] is False
    daemon.serve("d")
    daemon.refused("bitmap.remove", "not-found", disk="d", name="b")
    assert daemon.call("bitmap.remove", disk="d", name="b", missing_ok=True)["removed"] is False


@pytest.mark.skipif(os.getuid() != 0, reason="loop devices need root")
def test_block_device(daemon):
    """A block device: its backend, size, data; exclusively held."""
    path = daemon.image("loop.img", SIZE, {4096: b"block"})
    code, device = harness.run("losetup", "-f", "--show", path, check=False)
    if code:
        pytest.skip(f"no loop device: {device}")
    device = device.strip()
    try:
        disk = daemon.call("disk.add", name="loop", path=device)
        assert (disk["backend"], disk["size"]) == ("block", SIZE)
        daemon.call("export.add", name="loop", disk="loop")
        daemon.call("bitmap.add", disk="loop", name="b0")
        with daemon.open("loop", contexts=["base:allocation", "qemu:dirty-bitmap:b0"]) as wire:
            assert wire.read(4096, 5).data == b"block"
            assert wire.write(8190, b"across").error == 0
            assert wire.zero(0, 4096).error == 0
            assert wire.zero(16384, 4096, 2).error == 0
            assert wire.trim(65536, 65536).error == 0
            assert wire.flush().error == 0
            assert wire.read(8190, 6).data == b"across"
            assert wire.extents("qemu:dirty-bitmap:b0")[0] == (0, 131072, 1)
        assert path.read_bytes()[8190:8196] == b"across"
        with pytest.raises(OSError):
            os.open(device, os.O_RDWR | os.O_EXCL)
    finally:
        daemon.finish()
        harness.run("losetup", "-d", device)


# --- exports ---


def test_export_life(daemon):
    path = daemon.image("a.img", SIZE)
    daemon.call("disk.add", name="a", path=str(path))
    added = daemon.call("export.add", name="vm/a", disk="a", description="first")
    assert added["sharing"] == "exclusive" and added["size"] == SIZE
    assert (added["max_clients"], added["bitmaps"], added["allow"]) == (None, None, None)
    assert daemon.call("export.show", name="vm/a") == added
    assert daemon.call("disk.show", name="a")["exports"] == ["vm/a"]
    changed = daemon.call("export.set", name="vm/a", sharing="shared", max_clients=3,
                          description="second", allow=["unix:0"], bitmaps=[])
    assert (changed["sharing"], changed["max_clients"]) == ("shared", 3)
    assert (changed["description"], changed["allow"], changed["bitmaps"]) == ("second", ["unix:0"], [])
    back = daemon.call("export.set", name="vm/a", max_clients=None, description=None, allow=None,
                       bitmaps=None, sharing="exclusive")
    assert back == {**added, "description": None}
    assert daemon.call("export.set", name="vm/a") == back, "nothing given, nothing changed"
    daemon.call("export.remove", name="vm/a")
    daemon.refused("export.show", "not-found", name="vm/a")
    assert daemon.call("disk.show", name="a")["exports"] == []


def test_export_with_a_path(daemon):
    """export.add with a path registers the disk under the export's name; it goes with its last
    export unless it has bitmaps."""
    path = daemon.image("a.img")
    daemon.call("export.add", name="a", path=str(path))
    assert daemon.call("disk.show", name="a")["implicit"] is True
    daemon.call("export.add", name="a2", disk="a", read_only=True)
    daemon.call("export.remove", name="a")
    assert daemon.call("disk.show", name="a")["exports"] == ["a2"]
    daemon.call("export.remove", name="a2")
    daemon.refused("disk.show", "not-found", name="a")
    daemon.call("export.add", name="a", path=str(path))
    daemon.call("bitmap.add", disk="a", name="b0")
    daemon.call("export.remove", name="a")
    assert daemon.call("disk.show", name="a")["bitmaps"] == ["b0"]


def test_export_with_a_path_all_or_nothing(daemon):
    """When the export cannot be, the disk is not registered either."""
    path = daemon.image("a.img")
    daemon.call("export.add", name="a", path=str(path))
    other = daemon.image("b.img")
    daemon.refused("export.add", "already-exists", name="a", path=str(other))
    daemon.refused("export.add", "invalid-argument", name="b", path=str(other), allow=["ip:nonsense"])
    assert [disk["name"] for disk in daemon.call("disk.list")["disks"]] == ["a"]
    daemon.refused("export.add", "invalid-params", name="c", check=False)
    daemon.refused("export.add", "invalid-params", name="c", disk="a", path=str(other), check=False)


def test_export_with_a_path_and_a_slash(daemon):
    """Names of exports may have a slash, those of disks not."""
    path = daemon.image("a.img")
    error = daemon.refused("export.add", "invalid-argument", name="x/y", path=str(path))
    assert "/" in error.detail
    daemon.refused("export.add", "not-found", name="x/y", disk="a")


def test_export_add_same(daemon):
    path = daemon.image("a.img")
    params = {"name": "a", "path": str(path), "sharing": "shared", "allow": ["ip:10.0.0.0/8"]}
    first = daemon.call("export.add", **params)
    assert daemon.call("export.add", **params, if_exists="same") == first
    daemon.refused("export.add", "already-exists", **{**params, "if_exists": "same", "allow": []})
    daemon.refused("export.add", "already-exists", **params)


def test_one_writer_for_each_disk(daemon):
    """At most one export of a disk is writable, unless all writable ones are `shared`."""
    daemon.serve("a")
    for sharing in ("exclusive", "single-writer", "shared"):
        daemon.refused("export.add", "invalid-state", name="b", disk="a", sharing=sharing)
    daemon.call("export.add", name="view", disk="a", read_only=True, sharing="shared")
    daemon.call("export.set", name="a", sharing="shared")
    daemon.call("export.add", name="b", disk="a", sharing="shared")
    daemon.refused("export.set", "invalid-state", name="a", sharing="exclusive")
    daemon.refused("export.set", "invalid-state", name="view", read_only=False, sharing="single-writer")
    daemon.call("export.set", name="b", read_only=True)
    daemon.call("export.set", name="a", sharing="exclusive")


def test_allow_entries_are_checked(daemon):
    daemon.serve("a")
    for entry in ("ip:300.0.0.1", "ip:10.0.0.0/33", "ip:::1/129", "unix:@", "unix:x y", "x509:",
                  "x509:nonsense", "ip:10.0.0.0/8/8", "psk:"):
        error = daemon.rpc.exchange("export.set", {"name": "a", "allow": ["unix:0", entry]})
        assert error["error"]["code"] in (1005, -32602), (entry, error)
        assert error["error"]["data"]["path"] == "/params/allow/1"
        said = error["error"]["data"]["detail"]
        assert said.startswith("`allow[1]` ") and f'"{entry}"' in said
    good = ["!ip:192.0.2.7", "ip:192.0.2.0/24", "ip:2001:db8::/32", "ro:unix:1000", "unix:@root",
            "x509:CN=alice,O=Acme", "ro:psk:bob", "x509:CN=*.example.org", "ip:::1"]
    assert daemon.call("export.set", name="a", allow=good)["allow"] == good


def test_bitmaps_of_an_export(daemon):
    """`bitmaps` narrows what an export offers; absent: all, later ones too."""
    daemon.serve("a", sharing="shared")
    for name in ("b0", "b1"):
        daemon.call("bitmap.add", disk="a", name=name)

    def offered():
        with daemon.wire() as wire:
            return [c.rpartition(":")[2] for c in wire.list_meta("a", ["qemu:dirty-bitmap:"])]

    assert offered() == ["b0", "b1"]
    daemon.call("export.set", name="a", bitmaps=["b1"])
    assert offered() == ["b1"]
    daemon.call("bitmap.add", disk="a", name="b2")
    assert offered() == ["b1"]
    daemon.call("export.set", name="a", bitmaps=[])
    assert offered() == []
    daemon.call("export.set", name="a", bitmaps=None)
    assert offered() == ["b0", "b1", "b2"]
    daemon.refused("export.set", "not-found", name="a", bitmaps=["b0", "b9"])


# --- listeners ---


@pytest.mark.parametrize("family", ["unix", "tcp4", "tcp6"])
def test_listener_life(daemon, family):
    """Unix and TCP listeners, IPv4 and IPv6, added and removed at runtime; port 0 picks one."""
    daemon.serve("a", sharing="shared")
    address = {"unix": f"unix:{daemon.root}/extra.sock", "tcp4": f"tcp:{harness.LOOPBACK}:0",
               "tcp6": "tcp:[::1]:0"}[family]
    try:
        added = daemon.call("listener.add", name="extra", address=address, dry=False)
    except harness.rpc.RpcError as error:
        if family == "tcp6" and not has_ipv6():
            pytest.skip("no IPv6 here")
        raise error
    assert added["persistent"] is True and added["state"] == "listening"
    assert not added["address"].endswith(":0")
    assert added in daemon.call("listener.list")["listeners"]
    wire = open_export(added["address"], "a")
    (client,) = daemon.clients_of("a")
    assert client["listener"] == "extra"
    kind = "unix:" if family == "unix" else "ip:"
    assert any(identity.startswith(kind) for identity in client["identity"])
    daemon.call("listener.remove", name="extra", dry=False)
    with pytest.raises((OSError, Closed)):
        open_wire(added["address"]).list_exports()
    assert wire.read(0, 512).error == 0, "clients of a listener that goes away stay"
    wire.close()
    if family == "unix":
        assert not os.path.exists(f"{daemon.root}/extra.sock")
    again = daemon.call("listener.add", name="extra", address=added["address"], dry=False)
    assert again["address"] == added["address"]
    with open_export(added["address"], "a") as wire:
        assert wire.read(0, 512).error == 0


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
        return True
    except OSError:
        return False


def test_listener_refused(daemon):
    daemon.call("listener.add", name="one", address="tcp:127.0.0.1:0")
    address = daemon.call("listener.list")["listeners"][-1]["address"]
    daemon.refused("listener.add", "already-exists", name="one", address="tcp:127.0.0.1:0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = daemon.refused("listener.add", "already-exists", name="two",
                               address=f"tcp:127.0.0.1:{port}")
        assert str(port) in error.detail and error.path == "/params/address"
    for wrong in ("tcp:127.0.0.1", "tcp::", "udp:1:2", "unix:relative", "tcp:127.0.0.1:70000",
                  "unix:/" + "x" * 200, "tcp:[::1:0", "unix:/no/such/folder/s"):
        answer = daemon.rpc.exchange("listener.add", {"name": "two", "address": wrong})
        assert answer["error"]["code"] in (-32602, 1001, 1005, 1008), (wrong, answer)
        assert answer["error"]["data"]["path"] == "/params/address"
    same = daemon.call("listener.add", name="one", address=address, if_exists="same")
    assert same["address"] == address
    daemon.refused("listener.add", "already-exists", name="one", address="tcp:127.0.0.1:1",
                   if_exists="same")


def test_listener_that_is_still_being_added(daemon):
    """Who wants the same one is not told that it listens: it does not, and may never do."""
    folder = daemon.root / "sockets"
    folder.mkdir()
    wanted = {"name": "slow", "address": f"unix:{folder}/s.sock", "if_exists": "same"}
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # as another process has it that makes a socket there
    words = [harness.NBDCTL, "--socket", daemon.socket, "listener", "add", "slow", wanted["address"]]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as adding:
        assert harness.wait_for(lambda: "slow" in [one["name"] for one in listing(daemon.rpc, "listener")])
        answer = daemon.rpc.exchange("listener.add", wanted)
        os.close(lock)
        assert adding.wait(30) == 0
    assert answer.get("error", {}).get("data", {}).get("kind") == "busy", answer
    assert daemon.call("listener.add", **wanted)["state"] == "listening"


def test_listener_of_the_command_line(make_daemon):
    """--listen listeners are named listen-1, listen-2..., do not persist, and say their port."""
    daemon = make_daemon("--listen", "tcp:127.0.0.1:0")
    first, second = daemon.call("listener.list")["listeners"]
    assert (first["name"], second["name"]) == ("listen-1", "listen-2")
    assert first["address"] == daemon.nbd
    assert second["address"].startswith("tcp:127.0.0.1:") and not second["address"].endswith(":0")
    assert first["persistent"] is False
    with open_wire(second["address"]) as wire:
        assert wire.list_exports() == {}
    daemon.call("listener.remove", name="listen-2")
    daemon.args = []
    daemon.restart()
    assert [item["name"] for item in daemon.call("listener.list")["listeners"]] == ["listen-1"]


def test_listener_max_clients(daemon):
    """A listener's own bound on clients; other listeners are not concerned."""
    daemon.serve("a", sharing="shared")
    address = f"unix:{daemon.root}/small.sock"
    daemon.call("listener.add", name="small", address=address, max_clients=2)
    one, two = open_export(address, "a"), open_export(address, "a")
    with pytest.raises((Closed, AssertionError)):
        open_export(address, "a")
    with daemon.open("a") as wire:
        assert wire.read(0, 1).error == 0
    one.close()
    assert harness.wait_for(lambda: fits(address)), "the slot was not given back"
    two.close()


def fits(address):
    try:
        open_export(address, "a", SIMPLE).close()
        return True
    except (Closed, AssertionError):
        return False


# --- lists ---


def test_lists_page(daemon):
    """Answers that could grow without bound page; the pages together are everything, in order."""
    names = sorted(f"d{index}" for index in range(25))
    for name in reversed(names):
        daemon.rpc.plain("disk.add", name=name, path=str(daemon.image(name, 65536)))
        daemon.rpc.plain("export.add", name=f"e/{name}", disk=name, read_only=True)
        daemon.rpc.plain("bitmap.add", disk=name, name="b")
    for noun, expected in (("disk", names), ("export", [f"e/{name}" for name in names])):
        assert [item["name"] for item in listing(daemon.rpc, noun)] == expected
        for limit in (1, 7, 24, 25, 26):
            found, cursor, pages = [], None, 0
            while True:
                extra = {} if cursor is None else {"cursor": cursor}
                page = daemon.call(f"{noun}.list", limit=limit, **extra)
                assert len(page[f"{noun}s"]) <= limit
                found += [item["name"] for item in page[f"{noun}s"]]
                pages += 1
                cursor = page["next_cursor"]
                if cursor is None:
                    break
            assert found == expected
            assert pages <= 25 // limit + 1
    found = [(b["disk"], b["name"]) for b in listing(daemon.rpc, "bitmap", limit=4)]
    assert found == [(name, "b") for name in names]
    page = daemon.call("disk.list", limit=10)
    gone = page["disks"][-1]["name"]
    daemon.call("export.remove", name=f"e/{gone}")
    daemon.call("disk.remove", name=gone, force=True)
    rest = daemon.call("disk.list", cursor=page["next_cursor"])
    assert [d["name"] for d in rest["disks"]] == names[10:], "a cursor outlives what it stood on"
