"""Who is connected: client.list, client.disconnect, sharing modes, eviction, dead peers."""

import os
import random
import signal
import socket
import subprocess
import sys
import time

import pytest

import harness
from hammer import Hammer
from nbdproto import EXTENDED, SIMPLE, STRUCTURED, Cmd, Err, Flag, Rep
from nbdwire import Closed, open_export

SIZE = 1 << 20


def test_client_list(daemon):
    """Each connection: its export, address, identity, negotiated features, counters."""
    daemon.serve("a", SIZE, sharing="shared")
    daemon.rpc.plain("bitmap.add", disk="a", name="b0")
    tcp = daemon.rpc.plain("listener.add", name="tcp", address="tcp:127.0.0.1:0")["address"]
    plain = daemon.open("a", SIMPLE)
    rich = daemon.open("a", STRUCTURED, ["base:allocation", "qemu:dirty-bitmap:b0"])
    far = open_export(tcp, "a", EXTENDED)
    half = daemon.wire()
    assert rich.read(0, 4096).error == 0
    assert far.flush().error == 0
    # A reply is counted when it has been sent.
    assert harness.wait_for(
        lambda: [c["counters"]["read"]["requests"] for c in daemon.clients_of("a")] == [0, 1, 0])
    found = {client["id"]: client for client in daemon.call("client.list")["clients"]}
    assert len(found) == 4
    by_order = [found[number] for number in sorted(found)]
    one, two, three, four = by_order
    assert [c["state"] for c in by_order] == ["connected"] * 3 + ["handshake"]
    assert [c["export"] for c in by_order] == ["a", "a", "a", None]
    assert [c["listener"] for c in by_order] == ["listen-1", "listen-1", "tcp", "listen-1"]
    assert one["identity"] == [f"unix:{os.getuid()}"]
    assert one["address"] == daemon.nbd
    assert three["identity"] == ["ip:127.0.0.1"]
    assert three["address"] == "tcp:127.0.0.1:%d" % far.sock.getsockname()[1]
    assert one["features"] == []
    assert {"structured-replies", "base:allocation", "qemu:dirty-bitmap:b0"} == set(two["features"])
    assert three["features"] == ["extended-headers"]
    assert two["counters"]["read"] == {"requests": 1, "bytes": 4096, "errors": 0}
    assert one["read_only"] is False and one["tls"] is False
    assert [c["id"] for c in daemon.clients_of("a")] == sorted(found)[:3]
    assert daemon.call("export.show", name="a")["clients"] == 3
    daemon.refused("client.list", "not-found", export="nowhere")
    for wire in (plain, rich, far, half):
        wire.close()
    daemon.no_clients()
    again = daemon.open("a")
    assert daemon.clients_of()[0]["id"] > max(found), "ids are never used twice"
    again.close()


def test_client_list_in_flight(broken):
    daemon, faults = broken
    with daemon.open("broken") as wire:
        faults.set(faults.SYNC, delay=faults.FOREVER)
        cookies = [wire.submit(3) for _ in range(3)]
        assert harness.wait_for(lambda: daemon.clients_of("broken")[0]["in_flight"] == 3)
        faults.clear()
        for cookie in cookies:
            wire.wait(cookie)
        assert harness.wait_for(lambda: daemon.clients_of("broken")[0]["in_flight"] == 0)


def test_client_disconnect(daemon):
    """Ends one connection and no other; its slot is free."""
    daemon.serve("a", SIZE, sharing="shared")
    daemon.serve("b", SIZE)
    stays, goes, alone = daemon.open("a"), daemon.open("a"), daemon.open("b")
    half = daemon.wire()
    clients = daemon.clients_of()
    daemon.call("client.disconnect", id=clients[1]["id"])
    goes.expect_close()
    daemon.call("client.disconnect", id=clients[2]["id"])
    alone.expect_close()
    daemon.call("client.disconnect", id=clients[3]["id"])
    half.expect_close()
    assert stays.read(0, 512).error == 0
    assert harness.wait_for(lambda: len(daemon.clients_of()) == 1)
    daemon.refused("client.disconnect", "not-found", id=clients[1]["id"])
    daemon.refused("client.disconnect", "not-found", id=123456789)
    with daemon.open("b") as again:
        assert again.read(0, 512).error == 0
    stays.close()


def ask_for_all(wire):
    """60 MiB, and none of it is read: the first answer is on its way, and does not fit into the socket."""
    for part in range(60):
        wire.submit(0, part << 20, 1 << 20)
    assert harness.wait_for(wire.readable)


def test_client_disconnect_of_a_client_that_does_not_read(daemon):
    data = {offset: b"d" * (1 << 20) for offset in range(0, 64 << 20, 1 << 20)}
    daemon.serve("a", 64 << 20, data)
    with daemon.open("a") as wire:
        ask_for_all(wire)
        daemon.rpc.plain("client.disconnect", id=daemon.clients_of()[0]["id"])
        daemon.no_clients()


# --- sharing ---


def test_sharing_exclusive(daemon):
    daemon.serve("a", SIZE, sharing="exclusive")
    first = daemon.open("a")
    with daemon.wire() as second:
        assert second.go("a").type == Rep.ERR_POLICY
        first.close()
        assert harness.wait_for(lambda: second.go("a").ok)


def test_sharing_single_writer(daemon):
    """One client writes, others get a read-only view; when the writer has left the next new
    connection writes."""
    daemon.serve("a", SIZE, sharing="single-writer")
    writer = daemon.open("a")
    views = [daemon.open("a") for _ in range(3)]
    assert Flag.READ_ONLY not in writer.flags
    assert all(Flag.READ_ONLY in view.flags for view in views)
    assert writer.write(0, b"mine").error == 0
    assert all(view.read(0, 4).data == b"mine" for view in views), "coherent"
    assert all(view.write(0, b"x").error == Err.EPERM for view in views)
    assert sorted(c["read_only"] for c in daemon.clients_of("a")) == [False, True, True, True]
    writer.close()
    assert harness.wait_for(lambda: len(daemon.clients_of("a")) == 3)
    assert views[0].write(0, b"x").error == Err.EPERM, "a view stays a view"
    heir = daemon.open("a")
    assert Flag.READ_ONLY not in heir.flags
    assert heir.write(0, b"next").error == 0
    with daemon.open("a") as another:
        assert Flag.READ_ONLY in another.flags
    for wire in (*views, heir):
        wire.close()


def test_sharing_single_writer_info_does_not_claim(daemon):
    """INFO tells what GO would give now, and takes nothing."""
    daemon.serve("a", SIZE, sharing="single-writer")
    with daemon.wire() as wire:
        assert Flag.READ_ONLY not in wire.info("a").flags
        with daemon.open("a") as writer:
            assert Flag.READ_ONLY not in writer.flags
            assert Flag.READ_ONLY in wire.info("a").flags


def test_sharing_shared(daemon):
    """Any number, all coherent."""
    daemon.serve("a", SIZE, sharing="shared")
    wires = [daemon.open("a") for _ in range(20)]
    for index, wire in enumerate(wires):
        assert wire.write(index * 4096, bytes([index]) * 4096).error == 0
    for wire in wires:
        data = wire.read(0, 20 * 4096).data
        assert all(data[i * 4096] == i for i in range(20))
        wire.close()


def test_sharing_changed_at_runtime(daemon):
    """The new mode governs new connections; those that are connected stay."""
    daemon.serve("a", SIZE, sharing="exclusive")
    first = daemon.open("a")
    daemon.call("export.set", name="a", sharing="shared")
    second = daemon.open("a")
    daemon.call("export.set", name="a", sharing="exclusive")
    assert first.read(0, 512).error == second.write(0, b"x").error == 0
    with daemon.wire() as third:
        assert third.go("a").type == Rep.ERR_POLICY
        first.close()
        assert harness.wait_for(lambda: len(daemon.clients_of("a")) == 1)
        assert third.go("a").type == Rep.ERR_POLICY, "one is still connected"
        second.close()
        assert harness.wait_for(lambda: third.go("a").ok)


def test_max_clients_changed_at_runtime(daemon):
    daemon.serve("a", SIZE, sharing="shared", max_clients=1)
    first = daemon.open("a")
    with daemon.wire() as wire:
        assert wire.go("a").type == Rep.ERR_POLICY
        daemon.call("export.set", name="a", max_clients=2)
        assert wire.go("a").ok
        daemon.call("export.set", name="a", max_clients=1)
        assert wire.read(0, 1).error == 0 and first.read(0, 1).error == 0
    first.close()


def test_read_only_changed_at_runtime(daemon):
    daemon.serve("a", SIZE, sharing="shared")
    first = daemon.open("a")
    daemon.call("export.set", name="a", read_only=True)
    assert first.write(0, b"x").error == 0, "those that are connected stay as they are"
    with daemon.open("a") as second:
        assert Flag.READ_ONLY in second.flags
    first.close()


@pytest.mark.parametrize("change,goes", [
    ({"allow": []}, [0, 1, 2]),
    ({"allow": ["ip:127.0.0.1"]}, [0, 1]),
    ({"allow": ["unix:%d" % os.getuid()]}, [2]),
    ({"allow": None}, []),
    ({"read_only": True}, [0, 1, 2]),
    ({"sharing": "exclusive"}, [1, 2]),
    ({"max_clients": 1}, [1, 2]),
    ({"max_clients": 2}, [2]),
    ({"description": "x"}, []),
], ids=str)
def test_evict(daemon, change, goes):
    """`evict` ends those that the new setting would not admit, the latest first where it is a
    matter of number, and no others."""
    daemon.serve("a", SIZE, sharing="shared")
    tcp = daemon.rpc.plain("listener.add", name="tcp", address="tcp:127.0.0.1:0")["address"]
    wires = [daemon.open("a"), daemon.open("a"), open_export(tcp, "a")]
    daemon.call("export.set", name="a", **change)
    assert all(wire.read(0, 1).error == 0 for wire in wires)
    daemon.rpc.plain("export.set", name="a", evict=True, **change)
    for index, wire in enumerate(wires):
        if index in goes:
            wire.expect_close()
        else:
            assert wire.read(0, 1).error == 0
            wire.close()


# --- removal ---


def test_remove_safe(daemon):
    """safe: busy while somebody is connected."""
    daemon.serve("a", SIZE)
    with daemon.open("a") as wire:
        error = daemon.refused("export.remove", "busy", name="a")
        assert "1" in error.detail
        assert wire.read(0, 1).error == 0
    daemon.no_clients()
    daemon.call("export.remove", name="a")


@pytest.mark.threads
@pytest.mark.parametrize("mode", ["drain", "hard"])
def test_remove_under_load(daemon, mode):
    """drain and hard while clients hammer it, again and again: each ends, the others go on, what
    was answered is on the disk, nothing is left behind."""
    other = daemon.serve("other", SIZE, sharing="shared")
    path = daemon.serve("a", SIZE, sharing="shared")
    daemon.rpc.plain("bitmap.add", disk="a", name="b0")
    bystander = Hammer(daemon.open("other"))
    bystander.start()
    for round_ in range(8):
        if round_:
            daemon.rpc.plain("export.add", name="a", disk="a", sharing="shared")
        hammers = [
            Hammer(daemon.open("a", random.choice((STRUCTURED, EXTENDED))), part)
            for part in range(3)
        ]
        for hammer in hammers:
            hammer.stamp = round_ * 10**9
            hammer.start()
        assert harness.wait_for(lambda: all(h.answered or h.failure for h in hammers))
        assert daemon.rpc.plain("export.remove", name="a", mode=mode)["removed"] is True
        for hammer in hammers:
            hammer.join(60 * harness.SLOW)
            assert not hammer.is_alive()
            if mode == "drain":
                hammer.check(path)
            else:
                assert not hammer.failure or "cut" in hammer.failure, hammer.failure
        assert not exists(daemon, "a")
    assert not bystander.failure, bystander.failure
    answered = bystander.answered
    assert harness.wait_for(lambda: bystander.answered > answered), "the bystander stands still"
    daemon.rpc.plain("export.remove", name="other", mode="drain")
    bystander.join(60 * harness.SLOW)
    bystander.check(other)
    daemon.rpc.plain("disk.remove", name="a", force=True)


def exists(daemon, name):
    return name in [e["name"] for e in daemon.rpc.plain("export.list")["exports"]]


def test_remove_drain_times_out(daemon):
    """A client that never reads its replies cannot hold up a drain for ever: after the timeout, and
    not before, it is closed hard, the export is gone, and the answer says so."""
    data = {offset: b"d" * (1 << 20) for offset in range(0, 64 << 20, 1 << 20)}
    daemon.serve("a", 64 << 20, data)
    wire = daemon.open("a")
    ask_for_all(wire)
    begin = time.monotonic()
    answer = daemon.rpc.exchange("export.remove", {"name": "a", "mode": "drain", "timeout_seconds": 1})
    assert time.monotonic() - begin > 0.9
    assert "error" not in answer or answer["error"]["data"]["kind"] == "timeout", answer
    assert not exists(daemon, "a")
    daemon.no_clients()
    wire.close()


@pytest.mark.parametrize("seconds", [600, 4295])  # more microseconds than 32 bits hold
def test_remove_drain_takes_no_new_clients(broken, seconds):
    """While it drains, the export is `removing`: unknown or refused to new clients."""
    daemon, faults = broken
    with daemon.open("broken") as wire:
        before = faults.calls(faults.SYNC)
        faults.set(faults.SYNC, delay=faults.FOREVER)
        cookie = wire.submit(3)
        assert harness.wait_for(lambda: faults.calls(faults.SYNC) > before)
        with harness.rpc.Rpc(str(daemon.socket)) as control:
            control.send({"jsonrpc": "2.0", "id": 1, "method": "export.remove",
                          "params": {"name": "broken", "mode": "drain", "timeout_seconds": seconds}})
            assert harness.wait_for(
                lambda: daemon.rpc.plain("export.show", name="broken")["state"] == "removing")
            with daemon.wire() as other:
                assert other.go("broken").type in (Rep.ERR_UNKNOWN, Rep.ERR_POLICY)
                assert "broken" not in other.list_exports()
            time.sleep(0.2)  # 4295 s would end in a thirtieth, if 32 bits were all
            assert not wire.readable(), "it is being drained still"
            faults.clear()
            assert wire.wait(cookie).error == 0
            wire.expect_close()
            assert control.receive()["result"]["removed"] is True


def test_nobody_writes_before_a_straggler_has(broken):
    """A write that a hard removal has left behind would land on those of the next writer."""
    daemon, faults = broken
    path = daemon.rpc.plain("disk.show", name="broken")["path"]
    with daemon.open("broken") as wire:
        before = faults.calls(faults.WRITE)
        faults.set(faults.WRITE, delay=faults.FOREVER)
        wire.submit(1, 0, 4096, payload=b"old!" * 1024)
        assert harness.wait_for(lambda: faults.calls(faults.WRITE) > before)
        daemon.rpc.plain("export.remove", name="broken", mode="hard", timeout_seconds=0)
        assert not exists(daemon, "broken") and len(daemon.clients_of()) == 1
        again = {"name": "again", "disk": "broken"}
        error = daemon.refused("export.add", "busy", **again)
        assert str(daemon.clients_of()[0]["id"]) in error.message
        daemon.refused("disk.remove", "busy", name="broken")
        daemon.rpc.plain("export.add", read_only=True, **again)
        daemon.refused("export.set", "busy", name="again", read_only=False)
        faults.clear()
    daemon.no_clients()
    daemon.rpc.plain("export.set", name="again", read_only=False)
    with daemon.open("again") as wire:
        assert wire.write(0, b"new!" * 1024).error == 0
    with open(path, "rb") as file:
        assert file.read(4) == b"new!"
    daemon.drop("again")


def test_removals_that_meet(daemon):
    """With missing_ok whoever comes second finds nothing, or that it is being removed."""
    path = str(daemon.image("a.img"))
    daemon.call("disk.add", name="a", path=path)
    both = [harness.rpc.Rpc(str(daemon.socket)) for _ in range(2)]
    params = {"name": "a", "mode": "hard", "missing_ok": True}
    for _ in range(20):
        daemon.rpc.plain("export.add", name="a", disk="a")
        for control in both:
            control.send({"jsonrpc": "2.0", "id": 1, "method": "export.remove", "params": params})
        answers = [control.receive() for control in both]
        refused = [answer["error"]["data"]["kind"] for answer in answers if "error" in answer]
        removed = [answer["result"]["removed"] for answer in answers if "result" in answer]
        assert removed.count(True) == 1 and refused in ([], ["busy"]), answers
    for control in both:
        control.close()


# --- peers that died ---


@pytest.fixture
def netns():
    """Runs commands in a network namespace that a veth pair joins to ours: (words to put in front
    of a command, our address, function that cuts the cable)."""
    name = f"nbdd{os.getpid()}"
    ours, theirs = f"nb{os.getpid() % 100000}a", f"nb{os.getpid() % 100000}b"
    net = f"198.18.{os.getpid() % 250}"
    commands = [
        ["ip", "netns", "add", name],
        ["ip", "link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name],
        ["ip", "addr", "add", f"{net}.1/30", "dev", ours],
        ["ip", "link", "set", ours, "up"],
        ["ip", "-n", name, "addr", "add", f"{net}.2/30", "dev", theirs],
        ["ip", "-n", name, "link", "set", theirs, "up"],
    ]
    try:
        for words in commands:
            done = subprocess.run(words, capture_output=True, check=False)
            if done.returncode:
                pytest.skip(f"no network namespaces here: {done.stderr.decode().strip()}")
        yield (
            ["ip", "netns", "exec", name],
            f"{net}.1",
            lambda: subprocess.run(["ip", "-n", name, "link", "set", theirs, "down"], check=True),
        )
    finally:
        subprocess.run(["ip", "link", "del", ours], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


CLIENT = """
import sys
sys.path.insert(0, {folder!r})
import nbdwire, nbdproto
wire = nbdwire.open_export(sys.argv[1], "a", nbdproto.STRUCTURED)
if sys.argv[2] == "busy":
    for part in range(60):
        wire.submit(0, part << 20, 1 << 20)
print("connected", flush=True)
sys.stdin.read()
"""


@pytest.mark.long
@pytest.mark.skipif(os.getuid() != 0, reason="network namespaces need root")
@pytest.mark.parametrize("what", ["idle", "busy"])
def test_dead_tcp_peer_is_noticed(make_daemon, netns, what):
    """A TCP peer that has died without a word is noticed (by keepalive while idle, by what it does not
    acknowledge with data under way) and gives its slot back."""
    prefix, address, cut = netns
    daemon = make_daemon("--dead-peer-seconds", 3)
    data = {offset: b"d" * (1 << 20) for offset in range(0, 64 << 20, 1 << 20)}
    daemon.serve("a", 64 << 20, data)
    listener = daemon.rpc.plain("listener.add", name="tcp", address=f"tcp:{address}:0")
    script = CLIENT.format(folder=str(harness.HERE))
    client = subprocess.Popen([*prefix, sys.executable, "-c", script, listener["address"], what],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert client.stdout.readline() == b"connected\n"
        assert len(daemon.clients_of("a")) == 1
        with daemon.wire() as other:
            assert other.go("a").type == Rep.ERR_POLICY
            begin = time.monotonic()
            cut()
            assert harness.wait_for(lambda: not daemon.clients_of("a"))
            assert time.monotonic() - begin > 1, "a second is no proof of death"
            assert other.go("a").ok, "the slot is free"
    finally:
        client.kill()
        client.wait()


def test_a_peer_that_does_not_read_is_not_dead(make_daemon):
    """Its host answers that there is no room for more: who copies to a disk that hangs, say, or is
    stopped, goes on later."""
    daemon = make_daemon("--dead-peer-seconds", 1)
    daemon.serve("a", 64 << 20, {offset: b"d" * (1 << 20) for offset in range(0, 64 << 20, 1 << 20)})
    listener = daemon.rpc.plain("listener.add", name="tcp", address="tcp:127.0.0.1:0")
    with open_export(listener["address"], "a", STRUCTURED) as wire:
        cookies = [wire.submit(Cmd.READ, part << 20, 1 << 20) for part in range(60)]
        time.sleep(4)
        assert wire.wait(cookies[0]).data == b"d" * (1 << 20)
        for cookie in cookies[1:]:
            assert wire.wait(cookie).error == 0


def test_killed_peer_gives_its_slot_back(daemon):
    """kill -9 of a client process: the kernel closes its socket."""
    daemon.serve("a", 64 << 20)
    script = CLIENT.format(folder=str(harness.HERE))
    client = subprocess.Popen([sys.executable, "-c", script, daemon.nbd, "busy"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdout.readline() == b"connected\n"
    client.send_signal(signal.SIGKILL)
    client.wait()
    assert harness.wait_for(lambda: not daemon.clients_of("a"))
    with daemon.open("a") as wire:
        assert wire.read(0, 1).error == 0


def test_reset_peer_gives_its_slot_back(daemon):
    """A connection that ends in a reset, with requests under way."""
    daemon.serve("a", 64 << 20)
    tcp = daemon.rpc.plain("listener.add", name="tcp", address="tcp:127.0.0.1:0")["address"]
    for _ in range(5):
        wire = open_export(tcp, "a")
        for part in range(30):
            wire.submit(0, part << 20, 1 << 20)
        linger = b"\1\0\0\0\0\0\0\0"
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        wire.close()
        assert harness.wait_for(lambda: not daemon.clients_of("a"))
    try:
        daemon.open("a").close()
    except Closed:
        pytest.fail("the slot was not given back")
