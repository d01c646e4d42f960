"""Every seeded fault is caught, and nothing is where there is none (faults.py)."""

import os
from pathlib import Path

import pytest

import faults
import harness

CAUGHT = {}
# schedule -> its fault: the other side of one that faults.py has for the same.
PAIRS = {
    "an_add_waits_for_writes_in_flight": "gate-does-not-wait",
    "an_invalid_bitmap_cleared_in_doubt_is_not_clean": "doubtful-bitmap-kept",
}


@pytest.fixture(scope="module", autouse=True)
def the_table(request):
    yield
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\n" + faults.table(CAUGHT) if CAUGHT else "")


def test_the_schedules_hold(faulty_build):
    names = faults.schedules(faulty_build)
    assert len(names) >= 30
    for name in names:
        assert faults.run_schedule(faulty_build, name) == ""


def test_every_schedule_can_fail(faulty_build):
    """Each is there for some fault; the second one of a pair shows the other side of the same."""
    meant = {fault.schedule for fault in faults.FAULTS.values()}
    assert meant | set(PAIRS) == set(faults.schedules(faulty_build))


@pytest.mark.parametrize("schedule", PAIRS)
def test_the_other_side_can_fail(faulty_build, schedule):
    assert faults.is_noticed(faulty_build, schedule, PAIRS[schedule])


@pytest.mark.parametrize("fault", faults.FAULTS)
def test_it_is_caught(faulty_build, fault):
    CAUGHT[fault] = []
    CAUGHT[fault].append(faults.caught_by_schedule(faulty_build, fault))
    if fault in faults.power_words():
        CAUGHT[fault].append("power (test_power.py)")
    if faults.FAULTS[fault].kill:
        CAUGHT[fault].append(f"kill loop, {faults.FAULTS[fault].kill} rounds by hand")


def test_other_builds_have_no_faults(faulty_build):
    nbdd = Path("daemon", "nbdd")
    assert faults.names_in(harness.BUILD / nbdd) == []
    assert set(faults.names_in(faulty_build / nbdd)) == set(faults.FAULTS)


def test_the_driver_is_runnable_by_hand(faulty_build):
    script = Path(faults.__file__)
    assert os.access(script, os.X_OK)
    said = harness.run(script, "--build", faulty_build, "recover-skips-last", timeout=1000)
    assert "schedule every_intent_is_recovered" in said
