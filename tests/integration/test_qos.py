"""Limits of an export: operations and bytes per second, shared by its clients, changed while they
run. What is checked is counted, and bounded by construction: in a time T no more is done than
burst + rate x T. (tests/unit/test_throttle.c has the arithmetic, by a clock of its own.)"""

import os
import socket
import threading
import time

import pytest

import harness
from harness import run
from nbdproto import EXTENDED, MODES, SIMPLE, STRUCTURED, Cmd, CmdFlag, Err
from nbdwire import open_export
from pki import Authority
from test_tls_rotation import tls_wire

SIZE = 1 << 20
NONE = {"iops": None, "iops_burst": None, "bandwidth": None, "bandwidth_burst": None}


def stats(daemon, name="d"):
    (found,) = daemon.rpc.plain("stats", export=name)["exports"]
    return found


def held(daemon, name="d"):
    return stats(daemon, name)["throttled_requests"]


def done(daemon, name="d"):
    return sum(entry["requests"] for entry in stats(daemon, name)["operations"])


@pytest.fixture
def disk(server):
    server.serve("d", SIZE, {0: b"o" * SIZE}, sharing="shared")
    yield server
    server.drop("d")
    server.no_clients()


@pytest.fixture
def tcp(disk):
    answer = disk.rpc.plain("listener.add", name="tcp", address="tcp:127.0.0.1:0")
    yield answer["address"]
    disk.rpc.plain("listener.remove", name="tcp")


@pytest.fixture
def serve(server):
    """server.serve, taken away with the test."""
    names = []

    def add(name, *args, **kwargs):
        names.append(name)
        return server.serve(name, *args, **kwargs)

    yield add
    for name in names:
        server.drop(name)
    server.no_clients()


def limit(daemon, **limits):
    return daemon.rpc.plain("export.set", name="d", **{**NONE, **limits})


def in_one_piece(wire, requests):
    """How long until all of them were answered. (In one piece they come at once, however little time
    the machine has for us; one after the other they may come too slowly to be held back.)"""
    start = time.monotonic()
    wire.send(b"".join(data for _, data in requests))
    for cookie, _ in requests:
        assert wire.wait(cookie).error == 0
    return time.monotonic() - start


def measure(operation, seconds=1.5):
    """Operations one after the other for so long: how many, and how long that really took."""
    count, start = 0, time.monotonic()
    while time.monotonic() < start + seconds:
        operation(count)
        count += 1
    return count, time.monotonic() - start


OPERATIONS = {
    "read": (Cmd.READ, 0),
    "write": (Cmd.WRITE, 0),
    "write fua": (Cmd.WRITE, CmdFlag.FUA),
    "zero": (Cmd.WRITE_ZEROES, 0),
    "trim": (Cmd.TRIM, 0),
    "cache": (Cmd.CACHE, 0),
}


@pytest.mark.parametrize("how", OPERATIONS)
def test_operations_per_second(disk, how):
    kind, flags = OPERATIONS[how]
    payload = b"x" * 4096 if kind == Cmd.WRITE else None
    limit(disk, iops=50, iops_burst=5)
    with disk.open("d", STRUCTURED) as wire:
        def quick_enough():
            """Never faster; and not much slower, unless the machine has no time for us."""
            seconds = in_one_piece(wire, [
                wire.prepare(kind, index * 4096, 4096, flags, payload=payload) for index in range(80)])
            assert 80 <= 5 + 50 * seconds + 1
            return 80 >= 50 * seconds / 4
        assert harness.succeeds(quick_enough)
    assert held(disk) > 0 and stats(disk)["throttled_microseconds"] > 100000


@pytest.mark.parametrize("mode", MODES)
def test_bytes_per_second(disk, mode):
    """Reads and writes count together; one that is larger than the burst passes, and is paid for."""
    limit(disk, bandwidth=4 << 20, bandwidth_burst=65536)
    part = 131072

    def operation(i):
        if i % 2:
            assert wire.read(0, part).error == 0
        else:
            assert wire.write(part, b"x" * part).error == 0

    def quick_enough():
        count, seconds = measure(operation)
        assert (count - 1) * part <= 65536 + (4 << 20) * seconds + part
        return count * part >= (4 << 20) * seconds / 4

    with disk.open("d", mode) as wire:
        assert harness.succeeds(quick_enough)


def test_zeroes_and_trims_move_no_bytes(disk):
    limit(disk, bandwidth=1, bandwidth_burst=1)
    with disk.open("d") as wire:
        for index in range(100):
            assert wire.zero(0, SIZE).error == 0
            assert wire.trim(0, SIZE).error == 0
    assert held(disk) == 0


@pytest.mark.parametrize("cache", ["writeback", "direct"])
@pytest.mark.parametrize("mode,length", [(STRUCTURED, 1 << 31), (EXTENDED, 1 << 40)])
def test_a_cache_counts_as_far_as_it_is_done(server, serve, cache, mode, length):
    """That is 32 MiB at most, and nothing where there is no cache, however long it says it is."""
    serve("vast", 1 << 40, sharing="shared", cache=cache, bandwidth=32 << 20)
    with server.open("vast", mode) as one, server.open("vast") as other:
        before = time.monotonic()
        assert one.cache(0, length).error == 0
        assert other.read(0, 512).error == 0
        if cache == "direct":
            assert held(server, "vast") == 0
        else:
            assert time.monotonic() - before > 0.8, "a second's bytes, and a tenth of them are free"


def test_burst(disk):
    """After a rest so many pass at once; not one of them is held back, the next one is."""
    limit(disk, iops=2, iops_burst=40)
    with disk.open("d") as wire:
        for index in range(40):
            assert wire.read(0, 512).error == 0
    assert held(disk) == 0
    limit(disk)
    limit(disk, iops=2, iops_burst=40)
    with disk.open("d") as wire:
        in_one_piece(wire, [wire.prepare(Cmd.READ, 0, 512) for _ in range(48)])
    assert 0 < held(disk) <= 8


def test_flushes_and_empty_requests_pass(disk):
    """What they cost has been paid for by the writes before them. So does what is refused."""
    limit(disk, iops=1, iops_burst=1)
    with disk.open("d") as wire:
        assert wire.read(0, 512).error == 0
        for _ in range(50):
            assert wire.flush().error == 0
            assert wire.trim(0, 0).error == 0
            assert wire.read(SIZE, 512).error
    assert held(disk) == 0


def blocked(daemon, count=20, **kwargs):
    """A client with so many requests that take a second each, sent in one piece; the first is
    done."""
    limit(daemon, iops=1, iops_burst=1)
    wire, before, start = daemon.open("d", **kwargs), done(daemon), time.monotonic()
    prepared = [wire.prepare(Cmd.READ, 0, 512) for _ in range(count)]
    wire.send(b"".join(data for _, data in prepared))
    cookies = [cookie for cookie, _ in prepared]
    assert harness.wait_for(lambda: done(daemon) > before)
    assert done(daemon) <= before + 2 + time.monotonic() - start, "they are held back"
    return wire, cookies


@pytest.mark.parametrize("how", [{}, {"iops": 100000}, {"bandwidth": 1 << 30}], ids=str)
def test_changed_for_those_who_wait(disk, how):
    wire, cookies = blocked(disk, 100)
    before = time.monotonic()
    assert wire.pending
    limit(disk, **how)
    for cookie in cookies:
        wire.wait(cookie)
    assert time.monotonic() - before < 20 * harness.SLOW, "a hundred seconds at the old limit"
    wire.close()


def test_set_for_those_connected(disk):
    """From the next request on; and the settings can be given in a transaction."""
    with disk.open("d") as wire:
        for _ in range(200):
            assert wire.read(0, 512).error == 0
        assert held(disk) == 0
        disk.rpc.plain("transaction", actions=[
            {"method": "export.set", "params": {"name": "d", "iops": 20, "iops_burst": 1}}])
        count, seconds = measure(lambda i: wire.read(0, 512), 1)
        assert count <= 1 + 20 * seconds + 1
        limit(disk)
        before = held(disk)
        for _ in range(200):
            assert wire.read(0, 512).error == 0
        assert held(disk) == before


def test_dry_run_and_refusals_change_nothing(disk):
    disk.call("export.set", name="d", iops=5)
    disk.rpc.plain("export.set", name="d", iops=1, bandwidth=1, dry_run=True)
    shown = disk.call("export.show", name="d")
    assert (shown["iops"], shown["bandwidth"]) == (5, None)
    disk.call("export.set", name="d", iops=0)
    assert disk.call("export.show", name="d")["iops"] is None
    for wrong in ({"iops": -1}, {"iops": 1 << 32}, {"iops": 1.5}, {"bandwidth": (1 << 40) + 1},
                  {"iops_burst": "1"}, {"bandwidth_burst": -1}):
        disk.rpc.refused("export.set", "invalid-params", name="d", check=False, **wrong)


def test_one_holds_up_itself_alone(disk):
    """Neither the clients of another export of the same disk, nor the control socket, nor new
    connections wait for one that is held back."""
    disk.rpc.plain("export.add", name="other", disk="d", sharing="shared")
    wire, _ = blocked(disk, 100)
    before = done(disk, "d")
    with disk.open("other") as free:
        for _ in range(500):
            assert free.read(0, 512).error == 0
            assert free.write(0, b"x" * 512).error == 0
    # If each of those had waited for one of these there would be none left.
    assert done(disk, "d") - before < 90
    with disk.open("d") as second:
        assert second.flush().error == 0
    limit(disk)
    wire.close()
    disk.rpc.plain("export.remove", name="other", mode="hard")


@pytest.mark.threads
def test_clients_of_an_export_share(disk):
    """Together no more than one alone; and the one who asks for one thing at a time gets as much
    as the one who asks for many."""
    rate = 40  # so few that the one who asks for one thing has asked again when it is its turn
    # Neither gets much when the machine has no time for us.
    assert harness.succeeds(lambda: shared_well(disk, rate))


def shared_well(disk, rate):
    limit(disk, iops=rate, iops_burst=1)
    counts = [0, 0]
    stop = threading.Event()
    greedy, modest = disk.open("d"), disk.open("d")

    def many():
        cookies = []
        while not stop.is_set():
            while len(cookies) < 32:
                cookies.append(greedy.submit(Cmd.READ, 0, 512))
            greedy.wait(cookies.pop(0))
            counts[0] += 1
        for cookie in cookies:
            greedy.wait(cookie)

    def one():
        while not stop.is_set():
            modest.read(0, 512)
            counts[1] += 1

    start = time.monotonic()
    threads = [threading.Thread(target=many), threading.Thread(target=one)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    seen = list(counts)
    seconds = time.monotonic() - start  # in this order: the bound holds however slow this is
    stop.set()
    limit(disk)
    for thread in threads:
        thread.join(30 * harness.SLOW)
    assert sum(seen) <= 1 + rate * seconds + 8, "burst, rate, and what was under way"
    greedy.close()
    modest.close()
    print(f"{seen} in {seconds:.1f} s")
    return seen[1] >= seen[0] / 3 and sum(seen) >= rate * seconds / 4


# --- those who do not read ---


@pytest.fixture(params=["unix", "tcp", "tls"])
def others(disk, tcp, request, tmp_path):
    """Opens the export in that way."""
    if request.param != "tls":
        yield lambda: disk.open("d") if request.param == "unix" else open_export(tcp, "d")
        return
    authority = Authority(tmp_path / "ca")
    material = authority.issue(tmp_path / "server", "server", "localhost")
    client = authority.issue(tmp_path / "client", "client", "alice")
    disk.rpc.plain("tls.add", name="x", kind="x509", dir=str(material))
    answer = disk.rpc.plain("listener.add", name="tls", address="tcp:127.0.0.1:0", tls="x")

    def start():
        wire = tls_wire(answer["address"], authority, client)
        wire.negotiate(STRUCTURED)
        assert wire.go("d").ok
        return wire

    yield start
    disk.rpc.plain("listener.remove", name="tls")
    disk.rpc.plain("tls.remove", name="x")


def make_deaf(daemon, wire):
    """It asks for a lot at once and reads none of it, until nothing more is done for it. The cookies,
    and how many of them were done."""
    before = last = done(daemon)
    prepared = [wire.prepare(Cmd.READ, 0, 16384) for _ in range(4000)]
    wire.send(b"".join(data for _, data in prepared))
    assert harness.wait_for(lambda: done(daemon) > before)
    since = time.monotonic()
    while time.monotonic() < since + 1:
        if done(daemon) != last:
            last, since = done(daemon), time.monotonic()
        time.sleep(0.05)
    assert last - before < 4000, "there is something left to wait with"
    return [cookie for cookie, _ in prepared], last - before


@pytest.mark.threads
def test_one_that_does_not_read_holds_up_itself_alone(disk, others):
    """And once it reads, it gets its share beside the others."""
    limit(disk, iops=500, iops_burst=1)
    greedy, modest = others(), disk.open("d")
    cookies, count = make_deaf(disk, greedy)
    for _ in range(50):
        assert modest.read(0, 512).error == 0
    stop, seen = threading.Event(), []

    def read():
        while not stop.is_set():
            seen.append(modest.read(0, 512).error)

    thread = threading.Thread(target=read)
    thread.start()
    start = time.monotonic()
    try:
        for number, cookie in enumerate(cookies[: count + 200]):
            if count < number < count + 50 and number % 5 == 0:
                time.sleep(0.1)  # its socket becomes full again, this time while others are first
            assert greedy.wait(cookie).error == 0
    finally:
        stop.set()
        thread.join()
    seconds = time.monotonic() - start
    assert seconds < 40 * harness.SLOW, "200 of 500 a second, and a second of sleep"
    assert not any(seen)
    greedy.sock.close()
    modest.close()


def test_changed_while_one_does_not_read(disk):
    """Those who wait go on as soon as nothing is limited any more."""
    limit(disk, iops=500, iops_burst=1)
    greedy, modest = disk.open("d"), disk.open("d")
    make_deaf(disk, greedy)
    limit(disk, iops=1, iops_burst=1)
    before = time.monotonic()
    prepared = [modest.prepare(Cmd.READ, 0, 512) for _ in range(500)]
    modest.send(b"".join(data for _, data in prepared))
    limit(disk)
    for cookie, _ in prepared:
        assert modest.wait(cookie).error == 0
    assert time.monotonic() - before < 60 * harness.SLOW, "five hundred seconds at the limit"
    greedy.sock.close()
    modest.close()


def test_a_place_is_given_up_at_the_end(server, serve):
    """Whoever is to end has its requests done at once; nobody waits until it has read the answers."""
    # The grace of two seconds may be over before we look.
    assert harness.succeeds(lambda: passes_one_that_is_to_end(server, serve))


def passes_one_that_is_to_end(server, serve):
    """Whether the next one was served while the one that is to end was still there."""
    size = 8 << 20
    serve("large", size, {0: b"o" * size}, sharing="shared", iops=2, iops_burst=1)
    deaf = server.open("large", SIMPLE)
    (one,) = (client["id"] for client in server.clients_of("large"))
    modest = server.open("large")
    assert deaf.read(0, 512).error == 0
    deaf.submit(Cmd.READ, 0, size)
    assert modest.flush().error == 0
    cookie = modest.submit(Cmd.READ, 0, 512)
    server.rpc.plain("client.disconnect", id=one)
    assert modest.wait(cookie).error == 0
    there = one in [client["id"] for client in server.clients_of("large")]
    deaf.sock.close()
    modest.close()
    server.drop("large")
    return there


def test_a_place_is_given_up_by_what_is_refused(disk):
    """It waits for its turn, and then the disk has become too small for it."""
    limit(disk, bandwidth=1000, bandwidth_burst=1)
    first, second = disk.open("d"), disk.open("d")
    assert first.read(0, 200000).error == 0
    refused = first.submit(Cmd.READ, SIZE - 512, 512)
    time.sleep(0.1)  # that one is to be the first
    cookie = second.submit(Cmd.READ, 0, 512)
    os.truncate(f"{disk.root}/d.img", SIZE // 2)
    disk.rpc.plain("disk.refresh", name="d")
    # What would have taken minutes takes a second from here on, and it is limited still.
    limit(disk, bandwidth=200000, bandwidth_burst=1)
    assert first.wait(refused).error == Err.EINVAL
    assert second.wait(cookie).error == 0
    first.close()
    second.close()


# --- ends ---


def test_disconnect_while_held(disk):
    """A client that goes is gone, whatever it still had waiting; its place in the queue, too."""
    first, _ = blocked(disk, 100)
    second = disk.open("d")
    cookie = second.submit(Cmd.READ, 0, 512)
    assert harness.wait_for(lambda: len(disk.clients_of("d")) == 2)
    first.sock.close()
    assert harness.wait_for(lambda: len(disk.clients_of("d")) == 1)
    second.wait(cookie)  # its turn came
    second.close()


def test_disconnect_is_noticed_while_held(disk):
    """Not only when the next answer cannot be sent, which here would take minutes."""
    limit(disk, bandwidth=1, bandwidth_burst=1)
    wire = disk.open("d")
    assert wire.read(0, 512).error == 0
    wire.submit(Cmd.READ, 0, 512)
    wire.sock.close()
    assert harness.wait_for(lambda: not disk.clients_of("d"))


@pytest.mark.parametrize("count", [1, 50])
@pytest.mark.parametrize("first", [Cmd.READ, Cmd.WRITE])
def test_a_tcp_peer_that_closes_is_noticed_while_held(disk, tcp, first, count):
    """It looks like one that waits for its answers; those come at a byte a second."""
    limit(disk, bandwidth=1, bandwidth_burst=1)
    wire = open_export(tcp, "d")
    assert wire.read(0, 512).error == 0
    wire.submit(first, 0, 512, payload=b"x" * 512 if first == Cmd.WRITE else b"")
    for _ in range(count - 1):
        wire.submit(Cmd.READ, 0, 512)
    wire.sock.close()
    assert harness.wait_for(lambda: not disk.clients_of("d"))


@pytest.mark.parametrize("where", ["unix", "tcp"])
def test_one_direction_is_closed_while_held(disk, tcp, where):
    """All that it has asked for is answered, and no faster than it would be otherwise, but for the
    one request that tells it from a peer that is gone."""
    limit(disk, iops=20, iops_burst=1)
    wire = disk.open("d") if where == "unix" else open_export(tcp, "d")
    start = time.monotonic()
    cookies = [wire.submit(Cmd.READ, 0, 512) for _ in range(40)]
    wire.sock.shutdown(socket.SHUT_WR)
    for done, cookie in enumerate(cookies, 1):
        assert wire.wait(cookie).error == 0
        assert done <= 1 + 20 * (time.monotonic() - start) + 1
    wire.expect_close()
    wire.close()


@pytest.mark.parametrize("mode", ["drain", "hard"])
def test_removal_while_held(disk, mode):
    """Drain answers what has been received without holding it back any more."""
    wire, cookies = blocked(disk, 100)
    # Held back they would not all be answered until then.
    disk.rpc.plain("export.remove", name="d", mode=mode, timeout_seconds=60)
    if mode == "drain":
        for cookie in cookies:
            assert wire.wait(cookie).error == 0
    disk.no_clients()
    wire.close()


def test_disconnect_command_and_evict_while_held(disk):
    wire, _ = blocked(disk, 1000)
    (client,) = disk.clients_of("d")
    disk.rpc.plain("client.disconnect", id=client["id"])
    disk.no_clients()
    wire.close()
    wire, _ = blocked(disk, 1000)
    disk.rpc.plain("export.set", name="d", allow=[], evict=True)
    disk.no_clients()
    wire.close()


@pytest.mark.threads
def test_stop_while_held(make_daemon):
    """SIGTERM: what was received is answered, and not held back any more: that would take longer than
    the daemon waits for its clients."""
    daemon = make_daemon("--drain-seconds", 40)
    daemon.serve("d", SIZE, sharing="shared")
    wires = [blocked(daemon, 50) for _ in range(3)]
    daemon.stop()
    for wire, cookies in wires:
        for cookie in cookies:
            assert wire.wait(cookie).error == 0
        wire.close()


def test_hard_end_of_a_queue(disk):
    """Many who wait, and all of them go at once."""
    limit(disk, iops=1, iops_burst=1)
    wires = [disk.open("d") for _ in range(20)]
    for wire in wires:
        for _ in range(5):
            wire.submit(Cmd.WRITE, 0, 512, payload=b"x" * 512)
    assert harness.wait_for(lambda: done(disk) >= 1)
    disk.rpc.plain("export.remove", name="d", mode="hard")
    disk.no_clients()
    for wire in wires:
        wire.close()


# --- for people ---


def test_shown(disk):
    ctl = [harness.NBDCTL, "--socket", disk.socket]
    run(*ctl, "export", "set", "d", "--iops", "500", "--bandwidth", "10M", "--iops-burst", "9")
    shown = disk.call("export.show", name="d")
    assert (shown["iops"], shown["bandwidth"], shown["iops_burst"]) == (500, 10 << 20, 9)
    text = run(*ctl, "export", "show", "d")
    assert "500" in text and "10 MiB" in text
    header, row = run(*ctl, "export", "list").splitlines()[:2]
    assert "IOPS" in header and "BYTES/S" in header and "10 MiB" in row
    run(*ctl, "export", "set", "d", "--iops", "null", "--no-bandwidth")
    assert "IOPS" not in run(*ctl, "export", "list")
    assert "no limit" in run(*ctl, "export", "show", "d")


def test_kept(daemon):
    daemon.serve("d", SIZE, iops=5, iops_burst=6, bandwidth=1 << 40, bandwidth_burst=1 << 39)
    daemon.restart()
    shown = daemon.call("export.show", name="d")
    assert [shown[key] for key in NONE] == [5, 6, 1 << 40, 1 << 39]
    with daemon.open("d") as wire:
        in_one_piece(wire, [wire.prepare(Cmd.READ, 0, 512) for _ in range(20)])
    assert held(daemon) > 0
