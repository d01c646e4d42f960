"""`nbdctl bitmap map`: the picture of a known pattern, to the letter."""

import json

import pytest

from ctl_runner import nbdctl, on_terminal
from fake_control import FakeControl

MIB = 1 << 20
# 64 MiB, 64 KiB a granule: as wide as 80 columns allow, one cell is one granule.
PATTERN = [(0, 65536), (MIB, 5 * MIB), (20 * MIB, 131072), (40 * MIB, 24 * MIB)]

PICTURE = [
    "Bitmap b0 of disk d, 64 MiB: recording, granularity 64 KiB",
    "",
    "          0  " + "█" + "·" * 15 + "█" * 48,
    "      4 MiB  " + "█" * 32 + "·" * 32,
    *[f"{f'{row} MiB':>11}  " + "·" * 64 for row in (8, 12, 16)],
    "     20 MiB  " + "██" + "·" * 62,
    *[f"{f'{row} MiB':>11}  " + "·" * 64 for row in (24, 28, 32, 36)],
    *[f"{f'{row} MiB':>11}  " + "█" * 64 for row in (40, 44, 48, 52, 56, 60)],
    "",
    "· clean   ░ to 25 %   ▒ to 50 %   ▓ below 100 %   █ all dirty",
    "one cell: 64 KiB, one row: 4 MiB",
    "dirty: 29.1 MiB (30605312 bytes), 45.6 % of the disk, in 4 ranges",
]


def test_a_known_pattern(server):
    """Written by a client to a real daemon."""
    server.serve("d", 64 * MIB)
    server.call("bitmap.add", disk="d", name="b0")
    with server.open("d") as client:
        for offset, length in PATTERN:
            for at in range(offset, offset + length, MIB):
                client.write(at, b"\x01" * min(MIB, offset + length - at))
    result = nbdctl("bitmap", "map", "d", "b0", socket=server.socket)
    assert result.out.splitlines() == PICTURE
    plain = nbdctl("bitmap", "map", "d", "b0", socket=server.socket, env={"LC_ALL": "C"})
    ascii_picture = "\n".join(PICTURE).translate(str.maketrans("·░▒▓█", ".-+*#"))
    assert plain.out == ascii_picture + "\n"
    shown = json.loads(nbdctl("bitmap", "map", "d", "b0", "--json", socket=server.socket).out)
    assert (shown["size"], shown["cell"], shown["dirty_bytes"]) == (64 * MIB, 65536, 30605312)
    assert len(shown["cells"]) == 1024 and sum(shown["cells"]) == 30605312
    assert shown["bitmap"] == server.call("bitmap.show", disk="d", name="b0")
    server.drop("d")


def test_refusals(server):
    server.serve("d")
    for words, text in [(["x", "b0"], "x"), (["d", "b0"], "b0")]:
        result = nbdctl("bitmap", "map", *words, socket=server.socket)
        assert result.status == 4 and result.out == "" and text in result.err
    server.drop("d")


# --- on a fake, for what is rare ---


def bitmap(**changes):
    return {"disk": "d", "name": "b0", "generation": "g1", "granularity": 65536, "state": "recording",
            "over_reported_bytes": 0, "missed_writes": False, **changes}  # fmt: skip


@pytest.fixture
def fake(tmp_path):
    answers = {
        "disk.show": {"name": "d", "size": 64 * MIB, "state": "ready"},
        "bitmap.show": bitmap(),
        "bitmap.extents": {
            "extents": [{"offset": at, "length": length} for at, length in PATTERN],
            "next_offset": None,
        },
    }
    with FakeControl(tmp_path, answers) as control:
        yield control


def show(fake, *words, **kwargs):
    return nbdctl("bitmap", "map", "d", "b0", *words, socket=fake.path, **kwargs)


def test_pages_are_put_together(fake):
    def answer(params):
        index = [at for at, _ in PATTERN].index(params["offset"]) if params["offset"] else 0
        at, length = PATTERN[index]
        following = PATTERN[index + 1][0] if index + 1 < len(PATTERN) else None
        return {"extents": [{"offset": at, "length": length}], "next_offset": following}

    fake.answers["bitmap.extents"] = answer
    assert show(fake).out.splitlines() == PICTURE
    assert [method for method, _ in fake.calls].count("bitmap.extents") == len(PATTERN)


def test_a_bitmap_that_was_reset_meanwhile_is_fetched_again(fake):
    generations = iter(["g1", "g2", "g2", "g2"])
    fake.answers["bitmap.show"] = lambda _: bitmap(generation=next(generations))
    assert show(fake).out.splitlines() == PICTURE
    assert [method for method, _ in fake.calls].count("bitmap.extents") == 2


def test_a_bitmap_that_is_reset_all_the_time(fake):
    numbers = iter(range(100))
    fake.answers["bitmap.show"] = lambda _: bitmap(generation=f"g{next(numbers)}")
    result = show(fake)
    assert result.status == 1 and result.out == "" and "reset again and again" in result.err


@pytest.mark.parametrize("width, columns", [(40, 16), (80, 64), (100, 80), (132, 112), (200, 176)])
def test_as_wide_as_the_terminal(fake, width, columns):
    out = on_terminal("bitmap", "map", "d", "b0", socket=fake.path, columns=width, lines=50,
                      env={"NO_COLOR": "1"}).out.splitlines()  # fmt: skip
    row = out[2]
    assert len(row) == 13 + columns <= width


def test_no_higher_than_the_terminal(fake):
    for lines in (10, 16, 24, 50):
        out = on_terminal("bitmap", "map", "d", "b0", socket=fake.path, lines=lines,
                          env={"NO_COLOR": "1"}).out.splitlines()  # fmt: skip
        assert len(out) <= max(lines, 11)


def test_colours_of_the_shades(fake):
    out = on_terminal("bitmap", "map", "d", "b0", socket=fake.path).out
    assert "\x1b[1;31m████" in out and "\x1b[2m····" in out


def test_what_else_is_known_is_said(fake):
    fake.answers["bitmap.show"] = bitmap(over_reported_bytes=4 * MIB, missed_writes=True)
    out = show(fake).out.splitlines()
    assert "of that at most 4 MiB (4194304 bytes) because of a recovery alone" in out
    assert out[-1] == "writes were missed while it was disabled: more has changed than this"


def test_a_disk_that_is_not_there(fake):
    fake.answers["disk.show"] = {"name": "d", "size": 0, "state": "missing"}
    result = show(fake)
    assert result.status == 5 and "the disk is missing" in result.err


def test_an_invalid_bitmap_has_no_picture(fake):
    fake.answers["bitmap.show"] = bitmap(state="invalid", reason="somebody else wrote")
    result = show(fake)
    assert result.status == 5 and result.out == ""
    assert "the bitmap is invalid, everything may have changed: somebody else wrote" in result.err


def test_an_empty_disk(fake):
    fake.answers["disk.show"] = {"name": "d", "size": 0, "state": "ready"}
    assert "dirty: 0, 0 % of the disk, in 0 ranges" in show(fake).out


def test_a_huge_disk(fake):
    fake.answers["disk.show"] = {"name": "d", "size": (1 << 63) - 1, "state": "ready"}
    fake.answers["bitmap.extents"] = {
        "extents": [{"offset": 0, "length": 512}, {"offset": (1 << 63) - 512, "length": 4096}],
        "next_offset": None,
    }
    out = show(fake).out.splitlines()
    assert out[2].startswith("          0  ░·")
    assert out[17].endswith("·░")
    assert "below 0.1 % of the disk, in 2 ranges" in out[-1]
