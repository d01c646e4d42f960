"""The kill -9 loop (kill_loop.py), with a count that suits CI; NBDD_ROUNDS asks for another."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import harness
import kill_loop

ROUNDS = int(os.environ.get("NBDD_ROUNDS", 200))
SCRIPT = Path(kill_loop.__file__)


@pytest.mark.long
def test_kill_loop(tmp_path):
    seed = random.SystemRandom().randrange(1 << 32)
    print(kill_loop.Loop(seed, tmp_path).run(ROUNDS))


def test_a_short_loop(tmp_path):
    kill_loop.Loop(1, tmp_path).run(10)


@pytest.mark.parametrize("fault", ["recover-skips-last", "trim-untracked", "zero-untracked"])
def test_a_fault_is_found(faulty_build, tmp_path, fault):
    """And said with the exit status, as the campaigns want it. (Mostly after some rounds.)"""
    done = subprocess.run(
        [sys.executable, SCRIPT, "--rounds", "1000", "--fault", fault, "--dir", tmp_path],
        env=dict(os.environ, NBDD_BUILD=str(faulty_build)), capture_output=True, text=True,
        timeout=400, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "VIOLATION" in done.stderr and "changed and is clean" in done.stderr, done.stderr


def test_the_file_is_runnable_by_hand():
    assert os.access(SCRIPT, os.X_OK)
    assert "--rounds" in harness.run(SCRIPT, "--help")
