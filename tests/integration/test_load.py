"""What was written under load is what is read: fio with eight connections and 64 requests in
flight on each, and writes that share blocks, over both I/O engines and both cache modes.

NBDD_FIO_MEGABYTES: how much each connection writes, for longer runs by hand."""

import os
import random

import pytest

import harness
from nbdproto import Cmd

JOBS = 8
DEPTH = 64
MEGABYTES = int(os.environ.get("NBDD_FIO_MEGABYTES", 6 if harness.FLAVOUR == "plain" else 2))
ENGINES = pytest.mark.parametrize("engine", ["auto", "threads"])
CACHES = pytest.mark.parametrize("cache", ["writeback", "direct"])

# fio keeps to the minimum block that the export tells. Pages are shared all the same by blocks of
# seven sectors.
PATTERNS = {
    "pages": ["--bsrange=4k-64k", "--blockalign=4k"],
    "sectors": ["--bs=3584", "--blockalign=3584"],
    "mixed": ["--bssplit=512/30:4096/40:65536/30", "--blockalign=512"],
}


def start(make_daemon, engine, cache, size):
    daemon = make_daemon("--io-engine", engine)
    assert engine == "auto" or daemon.call("daemon.info")["engine"] == engine
    path = daemon.serve("load", size, cache=cache, sharing="shared")
    daemon.call("bitmap.add", disk="load", name="seen")
    return daemon, path


@pytest.mark.long
@pytest.mark.threads
@ENGINES
@CACHES
@pytest.mark.parametrize("pattern", PATTERNS)
def test_fio_verify(make_daemon, tmp_path, engine, cache, pattern):
    size = JOBS * MEGABYTES << 20
    daemon, _ = start(make_daemon, engine, cache, size)
    harness.run(
        "fio", "--name=verify", "--ioengine=nbd", f"--uri={daemon.uri('load')}", "--thread",
        f"--numjobs={JOBS}", f"--iodepth={DEPTH}", f"--size={MEGABYTES}M",
        f"--offset_increment={MEGABYTES}M", "--rw=randwrite", "--verify=crc32c",
        "--verify_fatal=1", "--verify_backlog=256", "--fsync=200", "--randrepeat=0",
        *PATTERNS[pattern], cwd=tmp_path, timeout=120 * MEGABYTES)
    assert daemon.call("bitmap.show", disk="load", name="seen")["dirty_bytes"] > size * 9 // 10


@pytest.mark.threads
@ENGINES
@CACHES
def test_writes_that_share_blocks(make_daemon, engine, cache):
    """Pieces of a few hundred bytes, each written by one of four connections and all of them at
    once, some of them whole blocks: under cache=direct nearly every one reads, changes and writes
    a block that others are about to change."""
    rand = random.Random(5)
    daemon, path = start(make_daemon, engine, cache, (1 << 20) + 777)
    expected = bytearray(path.stat().st_size)
    wires = [daemon.open("load") for _ in range(4)]
    for _ in range(10):
        pieces, offset = [], rand.randrange(4096)
        while offset < len(expected):
            length = min(rand.choice((300, 512, 777, 4096, 9000)), len(expected) - offset)
            expected[offset:offset + length] = data = rand.randbytes(length)
            pieces.append((offset, data))
            offset += length
        rand.shuffle(pieces)
        cookies = [(wire, wire.submit(Cmd.WRITE, offset, len(data), payload=data))
                   for (offset, data), wire in zip(pieces, wires * len(pieces))]
        for wire, cookie in cookies:
            assert wire.wait(cookie).error == 0
    for wire in wires:
        wire.close()
    assert path.read_bytes() == bytes(expected)
