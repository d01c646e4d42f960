"""Dirty bitmaps by command: add, remove, clear, enable, disable, merge, extents, show, list,
generations; and what each refuses."""

import random
import re

import pytest

SIZE = 16 << 20
UUID = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")


@pytest.fixture
def disk(server):
    """An export `d` of 16 MiB over the shared daemon, gone after the test."""
    server.serve("d", SIZE, sharing="shared")
    yield server
    server.no_clients()
    server.drop("d")


def add(daemon, name="b0", **more):
    return daemon.call("bitmap.add", disk="d", name=name, **more)


def show(daemon, name="b0"):
    return daemon.call("bitmap.show", disk="d", name=name)


def extents(daemon, name="b0", **more):
    found = daemon.call("bitmap.extents", disk="d", name=name, **more)["extents"]
    return [(extent["offset"], extent["length"]) for extent in found]


def write(daemon, *places, length=1):
    with daemon.open("d") as wire:
        for offset in places:
            assert wire.write(offset, b"w" * length).error == 0


def test_add(disk):
    bitmap = add(disk)
    assert bitmap == show(disk)
    assert bitmap["granularity"] == 65536
    assert (bitmap["state"], bitmap["recording"], bitmap["reason"]) == ("recording", True, None)
    assert (bitmap["dirty_bytes"], bitmap["over_reported_bytes"]) == (0, 0)
    assert bitmap["missed_writes"] is False
    assert bitmap["durability"] in ("power", "process", "none")
    assert UUID.match(bitmap["generation"])
    assert disk.call("disk.show", name="d")["bitmaps"] == ["b0"]


@pytest.mark.parametrize("granularity", [512, 4096, 65536, 1 << 20, 1 << 31])
def test_add_granularity(disk, granularity):
    """A bit stands for a block of that size; the last one counts as far as the disk goes."""
    assert add(disk, granularity=granularity)["granularity"] == granularity
    write(disk, 0, 5 << 20)
    second = (5 << 20) // granularity * granularity
    first = min(granularity, SIZE)
    expected = [(0, first)] if second == 0 else [(0, first), (second, granularity)]
    if len(expected) == 2 and second == first:
        expected = [(0, first + granularity)]
    assert extents(disk) == expected
    assert show(disk)["dirty_bytes"] == sum(length for _, length in expected)


@pytest.mark.parametrize("granularity", [256, 513, 3 << 16, 1 << 32])
def test_add_granularity_refused(disk, granularity):
    answer = disk.rpc.exchange("bitmap.add", {"disk": "d", "name": "b0", "granularity": granularity})
    assert answer["error"]["code"] in (-32602, 1005)
    assert answer["error"]["data"]["path"] == "/params/granularity"


def test_add_refused(disk):
    add(disk)
    disk.refused("bitmap.add", "already-exists", disk="d", name="b0")
    disk.refused("bitmap.add", "not-found", disk="nowhere", name="b0")
    disk.refused("bitmap.show", "not-found", disk="d", name="b9")
    disk.refused("bitmap.show", "not-found", disk="nowhere", name="b0")


def test_add_same(disk):
    first = add(disk, granularity=4096)
    again = disk.call("bitmap.add", disk="d", name="b0", granularity=4096, if_exists="same")
    assert again["generation"] == first["generation"], "the same bitmap, not a new one"
    disk.refused("bitmap.add", "already-exists", disk="d", name="b0", if_exists="same")
    disk.refused("bitmap.add", "already-exists", disk="d", name="b0", granularity=4096,
                 recording=False, if_exists="same")


def test_add_not_recording(disk):
    assert add(disk, recording=False)["state"] == "disabled"
    write(disk, 0)
    shown = show(disk)
    assert shown["dirty_bytes"] == 0 and shown["missed_writes"] is True
    assert disk.call("bitmap.enable", disk="d", name="b0")["state"] == "recording"
    write(disk, 65536)
    assert extents(disk) == [(65536, 65536)]


def test_too_fine_for_the_disk(daemon, tmpfs):
    """A bitmap that would take more memory than is sane is refused, not tried."""
    daemon.serve("huge", 1 << 60, folder=tmpfs)
    answer = daemon.rpc.exchange("bitmap.add", {"disk": "huge", "name": "b", "granularity": 512})
    assert answer["error"]["data"]["kind"] in ("limit", "invalid-argument")
    assert daemon.call("bitmap.list")["bitmaps"] == []


def test_too_many(disk):
    """Bitmaps of a disk are bounded; the answer says so, and there is room again after a removal."""
    for index in range(1000):
        answer = disk.rpc.exchange("bitmap.add", {"disk": "d", "name": f"n{index}",
                                                  "granularity": 1 << 20})
        if "error" in answer:
            break
    assert answer["error"]["data"]["kind"] == "limit"
    assert index >= 64
    disk.rpc.plain("bitmap.remove", disk="d", name="n0")
    disk.rpc.plain("bitmap.add", disk="d", name="again", granularity=1 << 20)


def test_remove(disk):
    add(disk)
    assert disk.call("bitmap.remove", disk="d", name="b0")["removed"] is True
    disk.refused("bitmap.show", "not-found", disk="d", name="b0")
    add(disk)
    assert show(disk)["dirty_bytes"] == 0


def test_clear(disk):
    """clear: a new generation without a bit set; nothing else changes."""
    before = add(disk, granularity=4096)
    write(disk, 0, 100000)
    assert show(disk)["generation"] == before["generation"], "writes do not change it"
    after = disk.call("bitmap.clear", disk="d", name="b0")
    assert after["generation"] != before["generation"] and UUID.match(after["generation"])
    assert {**after, "generation": 0} == {**before, "generation": 0}
    assert extents(disk) == []
    write(disk, 8192)
    assert extents(disk) == [(8192, 4096)]


def test_disable_and_enable(disk):
    """disable keeps the bits; writes then are missed, which is said until the next clear."""
    first = add(disk)
    write(disk, 0)
    disabled = disk.call("bitmap.disable", disk="d", name="b0")
    assert (disabled["state"], disabled["recording"]) == ("disabled", False)
    assert disabled["missed_writes"] is False, "nothing was written yet"
    with disk.open("d", contexts=["qemu:dirty-bitmap:b0"]) as wire:
        assert wire.extents("qemu:dirty-bitmap:b0")[0] == (0, 65536, 1), "it is still offered"
    write(disk, 65536 * 5)
    assert extents(disk) == [(0, 65536)]
    assert show(disk)["missed_writes"] is True
    enabled = disk.call("bitmap.enable", disk="d", name="b0")
    assert enabled["state"] == "recording" and enabled["missed_writes"] is True
    assert enabled["generation"] == first["generation"], "its bits were not reset"
    write(disk, 65536 * 7)
    assert extents(disk) == [(0, 65536), (65536 * 7, 65536)]
    assert disk.call("bitmap.clear", disk="d", name="b0")["missed_writes"] is False


def test_disable_twice(disk):
    add(disk)
    first = disk.call("bitmap.disable", disk="d", name="b0")
    assert disk.call("bitmap.disable", disk="d", name="b0") == first
    disk.call("bitmap.enable", disk="d", name="b0")
    assert disk.call("bitmap.enable", disk="d", name="b0")["state"] == "recording"


@pytest.mark.parametrize("command", ["remove", "clear", "enable", "disable"])
def test_if_generation(disk, command):
    """if_generation: only if it is still the bitmap the caller knows; nothing happens otherwise."""
    old = add(disk)["generation"]
    write(disk, 0)
    new = disk.call("bitmap.clear", disk="d", name="b0")["generation"]
    write(disk, 65536)
    before = show(disk)
    error = disk.refused(f"bitmap.{command}", "invalid-state", disk="d", name="b0", if_generation=old)
    assert error.path == "/params/if_generation"
    assert show(disk) == before
    disk.call(f"bitmap.{command}", disk="d", name="b0", if_generation=new)


def test_if_generation_of_merge(disk):
    generation = add(disk)["generation"]
    add(disk, "b1")
    write(disk, 0)
    disk.refused("bitmap.merge", "invalid-state", disk="d", target="b0", sources=["b1"],
                 if_generation="00000000-0000-4000-8000-000000000000")
    disk.call("bitmap.merge", disk="d", target="b0", sources=["b1"], if_generation=generation)


# --- merge ---


def blocks_of(found, granularity):
    return {block for offset, length in found
            for block in range(offset // granularity, (offset + length - 1) // granularity + 1)}


@pytest.mark.parametrize("fine,coarse", [(512, 65536), (4096, 1 << 20), (65536, 65536)])
def test_merge_granularities(disk, fine, coarse):
    """Different granularities of one disk, both ways: the result covers all of both, and no block
    that touches neither."""
    rng = random.Random(fine)
    for name, granularity in (("f", fine), ("c", coarse)):
        add(disk, name, granularity=granularity)
    write(disk, *[rng.randrange(SIZE) for _ in range(40)])
    for name in ("f", "c"):
        disk.call("bitmap.disable", disk="d", name=name)
    before = {name: extents(disk, name, limit=65536) for name in ("f", "c")}
    for target, granularity in (("into-fine", fine), ("into-coarse", coarse)):
        add(disk, target, granularity=granularity)
        for source in ("f", "c"):
            disk.call("bitmap.merge", disk="d", target=target, sources=[source])
        merged = blocks_of(extents(disk, target, limit=65536), granularity)
        expected = blocks_of(before["f"], granularity) | blocks_of(before["c"], granularity)
        assert merged == expected
    assert {name: extents(disk, name, limit=65536) for name in ("f", "c")} == before


def test_merge_many_at_once(disk):
    for index in range(5):
        add(disk, f"s{index}")
        write(disk, index * 3 * 65536)
        disk.call("bitmap.disable", disk="d", name=f"s{index}")
    add(disk, "t")
    merged = disk.call("bitmap.merge", disk="d", target="t", sources=[f"s{i}" for i in range(5)])
    assert merged["dirty_bytes"] == 5 * 65536
    assert extents(disk, "t") == [(i * 3 * 65536, 65536) for i in range(5)]


def test_merge_nothing(disk):
    """The empty list changes nothing (and crashes nobody)."""
    add(disk)
    write(disk, 0)
    before = show(disk)
    assert disk.call("bitmap.merge", disk="d", target="b0", sources=[]) == before


def test_merge_itself(disk):
    add(disk)
    write(disk, 0)
    before = show(disk)
    assert disk.call("bitmap.merge", disk="d", target="b0", sources=["b0", "b0"]) == before


def test_merge_refused(disk):
    """A missing source: nothing is merged, not even those that are there."""
    add(disk)
    add(disk, "b1")
    write(disk, 0)
    disk.call("bitmap.clear", disk="d", name="b0")
    error = disk.refused("bitmap.merge", "not-found", disk="d", target="b0", sources=["b1", "b9"])
    assert error.path == "/params/sources/1"
    assert extents(disk) == []
    disk.refused("bitmap.merge", "not-found", disk="d", target="b9", sources=["b0"])
    disk.refused("bitmap.merge", "not-found", disk="nowhere", target="b0", sources=[])


def test_merge_inherits_missed_writes(disk):
    add(disk, "gaps", recording=False)
    write(disk, 0)
    add(disk)
    assert show(disk)["missed_writes"] is False
    assert disk.call("bitmap.merge", disk="d", target="b0", sources=["gaps"])["missed_writes"] is True


def test_merge_into_a_recording_bitmap_keeps_recording(disk):
    add(disk)
    add(disk, "b1")
    write(disk, 0)
    disk.call("bitmap.clear", disk="d", name="b0")
    assert disk.call("bitmap.merge", disk="d", target="b0", sources=["b1"])["state"] == "recording"
    write(disk, 65536 * 9)
    assert extents(disk) == [(0, 65536), (65536 * 9, 65536)]


# --- extents ---


def test_extents_page(disk):
    """Pages of any size give the same extents: ascending, never adjacent, none twice."""
    add(disk, granularity=4096)
    rng = random.Random(11)
    write(disk, *[rng.randrange(SIZE) for _ in range(300)])
    whole = extents(disk, limit=65536)
    assert len(whole) > 200
    assert all(a[0] + a[1] < b[0] for a, b in zip(whole, whole[1:]))
    for limit in (1, 7, 100, len(whole) - 1, len(whole), len(whole) + 1):
        found, offset = [], 0
        while offset is not None:
            page = disk.rpc.plain("bitmap.extents", disk="d", name="b0", offset=offset, limit=limit)
            assert len(page["extents"]) <= limit
            found += [(e["offset"], e["length"]) for e in page["extents"]]
            assert page["next_offset"] is None or page["next_offset"] > offset
            offset = page["next_offset"]
        assert found == whole, limit


def test_extents_from_an_offset(disk):
    """An offset in the middle of an extent begins there."""
    add(disk)
    write(disk, 0, 65536, 65536 * 4)
    assert extents(disk) == [(0, 131072), (65536 * 4, 65536)]
    assert extents(disk, offset=100) == [(100, 130972), (65536 * 4, 65536)]
    assert extents(disk, offset=131072) == [(65536 * 4, 65536)]
    assert extents(disk, offset=65536 * 5) == []
    assert extents(disk, offset=SIZE) == []
    answer = disk.rpc.exchange("bitmap.extents", {"disk": "d", "name": "b0", "offset": SIZE + 1})
    assert "error" not in answer or answer["error"]["data"]["kind"] == "invalid-argument"


def test_extents_of_an_odd_disk(daemon):
    """The last block ends where the disk does."""
    daemon.serve("d", 1000001)
    daemon.call("bitmap.add", disk="d", name="b0")
    with daemon.open("d") as wire:
        assert wire.write(1000000, b"!").error == 0
    last = 1000001 // 65536 * 65536
    assert extents(daemon) == [(last, 1000001 - last)]
    assert show(daemon)["dirty_bytes"] == 1000001 - last


def test_list(disk):
    """bitmap.list: of a disk, or of all, in order."""
    for name in ("b2", "b0", "b1"):
        add(disk, name)
    disk.serve("e", 4096)
    disk.rpc.plain("bitmap.add", disk="e", name="x")
    listed = disk.call("bitmap.list", disk="d")["bitmaps"]
    assert [bitmap["name"] for bitmap in listed] == ["b0", "b1", "b2"]
    assert listed[1] == show(disk, "b1")
    everything = disk.call("bitmap.list")["bitmaps"]
    assert [(b["disk"], b["name"]) for b in everything] == [
        ("d", "b0"), ("d", "b1"), ("d", "b2"), ("e", "x")]
    disk.refused("bitmap.list", "not-found", disk="nowhere")
    disk.drop("e")
