#!/usr/bin/python3
"""Nth-call sweeps over a real nbdd: in each run of a scenario another call fails, once.

By hand: tests/crash/nth_sweep.py [--kind KIND]... [--phase PHASE]... [--every N] [--first N]

Kinds of calls are in KINDS (nth.c). Phases: "run" while clients write and bitmaps change, "start"
while nbdd comes back after a kill, "stop" while it ends. Each run must end without a crash; no
write that was answered is clean in a bitmap that is valid; what FLUSH and FUA answered for is
there; errors say what they are; and afterwards it serves as before. --every 1 (the default) is the
whole sweep. Ends with 1 when something was wrong."""

import argparse
import ctypes
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "integration")]

import harness  # noqa: E402
import nbdwire  # noqa: E402
import rpc  # noqa: E402
from nbdwire import CmdFlag  # noqa: E402

KINDS = ("sync", "write", "size", "open", "name", "read", "map", "thread", "own", "sqlite", "json")
PHASES = ("run", "start", "stop")
SIZE = 2 << 20
BLOCK = 4096
ENOSPC, EIO = 28, 5
PATIENCE = 120  # with what must come about in the end


class Wrong(AssertionError):
    pass


class _Kind(ctypes.Structure):
    _fields_ = [("calls", ctypes.c_int64), ("failing", ctypes.c_int64)]


class _Page(ctypes.Structure):
    _fields_ = [("kinds", _Kind * len(KINDS)), ("errnum", ctypes.c_int64),
                ("failed", ctypes.c_int64), ("where", ctypes.c_uint64)]


class Nth:
    """The other end of nth.c."""

    library = None

    def __init__(self, folder):
        path = Path(folder) / "nth"
        path.write_bytes(bytes(4096))
        with open(path, "r+b") as file:
            self.page = _Page.from_buffer(mmap.mmap(file.fileno(), 4096))
        self.env = {"LD_PRELOAD": str(self.build()), "NBDD_NTH_FILE": str(path)}
        self.disarm()

    @classmethod
    def build(cls):
        if cls.library is None:
            cls.library = Path(tempfile.mkdtemp(prefix="nbdd-nth-")) / "nth.so"
            subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-fno-builtin", "-o", cls.library,
                            HERE / "nth.c"], check=True)
        return cls.library

    def disarm(self):
        for kind in self.page.kinds:
            kind.failing = -1

    def arm(self, kind, number):
        self.page.errnum = (EIO, ENOSPC)[number % 2]
        self.page.failed = 0
        entry = self.page.kinds[KINDS.index(kind)]
        self.base = entry.calls
        entry.failing = entry.calls + number

    def count(self, kind):
        """Calls since it was armed."""
        return self.page.kinds[KINDS.index(kind)].calls - self.base


class Play:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.nth = Nth(folder)
        self.daemon = harness.Daemon(
            self.folder / "d", env=self.nth.env,
            args=["--io-engine", "threads", "--region-size", "65536", "--max-intents", 16,
                  "--checkpoint-seconds", 1, "--tracking-failure-seconds", 1])
        self.image = self.folder / "disk.img"
        self.image.write_bytes(b"\1" * SIZE)
        self.wire = None
        self.written = {}  # offset -> (when, what), answered
        self.durable = {}  # offset -> what: of those, what FLUSH or FUA answered for
        self.maybe = set()  # offsets of what was not answered
        self.time = 0
        self.since = {}  # bitmap -> (generation, when)
        self.until = {}  # bitmap -> when it was disabled

    # --- control ---

    def control(self, method, **params):
        """The result, or None when it failed, as it may for once; it says why."""
        for attempt in range(2):
            try:
                return self.daemon.rpc.plain(method, **params)
            except rpc.RpcError as error:
                if not error.message or error.kind == "internal":
                    raise Wrong(f"{method}: an error that says nothing: {error}") from error
                return None
            except (OSError, rpc.Disconnected):
                self.daemon.drop_rpc()
                if attempt:
                    raise
        return None

    def setup(self):
        self.daemon.start()
        self.daemon.rpc.plain("disk.add", name="d", path=str(self.image))
        self.daemon.rpc.plain("export.add", name="e", disk="d", sharing="shared", max_clients=8)
        for name in "ab":
            shown = self.daemon.rpc.plain("bitmap.add", disk="d", name=name, granularity=BLOCK)
            self.since[name] = (shown["generation"], 0)

    # --- data ---

    def request(self, work):
        """The reply, or None when the connection ended or did not come about, which is tried once
        more: somebody else's trouble is over by then."""
        for attempt in range(2):
            try:
                if self.wire is None:
                    self.wire = self.daemon.open("e")
                return work(self.wire)
            except (nbdwire.Closed, OSError, nbdwire.ProtocolError) as error:
                if isinstance(error, nbdwire.ProtocolError) and "GO answered" not in str(error):
                    self.alive()
                self.hang_up()
                if attempt:
                    raise Wrong(f"a connection failed twice: {error!r}") from error
        return None

    def hang_up(self):
        if self.wire:
            self.wire.close()
        self.wire = None

    def change(self, kind, offset, length=BLOCK, fua=False):
        self.time += 1
        flags = CmdFlag.FUA if fua else 0
        byte = self.time % 250 + 2 if kind == "write" else 0
        for at in range(offset, offset + length, BLOCK):
            self.maybe.add(at)
        if kind == "write":
            reply = self.request(lambda wire: wire.write(offset, bytes([byte]) * length, flags))
        elif kind == "zero":
            reply = self.request(lambda wire: wire.zero(offset, length, flags))
        else:
            reply = self.request(lambda wire: wire.trim(offset, length, flags))
        if reply.error:
            return False
        for at in range(offset, offset + length, BLOCK):
            self.written[at] = (self.time, byte)
            self.durable.pop(at, None)
            self.maybe.discard(at)
            if fua:
                self.durable[at] = byte
        return True

    def flush(self):
        reply = self.request(lambda wire: wire.flush())
        if not reply.error:
            self.durable = {at: byte for at, (_, byte) in self.written.items()
                            if at not in self.maybe}

    # --- the scenario ---

    def run(self):
        for index in range(6):
            self.change("write", index * 65536 + BLOCK)
        self.change("write", 10 * BLOCK, fua=True)
        self.flush()
        self.change("trim", 8 * 65536, 65536)
        self.change("zero", 9 * 65536, 65536)
        if shown := self.control("bitmap.clear", disk="d", name="a"):
            self.since["a"] = (shown["generation"], self.time)
        self.change("write", 65536 + BLOCK)
        if shown := self.control("bitmap.add", disk="d", name="c", granularity=512):
            self.since["c"] = (shown["generation"], self.time)
        for index in range(12, 28):
            self.change("write", index * 65536)
        self.control("bitmap.merge", disk="d", target="c", sources=["b"])
        before = self.time
        if self.control("bitmap.disable", disk="d", name="b"):
            self.until["b"] = before
        self.change("write", 29 * 65536)
        self.control("bitmap.list")
        self.control("bitmap.extents", disk="d", name="a")
        self.control("disk.refresh", name="d")
        self.request(lambda wire: wire.read(0, 3 * 65536))
        self.flush()

    def alive(self):
        if self.daemon.process.poll() is not None:
            raise Wrong(f"nbdd ended with {self.daemon.process.returncode}: {self.daemon.log()}")

    def serves(self):
        """What failed for once works now."""
        self.alive()
        self.hang_up()
        end = time.monotonic() + PATIENCE
        while not self.change("write", 31 * 65536):
            self.alive()
            if time.monotonic() > end:
                raise Wrong(f"writes go on failing: {self.daemon.log()}")
            time.sleep(0.1)
        if self.request(lambda wire: wire.read(31 * 65536, BLOCK)).error:
            raise Wrong("reads go on failing")
        if self.control("bitmap.list") is None or self.control("daemon.info") is None:
            raise Wrong("the control socket goes on failing")
        self.hang_up()

    # --- what must hold ---

    def check(self):
        shown = {one["name"]: one for one in self.daemon.rpc.plain("bitmap.list")["bitmaps"]}
        for name in "ab":
            if name not in shown:
                raise Wrong(f"bitmap {name} is gone")
        for name, bitmap in shown.items():
            if bitmap["state"] == "invalid":
                raise Wrong(f"bitmap {name} is invalid: {bitmap['reason']}")
            self.check_bitmap(name, bitmap)
        content = self.image.read_bytes()
        for at, byte in self.durable.items():
            if at not in self.maybe and content[at:at + BLOCK] != bytes([byte]) * BLOCK:
                raise Wrong(f"the block at {at} was durable and is not there")

    def check_bitmap(self, name, bitmap):
        generation, since = self.since.get(name, (None, self.time))
        if generation != bitmap["generation"]:
            since = self.time  # a change that failed has happened, or has been forgotten again
        dirty, offset = set(), 0
        while offset is not None:
            answer = self.daemon.rpc.plain("bitmap.extents", disk="d", name=name, offset=offset)
            for extent in answer["extents"]:
                start = extent["offset"] // BLOCK * BLOCK
                dirty.update(range(start, extent["offset"] + extent["length"], BLOCK))
            offset = answer["next_offset"]
        until = self.until.get(name, self.time) if not bitmap["recording"] else self.time
        for at, (when, _) in self.written.items():
            if since < when <= until and at not in dirty:
                raise Wrong(f"the block at {at} was changed and is clean in {name}")
        if not bitmap["recording"] and self.time > until and not bitmap["missed_writes"]:
            raise Wrong(f"bitmap {name} has missed writes and does not say so")


def play(phase, kind, number, folder):
    """(calls of that kind in the phase, whether one failed)."""
    one = Play(folder)
    try:
        one.setup()
        if phase != "run":
            one.run()
        if phase == "start":
            one.hang_up()
            one.daemon.kill()
        one.nth.arm(kind, number)
        if phase == "run":
            one.run()
        elif phase == "start":
            start(one)
        if phase == "stop":
            one.hang_up()
            stop(one)
        count, failed = one.nth.count(kind), one.nth.page.failed
        one.nth.disarm()
        if phase != "stop":
            one.serves()
            one.daemon.kill()
        one.daemon.start()
        wait_for_disk(one)
        one.check()
        one.serves()
        one.daemon.finish()
        return count, failed
    finally:
        one.hang_up()
        if one.daemon.process is not None and one.daemon.process.poll() is None:
            one.daemon.process.kill()
            one.daemon.process.wait()
        one.daemon.drop_rpc()


def start(one):
    """It may refuse to start, and says why; then it starts."""
    one.daemon.spawn()
    end = time.monotonic() + PATIENCE
    while True:
        status = one.daemon.process.poll()
        if status is not None:
            if status <= 0 or status > 125:
                raise Wrong(f"nbdd ended with {status}: {one.daemon.log()}")
            one.nth.disarm()
            one.daemon.start()
        try:
            one.daemon.rpc.plain("daemon.info")
            break
        except (OSError, rpc.Disconnected, rpc.RpcError):
            one.daemon.drop_rpc()
            if time.monotonic() > end:
                raise Wrong(f"nbdd does not come up: {one.daemon.log()}") from None
            time.sleep(0.02)
    wait_for_disk(one)


def wait_for_disk(one):
    """A disk that could not be opened is opened when somebody asks."""
    end = time.monotonic() + PATIENCE
    while True:
        shown = one.control("disk.show", name="d")
        listed = one.control("export.show", name="e")
        if shown and listed and shown.get("size") and not shown.get("missing"):
            return
        if time.monotonic() > end:
            raise Wrong(f"the disk stays away: {shown}: {one.daemon.log()}")
        one.control("disk.refresh", name="d")
        time.sleep(0.1)


def stop(one):
    """It may end with an error when its last word could not be stored."""
    one.daemon.drop_rpc()
    one.daemon.process.send_signal(signal.SIGTERM)
    try:
        status = one.daemon.process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        raise Wrong(f"nbdd does not stop: {one.daemon.log()}") from None
    if status < 0 or status > 125:
        raise Wrong(f"nbdd ended with {status}: {one.daemon.log()}")


def sweep(phase, kind, every=1, first=0, most=None, say=print):
    """Returns what was wrong."""
    wrong, number, played, count, failures = [], first, 0, 0, 0
    folder = Path(tempfile.mkdtemp(prefix="nbdd-nth-"))
    try:
        while most is None or played < most:
            inner = folder / "play"
            inner.mkdir()
            try:
                count, failed = play(phase, kind, number, inner)
            except (AssertionError, OSError, rpc.Disconnected, rpc.RpcError) as error:
                text = f"{phase} {kind} {number}: {type(error).__name__}: {str(error)[-1500:]}"
                wrong.append(text)
                say(text)
                failed = 1
            shutil.rmtree(inner, ignore_errors=True)
            played += 1
            failures += 1 if failed else 0
            if not failed:
                break
            number += every
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    say(f"{phase} {kind}: {failures} of {count} calls failed in turn, {len(wrong)} wrong")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kind", action="append", choices=KINDS)
    parser.add_argument("--phase", action="append", choices=PHASES)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--most", type=int)
    options = parser.parse_args()
    wrong = []
    for phase in options.phase or PHASES:
        for kind in options.kind or KINDS:
            wrong += sweep(phase, kind, options.every, options.first, options.most,
                           lambda text: print(text, flush=True))
    return 1 if wrong else 0


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    sys.exit(main())
