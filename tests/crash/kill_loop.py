#!/usr/bin/python3
"""The kill -9 loop: a real nbdd under random load is killed at random moments, started again, and
held to what it had acknowledged and to the promise about dirty bits.

By hand: tests/crash/kill_loop.py [--rounds N] [--seed N] [--fault NAME]

Each round: several connections write, zero, trim, flush and read (every 16 bytes written carry the
number of the request and their offset), while bitmaps are added, cleared, enabled, disabled, merged
and removed, alone and in transactions, and exports and disks come and go. Then kill -9, or a clean
stop, or a kill in the middle of one or of the start. After it nbdd is started again, with another
engine and other bounds, and everything is compared with what kill_model.py knows. Ends with 0, or
with 1 when the promise was broken; what the state was just before is then kept."""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent),
                str(Path(__file__).resolve().parent.parent / "integration")]

import harness  # noqa: E402
import kill_load  # noqa: E402
import model  # noqa: E402
import nbdwire  # noqa: E402
import rpc  # noqa: E402
from kill_model import Disk, Violation, World, require  # noqa: E402

ROUNDS_OF_A_WORLD = 25
PATIENCE = 120  # with a start or a stop
SIZES = ((6 << 20, "writeback"), ((3 << 20) + 1234, "writeback"), (4 << 20, "direct"))
ENDINGS = ("kill",) * 14 + ("kill after a command",) * 5 + ("stop",) * 3 + ("stop, kill",) * 2


class Figures(dict):
    def add(self, name, number=1):
        self[name] = self.get(name, 0) + number

    def most(self, name, number):
        self[name] = max(self.get(name, 0), number)

    def __str__(self):
        return ", ".join(f"{name} {number}" for name, number in sorted(self.items()))


class Loop:
    def __init__(self, seed, folder, env=None):
        self.seed = seed
        self.folder = Path(folder)
        self.env = env or {}
        self.random = random.Random(seed)
        self.figures = Figures()
        self.round = 0
        self.world = self.daemon = None

    # --- the whole ---

    def run(self, rounds):
        try:
            for _ in range(rounds):
                if self.round % ROUNDS_OF_A_WORLD == 0:
                    self.begin_world()
                self.round += 1
                self.one_round()
            self.end_world()
        except Exception as error:
            self.leave()
            self.daemon.root.joinpath("journal").write_text("\n".join(self.world.journal))
            kind = Violation if isinstance(error, AssertionError) else type(error)
            raise kind(f"seed {self.seed}, round {self.round}: {error}; {self.ending}; "
                       f"{self.daemon.args}; {self.daemon.root}") from error
        return self.figures

    def begin_world(self):
        """New disks, a new state, and now and then another file system."""
        self.end_world()
        root = self.folder / f"world-{self.round // ROUNDS_OF_A_WORLD}"
        root.mkdir()
        self.world = World()
        self.ending = "first start"
        self.daemon = harness.Daemon(root=root, env=self.env)
        self.start()
        for number, (size, cache) in enumerate(SIZES):
            disk = Disk(f"d{number}", self.daemon.image(f"d{number}.img", size), size, cache)
            self.world.disks[disk.name] = disk
            self.control.plain("disk.add", name=disk.name, path=str(disk.path), cache=cache)
            self.control.plain("export.add", name=disk.name, disk=disk.name, sharing="shared")
            self.world.exports[disk.name] = {"disk": disk.name}

    def end_world(self):
        if self.daemon is not None:
            self.control.close()
            self.daemon.stop()
            shutil.rmtree(self.daemon.root)
            self.daemon = None

    def leave(self):
        """What was seen stays where it is."""
        if self.daemon is not None and self.daemon.process.poll() is None:
            self.daemon.process.kill()
            self.daemon.process.wait()

    # --- the process ---

    def start(self):
        rand = self.random
        self.bounds = (rand.choice((16, 16, 24, 64)), 65536 << rand.choice((0, 0, 0, 1, 2)))
        self.daemon.args = ["--io-engine", rand.choice(("auto", "threads")),
                            "--max-intents", self.bounds[0], "--region-size", self.bounds[1],
                            "--checkpoint-seconds", 1]
        self.daemon.spawn()
        if rand.random() < 0.15 and self.round:
            time.sleep(rand.random() * 0.04)
            self.figures.add("kills while starting")
            self.kill()
            self.daemon.spawn()
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.control = rpc.Rpc(str(self.daemon.socket))
                self.control.plain("daemon.info")
                self.wait_for_locks(end)
                return
            except (OSError, rpc.Disconnected):
                require(self.daemon.process.poll() is None,
                        f"nbdd ended at once: {self.daemon.log()}")
                require(time.monotonic() < end, f"nbdd does not answer: {self.daemon.log()}")
                time.sleep(0.002)

    def wait_for_locks(self, end):
        """One that was killed keeps its locks until its last writes have landed. nbdd waits a second for
        that, which is little for a disk that others use, too; then somebody has to ask again."""
        for disk in rpc.listing(self.control, "disk"):
            while disk["state"] == "opening" or "lock" in (disk["problem"] or ""):
                require(time.monotonic() < end, f"the disk stays away: {disk}")
                time.sleep(0.1)
                if disk["state"] != "opening":
                    self.figures.add("disks that were locked for more than a second")
                    self.control.exchange("disk.refresh", {"name": disk["name"]})
                disk = self.control.plain("disk.show", name=disk["name"])

    def kill(self):
        self.daemon.process.kill()
        self.daemon.process.wait()

    def end_process(self, load):
        rand = self.random
        if self.ending == "kill after a command":
            load.commanded.clear()
            load.commanded.wait(0.2)
            time.sleep(rand.random() * rand.choice((0.0005, 0.003)))
        load.ending = True
        if not self.ending.startswith("stop"):
            self.kill()
            return
        self.daemon.process.send_signal(signal.SIGTERM)
        if self.ending == "stop, kill":
            time.sleep(rand.random() * 0.03)
            self.kill()
        self.daemon.process.wait(PATIENCE)
        clean = self.daemon.process.returncode == 0
        require(clean or self.ending == "stop, kill", f"nbdd did not stop: {self.daemon.log()}")
        if clean:
            self.ending = "stop"

    def one_round(self):
        rand = self.random
        self.ending = rand.choice(ENDINGS)
        load = kill_load.Load(self.world, self.daemon, rand.randrange(1 << 32), self.figures)
        load.start()
        load.failed.wait(rand.choice((0.02, 0.1, 0.3)) * (0.2 + rand.random()))
        self.end_process(load)
        load.join()
        self.control.close()
        self.figures.add("clean stops" if self.ending == "stop" else "kills")
        self.keep_state()
        crashed, bounds = self.ending != "stop", self.bounds
        self.start()
        self.settle(crashed, bounds)

    def keep_state(self):
        kept = self.daemon.root / "state-before"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.daemon.state, kept,
                        ignore=lambda folder, names: [
                            name for name in names if not (Path(folder) / name).is_file()])

    # --- holding it to what it said ---

    def settle(self, crashed, bounds):
        shown = {
            "export": {one["name"]: one for one in rpc.listing(self.control, "export")},
            "disk": {one["name"]: one for one in rpc.listing(self.control, "disk")},
            "bitmap": {(one["disk"], one["name"]): one
                       for one in rpc.listing(self.control, "bitmap")},
        }
        world = self.world
        world.settle_command(shown)
        known = {(disk.name, name) for disk in world.disks.values() for name in disk.bitmaps}
        require(set(shown["bitmap"]) == known, f"bitmaps {set(shown['bitmap']) ^ known}")
        for disk in world.disks.values():
            self.figures.add("requests unanswered", sum(one.mutates for one in disk.flying))
            world.settle_data(disk, disk.path.read_bytes())
            for name, bitmap in sorted(disk.bitmaps.items()):
                self.settle_bitmap(disk, name, bitmap, shown["bitmap"][(disk.name, name)],
                                   crashed, bounds)
        require(set(shown["export"]) == set(world.exports),
                f"exports {sorted(shown['export'])}, should be {sorted(world.exports)}")
        require(set(shown["disk"]) == set(world.disks) | set(world.guests),
                f"disks {sorted(shown['disk'])}")
        for name, export in world.exports.items():
            require(shown["export"][name]["description"] == export.get("description"),
                    f"export {name} lost its description: {shown['export'][name]}")
        self.settle_offers(shown)

    def settle_bitmap(self, disk, name, bitmap, shown, crashed, bounds):
        where = f"bitmap {name} of {disk.name} ({bitmap.durability}, {bitmap.granularity})"
        self.figures.add("bitmaps checked")
        require(shown["generation"] == bitmap.generation, f"{where} has another generation")
        require(shown["durability"] == bitmap.durability, f"{where}: {shown}")
        if shown["state"] == "invalid":
            require(crashed and bitmap.durability == "none" and shown["reason"],
                    f"{where} is invalid: {shown['reason']}")
            self.figures.add("bitmaps invalid, as they said")
            self.control.plain("bitmap.remove", disk=disk.name, name=name)
            del disk.bitmaps[name]
            return
        require(shown["recording"] == bitmap.recording, f"{where}: recording, {shown}")
        if bitmap.missed is not None:
            require(shown["missed_writes"] == bitmap.missed, f"{where}: missed writes, {shown}")
        over = shown["over_reported_bytes"]
        state = "recovered" if over else "recording" if bitmap.recording else "disabled"
        require(shown["state"] == state, f"{where}: {shown}")
        dirty = bitmap.bits(self.reported(disk.name, name))
        lost = model.exceeds(bitmap.must, dirty)
        require(lost is None, f"{where}: block {lost} changed and is clean; {shown}")
        self.settle_excess(where, bitmap, shown, dirty, crashed, bounds)
        bitmap.must, bitmap.may = bytearray(dirty), bytearray(dirty)
        bitmap.missed = shown["missed_writes"]

    def settle_excess(self, where, bitmap, shown, dirty, crashed, bounds):
        """Over-reporting is bounded by the intents there may be, and it is said how much it is."""
        beyond = int.from_bytes(dirty, "little") & ~int.from_bytes(bitmap.may, "little")
        excess = bin(beyond).count("1") * bitmap.granularity
        over = shown["over_reported_bytes"]
        if crashed and bitmap.recording:
            intents, region = bounds
            bitmap.bound += (bitmap.size if bitmap.durability == "process" else
                             intents * max(region, bitmap.granularity))
        require(excess <= over + bitmap.granularity,
                f"{where}: {excess} bytes more than changed, it says {over}; first block "
                f"{model.exceeds(dirty, bitmap.may)}")
        require(over <= bitmap.bound, f"{where}: {over} over-reported, at most {bitmap.bound}")
        if not crashed:
            require(not excess, f"{where}: {excess} bytes more than changed, without a crash")
        if not bitmap.merged:
            bitmap.bound = over
        if crashed and bitmap.recording and bitmap.durability == "power":
            self.figures.add("bitmaps recovered", bool(excess))
            self.figures.add("bytes over-reported", excess)
            self.figures.most("most bytes over-reported at once", excess)

    def reported(self, disk, name):
        extents, offset = [], 0
        while offset is not None:
            page = self.control.plain("bitmap.extents", disk=disk, name=name, offset=offset,
                                      limit=65536)
            extents += [(extent["offset"], extent["length"]) for extent in page["extents"]]
            offset = page["next_offset"]
        return extents

    def settle_offers(self, shown):
        """Clients are offered the bitmaps there are, and read the same from them."""
        disk = self.world.disks[self.random.choice(sorted(self.world.disks))]
        names = [f"qemu:dirty-bitmap:{name}" for name in sorted(disk.bitmaps)]
        with nbdwire.open_wire(self.daemon.nbd, nbdwire.EXTENDED) as wire:
            offered = wire.list_meta(disk.name, ["qemu:dirty-bitmap:"])
            require(offered == names, f"offered {offered}, there are {names}")
            if not names:
                return
            wire.set_meta(disk.name, names)
            require(wire.go(disk.name).ok, f"export {disk.name} is refused")
            name = self.random.choice(sorted(disk.bitmaps))
            bitmap = disk.bitmaps[name]
            found = [(offset, length) for offset, length, flags
                     in wire.extents(f"qemu:dirty-bitmap:{name}") if flags]
            require(bitmap.bits(found) == bitmap.must, f"block status of {name} of {disk.name} "
                    "differs from its extents")
            wire.disconnect()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--fault", help="turn it on (a build with -DNBDD_FAULTS, see NBDD_BUILD)")
    parser.add_argument("--dir", help="folder for disks and state")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    folder = tempfile.mkdtemp(prefix="nbdd-kill-", dir=options.dir)
    env = {"NBDD_FAULT": options.fault} if options.fault else {}
    loop = Loop(options.seed, folder, env)
    begin = time.monotonic()
    threading.excepthook = lambda args: traceback.print_exception(*args[:3])
    try:
        for done in range(0, options.rounds, 100):
            loop.run(min(100, options.rounds - done))
            print(f"{loop.round} rounds, {time.monotonic() - begin:.0f} s: {loop.figures}",
                  flush=True)
    except Violation as violation:
        if options.verbose:
            traceback.print_exc()
        sys.exit(f"VIOLATION {violation}")
    shutil.rmtree(folder)
    print(f"held: {options.rounds} rounds, seed {options.seed}")


if __name__ == "__main__":
    main()
