"""The power-loss simulator (power), with a count that suits CI; NBDD_STATES asks for another."""

import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import power_disk
import power_log
import power_workload
from power_log import BEGIN, DATASYNC, END, IMAGE, OPEN, RENAME, SYNC, TRUNCATE, WRITE

SCRIPT = Path(__file__).resolve().parent / "power"
STATES = int(os.environ.get("NBDD_STATES", 3000))


def power(*arguments, build=None, seconds=1500):
    env = dict(os.environ, **({"NBDD_BUILD": str(build)} if build else {}))
    words = [sys.executable, str(SCRIPT), *[str(argument) for argument in arguments]]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=seconds,
                          check=False)
    print(done.stdout, done.stderr)
    return done


@pytest.mark.long
def test_power_loss():
    """All workloads of up to two letters, a sample of three, and random ones."""
    seed = random.SystemRandom().randrange(1 << 32)
    done = power("--states", STATES, "--seed", seed, "--depth", 2)
    assert done.returncode == 0, f"seed {seed}: {done.stdout[-6000:]}{done.stderr[-3000:]}"
    assert " 0 violations" in done.stdout
    # It did look at something.
    totals = dict(reversed(line.split(maxsplit=1)) for line in done.stdout.splitlines()[:-1])
    assert int(totals["bitmaps recovered"]) > STATES
    assert int(totals["sectors changed and dirty"]) > 10 * STATES
    assert int(totals["sectors clean and the same"]) > 10 * STATES
    assert int(totals.get("bitmaps invalid", 0)) < int(totals["bitmaps recovered"]) / 10


def test_a_few_states():
    done = power("--states", 200, "--depth", 0, "--words", "wK,afd,ftR")
    assert done.returncode == 0, done.stdout + done.stderr


# What catches each within some seconds.
FAULTS = {
    "write-before-intent": "w,f",
    "synchronous-normal": "w,f",
    "recover-skips-last": "w,f",
    "recover-one-sibling": "w,f",
    "retire-without-bits": "p,wp",
    "change-without-bits": "d,wd",
    "flush-without-sync": "ws",
    "fua-without-sync": "f,ff",
    "clean-flag-stays": "Rw,Rt",
    "end-rounded-down": "zp,tp",
    "missed-writes-lost": "w,v",
    "growth-counts-as-clean": "g",
    "start-without-sync": "vx,vxw",
    "retired-stays-durable": "pwpw,pvpv",
    "looks-at-one-bitmap": "qawqav,qawqavq",
}
# Races, which a try may miss: more tries, each with other writes.
RACES = {
    "no-since": ",".join("B" * count for count in range(6, 16)),
    "trim-untracked": "BqBqBq,BqBqBqBq,qBqBqBqBqB",
    "zero-untracked": "BqBqBq,BqBqBqBq,qBqBqBqBqB",
}


@pytest.mark.parametrize("fault,words", [*FAULTS.items(), *RACES.items()])
def test_a_fault_is_found(faulty_build, fault, words):
    for seed in range(1, 10 if fault in RACES else 4):
        done = power("--states", 600, "--words", words, "--fault", fault, "--seed", seed,
                     "--stop-after", 1, build=faulty_build)
        if done.returncode != 0:
            break
    assert done.returncode == 1, done.stdout + done.stderr
    assert "VIOLATION" in done.stdout


# --- the model, on logs made by hand ---


class Script:
    """Writes a log as the recorder would."""

    def __init__(self):
        self.data, self.number = b"", 0

    def add(self, kind, phase, number, handle=0, payload=b"", result=0, offset=0, length=0,
            flags=0):
        self.data += power_log.HEADER.pack(power_log.HEADER.size + len(payload), kind, phase, 0, 7,
                                           number, handle, flags, result, offset, length, 1, 1)
        self.data += payload

    def begin(self, kind, **fields):
        self.number += 1
        self.add(kind, BEGIN, self.number, **fields)
        return kind, self.number

    def end(self, begun, **fields):
        self.add(begun[0], END, begun[1], **fields)

    def whole(self, kind, result=0, **fields):
        begun = self.begin(kind, **fields)
        self.end(begun, result=result, handle=fields.get("handle", 0))

    def open(self, name, handle, flags=os.O_RDWR):
        begun = self.begin(OPEN, payload=name.encode(), flags=flags)
        self.end(begun, handle=handle, result=3)

    def write(self, handle, offset, data):
        return self.begin(WRITE, handle=handle, payload=data, offset=offset, length=len(data))

    def written(self, handle, offset, data):
        self.end(self.write(handle, offset, data), handle=handle, result=len(data))

    def log(self, **files):
        base = {name: power_log.File(content, name) for name, content in files.items()}
        base[IMAGE] = power_log.File(bytes(4096), "image")
        return power_log.read_log(self.data, base)


def left(log, style, place=None, times=1):
    """What may be left of a cut, in that style."""
    cut = power_disk.Cut(log, log.places if place is None else place)
    return [cut.state(cut.choose(random.Random(i), style)) for i in range(times)]


def test_a_sync_has_what_ended_before_it_began():
    script = Script()
    script.open(IMAGE, 1)
    script.written(1, 0, b"a" * 512)
    late = script.write(1, 512, b"b" * 512)
    sync = script.begin(DATASYNC, handle=1)
    script.end(late, handle=1, result=512)
    before = script.number
    script.end(sync)
    log = script.log()
    for state in left(log, "none") + left(log, "torn", times=50) + left(log, "some", times=50):
        assert state.image[:512] == b"a" * 512
        assert state.image[512:1024] in (bytes(512), b"b" * 512)
    assert before and left(log, "none")[0].image[512:1024] == bytes(512)
    assert left(log, "none", place=log.places - 1)[0].image == bytes(4096), "it had not returned"
    assert left(log, "all")[0].image[512:1024] == b"b" * 512


def test_writes_are_torn_at_sectors():
    script = Script()
    script.open(IMAGE, 1)
    script.written(1, 0, b"".join(bytes([65 + i]) * 512 for i in range(8)))
    seen = {state.image for state in left(script.log(), "torn", times=200)}
    assert len(seen) > 20
    for image in seen:
        for i in range(8):
            assert image[i * 512 : (i + 1) * 512] in (bytes(512), bytes([65 + i]) * 512)


def test_names_need_the_folder():
    script = Script()
    script.open(".", 9)
    script.open("new", 1, os.O_RDWR | os.O_CREAT)
    script.written(1, 0, b"x" * 512)
    script.whole(SYNC, handle=1)
    assert left(script.log(), "none")[0].files == {}
    script.whole(SYNC, handle=9)
    assert left(script.log(), "none")[0].files == {"new": b"x" * 512}
    script.whole(RENAME, payload=b"new\0old")
    seen = {tuple(state.files) for state in left(script.log(old=b"was"), "some", times=50)}
    assert seen == {("old", "new"), ("new", "old"), ("old",)} or seen == {("old", "new"), ("old",)}
    for state in left(script.log(old=b"was"), "some", times=50):
        assert state.files["old"] == (b"was" if "new" in state.files else b"x" * 512)


def test_truncations_come_in_order():
    script = Script()
    script.open("file", 1)
    for size in (700, 0, 300):
        script.whole(TRUNCATE, handle=1, length=size)
    log = script.log(file=b"y" * 1000)
    seen = {state.files["file"] for state in left(log, "some", times=60)}
    assert seen == {b"y" * 1000, b"y" * 700, b"", bytes(300)}


def test_what_was_not_recorded_is_noticed():
    real = power_disk.State({"state.db": b"1"}, b"i", (1, 1), None)
    power_workload.compare(real, real)
    for other in (power_disk.State({"state.db": b"2"}, b"i", (1, 1), None),
                  power_disk.State({}, b"i", (1, 1), None),
                  power_disk.State({"state.db": b"1"}, b"j", (1, 1), None),
                  power_disk.State({"state.db": b"1"}, b"i", (1, 1), b"mark")):
        with pytest.raises(power_log.Unmodelled):
            power_workload.compare(other, real)
    script = Script()
    script.add(power_log.UNKNOWN, BEGIN, 1, payload=b"mmap")
    with pytest.raises(power_log.Unmodelled):
        script.log()


def test_the_layout_is_the_recorder_s():
    assert power_log.HEADER.size == 64 == struct.calcsize("<IBBHIIIiqQQqq")
    assert os.access(SCRIPT, os.X_OK)
