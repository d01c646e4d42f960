"""QEMU's programs against nbdd, those installed and newer ones: qemu-img, qemu-io, and a
qemu-storage-daemon that uses an export as its disk."""

import filecmp
import json
import random
import subprocess
from pathlib import Path

import pytest

import peers
from harness import SLOW, run, wait_for
from nbdwire import open_export
from peers import GENERATIONS, program

pytestmark = peers.need("qemu-img", "qemu-io")

SIZE = 16 << 20


@pytest.fixture(params=GENERATIONS)
def generation(request):
    return request.param


@pytest.fixture
def disk(server, tmpfs):
    data = {0: b"a" * 65536, 1 << 20: b"b" * 200000}
    image = server.serve("disk", SIZE, data, tmpfs, sharing="shared")
    yield image
    server.drop("disk")
    image.unlink()


def blockdev(server, export, **more):
    node = {"driver": "raw", "file": {
        "driver": "nbd", "export": export,
        "server": {"type": "unix", "path": str(server.nbd_path)}, **more}}
    return "json:" + json.dumps(node)


def test_info(server, disk, generation):
    report = json.loads(
        run(program("qemu-img", generation), "info", "--output=json", "-f", "raw",
            server.uri("disk"))
    )
    assert report["virtual-size"] == SIZE
    assert report["format"] == "raw"


def test_map(server, disk, generation):
    text = run(program("qemu-img", generation), "map", "--output=json", "-f", "raw",
               server.uri("disk"))
    rows = [(r["start"], r["length"], r["data"], r["zero"]) for r in json.loads(text)]
    assert rows[:3] == [
        (0, 65536, True, False),
        (65536, (1 << 20) - 65536, False, True),
        (1 << 20, 200704, True, False),
    ]
    assert sum(row[1] for row in rows) == SIZE


def test_map_of_a_dirty_bitmap(server, disk, generation):
    """x-dirty-bitmap: dirty blocks show as "no data" in qemu-img's map."""
    server.rpc.plain("bitmap.add", disk="disk", name="b0")
    with server.open("disk") as wire:
        assert wire.write(3 * 65536, b"x").error == 0
    node = blockdev(server, "disk", **{"x-dirty-bitmap": "qemu:dirty-bitmap:b0"})
    rows = json.loads(run(program("qemu-img", generation), "map", "--output=json", node))
    dirty = [(row["start"], row["length"]) for row in rows if not row["data"]]
    assert dirty == [(3 * 65536, 65536)]


def test_convert_and_compare(server, disk, tmpfs, generation):
    """qemu-img convert both ways (through qcow2), compare: the same; and a difference is seen."""
    img = program("qemu-img", generation)
    qcow2, target = tmpfs / "x.qcow2", server.serve("target", SIZE, {}, tmpfs, sharing="shared")
    try:
        run(img, "convert", "-f", "raw", "-O", "qcow2", server.uri("disk"), qcow2)
        run(img, "convert", "-n", "-f", "qcow2", "-O", "raw", qcow2, server.uri("target"))
        run(img, "compare", "-f", "raw", "-F", "raw", server.uri("disk"), server.uri("target"))
        assert filecmp.cmp(disk, target, shallow=False)
        with server.open("target") as wire:
            assert wire.write(12345, b"!").error == 0
        code, text = run(img, "compare", "-f", "raw", "-F", "raw", server.uri("disk"),
                         server.uri("target"), check=False)
        assert code == 1 and "mismatch" in text.lower(), text
    finally:
        server.drop("target")
        target.unlink()
        qcow2.unlink(missing_ok=True)


def test_convert_parallel(server, disk, tmpfs, generation):
    """Out of order, 16 coroutines, and a target that is told to be zero first."""
    target = server.serve("target", SIZE, {5: b"junk" * 1000}, tmpfs, sharing="shared")
    try:
        run(program("qemu-img", generation), "convert", "-n", "-W", "-m", "16", "-f", "raw", "-O",
            "raw", server.uri("disk"), server.uri("target"))
        assert filecmp.cmp(disk, target, shallow=False)
    finally:
        server.drop("target")
        target.unlink()


def test_io_patterns(server, disk, generation):
    """qemu-io: patterns written, zeroed, discarded, flushed, and verified."""
    rng = random.Random(7)
    words = []
    for index in range(40):
        offset, length = rng.randrange(SIZE - 100000), rng.randrange(1, 100000)
        words += ["-c", f"write -P {index + 1} {offset} {length}",
                  "-c", f"read -P {index + 1} {offset} {length}"]
        if index % 4 == 0:
            words += ["-c", f"write -z {offset} {length}", "-c", f"read -P 0 {offset} {length}"]
        if index % 4 == 1:
            words += ["-c", f"write -z -u {offset} {length}", "-c", f"read -P 0 {offset} {length}"]
        if index % 4 == 2:
            words += ["-c", f"discard {offset} {length}", "-c", "flush"]
        if index % 4 == 3:
            words += ["-c", f"write -f -P 200 {offset} {length}",
                      "-c", f"read -P 200 {offset} {length}"]
    words += ["-c", "aio_write -P 9 0 1M", "-c", "aio_write -P 10 1M 1M", "-c", "aio_flush",
              "-c", "read -P 9 0 1M", "-c", "read -P 10 1M 1M"]
    text = run(program("qemu-io", generation), "-f", "raw", server.uri("disk"), *words)
    assert "Pattern verification failed" not in text, text
    assert "failed" not in text.lower(), text
    text = run(program("qemu-io", generation), "-f", "raw", server.uri("disk"),
               "-c", "read -P 77 0 512", check=False)[1]
    assert "Pattern verification failed" in text, "the check can fail"


def test_io_read_only(server, tmpfs, generation):
    """A read-only export is refused for writing by QEMU itself, served for reading."""
    image = server.serve("ro", SIZE, {0: b"r" * 512}, tmpfs, sharing="shared", read_only=True)
    try:
        io = program("qemu-io", generation)
        assert run(io, "-f", "raw", server.uri("ro"), "-c", "read 0 512", check=False)[0] != 0
        text = run(io, "-r", "-f", "raw", server.uri("ro"), "-c", "read -P 114 0 512")
        assert "failed" not in text
    finally:
        server.drop("ro")
        image.unlink()


@peers.need("qemu-storage-daemon")
def test_storage_daemon_uses_an_export_as_its_disk(server, disk, tmpfs):
    """A storage daemon takes our export as its block device and serves it on: bytes, zeroes,
    discards and block status come through."""
    path = server.root / "qsd.sock"
    node = {"driver": "nbd", "node-name": "far", "export": "disk", "discard": "unmap",
            "server": {"type": "unix", "path": str(server.nbd_path)}, "reconnect-delay": 5}
    process = subprocess.Popen(
        ["qemu-storage-daemon", "--blockdev", json.dumps(node),
         "--nbd-server", f"addr.type=unix,addr.path={path}",
         "--export", "nbd,id=e,node-name=far,name=again,writable=on", "--pidfile", f"{path}.pid"])
    try:
        # The socket is there before the export is; this comes last.
        assert wait_for(Path(f"{path}.pid").exists)
        with open_export(f"unix:{path}", "again", contexts=["base:allocation"]) as wire:
            assert wire.size == SIZE
            assert wire.read(0, 65536).data == b"a" * 65536
            assert wire.write(4096, b"through" * 100).error == 0
            assert wire.zero(65536, 65536).error == 0
            assert wire.trim(1 << 20, 65536).error == 0
            assert wire.flush().error == 0
            assert wire.extents("base:allocation")[0] == (0, 65536, 0)
            wire.disconnect()
        with open(disk, "rb") as file:
            file.seek(4096)
            assert file.read(700) == b"through" * 100
        # (That the one before this test has gone the daemon may just be finding out.)
        assert wait_for(lambda: len(server.clients_of("disk")) == 1)
        (client,) = server.clients_of("disk")
        assert client["features"]
    finally:
        process.terminate()
        assert process.wait(60 * SLOW) == 0
    server.no_clients()


@peers.need("qemu-storage-daemon")
def test_guest_survives_a_restart(daemon):
    """QEMU's reconnect-delay: nbdd restarts under a client, which sees no error."""
    daemon.serve("disk", SIZE)
    path = daemon.root / "qsd.sock"
    node = {"driver": "nbd", "node-name": "far", "export": "disk", "reconnect-delay": 30,
            "server": {"type": "unix", "path": str(daemon.nbd_path)}}
    process = subprocess.Popen(
        ["qemu-storage-daemon", "--blockdev", json.dumps(node),
         "--nbd-server", f"addr.type=unix,addr.path={path}",
         "--export", "nbd,id=e,node-name=far,name=again,writable=on", "--pidfile", f"{path}.pid"])
    try:
        # The socket is there before the export is; this comes last.
        assert wait_for(Path(f"{path}.pid").exists)
        with open_export(f"unix:{path}", "again", timeout=120 * SLOW) as wire:
            for mark in (b"one", b"two", b"three"):
                assert wire.write(0, mark).error == 0
                daemon.restart()
                assert wire.read(0, len(mark)).data == mark
    finally:
        process.terminate()
        process.wait(60 * SLOW)


@pytest.mark.parametrize("cache", ["writeback", "direct"])
def test_block_sizes_that_qemu_agrees_on(server, generation, cache):
    """QEMU asks for the block sizes and keeps to them, also on a direct disk."""
    if cache == "direct":
        image = server.image("direct.img", 1 << 20)
        server.rpc.plain("disk.add", name="sizes", path=str(image), cache="direct")
        server.rpc.plain("export.add", name="sizes", disk="sizes", sharing="shared")
    else:
        server.serve("sizes", 1 << 20, sharing="shared")
    try:
        text = run(program("qemu-io", generation), "-f", "raw", server.uri("sizes"),
                   "-c", "write -P 5 100 1000", "-c", "read -P 5 100 1000", "-c", "read -P 0 0 100")
        assert "failed" not in text, text
    finally:
        server.drop("sizes")


def test_locks_are_told_apart_from_damage(server, disk, generation):
    """qemu-img refuses to open for writing what nbdd serves; -U (shared) looks anyway."""
    code, text = run(program("qemu-io", generation), "-f", "raw", disk, "-c", "write 0 512",
                     check=False)
    assert code != 0 and "lock" in text, text
    run(program("qemu-img", generation), "info", "-U", "-f", "raw", disk)
