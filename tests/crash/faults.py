#!/usr/bin/python3
"""The faults that a build with -DNBDD_FAULTS can be told to commit (storage/fault.h), and the proof
that the tests of the promise notice each of them.

By hand: tests/crash/faults.py [--build FOLDER] [--by schedule|kill|power]... [FAULT...]

Each fault is caught by a schedule (schedules/: threads that are stopped at the worst moment); with
--by kill those that a daemon under load commits are shown to the kill -9 loop, with --by power those
of test_power.py to the simulator. Prints who caught what, and ends with 1 when somebody missed a
fault, or found one where there is none."""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "integration"))
# Of one schedule; the longest waits some hundred milliseconds, if nothing is wrong.
SCHEDULE_SECONDS = 200
KILL_SECONDS = 600
# A fault is seen only where the other side gets through in the time that a schedule gives it, or where
# requests meet: not on every try, when the machine is busy.
TRIES = 5


class Fault(NamedTuple):
    what: str  # what is wrong while NBDD_FAULT names it
    schedule: str  # which of schedules/ catches it
    kill: int = 0  # rounds of the kill loop within which it is caught; 0: not its business


FAULTS = {
    "write-before-intent": Fault(
        "a write that asks for an intent does not wait for it",
        "a_write_waits_for_its_intent", kill=100),
    "bits-after-look": Fault(
        "a writer looks for the intent first and sets its bits then",
        "a_retirement_sees_the_writers_bits"),
    "end-rounded-down": Fault(
        "the last block of a write that ends inside it is not set",
        "every_block_of_a_write", kill=100),
    "looks-at-one-bitmap": Fault(
        "a write takes no intent when one of the bitmaps has its blocks stored",
        "every_bitmap_has_the_block", kill=100),
    "process-map-unmarked": Fault(
        "a write leaves no trace in the map that durability process relies on",
        "a_process_bitmap_survives_a_kill", kill=300),
    "short-map-trusted": Fault(
        "a map that is too short for a disk that has grown is relied on",
        "a_map_that_is_too_short_is_not_relied_on"),
    "trim-untracked": Fault(
        "a trim is not recorded",
        "a_trim_is_a_write", kill=150),
    "zero-untracked": Fault(
        "write-zeroes is not recorded",
        "zeroes_are_a_write", kill=150),
    "retire-without-bits": Fault(
        "an intent is deleted and the bits under it are not stored",
        "retired_bits_are_stored", kill=100),
    "retired-stays-durable": Fault(
        "writers take an intent that is being deleted for one that holds",
        "a_retired_region_needs_a_new_intent", kill=100),
    "missed-writes-lost": Fault(
        "that a disabled bitmap misses writes is kept in memory alone",
        "missed_writes_survive", kill=100),
    "clean-flag-stays": Fault(
        "the clean flag is not taken away before the first write",
        "the_clean_flag_goes_first", kill=100),
    "doubtful-intent-counts": Fault(
        "an intent that a failed COMMIT may have deleted counts as durable",
        "a_doubtful_intent_does_not_count"),
    "failed-commit-trusted": Fault(
        "a COMMIT that failed counts as done",
        "a_failed_commit_is_not_done"),
    "failed-commit-undone": Fault(
        "a COMMIT that failed counts as rolled back",
        "a_failed_commit_is_not_undone"),
    "synchronous-normal": Fault(
        "the database's log is not synced by a COMMIT",
        "an_intent_outlives_the_power"),
    "invalid-file-unread": Fault(
        "the file of invalidations is not looked at when the store is opened",
        "given_up_bitmaps_stay_invalid"),
    "invalid-file-unwritten": Fault(
        "a bitmap is given up though nothing durable says so",
        "what_cannot_be_given_up_is_not_written"),
    "doubtful-bitmap-kept": Fault(
        "a bitmap that a failed COMMIT may have made is good should it turn up after unrecorded "
        "writes",
        "a_bitmap_added_in_doubt_is_not_clean"),
    "doubt-not-waited-for": Fault(
        "a write does not wait though nothing durable speaks against such a bitmap",
        "writes_wait_for_the_end_of_a_doubt"),
    "doubtful-bitmap-not-given-up": Fault(
        "a disk's bitmaps are given up, and what a clear in doubt made of one is not",
        "what_was_cleared_in_doubt_is_given_up"),
    "store-closes-a-disk": Fault(
        "the store thread may have the last reference to a disk, and then waits for itself",
        "the_store_closes_no_disk"),
    "none-survives-a-crash": Fault(
        "a bitmap of durability none is offered after a crash",
        "durability_none_does_not", kill=100),
    "merge-forgets-missed": Fault(
        "a merge does not take over that writes were missed",
        "a_merge_inherits_missed_writes", kill=100),
    "recover-skips-last": Fault(
        "recovery leaves out the last intent",
        "every_intent_is_recovered", kill=100),
    "recover-one-sibling": Fault(
        "recovery expands the intents in one bitmap alone",
        "every_sibling_is_recovered", kill=100),
    "no-since": Fault(
        "blocks written since a starting point's sync began start out clean",
        "writes_during_the_sync_are_dirty"),
    "start-without-sync": Fault(
        "a starting point does not sync the data before it",
        "a_starting_point_is_durable"),
    "change-without-bits": Fault(
        "a change of the bitmaps does not store their bits",
        "a_disabled_bitmap_keeps_its_bits", kill=100),
    "gate-does-not-wait": Fault(
        "a change does not wait for the writes in flight",
        "a_clear_waits_for_writes_in_flight"),
    "growth-counts-as-clean": Fault(
        "what a disk grew by is clean",
        "growth_is_dirty"),
    "file-not-locked": Fault(
        "a disk is opened without the lock on its file",
        "a_late_write_holds_the_lock"),
    "failed-sync-forgotten": Fault(
        "a failed fsync is not remembered",
        "a_failed_sync_is_remembered"),
    "fua-without-sync": Fault(
        "FUA does not sync",
        "fua_data_is_durable"),
    "flush-without-sync": Fault(
        "FLUSH does not sync",
        "flushed_data_is_durable"),
}


class Missed(AssertionError):
    pass


def environment(build, fault):
    env = dict(os.environ, NBDD_BUILD=str(build))
    env.pop("NBDD_FAULT", None)
    if fault:
        env["NBDD_FAULT"] = fault
    return env


def schedules(build):
    """Their names."""
    done = subprocess.run([program(build), "--list"], capture_output=True, text=True, timeout=60,
                          check=True)
    return done.stdout.split()


def program(build):
    return Path(build) / "tests" / "crash" / "schedules" / "schedules"


def run_schedule(build, name, fault=None):
    """What it says is wrong; "" when nothing is."""
    done = subprocess.run([program(build), name], env=environment(build, fault), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SCHEDULE_SECONDS,
                          stdin=subprocess.DEVNULL, check=False)
    if done.returncode == 0 and re.search(r"^.*OK.* " + name + "$", done.stdout, re.MULTILINE):
        return ""
    if done.returncode != 1 or "FAILED" not in done.stdout:
        raise Missed(f"{name} fell over (exit status {done.returncode}):\n{done.stdout}")
    lines = done.stdout.splitlines()
    return next((line for line in lines if re.match(r"\S+:\d+: |\[ +ERROR", line)), "FAILED")


def is_noticed(build, name, fault):
    return any(run_schedule(build, name, fault) for _ in range(TRIES))


def caught_by_schedule(build, fault):
    name = FAULTS[fault].schedule
    if not is_noticed(build, name, fault):
        raise Missed(f"{fault}: {name} has not noticed")
    return f"schedule {name}"


def caught_by_kill(build, fault, seed=1):
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, HERE / "kill_loop.py", "--rounds", str(FAULTS[fault].kill),
             "--seed", str(seed), "--fault", fault, "--dir", folder],
            env=environment(build, None), capture_output=True, text=True, timeout=KILL_SECONDS,
            check=False)
    if done.returncode != 1 or "VIOLATION" not in done.stderr:
        raise Missed(f"{fault}: the kill loop has not noticed:\n{done.stdout}{done.stderr}")
    round_ = re.search(r"round (\d+)", done.stderr)
    return f"kill loop, round {round_.group(1)}" if round_ else "kill loop"


def power_words():
    """fault -> the workloads under which the simulator finds it."""
    import test_power  # it wants pytest

    return test_power.FAULTS


def caught_by_power(build, fault):
    words = power_words()[fault]
    done = subprocess.run(
        [sys.executable, HERE / "power", "--states", "900", "--words", words, "--fault", fault,
         "--stop-after", "1"], env=environment(build, None), capture_output=True, text=True,
        timeout=KILL_SECONDS, check=False)
    if done.returncode != 1 or "VIOLATION" not in done.stdout:
        raise Missed(f"{fault}: the simulator has not noticed:\n{done.stdout}{done.stderr}")
    return f"power, workloads {words}"


def table(caught):
    """caught: fault -> list of who caught it."""
    wide = max(map(len, FAULTS))
    return "\n".join(f"{name:{wide}}  {'; '.join(caught[name]) or 'NOBODY'}" for name in caught)


def names_in(binary):
    """Those of the faults' names that a program has in it."""
    data = Path(binary).read_bytes()
    return [name for name in FAULTS if b"\0" + name.encode() + b"\0" in data]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--build", default=os.environ.get("NBDD_FAULTS_BUILD", "build-faults"))
    parser.add_argument("--by", action="append", choices=("schedule", "kill", "power"))
    parser.add_argument("faults", nargs="*", metavar="FAULT")
    options = parser.parse_args()
    by = options.by or ["schedule"]
    caught, wrong = {}, []

    def attempt(function, *arguments):
        try:
            return function(*arguments)
        except (Missed, subprocess.TimeoutExpired) as error:
            wrong.append(str(error))
            return None

    if "schedule" in by:
        for name in schedules(options.build):
            said = attempt(run_schedule, options.build, name)
            if said:
                wrong.append(f"{name}, without a fault: {said}")
    for fault in options.faults or FAULTS:
        caught[fault] = []
        if "schedule" in by:
            caught[fault].append(attempt(caught_by_schedule, options.build, fault))
        if "kill" in by and FAULTS[fault].kill:
            caught[fault].append(attempt(caught_by_kill, options.build, fault))
        if "power" in by and fault in power_words():
            caught[fault].append(attempt(caught_by_power, options.build, fault))
        caught[fault] = [who for who in caught[fault] if who]
        print(table({fault: caught[fault]}), flush=True)
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
