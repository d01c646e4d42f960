"""What dirty tracking costs a writer: nbdd alone, without bitmaps, with bitmaps that know the blocks
(warm), and with bitmaps to which every block is new (cold), in turn. Our own generator writes, so
that the server is the limit. Counts fsyncs by a preloaded library."""

import mmap
import os
import statistics
import time

import clients
import report
import rounds
import servers

MIB, GIB = 1 << 20, 1 << 30
REGION = 4 * MIB  # nbdd's default for what one intent covers
WINDOW = 0.05  # seconds
SPAN = 10  # windows
WARM = 0.95  # of the rate without tracking


class Counted(servers.Nbdd):
    """nbdd with its fsyncs counted."""

    def __init__(self, program, name, folder, library):
        super().__init__(program, name, folder)
        self.library = library

    def launch(self):
        path = self.folder / "syncs"
        path.write_bytes(bytes(4096))
        with open(path, "r+b") as file:
            self.page = mmap.mmap(file.fileno(), 4096)
        self.env = {"LD_PRELOAD": str(self.library), "NBDD_COUNT_FILE": str(path)}
        super().launch()

    def syncs(self):
        return int.from_bytes(self.page[:8], "little")


class Tracking:
    def __init__(self, program, counter, load, images, count, seconds):
        self.load = load
        self.images = images
        self.rounds = count
        self.seconds = seconds
        self.make = lambda name: Counted(program, name, images.disk / name, counter)

    def write(self, server, **options):
        before = server.syncs()
        sample = clients.load(server, self.load, op="write", **options)
        sample["syncs"] = server.syncs() - before
        return sample

    def sync_rate(self, seconds=0.3):
        """How many fdatasyncs a second the disk with the state does, each after a write of 4 KiB."""
        path = self.images.disk / "probe"
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.pwrite(file, bytes(4 * MIB), 0)
            os.fsync(file)
            start, count = time.monotonic(), 0
            while time.monotonic() - start < seconds:
                os.pwrite(file, bytes(4096), count % 1024 * 4096)
                os.fdatasync(file)
                count += 1
            return count / (time.monotonic() - start)
        finally:
            os.close(file)
            path.unlink()

    def started(self, name, image, bitmaps, args=()):
        server = self.make(name)
        server.args = args
        return server.start(servers.Setup(image=image, bitmaps=bitmaps), "")

    # --- warm ---

    def warm(self):
        """{variant: samples}: every block that is written is known to be dirty already."""
        size = self.images.size(GIB)
        running, found = {}, {}
        try:
            for name, bitmaps in (("off", 0), ("warm", 1), ("warm, 4 bitmaps", 4)):
                image = self.images.filled("memory", f"warm-{bitmaps}.img", size)
                running[name] = server = self.started(f"warm-{bitmaps}", image, bitmaps)
                found[name] = []
                self.write(server, pattern="sequential", block=MIB, depth=4, count=size // MIB)
            self.settle(running.values())
            for number in range(self.rounds):
                names = list(running)
                turn = number % len(names)
                for name in names[turn:] + names[:turn]:
                    found[name].append(self.write(running[name], seconds=self.seconds))
        finally:
            for server in running.values():
                server.stop()
        return found

    def settle(self, running):
        """Waits until the regions that have gone quiet are stored: until then a region's intent, and
        not its bits, is what a write is let through by."""
        if not self.images.quick:
            time.sleep(10)
        for server in running:
            self.write(server, seconds=0.2)

    # --- cold ---

    def cold(self, depth):
        """First touches on a disk of 1 TiB, with and without a bitmap; the fsync rate beside it."""
        touches = 512 if self.images.quick else 8192 if depth > 1 else 1024
        most = (1 << 40) // REGION // touches
        found = {"off": [], "cold": [], "sync_rate": []}
        running = {}
        try:
            for name, bitmaps in (("off", 0), ("cold", 1)):
                image = self.images.sparse("memory", f"{name}-{depth}.img")
                running[name] = self.started(f"{name}-{depth}", image, bitmaps)
            for number in range(min(self.rounds, most)):
                found["sync_rate"].append(self.sync_rate())
                for name in ("off", "cold") if number % 2 else ("cold", "off"):
                    found[name].append(self.write(
                        running[name], pattern="touch", stride=REGION, depth=depth, count=touches,
                        first=number * touches))
        finally:
            self.stop(running, [f"{name}-{depth}.img" for name in running])
        return found

    # --- from cold to warm ---

    def warming(self):
        """Random writes on a new disk of 100 GiB, in windows: without a bitmap, with one, and with one
        where every region of the disk may have an intent at once."""
        seconds = 0.5 if self.images.quick else 6.0
        found, running = {}, {}
        variants = (("off", 0, ()), ("on", 1, ()), ("all", 1, ("--max-intents", "32768")))
        try:
            for name, bitmaps, args in variants:
                image = self.images.sparse("memory", f"warming-{name}.img", 100 * GIB)
                running[name] = server = self.started(f"warming-{name}", image, bitmaps, args)
                found[name] = self.write(server, seconds=seconds, interval=int(WINDOW * 1e9))
                self.stop({name: running.pop(name)}, [f"warming-{name}.img"])
        finally:
            self.stop(running, [])
        return found

    def stop(self, running, files):
        for server in running.values():
            server.stop()
        for name in files:
            (self.images.memory / name).unlink(missing_ok=True)


def time_to_warm(found, name):
    """Seconds until half a second on end is as good as the same one without tracking; None: never."""
    off, on = found["off"]["intervals"], found[name]["intervals"]
    for number in range(min(len(off), len(on)) - SPAN):
        before, after = (sum(windows[number:number + SPAN]) for windows in (off, on))
        if before and after >= WARM * before:
            return number * WINDOW
    return None


def middle(samples, key="value"):
    return statistics.median(sample[key] for sample in samples)


def warm_rows(found):
    yield ["4 KiB random writes, depth 32", "k/s", "to off", "server us/request", "fsyncs", "client"]
    off = middle(found["off"])
    for name, samples in found.items():
        cpu = report.per({"samples": samples}, "request")
        busy = middle(samples, "busy")
        yield [name, f"{middle(samples):.1f}", f"{middle(samples) / off:.3f}", f"{cpu:.2f}",
               str(sum(sample["syncs"] for sample in samples)), f"{busy * 100:.0f} %"]


def cold_rows(found, depth):
    rate = statistics.median(found["sync_rate"])
    cold = found["cold"]
    touches, syncs = (sum(sample[key] for sample in cold) for key in ("requests", "syncs"))
    yield [f"first touches, depth {depth}", "figure"]
    yield ["without a bitmap, k/s", f"{middle(found['off']):.1f}"]
    yield ["with a bitmap, k/s", f"{middle(cold):.2f}"]
    yield ["first touches", str(touches)]
    yield ["fsyncs", str(syncs)]
    yield ["first touches for each fsync", f"{touches / max(syncs, 1):.1f}"]
    yield ["fsyncs alone, 1/s", f"{rate:.0f}"]
    yield [f"what these would allow, {depth} touches each, k/s", f"{rate * depth / 1000:.1f}"]
    yield ["p50 and p99 of a first touch, us",
           f"{middle(cold, 'p50_us'):.0f}, {middle(cold, 'p99_us'):.0f}"]


def warming_rows(found):
    names = ("off", "on", "all")
    yield ["k/s of random writes on a new disk of 100 GiB, depth 32", "off", "on",
           "on, --max-intents 32768"]
    for number in (0, 4, 9, 19, 39, 79, 109):
        cells = [found[name]["intervals"][number:number + SPAN] for name in names]
        if all(cells):
            yield [f"from {number * WINDOW:.2f} s",
                   *[f"{sum(cell) / len(cell) / WINDOW / 1000:.1f}" for cell in cells]]
    yield ["fsyncs", *[str(found[name]["syncs"]) for name in names]]
    after = [time_to_warm(found, name) for name in names[1:]]
    yield [f"seconds until {WARM:.0%} of off", "",
           *["not yet" if one is None else f"{one:.2f}" for one in after]]


def measure(bench):
    rounds.say("warm")
    found = {"warm": bench.warm()}
    for depth in (32, 1):
        rounds.say(f"cold, depth {depth}")
        found[f"cold-{depth}"] = bench.cold(depth)
    rounds.say("from cold to warm")
    found["warming"] = bench.warming()
    return found


def tables(found):
    return [list(warm_rows(found["warm"])), list(cold_rows(found["cold-32"], 32)),
            list(cold_rows(found["cold-1"], 1)), list(warming_rows(found["warming"]))]
