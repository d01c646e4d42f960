"""What is measured. A work is a row of the table: a setup for the servers and a client that is run
against each of them in turn.

To add one: a row here. `aim` is the ratio to the best peer that we want; `kind` groups works for
which the same variant of a peer is best."""

import dataclasses
import typing
from fnmatch import fnmatch

import clients
from servers import Setup


@dataclasses.dataclass
class Work:
    name: str
    group: str
    title: str
    unit: str  # "s" and "us": less is better; others: more is better
    setup: typing.Callable  # images -> Setup
    sample: typing.Callable  # (context, server) -> sample
    kind: str = "small"
    aim: float = None
    prepare: typing.Callable = None  # (context, server), once after its start
    reference: typing.Callable = None  # context -> sample, without any server
    quick: bool = False  # is run by --quick

    @property
    def less_is_better(self):
        return self.unit in ("s", "us", "KiB")


@dataclasses.dataclass
class Context:
    """What samples need beside the server."""

    images: object
    load: str  # the load generator
    seconds: float  # for what runs by time


def on_copied(**options):
    return lambda images: Setup(image=images.copied(), **options)


def copying(write, connections, **options):
    def sample(context, server):
        source = context.images.source() if write else None
        size = server.setup.image.stat().st_size
        return clients.copy(server, size, source, connections)
    return {"sample": sample, "setup": on_copied(**options), "kind": "copy", "unit": "s"}


def small(rw, depth, count=1, bs="4k", **options):
    def sample(context, server):
        return clients.fio(server, rw=rw, bs=bs, depth=depth, clients=count,
                           seconds=context.seconds, size=context.images.size(1 << 30))
    return {"sample": sample, "setup": on_copied(**options), "unit": "k/s"}


def bytewise(rw, bs, depth, **options):
    def sample(context, server):
        found = clients.fio(server, rw=rw, bs=bs, depth=depth, seconds=context.seconds,
                            size=context.images.size(1 << 30))
        found["value"] = found["bytes"] / found["seconds"] / 1e9
        return found
    return {"sample": sample, "setup": on_copied(**options), "kind": "large", "unit": "GB/s"}


def direct(depth):
    def sample(context, server):
        return clients.fio(server, rw="randread", bs="4k", depth=depth, seconds=context.seconds,
                           size=context.images.size(2 << 30))

    def reference(context):
        return clients.fio_file(context.images.direct(), rw="randread", bs="4k", depth=depth,
                                seconds=context.seconds, size=context.images.size(2 << 30))
    return {"sample": sample, "reference": reference, "kind": "direct", "unit": "k/s",
            "setup": lambda images: Setup(image=images.direct(), direct=True)}


def flushing():
    def sample(context, server):
        return clients.fio(server, rw="randwrite", bs="4k", depth=8, clients=4, flush=8,
                           seconds=context.seconds, size=context.images.size(1 << 30))
    return {"sample": sample, "kind": "flush", "unit": "k/s",
            "setup": lambda images: Setup(image=images.direct())}


def at_rate(rw, rate, **options):
    def sample(context, server):
        found = clients.fio(server, rw=rw, bs="4k", depth=32, rate=rate, seconds=context.seconds,
                            size=context.images.size(1 << 30))
        found["value"] = found["p99_us"]
        return found
    return {"sample": sample, "setup": on_copied(**options), "unit": "us"}


def map_of_data(client):
    return {"sample": client("base:allocation"), "kind": "status", "unit": "s",
            "setup": lambda images: Setup(image=images.fragmented(), read_only=True)}


def map_of_bitmap(client):
    def setup(images):
        return Setup(image=images.sparse("memory", "dirtied.img", images.fragments()[1]), bitmaps=1)

    def prepare(context, server):
        offsets, _ = context.images.fragments()
        clients.load(server, context.load, op="write", pattern="touch", count=len(offsets),
                     stride=offsets[1], size=len(offsets) * offsets[1])
    return {"sample": client("qemu:dirty-bitmap:b0"), "kind": "status", "unit": "s",
            "setup": setup, "prepare": prepare}


def by_load(metadata, op="status"):
    def sample(context, server):
        found = clients.load(server, context.load, op=op, context=metadata)
        found["value"] = found["seconds"]
        return found
    return sample


def by_one_request(metadata):
    return by_load(metadata, "status64")


def first_by_load(metadata):
    """By a server that has never been asked before."""
    later = by_load(metadata)

    def sample(context, server):
        server.stop()
        server.start(server.setup, server.variant)
        return later(context, server)
    return sample


def by_nbdinfo(metadata):
    return lambda context, server: clients.info_map(server, metadata)


def encrypted(options):
    """The same over TLS."""
    plain = options["setup"]

    def setup(images):
        found = plain(images)
        return dataclasses.replace(found, tls=images.certificates())
    return {**options, "setup": setup, "kind": "tls"}


def idle(count):
    def sample(context, server):
        return clients.idle(server, 20 if context.images.quick else count)
    return {"sample": sample, "unit": "KiB", "kind": "idle",
            "setup": lambda images: Setup(image=images.copied(), clients=count + 16)}


WORKS = [
    Work("read-1", "copy", "nbdcopy, read 2 GiB, 1 connection", aim=2.5, quick=True,
         **copying(False, 1)),
    Work("read-4", "copy", "nbdcopy, read 2 GiB, 4 connections", aim=2.5, **copying(False, 4)),
    Work("read-1-tcp", "copy", "TCP: nbdcopy, read 2 GiB, 1 connection", **copying(False, 1, transport="tcp")),
    Work("read-4-tcp", "copy", "TCP: nbdcopy, read 2 GiB, 4 connections", quick=True,
         **copying(False, 4, transport="tcp")),
    Work("write-1", "copy", "nbdcopy, write 2 GiB, 1 connection", **copying(True, 1)),
    Work("write-4", "copy", "nbdcopy, write 2 GiB, 4 connections", quick=True, **copying(True, 4)),
    Work("write-1-tcp", "copy", "TCP: nbdcopy, write 2 GiB, 1 connection", **copying(True, 1, transport="tcp")),
    Work("write-4-tcp", "copy", "TCP: nbdcopy, write 2 GiB, 4 connections", **copying(True, 4, transport="tcp")),
    Work("randread-qd1", "random", "4 KiB random read, depth 1", aim=1.0, **small("randread", 1)),
    Work("randread-qd32", "random", "4 KiB random read, depth 32", aim=1.25, quick=True,
         **small("randread", 32)),
    Work("randread-2", "random", "4 KiB random read, depth 32, 2 clients", aim=2.5, **small("randread", 32, 2)),
    Work("randread-8", "random", "4 KiB random read, depth 32, 8 clients", aim=2.0, **small("randread", 32, 8)),
    Work("randwrite-qd1", "random", "4 KiB random write, depth 1", aim=1.0, **small("randwrite", 1)),
    Work("randwrite-qd32", "random", "4 KiB random write, depth 32", aim=1.25,
         **small("randwrite", 32)),
    Work("randwrite-2", "random", "4 KiB random write, depth 32, 2 clients", aim=2.5, quick=True,
         **small("randwrite", 32, 2)),
    Work("randwrite-8", "random", "4 KiB random write, depth 32, 8 clients", aim=2.0, **small("randwrite", 32, 8)),
    Work("mixed-64k", "large", "64 KiB random, half reads, depth 32", **bytewise("randrw", "64k", 32)),
    Work("seqread-256k", "large", "256 KiB sequential read, depth 8", **bytewise("read", "256k", 8)),
    Work("seqwrite-256k", "large", "256 KiB sequential write, depth 8", aim=1.1, quick=True,
         **bytewise("write", "256k", 8)),
    Work("bitmap-1", "bitmap", "4 KiB random write, depth 32, 1 bitmap", **small("randwrite", 32, bitmaps=1)),
    Work("bitmap-4", "bitmap", "4 KiB random write, depth 32, 4 bitmaps", aim=2.0, quick=True,
         **small("randwrite", 32, bitmaps=4)),
    Work("bitmap-4-write", "bitmap", "256 KiB sequential write, depth 8, 4 bitmaps",
         **bytewise("write", "256k", 8, bitmaps=4)),
    Work("direct-qd1", "direct", "O_DIRECT 4 KiB random read, depth 1", **direct(1)),
    Work("direct-qd32", "direct", "O_DIRECT 4 KiB random read, depth 32", aim=1.2, quick=True,
         **direct(32)),
    Work("flush-8", "flush", "4 KiB random write, 4 clients, a flush for 8 writes", quick=True,
         **flushing()),
    Work("map-data", "status", "block status, 100,000 extents in 1 TiB", aim=5.0, quick=True,
         **map_of_data(by_load)),
    Work("map-data-first", "status", "the first block status of these extents",
         **map_of_data(first_by_load)),
    Work("map-data-nbdinfo", "status", "nbdinfo --map of these extents", **map_of_data(by_nbdinfo)),
    Work("map-bitmap", "status", "dirty bitmap, 100,000 fragments in 1 TiB", aim=5.0, quick=True,
         **map_of_bitmap(by_load)),
    Work("map-bitmap-64", "status", "this bitmap, asked for in one request of 64 bits", aim=5.0,
         **map_of_bitmap(by_one_request)),
    Work("map-bitmap-nbdinfo", "status", "nbdinfo --map of this bitmap", **map_of_bitmap(by_nbdinfo)),
    Work("tls-read-1", "tls", "TLS: nbdcopy, read 2 GiB, 1 connection",
         **encrypted(copying(False, 1))),
    Work("tls-read-4", "tls", "TLS: nbdcopy, read 2 GiB, 4 connections", aim=1.25,
         **encrypted(copying(False, 4))),
    Work("tls-write-4", "tls", "TLS: nbdcopy, write 2 GiB, 4 connections",
         **encrypted(copying(True, 4))),
    Work("tls-randread", "tls", "TLS: 4 KiB random read, depth 32", quick=True,
         **encrypted(small("randread", 32))),
    Work("idle", "idle", "memory for each of 1,000 idle clients", quick=True, **idle(1000)),
    Work("rate-read", "latency", "p99 at 10,000 4 KiB reads a second", **at_rate("randread", 10000)),
    Work("rate-write", "latency", "p99 at 10,000 4 KiB writes a second", quick=True,
         **at_rate("randwrite", 10000)),
]


def choose(patterns, quick):
    """The works whose name, or whose group's name, is asked for; without any, all."""
    if patterns:
        return [work for work in WORKS
                if any(fnmatch(work.name, one) or work.group == one for one in patterns)]
    return [work for work in WORKS if work.quick or not quick]
