"""Everything configured comes back after a restart, exactly; and the comparison that says so
notices each difference."""

import contextlib
import copy
import fcntl
import os
import socket
import struct
import threading
import time

import pytest

import harness
import nbdwire
import rpc
from rpc import configuration, difference
from test_control_events import Listener

SIZE = 1 << 20


def furnish(daemon):
    """Some of everything, with no setting left at its default somewhere."""
    folder = daemon.root / "images with spaces é"
    folder.mkdir()
    a = daemon.image("a.img", SIZE, folder=folder)
    daemon.call("disk.add", name="a", path=str(a))
    daemon.call("disk.add", name="b", path=str(daemon.image("b.img", 1000001)), read_only=True)
    daemon.call("disk.add", name="c", path=str(daemon.image("c.img")), cache="direct")
    daemon.call("export.add", name="a", disk="a", sharing="single-writer", max_clients=7,
                description='A "quoted" text\nwith lines and \u00fcmlauts \U0001f40d')
    for name, more in (("day", {"granularity": 4096}), ("week", {"granularity": 1 << 20}),
                       ("off", {"recording": False}), ("x+y=z@1", {})):
        daemon.call("bitmap.add", disk="a", name=name, **more)
    daemon.call("export.add", name="a/view", disk="a", read_only=True, sharing="shared",
                allow=["!ip:192.0.2.7", "ro:unix:@root", "ip:2001:db8::/32"], bitmaps=["day"],
                iops=4294967295, iops_burst=100, bandwidth=1 << 40, bandwidth_burst=1 << 33)
    daemon.call("export.add", name="nobody", disk="b", read_only=True, allow=[], bitmaps=[])
    daemon.call("export.add", name="implicit", path=str(daemon.image("d.img", 4096)))
    daemon.call("bitmap.add", disk="c", name="only")
    daemon.call("listener.add", name="extra", address=f"unix:{daemon.root}/extra.sock",
                max_clients=3)
    daemon.call("listener.add", name="tcp", address=f"tcp:{harness.LOOPBACK}:{free_port()}")
    with daemon.open("a") as wire:
        for offset in (0, 4096, 70000, SIZE - 1):
            assert wire.write(offset, b"!").error == 0
    daemon.no_clients()
    daemon.call("bitmap.disable", disk="a", name="x+y=z@1")
    with daemon.open("a") as wire:
        assert wire.write(200000, b"!").error == 0
    daemon.no_clients()


def free_port():
    with socket.socket() as sock:
        sock.bind((harness.LOOPBACK, 0))
        return sock.getsockname()[1]


def snapshot(daemon):
    """The configuration with generations and counts, and every dirty extent."""
    found = configuration(daemon.rpc, exact=True)
    found["extents"] = [
        (b["disk"], b["name"],
         daemon.rpc.plain("bitmap.extents", disk=b["disk"], name=b["name"])["extents"])
        for b in found["bitmap"]
    ]
    return found


def test_restart_brings_everything_back(daemon):
    furnish(daemon)
    before = snapshot(daemon)
    assert len(before["disk"]) == 4 and len(before["export"]) == 4
    assert len(before["bitmap"]) == 5 and len(before["listener"]) == 3
    for _ in range(3):
        daemon.restart()
        after = snapshot(daemon)
        assert after == before, difference(before, after)
    with daemon.open("a", contexts=["qemu:dirty-bitmap:day"]) as wire:
        assert wire.extents("qemu:dirty-bitmap:day")[0] == (0, 8192, 1)


def test_kill_keeps_the_configuration(daemon):
    """After kill -9 the configuration is the same; what bitmaps say is their own matter, but none
    of them says less than before."""
    furnish(daemon)
    before = configuration(daemon.rpc)
    dirty = {(b["disk"], b["name"]): b["dirty_bytes"]
             for b in daemon.rpc.plain("bitmap.list")["bitmaps"]}
    daemon.kill()
    daemon.start()
    after = configuration(daemon.rpc)

    def settings(value):
        value = copy.deepcopy(value)
        for bitmap in value["bitmap"]:
            for field in ("state", "reason", "recording"):
                bitmap.pop(field, None)
        return value

    assert settings(after) == settings(before), difference(settings(before), settings(after))
    for bitmap in daemon.rpc.plain("bitmap.list")["bitmaps"]:
        if bitmap["state"] != "invalid":
            assert bitmap["dirty_bytes"] >= dirty[(bitmap["disk"], bitmap["name"])]


CHANGES = {
    "a description": ("export.set", {"name": "a", "description": "other"}),
    "a bound": ("export.set", {"name": "a", "max_clients": 8}),
    "a limit": ("export.set", {"name": "a/view", "iops": 1000}),
    "a burst": ("export.set", {"name": "a/view", "bandwidth_burst": 1 << 32}),
    "no limit": ("export.set", {"name": "a/view", "bandwidth": None}),
    "no bound": ("export.set", {"name": "a", "max_clients": None}),
    "a sharing mode": ("export.set", {"name": "a", "sharing": "shared"}),
    "the order of a list": (
        "export.set",
        {"name": "a/view", "allow": ["ro:unix:@root", "!ip:192.0.2.7", "ip:2001:db8::/32"]},
    ),
    "everyone instead of nobody": ("export.set", {"name": "nobody", "allow": None}),
    "all bitmaps instead of none": ("export.set", {"name": "nobody", "bitmaps": None}),
    "an export less": ("export.remove", {"name": "implicit"}),
    "a listener less": ("listener.remove", {"name": "tcp"}),
    "a bitmap less": ("bitmap.remove", {"disk": "a", "name": "week"}),
    "a bitmap cleared": ("bitmap.clear", {"disk": "a", "name": "off"}),
    "a bitmap enabled": ("bitmap.enable", {"disk": "a", "name": "off"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_comparison_notices(daemon, name):
    """Each change of a single setting, made before the restart, shows in the comparison."""
    furnish(daemon)
    before = snapshot(daemon)
    method, params = CHANGES[name]
    daemon.rpc.plain(method, **params)
    daemon.restart()
    after = snapshot(daemon)
    assert after != before, "the comparison is blind to this"
    assert difference(before, after)


def test_backing_file_missing_at_the_start(daemon):
    """A disk whose file is gone is shown as missing and keeps its export and bitmaps; all the
    others serve. When the file is back, so is the disk."""
    path = daemon.serve("a", SIZE)
    daemon.serve("b", SIZE)
    daemon.rpc.plain("bitmap.add", disk="a", name="b0")
    daemon.stop()
    os.rename(path, f"{path}.away")
    daemon.start()
    disk = daemon.call("disk.show", name="a")
    assert disk["state"] == "missing" and str(path) in disk["problem"]
    assert disk["exports"] == ["a"]
    assert daemon.call("export.show", name="a")["state"] == "unavailable"
    with daemon.wire() as wire:
        assert not wire.go("a").ok
        assert wire.go("b").ok
    os.rename(f"{path}.away", path)
    daemon.restart()
    assert daemon.call("disk.show", name="a")["state"] == "ready"
    assert daemon.call("disk.show", name="a")["bitmaps"] == ["b0"]
    with daemon.open("a") as wire:
        assert wire.read(0, 512).error == 0


@contextlib.contextmanager
def locked(path):
    """What QEMU and nbdd hold while they do not let others write: byte 201, shared."""
    with open(path, "rb") as other:
        held = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 201, 1, 0)
        fcntl.fcntl(other, fcntl.F_OFD_SETLK, held)
        yield other


def test_lock_of_one_who_is_just_ending(daemon):
    """A process that was killed keeps its locks until its last writes have landed: a daemon that is
    started at once waits for that, and the disk is there."""
    path = daemon.serve("a", SIZE)

    def started_into_a_lock():
        daemon.kill()
        with locked(path) as other:
            begin = time.monotonic()
            threading.Timer(0.3, other.close).start()
            daemon.start()
            assert time.monotonic() - begin > 0.2, "the lock did not lock"
            return daemon.call("disk.show", name="a")["state"] == "ready"

    # It waits for a second: where we are held up for longer it is right to give up.
    assert harness.succeeds(started_into_a_lock)


def test_a_lock_that_lasts(daemon):
    """Its disk comes back by itself; one whose file was gone waits to be asked for, since nobody
    knows whether it is whole again."""
    path, gone = daemon.serve("a", SIZE), daemon.serve("b", SIZE)
    daemon.stop()
    os.rename(gone, f"{gone}.away")
    with locked(path):
        daemon.start()
        missing = daemon.call("disk.show", name="a")
        assert missing["state"] == "missing" and "lock" in missing["problem"]
        os.rename(f"{gone}.away", gone)
    assert harness.wait_for(lambda: daemon.call("disk.show", name="a")["state"] == "ready")
    with daemon.open("a") as wire:
        assert wire.write(0, b"again" * 100).error == 0
    assert daemon.call("disk.show", name="b")["state"] == "missing"
    daemon.rpc.plain("disk.refresh", name="b")


def test_missing_disk_can_be_refreshed_or_removed(daemon):
    path = daemon.serve("a", SIZE)
    daemon.stop()
    os.rename(path, f"{path}.away")
    daemon.start()
    daemon.rpc.plain("export.remove", name="a")
    os.rename(f"{path}.away", path)
    answer = daemon.rpc.exchange("disk.refresh", {"name": "a"})
    if "result" in answer:
        assert answer["result"]["state"] == "ready"
    daemon.rpc.plain("disk.remove", name="a", force=True)
    assert daemon.rpc.plain("disk.list")["disks"] == []


def test_listener_that_cannot_listen_any_more(daemon):
    """A stored listener whose address is taken at the start is shown as failed, with the reason;
    the daemon comes up."""
    port = free_port()
    address = f"tcp:{harness.LOOPBACK}:{port}"
    daemon.call("listener.add", name="tcp", address=address)
    daemon.stop()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((harness.LOOPBACK, port))
        taken.listen()
        daemon.start()
        (shown,) = [i for i in daemon.call("listener.list")["listeners"] if i["name"] == "tcp"]
        assert shown["state"] == "failed" and shown["problem"]
        listener = Listener(daemon, topics=["listener"])
        with pytest.raises(TimeoutError):
            listener.rpc.sock.settimeout(1.5)
            listener.next()  # it has been tried again, in vain
    # Now the address is free, and the daemon finds that out by itself.
    listener.rpc.sock.settimeout(100 * harness.SLOW)
    event = listener.until("listener", "changed", name="tcp")
    assert event["object"]["detail"] == "listening"
    listener.close()
    (shown,) = [i for i in daemon.call("listener.list")["listeners"] if i["name"] == "tcp"]
    assert shown["state"] == "listening" and shown["problem"] is None
    assert shown["address"] == address
    with nbdwire.open_wire(address) as wire:
        wire.list_exports()
    daemon.restart()
    (shown,) = [i for i in daemon.call("listener.list")["listeners"] if i["name"] == "tcp"]
    assert shown["state"] == "listening"


def test_failed_listener_can_be_removed(daemon):
    """While it is being tried again, too: it does not come back afterwards."""
    path = daemon.root / "later" / "n.sock"
    path.parent.mkdir()
    daemon.call("listener.add", name="later", address=f"unix:{path}")
    daemon.stop()
    path.parent.rmdir()
    daemon.start()
    daemon.call("listener.remove", name="later")
    path.parent.mkdir()
    assert not harness.wait_for(path.exists, 2.5)
    assert "later" not in [i["name"] for i in daemon.rpc.plain("listener.list")["listeners"]]
    daemon.rpc.plain("listener.add", name="later", address=f"unix:{path}")


def test_many_objects_come_back(daemon):
    """Some hundred disks with exports and bitmaps: exactly those, and within seconds."""
    count = 100
    for index in range(count):
        path = daemon.image(f"d{index}", 65536 + index)
        daemon.rpc.plain("transaction", actions=[
            {"method": "disk.add", "params": {"name": f"d{index}", "path": str(path)}},
            {"method": "export.add", "params": {"name": f"e{index}", "disk": f"d{index}"}},
            {"method": "bitmap.add", "params": {"disk": f"d{index}", "name": "b"}}])
    before = snapshot(daemon)
    daemon.restart()
    assert snapshot(daemon) == before
    assert len(rpc.listing(daemon.rpc, "export")) == count
