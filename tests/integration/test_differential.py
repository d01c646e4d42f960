"""nbdd and a model agree after any sequence of requests and commands (see differential.py)."""

import os
from pathlib import Path

import pytest

import differential
import model

OPERATIONS = int(os.environ.get("NBDD_OPERATIONS", 10000))
SEED = int(os.environ.get("NBDD_SEED", 20240607))


def share(part):
    """Under a sanitizer everything takes longer, and less of it shows as much."""
    plain = differential.harness.FLAVOUR == "plain" or "NBDD_OPERATIONS" in os.environ
    return OPERATIONS // part if plain else OPERATIONS // part // 5


@pytest.mark.long
@pytest.mark.threads
def test_random_operations(daemon):
    print(differential.Run(daemon, SEED).operations(share(1)))


@pytest.mark.threads
def test_random_operations_on_a_direct_disk(daemon):
    print(differential.Run(daemon, SEED + 1, cache="direct").operations(share(5)))


def test_a_changed_byte_is_noticed(daemon):
    run = differential.Run(daemon, SEED + 2)
    run.operations(200)
    assert run.disk.data[5000] != 0x5A or run.disk.data[5001] != 0x5A
    with open(run.image, "r+b") as file:
        file.seek(5000)
        file.write(b"\x5a\x5a")
    with pytest.raises(AssertionError, match="byte 500[01] is 90"):
        run.verify()


def test_a_lost_and_an_invented_bit_are_noticed(daemon):
    run = differential.Run(daemon, SEED + 3)
    run.operations(200)
    daemon.call("bitmap.add", disk="diff", name="last", granularity=512)
    run.disk.bitmaps["last"] = bitmap = model.Bitmap(run.disk.size, 512, True)
    run.verify()
    bitmap.mark(1024, 512)
    with pytest.raises(AssertionError, match="block 2 .* changed and is clean"):
        run.verify()
    bitmap.clear()
    assert run.links[0].wire.write(4096, b"x").error == 0
    run.disk.write(4096, b"x")
    run.disk.touched(4096, 1)
    bitmap.clear()
    with pytest.raises(AssertionError, match="block 8 .* is dirty, and nothing touched it"):
        run.verify()


def test_the_file_is_runnable_by_hand():
    script = Path(differential.__file__)
    assert os.access(script, os.X_OK)
    assert "--seed" in differential.harness.run(script, "--help")
