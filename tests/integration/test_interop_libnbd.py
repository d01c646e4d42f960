"""libnbd's programs against nbdd, those installed and newer ones: nbdinfo, nbdcopy, the library."""

import filecmp
import json
import random
import sys

import pytest

import harness
import peers
from harness import run
from peers import GENERATIONS, program

pytestmark = peers.need("nbdinfo", "nbdcopy")

SIZE = 16 << 20
CONTEXTS = ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b0"]
DATA = {0: b"a" * 65536, 1 << 20: b"b" * 200000, SIZE - 512: b"c" * 512}


@pytest.fixture(scope="module", autouse=True)
def exports(server, tmpfs):
    server.serve("disk", SIZE, DATA, tmpfs, sharing="shared", description="a disk for tests")
    server.rpc.plain("bitmap.add", disk="disk", name="b0")
    with server.open("disk") as wire:
        assert wire.write(1 << 20, b"b" * 100).error == 0
    server.serve("ro", 1000001, {1000000: b"z"}, sharing="shared", read_only=True)
    server.rpc.plain("export.add", name="a/name_with_=_and_@", disk="disk", sharing="shared")


@pytest.fixture(params=GENERATIONS)
def generation(request):
    return request.param


def test_nbdinfo(server, generation):
    """Every property as nbdinfo sees it."""
    text = run(program("nbdinfo", generation), "--json", server.uri("disk"))
    report = json.loads(text)
    assert report["protocol"] == "newstyle-fixed"
    assert report["TLS"] is False
    assert report["structured"] is True
    if generation == "newer":
        assert report["extended"] is True
    (export,) = report["exports"]
    assert export["export-size"] == SIZE
    assert export["contexts"] == CONTEXTS
    assert export["description"] == "a disk for tests"
    for feature in ("can_cache", "can_df", "can_fast_zero", "can_flush", "can_fua",
                    "can_multi_conn", "can_trim", "can_zero"):
        assert export[feature] is True, feature
    assert export["is_read_only"] is False
    assert export["block_size_minimum"] == 1
    assert export["block_size_preferred"] >= 4096
    assert export["block_size_maximum"] == 32 << 20
    if generation == "newer":
        assert export["can_block_status_payload"] is True


def test_nbdinfo_of_a_read_only_export(server, generation):
    info = program("nbdinfo", generation)
    assert run(info, "--size", server.uri("ro")).strip() == "1000001"
    assert run(info, "--is", "read-only", server.uri("ro"), check=False)[0] == 0
    assert run(info, "--can", "trim", server.uri("ro"), check=False)[0] == 2
    assert run(info, "--can", "write", server.uri("ro"), check=False)[0] == 2


def test_nbdinfo_list(server, generation):
    """nbdinfo --list shows every export, with what can be known of each."""
    report = json.loads(run(program("nbdinfo", generation), "--list", "--json", server.uri("")))
    found = {export["export-name"]: export for export in report["exports"]}
    assert set(found) == {"disk", "ro", "a/name_with_=_and_@"}
    assert found["ro"]["export-size"] == 1000001
    assert found["disk"]["description"] == "a disk for tests"


EXPECTED = {
    "base:allocation": [(0, 65536, 0), (65536, (1 << 20) - 65536, 3), (1 << 20, 200704, 0)],
    "qemu:allocation-depth": [(0, 65536, 1), (65536, (1 << 20) - 65536, 0), (1 << 20, 200704, 1)],
    "qemu:dirty-bitmap:b0": [(0, 1 << 20, 0), (1 << 20, 65536, 1)],
}


@pytest.mark.parametrize("context", CONTEXTS)
def test_nbdinfo_map(server, generation, context):
    """nbdinfo --map of every context."""
    text = run(program("nbdinfo", generation), f"--map={context}", "--json", server.uri("disk"))
    rows = [(row["offset"], row["length"], row["type"]) for row in json.loads(text)]
    merged = []
    for offset, length, kind in rows:
        if merged and merged[-1][2] == kind:
            merged[-1] = (merged[-1][0], merged[-1][1] + length, kind)
        else:
            merged.append((offset, length, kind))
    assert merged[: len(EXPECTED[context])] == EXPECTED[context]
    assert sum(length for _, length, _ in merged) == SIZE


def test_nbdinfo_of_an_unknown_export(server, generation):
    code, text = run(program("nbdinfo", generation), server.uri("nowhere"), check=False)
    assert code != 0
    assert "nowhere" in text


@pytest.fixture(scope="module")
def blob(tmpfs):
    """64 MiB, partly random, partly sparse."""
    path = tmpfs / "blob"
    rng = random.Random(5)
    with open(path, "wb") as file:
        file.truncate(64 << 20)
        for _ in range(40):
            file.seek(rng.randrange(63 << 20))
            file.write(rng.randbytes(rng.randrange(1, 1 << 20)))
    return path


@pytest.mark.parametrize("connections", [1, 8])
def test_nbdcopy_both_ways(server, tmpfs, blob, generation, connections):
    """nbdcopy to nbdd and from it again, over 1 and 8 connections: the same bytes."""
    name = f"copy-{generation}-{connections}"
    image = server.serve(name, 64 << 20, {}, tmpfs, sharing="shared")
    copy = program("nbdcopy", generation)
    back = tmpfs / "back"
    try:
        options = [f"--connections={connections}", "--flush"]
        run(copy, *options, blob, server.uri(name))
        assert filecmp.cmp(blob, image, shallow=False)
        assert image.stat().st_blocks < 64 << 11, "holes stay holes"
        run(copy, *options, server.uri(name), back)
        assert filecmp.cmp(blob, back, shallow=False)
    finally:
        back.unlink(missing_ok=True)
        server.drop(name)
        image.unlink()


def test_nbdcopy_from_one_export_to_another(server, tmpfs, blob, generation):
    source = server.serve("source", 64 << 20, {}, tmpfs, sharing="shared")
    target = server.serve("target", 64 << 20, {0: b"old" * 100000}, tmpfs, sharing="shared")
    copy = program("nbdcopy", generation)
    try:
        run(copy, blob, server.uri("source"))
        run(copy, server.uri("source"), server.uri("target"))
        assert filecmp.cmp(blob, target, shallow=False)
    finally:
        for name, path in (("source", source), ("target", target)):
            server.drop(name)
            path.unlink()


def test_libnbd_in_strict_mode(server):
    """The library itself, with its own checks of what the server says, over every command."""
    nbd = pytest.importorskip("nbd")
    handle = nbd.NBD()
    for context in CONTEXTS:
        handle.add_meta_context(context)
    handle.connect_uri(server.uri("disk"))
    assert handle.get_size() == SIZE
    assert handle.get_structured_replies_negotiated()
    before = handle.pread(4096, 0)
    handle.pwrite(b"w" * 4096, 0, nbd.CMD_FLAG_FUA)
    assert handle.pread(4096, 0) == b"w" * 4096
    pieces = []
    handle.pread_structured(
        1 << 20, 0, lambda data, offset, kind, error: pieces.append((offset, len(data), kind))
    )
    assert sum(length for _, length, _ in pieces) == 1 << 20
    assert {kind for _, _, kind in pieces} == {nbd.READ_DATA, nbd.READ_HOLE}
    handle.zero(4096, 0, nbd.CMD_FLAG_NO_HOLE)
    handle.trim(4096, 8192)
    handle.cache(65536, 0)
    handle.pwrite(before, 0)
    handle.flush()
    seen = set()
    handle.block_status(SIZE, 0, lambda name, offset, entries, error: seen.add(name) or 0)
    assert seen == set(CONTEXTS)
    handle.shutdown()


@peers.newer
def test_newer_libnbd_with_64_bit_extents(server):
    """Block status over extended headers, as the newer library asks for it by itself."""
    script = """
import sys, nbd
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(sys.argv[1])
assert h.get_extended_headers_negotiated()
assert h.get_protocol() == "newstyle-fixed"
found = []
h.block_status_64(h.get_size(), 0, lambda m, o, e, err: found.extend(e) or 0)
assert sum(length for length, flags in found) == h.get_size(), found
h.pwrite(b"x" * 512, 0)
assert h.pread(512, 0) == b"x" * 512
h.pwrite(b"a" * 512, 0)
assert h.can_block_status_payload()
h.block_status_filter(h.get_size(), 0, ["base:allocation"], lambda m, o, e, err: 0)
h.shutdown()
print("extended")
"""
    assert run(program("python3", "newer"), "-c", script, server.uri("disk")).strip() == "extended"


def test_over_tcp(server, generation):
    """The same over TCP, IPv4 and IPv6, on ports the daemon picks."""
    for host in ("127.0.0.1", "[::1]"):
        try:
            listener = server.rpc.plain("listener.add", name="tcp", address=f"tcp:{host}:0")
        except harness.rpc.RpcError as error:
            assert "::1" in host, error
            continue  # a machine without IPv6
        address = listener["address"].removeprefix("tcp:")
        size = run(program("nbdinfo", generation), "--size", f"nbd://{address}/ro").strip()
        assert size == "1000001"
        server.rpc.plain("listener.remove", name="tcp")


def test_python_is_debians():
    """libnbd's binding belongs to Debian's Python."""
    assert sys.executable.startswith("/usr/bin/")
