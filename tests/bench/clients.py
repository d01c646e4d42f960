"""The clients: nbdcopy, fio, nbdinfo, and our own load generator. Each run is one sample:

    value       in the unit of the work: seconds, thousands of requests a second, GB/s, microseconds
    seconds     wall time
    requests, bytes
    server_cpu  processor seconds of the server alone, all its threads
    client_cpu  the same of the client
    busy        how busy the busiest thread of the client was (1.0: it is the limit), where known"""

import json
import sys
import time
from pathlib import Path

from process import BenchError, run
from servers import EXPORT

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "integration"))
import nbdwire  # noqa: E402

GIB = 1 << 30
IDLE_SECONDS = 3


class Timed:
    """Takes a server's processor time around a run of a client."""

    def __init__(self, server):
        self.process = server.process
        self.before = self.process.cpu()

    def sample(self, value, seconds, requests, nbytes, client_cpu, busy=None, **extra):
        if self.process.child.poll() is not None:
            raise BenchError(f"the server ended: {self.process.tail()}")
        return {"value": value, "seconds": seconds, "requests": requests, "bytes": nbytes,
                "server_cpu": self.process.cpu() - self.before, "client_cpu": client_cpu,
                "busy": busy, **extra}


def copy(server, size, write=None, connections=1):
    """nbdcopy of everything to nowhere, or of a file to the server."""
    timed = Timed(server)
    words = ["nbdcopy", f"--connections={connections}", "--requests=64"]
    words += [write, server.uri()] if write else [server.uri(), "null:"]
    _, wall, used = run(words, env=server.home())
    # What it reads at once unless told: 256 KiB.
    return timed.sample(wall, wall, size // (256 << 10), size, used)


def fio(server, *, rw, bs, depth, clients=1, seconds=1.0, size=GIB, flush=0, rate=0):
    """fio's nbd engine; the value is thousands of requests a second. One connection for each job."""
    timed = Timed(server)
    target = ["--ioengine=nbd", f"--uri={server.uri()}"]
    data, used = fio_json(target, rw=rw, bs=bs, depth=depth, clients=clients, seconds=seconds,
                          size=size, flush=flush, rate=rate, env=server.home())
    return timed.sample(**summary(data, used))


def fio_file(path, *, rw, bs, depth, seconds, size):
    """fio straight on a file, past the page cache: what is there to be had without a server."""
    target = ["--ioengine=io_uring", f"--filename={path}", "--direct=1"]
    data, used = fio_json(target, rw=rw, bs=bs, depth=depth, clients=1, seconds=seconds, size=size)
    found = summary(data, used)
    return {**found, "bytes": found.pop("nbytes"), "server_cpu": 0.0}


def fio_json(target, *, rw, bs, depth, clients, seconds, size, flush=0, rate=0, env=None):
    words = ["fio", "--name=w", *target, f"--rw={rw}", f"--bs={bs}", f"--iodepth={depth}",
             f"--numjobs={clients}", f"--size={size}", f"--runtime={seconds * 1000:.0f}ms", "--time_based",
             "--group_reporting", "--norandommap", "--randrepeat=0", "--eta=never",
             "--output-format=json"]
    words += [f"--fsync={flush}"] if flush else []
    words += ([f"--rate_iops={rate}", "--rate_process=poisson"] if rate else ["--gtod_reduce=1"])
    text, _, used = run(words, seconds + 60, env)
    # What it has to say comes in front of the JSON.
    return json.loads(text[text.index("{"):])["jobs"][0], used


def summary(job, used):
    sides = [job["read"], job["write"]]
    requests = sum(side["total_ios"] for side in sides)
    nbytes = sum(side["io_bytes"] for side in sides)
    seconds = max(side["runtime"] for side in sides) / 1000
    if not requests or job.get("error"):
        raise BenchError(f"fio did nothing (error {job.get('error')})")
    found = {"value": requests / seconds / 1000, "seconds": seconds, "requests": requests,
             "nbytes": nbytes, "client_cpu": used, "busy": (job["usr_cpu"] + job["sys_cpu"]) / 100}
    for side in sides:
        levels = side.get("clat_ns", {}).get("percentile", {})
        if levels:
            found["p50_us"] = levels["50.000000"] / 1000
            found["p99_us"] = levels["99.000000"] / 1000
            found["p999_us"] = levels["99.900000"] / 1000
    return found


def load(server, program, *, op, seconds=0.0, **options):
    """Our own generator; the value is thousands of requests a second (of extents for status)."""
    timed = Timed(server)
    words = [program, "--address", server.address, "--export", EXPORT, "--op", op]
    words += ["--seconds", seconds] if seconds else []
    for key, value in options.items():
        words += [f"--{key}", value]
    text, _, _ = run(words)
    data = json.loads(text)
    status = op.startswith("status")
    done = data["extents"] if status else data["requests"]
    block = int(options.get("block", 4096))
    extra = {key: data[key] for key in ("p50_us", "p99_us", "p999_us", "extents", "dirty")}
    if "interval" in options:
        extra["intervals"] = data["intervals"]
    return timed.sample(done / data["seconds"] / 1000, data["seconds"], data["requests"],
                        0 if status else data["requests"] * block, data["cpu_seconds"],
                        data["busy"], **extra)


def info_map(server, context):
    """nbdinfo --map, as anybody would run it: seconds."""
    timed = Timed(server)
    _, wall, used = run(["nbdinfo", f"--map={context}", "--totals", server.uri()],
                        env=server.home())
    return timed.sample(wall, wall, 1, 0, used)


def idle(server, count):
    """Connections that have read once and then say nothing: KiB of the server's memory for each. A
    server that gets slow under them (nbdkit has 16 threads for each) need not take all of them."""
    timed = Timed(server)
    before = server.process.memory()
    start = time.monotonic()
    open_ones = []
    try:
        for _ in range(count):
            wire = nbdwire.open_export(server.address, EXPORT, timeout=60)
            open_ones.append(wire)
            wire.read(0, 4096)
            if time.monotonic() - start > IDLE_SECONDS:
                break
        seconds = time.monotonic() - start
        each = (server.process.memory() - before) / len(open_ones)
    finally:
        for wire in open_ones:
            wire.close()
    return timed.sample(each / 1024, seconds, len(open_ones), len(open_ones) * 4096, None)
