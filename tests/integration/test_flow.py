"""Some clients want more than their share, or have a disk that hangs; the others go on."""

import contextlib
import os
import threading
import time

import pytest

import harness
from nbdproto import Cmd, CmdFlag

MB = 1 << 20
PATIENCE = 25 * harness.SLOW  # who is starved waits as long as the others want


class Greedy(threading.Thread):
    """Reads of 16 MiB, more of them than a client may have in flight, all the time; their answers
    are read, or (deaf) they are not."""

    def __init__(self, daemon, deaf):
        super().__init__(daemon=True)
        self.wire = daemon.open("disk", timeout=60)
        self.deaf = deaf
        self.done = 0
        self.stopped = False

    def run(self):
        cookies = [self.ask() for _ in range(20 if self.deaf else 8)]
        while not self.stopped:
            if self.deaf:
                time.sleep(0.01)
                continue
            assert self.wire.wait(cookies.pop(0)).error == 0
            self.done += 1
            cookies.append(self.ask())

    def ask(self):
        return self.wire.submit(Cmd.READ, 0, 16 * MB)

    def stop(self):
        self.stopped = True
        self.join()
        self.wire.sock.close()


@pytest.mark.threads
@pytest.mark.parametrize("deaf", [False, True], ids=["reads", "deaf"])
@pytest.mark.parametrize("cache", ["writeback", "direct"])
def test_a_small_client_beside_greedy_ones(make_daemon, cache, deaf):
    """Every request of a client that asks for little is answered soon, whatever others hold."""
    daemon = make_daemon("--total-bytes", 96 * MB, "--io-engine", "threads")
    daemon.serve("disk", 16 * MB, {0: b"g" * (16 * MB)}, cache=cache, sharing="shared")
    greedy = [Greedy(daemon, deaf) for _ in range(4)]
    for one in greedy:
        one.start()
    try:
        with daemon.open("disk") as wire:
            before, slowest = sum(one.done for one in greedy), 0.0
            for index in range(30):
                begin = time.monotonic()
                if index % 2:
                    assert wire.write(index * 4096, b"g" * 4096).error == 0
                else:
                    assert wire.read(index * 4096, 64 << 10).data == b"g" * (64 << 10)
                slowest = max(slowest, time.monotonic() - begin)
                time.sleep(0.02)
            print(f"slowest {slowest:.3f} s; the others had {sum(one.done for one in greedy) - before}")
            assert slowest < PATIENCE
            assert deaf or harness.wait_for(lambda: sum(one.done for one in greedy) > before)
        # What they hold stays within the bound; the image and the daemon itself come on top.
        assert harness.FLAVOUR != "plain" or daemon.proc_status("VmRSS") < (96 + 64) * 1024
    finally:
        for one in greedy:
            one.stop()
    daemon.no_clients()


# What 200 requests for a disk that hangs wait in.
HANGING = {
    "flush": ("writeback", harness.Faults.SYNC, lambda wire, _: wire.submit(Cmd.FLUSH)),
    "fua": ("writeback", harness.Faults.SYNC, lambda wire, index: wire.submit(
        Cmd.WRITE, index * 4096, 4096, CmdFlag.FUA, payload=b"h" * 4096)),
    "trim": ("writeback", harness.Faults.SYNC, lambda wire, index: wire.submit(
        Cmd.TRIM, index * 4096, 4096, CmdFlag.FUA)),
    "read": ("direct", harness.Faults.READ, lambda wire, index: wire.submit(
        Cmd.READ, index * 4096, 4096)),
}


def hang(faults, path, kind):
    faults.target(path)
    faults.set(kind, delay=faults.FOREVER)


def all_good(wire, cookies):
    return all(wire.wait(cookie).error == 0 for cookie in cookies)


@pytest.mark.threads
@pytest.mark.parametrize("engine", ["threads", "auto"])
@pytest.mark.parametrize("what", HANGING)
def test_a_disk_that_hangs_stops_no_other(make_daemon, tmp_path, what, engine):
    """Blocking requests of other disks are done before any of the hundreds that wait for it."""
    if (what, engine) == ("read", "auto"):
        pytest.skip("the library that delays does not see io_uring")
    cache, kind, submit = HANGING[what]
    faults = harness.Faults(tmp_path)
    daemon = make_daemon("--io-engine", engine, env=faults.env)
    path = daemon.serve("hung", MB, {0: b"h" * MB}, cache=cache)
    for name in "ab":
        daemon.serve(name, MB, {0: b"g" * MB})
    try:
        with daemon.open("hung") as wire, daemon.open("a") as a, daemon.open("b") as b:
            for one in (wire, a, b):  # what is recorded once is not in the way
                assert one.write(0, b"h" * 4096).error == 0
            hang(faults, path, kind)
            hung = [submit(wire, index) for index in range(200)]
            assert harness.wait_for(lambda: faults.calls(kind) > 0)
            for one in (a, b):
                cookies = [one.submit(Cmd.FLUSH) for _ in range(3)]
                cookies += [one.submit(Cmd.TRIM, 4096, 4096, CmdFlag.FUA) for _ in range(3)]
                assert all_good(one, cookies)
            assert not wire.readable()
            faults.clear()
            assert all_good(wire, hung)
    finally:
        faults.clear()


@pytest.mark.threads
def test_flushes_that_wait_take_one_thread(make_daemon, tmp_path):
    """Of the two threads that a disk gets out of four, hundreds of flushes take one."""
    faults = harness.Faults(tmp_path)
    daemon = make_daemon("--io-threads", 4, "--io-engine", "threads", env=faults.env)
    path = daemon.serve("disk", MB)
    try:
        with daemon.open("disk") as wire:
            assert wire.write(0, b"f" * 4096).error == 0
            hang(faults, path, faults.SYNC)
            flushes = [wire.submit(Cmd.FLUSH) for _ in range(200)]
            assert harness.wait_for(lambda: faults.calls(faults.SYNC) > 0)
            assert all_good(wire, [wire.submit(Cmd.TRIM, 0, 4096) for _ in range(3)])
            assert not any(wire.replies[cookie].done for cookie in flushes)
            before = faults.calls(faults.WHOLE_SYNC)
            faults.clear()
            assert all_good(wire, flushes)
            # One more serves them all; how many came before it began is not ours to say.
            assert faults.calls(faults.WHOLE_SYNC) <= before + 3
    finally:
        faults.clear()


@pytest.fixture
def freezer(tmp_path):
    """A file system of its own, and what makes its writers wait."""
    folder = tmp_path / "frozen"
    folder.mkdir()
    image = tmp_path / "image"
    with open(image, "wb") as file:
        file.truncate(64 * MB)
    harness.run("mkfs.ext4", "-qF", image)
    code, text = harness.run("mount", "-o", "loop", image, folder, check=False)
    if code:
        pytest.skip(f"no image can be mounted: {text}")

    @contextlib.contextmanager
    def frozen():
        harness.run("fsfreeze", "-f", folder)
        try:
            yield
        finally:
            harness.run("fsfreeze", "-u", folder)

    frozen.folder = folder
    yield frozen
    harness.run("umount", "-l", folder)


def writes_at_once(wire, first, count):
    """Of one page each. A single one would be done on the connection's own thread."""
    asked = [wire.prepare(Cmd.WRITE, (first + index) * 4096, 4096, payload=b"f" * 4096)
             for index in range(count)]
    wire.send(b"".join(request for _, request in asked))
    return [cookie for cookie, _ in asked]


@pytest.mark.skipif(os.getuid() != 0, reason="mounts need root")
def test_writes_that_wait_in_the_kernel_take_few_threads(make_daemon, freezer):
    """What a thread's ring cannot do at once is for threads of the kernel, which are the daemon's, too:
    however many clients a disk that hangs has, others can be served."""
    daemon = make_daemon("--io-engine", "auto")
    if daemon.call("daemon.info")["engine"] != "io_uring":
        pytest.skip("the kernel lets us have no io_uring")
    daemon.serve("disk", 16 * MB, folder=freezer.folder, cache="direct", sharing="shared")
    clients = 20
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(daemon.open("disk")) for _ in range(clients)]
        for wire in wires:
            assert wire.write(0, b"f" * 4096).error == 0
        before = daemon.proc_status("Threads")
        most = 0

        def tasks_grow(bound):
            nonlocal most
            most = max(most, daemon.proc_status("Threads") - before)
            return most > bound

        with freezer():
            cookies = [writes_at_once(wire, 32 * number, 32) for number, wire in enumerate(wires)]
            assert harness.wait_for(lambda: tasks_grow(clients))  # they do wait there
            assert not harness.wait_for(lambda: tasks_grow(2 * clients), 2), most
            with daemon.open("disk") as other:
                assert other.read(0, 4096).data == b"f" * 4096
        for wire, own in zip(wires, cookies):
            assert all_good(wire, own)
    daemon.no_clients()
    daemon.drop("disk")
