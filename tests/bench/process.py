"""A server's process: started, waited for, measured from outside, stopped."""

import os
import signal
import subprocess
import time
from pathlib import Path


class BenchError(Exception):
    """What kept a measurement from being taken."""


class Process:
    """One server. cpu() counts every thread that it has or ever had, to the nanosecond."""

    def __init__(self, words, log, env=None):
        self.log = Path(log)
        with open(self.log, "ab") as file:
            self.child = subprocess.Popen(
                [str(word) for word in words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
            )
        self.pid = self.child.pid

    def tail(self):
        return self.log.read_text(errors="replace")[-500:].strip()

    def wait_for(self, ready, seconds=60.0):
        end = time.monotonic() + seconds
        while not ready():
            if self.child.poll() is not None:
                raise BenchError(f"ended with {self.child.returncode}: {self.tail()}")
            if time.monotonic() > end:
                raise BenchError(f"does not come up: {self.tail()}")
            time.sleep(0.005)

    def cpu(self):
        """Processor seconds so far. The clock of a process is known by its pid (clock_getcpuclockid)."""
        return time.clock_gettime((~self.pid << 3) | 2)

    def memory(self):
        """Resident bytes; a page that several processes share counts in part."""
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
        raise BenchError("no memory figure")

    def stop(self):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(20)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()


def run(words, seconds=120.0, env=None):
    """Runs a client to its end: (what it printed, wall seconds, its processor seconds)."""
    before = os.times()
    start = time.monotonic()
    try:
        done = subprocess.run(
            [str(word) for word in words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{Path(words[0]).name} did not end in {seconds:.0f} s") from None
    wall = time.monotonic() - start
    after = os.times()
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip() or done.stdout.decode(errors="replace")
        raise BenchError(f"{Path(words[0]).name} ended with {done.returncode}: {said[-300:]}")
    used = after.children_user + after.children_system
    used -= before.children_user + before.children_system
    return done.stdout.decode(errors="replace"), wall, used
