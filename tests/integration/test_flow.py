"""Some clients want more than their share; the others go on."""

import threading
import time

import pytest

import harness
from nbdproto import Cmd

MB = 1 << 20
PATIENCE = 2.0 * harness.SLOW


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
