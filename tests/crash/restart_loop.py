#!/usr/bin/python3
"""Clean restarts without a false alarm: disks of all kinds on file systems of all kinds, written to
or left alone, and after every restart each bitmap records, has exactly the blocks that were
written, and the generation that it had. One disk is changed by others now and then, so that all its
bitmaps are invalid until they are cleared, and then good.

By hand: tests/crash/restart_loop.py [--restarts N] [--seed N]"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "integration")]

import harness  # noqa: E402
import rpc  # noqa: E402

SIZE = (3 << 20) + 512
BLOCK = 65536
PATIENCE = 120  # with a start or a stop


class Mounted:
    """A file system of its own in a file, which comes and goes."""

    def __init__(self, folder, kind):
        self.file, self.folder = folder / f"{kind}.fs", folder / kind
        self.folder.mkdir()
        with open(self.file, "wb") as file:
            file.truncate(320 << 20)
        harness.run(f"mkfs.{kind}", "-q", self.file)
        self.device = None
        self.attach(0)

    def attach(self, patience=30):
        self.device = harness.run("losetup", "--find", "--show", self.file).strip()
        # A mount namespace that was made meanwhile keeps the earlier mount for as long as it lives.
        if not harness.wait_for(self.mount, patience, 0.2):
            self.drop_device()
            raise OSError(f"cannot mount {self.file}")

    def mount(self):
        return harness.run("mount", self.device, self.folder, check=False)[0] == 0

    def drop_device(self):
        harness.run("losetup", "--detach", self.device)
        self.device = None

    def detach(self):
        if self.device:
            harness.run("umount", self.folder)
            self.drop_device()

    def again(self):
        """Mounted again, from another device than before: what it had is somebody else's now."""
        self.detach()
        taken = harness.run("losetup", "--find", "--show", self.file).strip()
        try:
            self.attach()
        finally:
            harness.run("losetup", "--detach", taken)


class Disk:
    def __init__(self, name, path, **options):
        self.name, self.path, self.options = name, path, options
        self.blocks = {}  # bitmap -> the blocks that are dirty
        self.invalid = set()  # of bitmaps
        self.generations = {}
        with open(path, "wb") as file:
            file.truncate(SIZE)

    @property
    def read_only(self):
        return self.options.get("read_only", False)


class Loop:
    def __init__(self, seed, folder):
        self.random = random.Random(seed)
        self.folder = Path(folder)
        self.folder.mkdir(exist_ok=True)
        self.mounts, self.lacking = [], []
        self.daemon = harness.Daemon(root=self.folder / "nbdd")
        self.writes = self.remounts = 0
        self.disks = {}

    def run(self, restarts):
        memory = None
        try:
            if os.access("/dev/shm", os.W_OK):
                memory = Path(tempfile.mkdtemp(prefix="nbdd-restarts-", dir="/dev/shm"))
            self.create(memory)
            for number in range(1, restarts + 1):
                self.one(number)
        finally:
            try:
                self.daemon.finish()
            finally:
                for mount in self.mounts:
                    mount.detach()
                if memory:
                    shutil.rmtree(memory)
        return (f"{restarts} clean restarts of {len(self.disks)} disks ({', '.join(self.disks)}), "
                f"{self.writes} writes, {self.remounts} remounts: no false alarm")

    def create(self, memory):
        """One disk of each kind there can be here."""
        self.add("plain", self.folder)
        self.add("direct", self.folder, cache="direct")
        self.add("read-only", self.folder, read_only=True)
        self.add("idle", self.folder)
        self.add("alarmed", self.folder)
        if memory:
            self.add("tmpfs", memory)
        for kind in ("ext4", "xfs"):
            try:
                self.mounts.append(Mounted(self.folder, kind))
            except (AssertionError, OSError, subprocess.SubprocessError) as error:
                self.lacking.append(f"{kind}: {str(error)[:100]}")
                continue
            self.add(kind, self.mounts[-1].folder)
            self.add(f"{kind}-direct", self.mounts[-1].folder, cache="direct")
        self.start()
        for disk in self.disks.values():
            self.rpc.plain("disk.add", name=disk.name, path=str(disk.path), **disk.options)
            self.rpc.plain("export.add", name=disk.name, disk=disk.name)
            for durability in ("power", "process", "none"):
                made = self.rpc.plain("bitmap.add", disk=disk.name, name=durability,
                                      granularity=BLOCK, durability=durability)
                disk.blocks[durability] = set()
                disk.generations[durability] = made["generation"]

    def add(self, name, folder, **options):
        self.disks[name] = Disk(name, folder / f"{name}.img", **options)

    def start(self):
        self.daemon.args = ["--io-engine", self.random.choice(("auto", "threads"))]
        self.daemon.spawn()
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.rpc = rpc.Rpc(str(self.daemon.socket))
                self.rpc.plain("daemon.info")
                return
            except (OSError, rpc.Disconnected):
                assert self.daemon.process.poll() is None, self.daemon.log()
                assert time.monotonic() < end, self.daemon.log()
                time.sleep(0.002)

    def one(self, number):
        rand = self.random
        alarmed = self.disks["alarmed"]
        if number % 3:
            others = sorted(set(self.disks) - {"alarmed"})
            for name in rand.sample(others, rand.randint(0, 3)):
                self.use(self.disks[name])
            self.use(alarmed)
        self.rpc.close()
        self.daemon.process.send_signal(rand.choice((signal.SIGTERM, signal.SIGINT)))
        assert self.daemon.process.wait(PATIENCE) == 0, self.daemon.log()
        if self.mounts and rand.random() < 0.1:
            rand.choice(self.mounts).again()
            self.remounts += 1
        if number % 6 == 0:
            os.utime(alarmed.path, ns=(number, number))
            alarmed.invalid = set(alarmed.blocks)
        self.start()
        self.check(number)

    def clear(self, disk, name):
        shown = self.rpc.plain("bitmap.clear", disk=disk.name, name=name)
        disk.blocks[name], disk.generations[name] = set(), shown["generation"]
        disk.invalid.discard(name)

    def use(self, disk):
        rand = self.random
        if disk.read_only or disk.name == "idle":
            with self.daemon.open(disk.name) as wire:
                assert wire.read(0, 4096).error == 0
            return
        if rand.random() < 0.1:
            self.clear(disk, rand.choice(sorted(disk.blocks)))
        with self.daemon.open(disk.name) as wire:
            for _ in range(rand.randint(1, 4)):
                offset = rand.randrange(SIZE // 512) * 512
                length = min(rand.choice((512, 4096, 70000)), SIZE - offset)
                kind = rand.randrange(4)
                if kind == 0:
                    reply = wire.zero(offset, length)
                elif kind == 1:
                    reply = wire.write(offset, rand.randbytes(length), 1)  # FUA
                else:
                    reply = wire.write(offset, rand.randbytes(length))
                assert reply.error == 0
                self.writes += 1
                for blocks in disk.blocks.values():
                    blocks.update(range(offset // BLOCK, -(-(offset + length) // BLOCK)))
            if rand.random() < 0.5:
                assert wire.flush().error == 0
        if disk.invalid and rand.random() < 0.5:
            self.clear(disk, rand.choice(sorted(disk.invalid)))

    def check(self, number):
        shown = rpc.listing(self.rpc, "bitmap")
        assert len(shown) == 3 * len(self.disks)
        for one in shown:
            disk = self.disks[one["disk"]]
            dirty = sum(min(BLOCK, SIZE - block * BLOCK) for block in disk.blocks[one["name"]])
            assert one["generation"] == disk.generations[one["name"]], f"restart {number}: {one}"
            if one["name"] in disk.invalid:
                assert one["state"] == "invalid", f"restart {number}: {one}"
                continue
            assert one["state"] == "recording", f"restart {number}: {one}"
            assert one["dirty_bytes"] == dirty, f"restart {number}: {one}, should be {dirty}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--restarts", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="nbdd-restarts-"))
    begin = time.monotonic()
    loop = Loop(options.seed, folder)
    print(loop.run(options.restarts))
    print(f"{time.monotonic() - begin:.0f} s; not here: {'; '.join(loop.lacking) or 'nothing'}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
