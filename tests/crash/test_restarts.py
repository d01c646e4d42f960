"""Clean restarts raise no false alarm (restart_loop.py); NBDD_RESTARTS asks for another number."""

import os
import random
from pathlib import Path

import pytest

import harness
import restart_loop

RESTARTS = int(os.environ.get("NBDD_RESTARTS", 250))


@pytest.mark.long
def test_clean_restarts(tmp_path):
    loop = restart_loop.Loop(random.SystemRandom().randrange(1 << 32), tmp_path)
    print(loop.run(RESTARTS), loop.lacking)


def test_some_clean_restarts(tmp_path):
    restart_loop.Loop(1, tmp_path).run(20)


def test_a_false_alarm_is_found(tmp_path):
    """A file whose times change in between is taken for changed."""
    loop = restart_loop.Loop(1, tmp_path)
    start = loop.start
    loop.start = lambda: (loop.disks["plain"].path.touch(), start())
    with pytest.raises(AssertionError, match="invalid"):
        loop.run(3)


def test_the_file_is_runnable_by_hand():
    script = Path(restart_loop.__file__)
    assert os.access(script, os.X_OK)
    assert "--restarts" in harness.run(script, "--help")
