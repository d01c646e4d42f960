"""Nth-call sweeps over a real nbdd (nth_sweep.py): all calls of the kinds that are few, a sample of
the others; and the sweep itself can find something."""

import os
import random
from pathlib import Path

import pytest

import harness
import nth_sweep

# kind -> runs of a phase; about half a second each.
SAMPLE = {"sync": 3, "write": 4, "size": 2, "open": 3, "name": 2, "read": 3, "map": 1, "thread": 2,
          "own": 3, "sqlite": 4, "json": 4}


@pytest.mark.parametrize("kind", SAMPLE)
@pytest.mark.parametrize("phase", nth_sweep.PHASES)
def test_one_call_fails(phase, kind):
    """Spread over all that there are, which the first run tells."""
    wrong, calls = [], []

    def say(text):
        print(text)
        if text.startswith(f"{phase} {kind}: "):
            calls.append(int(text.split(" of ")[1].split()[0]))

    wrong += nth_sweep.sweep(phase, kind, first=1 << 40, most=1, say=say)
    if calls[0] == 0:
        return
    chosen = random.SystemRandom().sample(range(calls[0]), min(SAMPLE[kind], calls[0]))
    for number in sorted(chosen):
        wrong += nth_sweep.sweep(phase, kind, first=number, most=1, say=say)
    assert not wrong, "\n".join(wrong)


def test_it_can_fail(faulty_build, monkeypatch):
    """Under a fault the sweep says that a block is clean that was changed."""
    monkeypatch.setattr(harness, "NBDD", faulty_build / "daemon" / "nbdd")
    monkeypatch.setenv("NBDD_FAULT", "retire-without-bits")
    wrong = nth_sweep.sweep("run", "sync", first=1 << 40, most=1)
    assert wrong and "was changed and is clean" in wrong[0]


def test_the_sweep_is_runnable_by_hand():
    script = Path(nth_sweep.__file__)
    assert os.access(script, os.X_OK)
    assert "--every" in harness.run(script, "--help")
