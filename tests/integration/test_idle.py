"""What nbdd takes while nothing happens. The figures are printed (`-rP` shows them) and stand in the
README; the bounds are what the project promises."""

import pytest

from harness import FLAVOUR, succeeds, wait_for

CLIENTS = 200
KIB_DAEMON = 10 * 1024
KIB_CLIENT = 64

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(FLAVOUR != "plain", reason="memory and time under a sanitizer mean nothing"),
]


def settled_rss(daemon):
    """KiB, at its lowest within a few seconds: buffers are kept for a moment in case they are
    wanted again."""
    lowest = daemon.proc_status("VmRSS")
    for _ in range(20):
        wait_for(lambda: False, 0.25)
        lowest = min(lowest, daemon.proc_status("VmRSS"))
    return lowest


def cpu_ticks(daemon):
    fields = open(f"/proc/{daemon.process.pid}/stat").read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_memory_of_the_idle_daemon_and_of_idle_clients(daemon):
    daemon.serve("disk", 64 << 20, sharing="shared")
    daemon.call("bitmap.add", disk="disk", name="b0")
    alone = settled_rss(daemon)
    contexts = ["base:allocation", "qemu:dirty-bitmap:b0"]

    def idle_clients():
        wires = [daemon.open("disk", contexts=contexts) for _ in range(CLIENTS)]
        for wire in wires:  # each has worked: what it took for that must have been given back
            assert wire.write(0, bytes(65536)).error == 0
            assert wire.read(0, 65536).error == 0
            assert wire.block_status(0, 65536).error == 0
        return wires

    wires = idle_clients()
    together = settled_rss(daemon)
    per_client = (together - alone) / CLIENTS
    print(f"idle daemon {alone / 1024:.1f} MiB, each of {CLIENTS} idle clients {per_client:.1f} KiB")
    for wire in wires:
        wire.close()
    daemon.no_clients()
    assert alone < KIB_DAEMON, f"the idle daemon takes {alone} KiB"
    assert per_client < KIB_CLIENT, f"an idle client takes {per_client:.1f} KiB"


def test_no_processor_time_while_idle(daemon):
    daemon.serve("disk", 1 << 20, sharing="shared")
    daemon.call("bitmap.add", disk="disk", name="b0")
    wires = [daemon.open("disk") for _ in range(20)]
    assert all(wire.write(0, b"x").error == 0 for wire in wires)

    def is_idle():
        """What is left to do may come late; a daemon that is never idle is not so in any of them."""
        before = cpu_ticks(daemon)
        wait_for(lambda: False, 3.0)
        used = cpu_ticks(daemon) - before
        print(f"{used} hundredths of a second of processor time in 3 s of doing nothing")
        return used <= 3

    wait_for(lambda: False, 1.0)
    assert succeeds(is_idle)
    for wire in wires:
        wire.close()
