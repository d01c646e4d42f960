"""nbdd and a model agree after any sequence of requests and commands (see differential.py)."""

import os
from pathlib import Path

import pytest

import differential
import fake_daemon

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


def test_a_daemon_without_fault_agrees(tmp_path):
    differential.Run(fake_daemon.FakeDaemon(tmp_path), SEED).operations(2000)


@pytest.mark.parametrize("fault", fake_daemon.FAULTS)
def test_a_fault_is_found(tmp_path, fault):
    """Each within a share of the operations that a run has."""
    run = differential.Run(fake_daemon.FakeDaemon(tmp_path, fault), SEED)
    with pytest.raises(AssertionError, match=f"seed {SEED}"):
        run.operations(5000)


def test_the_file_is_runnable_by_hand():
    script = Path(differential.__file__)
    assert os.access(script, os.X_OK)
    assert "--seed" in differential.harness.run(script, "--help")
