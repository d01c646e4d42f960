"""Rows about how a connection ends, in every encoding of replies, spoken on the wire. One test each:

wrong request magic                                      test_wrong_magic_closes
DISC                                                     test_disc_*
daemon stopping, export removed with drain               test_stop_*, test_drain_*
"""

import random
import signal

import pytest

import harness
from hammer import Hammer
from nbdproto import EXTENDED, STRUCTURED, Cmd, CmdFlag, Err
from nbdwire import Closed

SIZE = 1 << 20
BASE = "base:allocation"
STRUCTURED_MODES = (STRUCTURED, EXTENDED)
PATTERN = bytes(range(256)) * 16  # 4 KiB


@pytest.fixture(scope="module", autouse=True)
def exports(server):
    server.serve("disk", SIZE, sharing="shared")


def alive(wire):
    """The connection is in step: whatever was sent before has been read away."""
    reply = wire.read(0, 512)
    assert reply.error == Err.OK


# --- the end ---


@pytest.mark.parametrize("magic", [0, 0x25609514, 0x12560953, 0x67446698, 0x49484156])
def test_wrong_magic_closes(server, mode, magic):
    """wrong request magic: close."""
    with server.open("disk", mode) as wire:
        wire.send(wire.header(Cmd.READ, 0, 1, 0, 512, magic=magic))
        wire.expect_close()


def test_wrong_magic_after_requests_in_flight(server, mode):
    """What was asked before the nonsense may still be answered; then the connection ends."""
    with server.open("disk", mode) as wire:
        first = wire.prepare(Cmd.READ, 0, 512)[1]
        wire.send(first + wire.header(Cmd.READ, 0, 1, 0, 512, magic=0))
        with pytest.raises(Closed):
            wire.wait_all()
            wire.recv(1)


def test_disc_closes(server, mode):
    """DISC: close, without a reply."""
    with server.open("disk", mode) as wire:
        wire.disconnect()
        wire.expect_close()


def test_disc_answers_what_is_in_flight(broken, mode):
    """DISC: answer what is in flight, close."""
    daemon, faults = broken
    faults.set(faults.SYNC, delay=0.3)
    with daemon.open("broken", mode) as wire:
        cookies = [wire.submit(Cmd.FLUSH), wire.submit(Cmd.READ, 0, 65536)]
        cookies.append(wire.submit(Cmd.WRITE, 0, 4096, CmdFlag.FUA, payload=bytes(4096)))
        wire.disconnect()
        replies = wire.wait_all()
        assert [replies[cookie].error for cookie in cookies] == [0, 0, 0]
        wire.expect_close()


def test_close_in_the_middle_of_a_write(server, mode):
    """A client that dies in mid-payload changes nothing and leaves nothing behind. (With 64 KiB and more
    on its way it may: test_wire_large_writes.py.)"""
    with server.open("disk", mode) as wire:
        assert wire.write(0, b"A" * 65536).error == Err.OK
        data = wire.prepare(Cmd.WRITE, 0, 65536, payload=b"B" * 65536)[1]
        wire.send(data[:40000])
    assert harness.wait_for(lambda: not server.clients_of("disk"))
    with server.open("disk", mode) as wire:
        data = wire.read(0, 65536).data
        assert data == b"A" * 65536, "half a payload was written"


def test_stop_finishes_what_was_read(daemon, mode):
    """daemon stopping: read no more, finish what was read, close."""
    path = daemon.serve("disk", SIZE, sharing="shared")
    hammers = [Hammer(daemon.open("disk", mode), part) for part in range(3)]
    for hammer in hammers:
        hammer.start()
    assert harness.wait_for(lambda: all(h.answered > 100 or h.failure for h in hammers))
    daemon.stop(random.choice([signal.SIGTERM, signal.SIGINT]))
    for hammer in hammers:
        hammer.join(60 * harness.SLOW)
        assert not hammer.is_alive()
        hammer.check(path)


def test_drain_finishes_what_was_read(server, mode):
    """export removed with drain: the same; the daemon and its other clients go on."""
    path = server.serve("drained", SIZE, sharing="shared")
    hammers = [Hammer(server.open("drained", mode), part) for part in range(3)]
    with server.open("disk", mode) as bystander:
        for hammer in hammers:
            hammer.start()
        assert harness.wait_for(lambda: all(h.answered > 100 or h.failure for h in hammers))
        result = server.rpc.plain("export.remove", name="drained", mode="drain")
        assert result["removed"]
        for hammer in hammers:
            hammer.join(60 * harness.SLOW)
            assert not hammer.is_alive()
            hammer.check(path)
        alive(bystander)
    server.drop("drained")


def test_drain_waits_for_slow_requests(broken, mode):
    """drain: a request that takes long is still answered."""
    daemon, faults = broken
    before = faults.calls(faults.SYNC)
    faults.set(faults.SYNC, delay=0.7)
    with daemon.open("broken", mode) as wire:
        cookie = wire.submit(Cmd.FLUSH)
        assert harness.wait_for(lambda: faults.calls(faults.SYNC) > before)
        with harness.rpc.Rpc(str(daemon.socket)) as control:
            assert control.plain("export.remove", name="broken", mode="drain")["removed"]
        assert wire.wait(cookie).error == Err.OK
        wire.expect_close()


def test_stop_closes_idle_clients(make_daemon, mode):
    """An idle client does not hold up the end: who is waited for would be for longer than stop() takes."""
    daemon = make_daemon("--drain-seconds", 600)
    daemon.serve("disk", SIZE)
    with daemon.open("disk", mode) as wire:
        daemon.stop()
        wire.expect_close()
