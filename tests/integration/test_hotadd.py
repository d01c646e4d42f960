"""Exports come and go while clients of others work: nobody notices, and nothing is left behind."""

import itertools
import json
import signal
import subprocess
import time

import pytest

from harness import FLAVOUR, SLOW, wait_for

EXPORTS = 500 if FLAVOUR == "plain" else 100
SIZE = 1 << 20


class Fio:
    """Random reads and writes on an export until it is told to stop."""

    def __init__(self, daemon, export, size):
        self.output = daemon.root / "fio.json"
        self.process = subprocess.Popen(
            ["fio", "--name=busy", "--ioengine=nbd", f"--uri={daemon.uri(export)}", "--rw=randrw",
             "--bs=4k", "--iodepth=16", f"--size={size}", "--time_based", "--runtime=600",
             "--rate_iops=2000", "--output-format=json", f"--output={self.output}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, cwd=daemon.root)

    def stop(self):
        """What fio reports of its job; it must not have ended before."""
        assert self.process.poll() is None, f"fio ended early: {self.output.read_text()}"
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60 * SLOW)
        text = self.output.read_text()
        return json.loads(text[text.index("\n{"):])["jobs"][0]


def wave(daemon, images, first):
    """Adds an export for each image, uses every tenth, shows all, removes all."""
    names = [f"hot-{first + index}" for index in range(len(images))]
    for index, (name, image) in enumerate(zip(names, images)):
        # The disk goes with the export that brought it.
        daemon.rpc.plain("export.add", name=name, path=str(image))
        if index % 10 == 0:
            with daemon.open(name) as wire:
                assert wire.write(index, b"hot").error == 0
                assert wire.read(index, 3).data == b"hot"
    shown = {export["name"] for export in daemon.rpc.plain("export.list")["exports"]}
    assert set(names) <= shown
    with daemon.wire() as wire:
        assert set(names) <= set(wire.list_exports())
    assert wait_for(lambda: len(daemon.clients_of()) <= 1)
    for name in names:
        daemon.rpc.plain("export.remove", name=name)
    assert not [e for e in daemon.rpc.plain("export.list")["exports"] if e["name"] in set(names)]


def test_a_removed_file_is_free_at_once(daemon):
    """Also while the connection of its last client lingers, so that the client reads its answers."""
    image = daemon.image("a.img", SIZE)
    daemon.rpc.plain("export.add", name="a", path=str(image))
    with daemon.open("a") as wire:
        wire.disconnect()
        daemon.no_clients()
        daemon.rpc.plain("export.remove", name="a")
        assert not [name for name in daemon.fd_names() if name == str(image)]
        daemon.rpc.plain("export.add", name="again", path=str(image))


def taken(daemon):
    return daemon.fd_count(), daemon.proc_status("Threads")


def settled(daemon, seconds=7):
    """(file descriptors, threads) once they have stayed the same for so long: threads of the I/O
    engine, but for one, end some seconds after they were last wanted."""
    last, since = None, time.monotonic()
    while True:
        now = taken(daemon)
        if now != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > seconds:
            return now
        time.sleep(0.1)


def given_back(daemon, before):
    """Whether there are no more descriptors and threads than before, once all that ends has ended."""
    return wait_for(lambda: all(now <= was for now, was in zip(taken(daemon), before)))


def memory(daemon):
    """KiB"""
    return daemon.proc_status("RssAnon")


def stops_growing(daemon, work, turns=8):
    """What leaks grows with every turn; malloc's arenas fill once, whenever they happen to."""
    for _ in range(turns):
        before = memory(daemon)
        work()
        print(f"KiB before and after: {before}, {memory(daemon)}")
        if FLAVOUR != "plain" or memory(daemon) <= before + 256:  # a sanitizer keeps freed memory
            return True
    return False


def has_worked(daemon):
    (client,) = daemon.clients_of("busy")
    counters = client["counters"]
    return all(counters[kind]["requests"] > 1000 for kind in ("read", "write"))


def wave_under_fio(daemon, images, first):
    """fio's report of its job on another export meanwhile."""
    fio = Fio(daemon, "busy", 64 << 20)
    try:
        assert wait_for(lambda: daemon.clients_of("busy"))
        wave(daemon, images, first)
        assert [client["export"] for client in daemon.clients_of()] == ["busy"]
        # However little it had of the processors meanwhile, it goes on.
        assert wait_for(lambda: has_worked(daemon)), daemon.clients_of("busy")
        return fio.stop()
    finally:
        fio.process.kill()
        fio.process.wait()
        daemon.no_clients()


@pytest.mark.long
@pytest.mark.threads
def test_500_exports_come_and_go_under_fio(daemon):
    daemon.serve("busy", 64 << 20)
    daemon.call("bitmap.add", disk="busy", name="b0")
    images = [daemon.image(f"hot{index}.img", SIZE) for index in range(EXPORTS)]
    wave(daemon, images, 0)  # fills caches, pools and the ring of kept events
    wave_under_fio(daemon, images, EXPORTS)
    before = settled(daemon)
    turns = itertools.count(2)

    def one_more():
        report = wave_under_fio(daemon, images, next(turns) * EXPORTS)
        assert report["error"] == 0, report
        assert report["read"]["total_ios"] > 1000 and report["write"]["total_ios"] > 1000
        assert given_back(daemon, before), f"left behind: {before} before, now {taken(daemon)}"

    assert stops_growing(daemon, one_more), "memory is left behind"


@pytest.mark.threads
def test_clients_come_and_go_without_trace(daemon):
    """Every way a connection ends gives back what it took."""
    daemon.serve("disk", SIZE, sharing="shared")
    rounds = 60 if FLAVOUR == "plain" else 20

    def some():
        for index in range(rounds):
            wire = daemon.open("disk", infos=(3,))
            assert wire.read(0, 65536).error == 0
            if index % 3 == 0:
                wire.disconnect()
            elif index % 3 == 1:  # in the middle of a request
                wire.send(wire.prepare(1, 0, 65536, payload=bytes(65536))[1][:1000])
            wire.close()
            half = daemon.wire()  # in the middle of the handshake
            half.send(b"IHAVE")
            half.close()
        daemon.no_clients()

    some()
    before = settled(daemon)

    def more():
        some()
        some()
        assert given_back(daemon, before), f"left behind: {before} before, now {taken(daemon)}"

    assert stops_growing(daemon, more), "memory is left behind"


def test_a_leak_would_be_noticed(daemon):
    """A connection that stays is seen, as a descriptor and as a thread."""
    daemon.serve("disk", SIZE)
    before = settled(daemon)
    with daemon.open("disk"):
        during = settled(daemon)
    assert during[0] > before[0] and during[1] > before[1], (before, during)
    assert given_back(daemon, before)
