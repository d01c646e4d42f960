"""Exclusive exports that are taken (`on_busy`), and bounds on the connections of one identity."""

import os
import subprocess
import sys
import threading
import time

import pytest

import harness
from nbdproto import Cmd, Flag, Opt, Rep
from nbdwire import STRUCTURED, Closed, open_wire
from pki import Authority
from peers import need
from test_control_clients import CLIENT
from test_tls_rotation import tls_wire

SIZE = 1 << 20


class Asker(threading.Thread):
    """Asks for an export in a thread of its own, since the answer may take a while."""

    def __init__(self, wire, name, option=Opt.GO):
        super().__init__(daemon=True)
        self.wire, self.name, self.option = wire, name, option
        self.reply, self.failure = None, None
        self.start()

    def run(self):
        try:
            if self.option == Opt.EXPORT_NAME:
                self.reply = self.wire.export_name(self.name)
            else:
                self.reply = self.wire.go(self.name)
        except (OSError, Closed) as error:
            self.failure = error

    def answer(self, seconds=30.0):
        """Who is made to wait for what never comes waits longer (the time for a handshake)."""
        self.join(seconds * harness.SLOW)
        assert not self.is_alive(), "no answer"
        return self.reply

    def close(self):
        self.wire.close()


def asker(daemon, name, option=Opt.GO):
    """One who asks, and is known to wait."""
    count = len(waiting(daemon, name))
    made = Asker(daemon.wire(STRUCTURED), name, option)
    assert harness.wait_for(lambda: len(waiting(daemon, name)) == count + 1), made.reply
    return made


def in_time(make):
    """What that makes, or None where the time for a handshake was over before."""
    try:
        return make()
    except (Closed, OSError):
        return None


def waiting(daemon, name):
    return [c["id"] for c in daemon.clients_of(name) if c["state"] == "waiting"]


# --- wait ---


def test_wait_in_order(daemon):
    daemon.serve("a", SIZE, on_busy="wait")
    holder = daemon.open("a")
    first, second = asker(daemon, "a"), asker(daemon, "a", Opt.EXPORT_NAME)
    assert daemon.rpc.plain("export.show", name="a")["clients"] == 1, "who waits does not count"
    assert holder.write(0, b"mine").error == 0, "and disturbs nobody"
    holder.close()
    assert first.answer().ok
    assert first.wire.read(0, 4).data == b"mine"
    time.sleep(0.1)
    assert second.is_alive(), "one at a time"
    first.close()
    second.answer()
    assert second.failure is None
    assert second.wire.read(0, 4).data == b"mine"
    second.close()


@pytest.mark.parametrize("option", [Opt.GO, Opt.EXPORT_NAME])
def test_wait_ends_with_the_time_for_the_handshake(make_daemon, option):
    daemon = make_daemon("--handshake-seconds", 2)
    daemon.serve("a", SIZE, on_busy="wait")

    def waits_and_is_told():
        begin = time.monotonic()
        late = Asker(daemon.wire(STRUCTURED), "a", option)
        reply = late.answer()
        assert time.monotonic() - begin > 1.5, "it has not waited"
        late.close()
        if option == Opt.EXPORT_NAME:
            return isinstance(late.failure, (OSError, Closed))
        # Nobody answers a question that comes when the time is over.
        return reply and reply.type == Rep.ERR_POLICY and "exclusive" in reply.text

    with harness.succeeds(lambda: in_time(lambda: daemon.open("a"))):
        assert harness.succeeds(lambda: in_time(waits_and_is_told))
        assert waiting(daemon, "a") == []


def test_who_waits_does_not_count_as_served(make_daemon):
    daemon = make_daemon("--max-clients", 2)
    daemon.serve("a", SIZE, on_busy="wait")
    daemon.serve("b", SIZE)
    with daemon.open("a"):
        waiters = [asker(daemon, "a") for _ in range(3)]
        with daemon.open("b") as other:
            assert other.read(0, 1).error == 0
        for waiter in waiters:
            waiter.close()


def threads(daemon):
    return set(os.listdir(f"/proc/{daemon.process.pid}/task"))


@pytest.mark.parametrize("how", ["says nothing more", "closes"])
def test_who_goes_while_waiting(daemon, how):
    """Its place is the next one's, and its thread ends."""
    daemon.serve("a", SIZE, on_busy="wait")
    holder = daemon.open("a")
    # Others end meanwhile: those of the I/O engine that are not wanted any more.
    before = threads(daemon)
    gone, stays = asker(daemon, "a"), asker(daemon, "a")
    own = threads(daemon) - before
    assert len(own) == 2
    gone.wire.sock.shutdown(1)
    if how == "closes":
        gone.close()
    assert harness.wait_for(lambda: len(waiting(daemon, "a")) == 1)
    assert harness.wait_for(lambda: len(own & threads(daemon)) == 1)
    holder.close()
    assert stays.answer().ok
    stays.close()
    gone.close()


def hanging_flush(faults, wire):
    """One that has reached the disk, and is not done before the faults are cleared."""
    before = faults.calls(faults.SYNC)
    faults.set(faults.SYNC, delay=faults.FOREVER)
    cookie = wire.submit(Cmd.FLUSH)
    assert harness.wait_for(lambda: faults.calls(faults.SYNC) > before)
    return cookie


def test_waiters_do_not_wait_for_a_drain(broken):
    """An export that goes is told to who waits at once, not when its client has finished."""
    daemon, faults = broken
    daemon.rpc.plain("export.set", name="broken", sharing="exclusive", on_busy="wait")
    holder = daemon.open("broken")
    waiter = asker(daemon, "broken")
    cookie = hanging_flush(faults, holder)
    drain = threading.Thread(
        target=lambda: harness.rpc.Rpc(str(daemon.socket)).plain(
            "export.remove", name="broken", mode="drain", timeout_seconds=600))
    drain.start()
    assert waiter.answer().type == Rep.ERR_POLICY
    assert not holder.readable(), "its flush hangs still"
    faults.clear()
    assert holder.wait(cookie).error == 0
    drain.join()
    waiter.close()
    holder.close()


@pytest.mark.parametrize("mode", ["drain", "hard"])
def test_the_export_is_removed_under_waiters(daemon, mode):
    daemon.serve("a", SIZE, on_busy="wait")
    holder = daemon.open("a")
    waiters = [asker(daemon, "a") for _ in range(3)]
    daemon.call("export.remove", name="a", mode=mode)
    for waiter in waiters:
        assert waiter.answer().type in (Rep.ERR_POLICY, Rep.ERR_UNKNOWN)
        assert waiter.wire.list_exports() == {}, "its handshake goes on"
        waiter.close()
    holder.close()


def test_the_daemon_stops_under_waiters(make_daemon):
    """They are not waited for: the time for that is longer than stop() takes for an end."""
    daemon = make_daemon("--drain-seconds", 600)
    daemon.serve("a", SIZE, on_busy="wait")
    holder = daemon.open("a")
    waiters = [asker(daemon, "a") for _ in range(3)]
    daemon.stop()
    for waiter in waiters:
        reply = waiter.answer()
        assert waiter.failure or reply.type == Rep.ERR_SHUTDOWN, reply
        waiter.close()
    holder.close()


def test_a_waiter_is_disconnected(daemon):
    daemon.serve("a", SIZE, on_busy="wait")
    with daemon.open("a") as holder:
        waiter = asker(daemon, "a")
        daemon.call("client.disconnect", id=waiting(daemon, "a")[0])
        assert waiter.answer() is None or waiter.reply.type == Rep.ERR_SHUTDOWN
        assert harness.wait_for(lambda: len(daemon.clients_of("a")) == 1)
        assert holder.read(0, 1).error == 0
        waiter.close()


@pytest.mark.parametrize("setting", [
    ({"on_busy": "refuse"}, Rep.ERR_POLICY),
    ({"allow": []}, Rep.ERR_UNKNOWN),
    ({"sharing": "shared", "on_busy": "refuse"}, None),
], ids=["refuse", "allow", "shared"])
def test_settings_change_under_a_waiter(daemon, setting):
    change, answer = setting
    daemon.serve("a", SIZE, on_busy="wait")
    with daemon.open("a"):
        waiter = asker(daemon, "a")
        daemon.call("export.set", name="a", **change)
        assert waiter.answer().ok if answer is None else waiter.answer().type == answer
        waiter.close()


def test_evict_lets_the_next_one_in(daemon):
    daemon.serve("a", SIZE, on_busy="wait", allow=["unix:0", f"unix:{os.getuid()}"])
    holder = daemon.open("a")
    waiter = asker(daemon, "a")
    daemon.call("client.disconnect", id=daemon.clients_of("a")[0]["id"])
    assert waiter.answer().ok
    holder.expect_close()
    waiter.close()


@need("nbdinfo")
def test_a_real_client_waits(daemon):
    daemon.serve("a", SIZE, on_busy="wait")
    holder = daemon.open("a")
    client = subprocess.Popen(["nbdinfo", "--size", daemon.uri("a")], stdout=subprocess.PIPE)
    assert harness.wait_for(lambda: waiting(daemon, "a"))
    holder.disconnect()
    holder.close()
    assert client.communicate(timeout=60 * harness.SLOW)[0].strip() == str(SIZE).encode()
    assert client.returncode == 0


@pytest.mark.threads
def test_many_wait_and_none_is_forgotten(daemon):
    """Forty take turns, some give up on the way: every turn comes, never two at once."""
    daemon.serve("a", SIZE, on_busy="wait")
    inside, most, served = [0], [0], [0]
    lock = threading.Lock()

    def turn(index):
        with daemon.wire(STRUCTURED, timeout=100) as wire:
            if index % 5 == 4:
                wire.send_option(Opt.GO, b"\0\0\0\1a\0\0")
                time.sleep(0.05)
                return
            assert wire.go("a").ok
            with lock:
                inside[0] += 1
                served[0] += 1
                most[0] = max(most[0], inside[0])
            assert wire.write(0, bytes([index]) * 512).error == 0
            assert wire.read(0, 512).data == bytes([index]) * 512
            with lock:
                inside[0] -= 1
            wire.disconnect()

    threads = [threading.Thread(target=turn, args=(index,)) for index in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120 * harness.SLOW)
    assert served[0] == 32 and most[0] == 1
    daemon.no_clients()


# --- steal ---


def test_steal(daemon):
    daemon.serve("a", SIZE, on_busy="steal")
    older = daemon.open("a")
    assert older.write(0, b"mine").error == 0
    with daemon.open("a") as newer:
        older.expect_close()
        assert newer.read(0, 4).data == b"mine"
        assert newer.write(0, b"next").error == 0
        assert len(daemon.clients_of("a")) == 1
    older.close()


def test_steal_waits_for_requests_in_flight(broken):
    """The older one's write is on the disk, and answered, before the newer one is admitted."""
    daemon, faults = broken
    daemon.call("export.set", name="broken", sharing="exclusive", on_busy="steal")
    older = daemon.open("broken")
    before = faults.calls(faults.SYNC)
    faults.set(faults.SYNC, delay=faults.FOREVER)
    cookie = older.submit(Cmd.WRITE, 0, 4, 1, b"last")
    assert harness.wait_for(lambda: faults.calls(faults.SYNC) > before)
    newer = asker(daemon, "broken")
    time.sleep(0.6)
    assert newer.is_alive() and waiting(daemon, "broken"), "it waits"
    faults.clear()
    assert newer.answer().ok
    assert newer.wire.read(0, 4).data == b"last"
    # Answered if that was quick enough; in no case afterwards.
    try:
        assert older.wait(cookie).error == 0
    except (Closed, OSError):
        pass
    newer.close()
    older.close()


def test_steal_does_not_outrun_the_disk(make_daemon, tmp_path):
    """While a request of the older one hangs nobody is admitted beside it, and the newcomer's time
    is bounded."""
    faults = harness.Faults(tmp_path)
    daemon = make_daemon("--handshake-seconds", 2, "--io-engine", "threads", env=faults.env)
    path = daemon.serve("a", SIZE, on_busy="steal")
    faults.target(path)
    older = harness.succeeds(lambda: in_time(lambda: daemon.open("a")))
    assert older.write(0, b"x").error == 0
    hanging_flush(faults, older)

    def is_refused():
        wire = in_time(lambda: daemon.wire(STRUCTURED))
        if not wire:
            return False
        newer = Asker(wire, "a")
        reply = newer.answer()
        newer.close()
        # Nobody answers a question that comes when the time is over.
        assert not reply or not reply.ok
        return reply and reply.type == Rep.ERR_POLICY and "in time" in reply.text

    assert harness.succeeds(is_refused)
    faults.clear()

    def admitted():
        return in_time(lambda: daemon.wire().go("a").ok)

    assert harness.wait_for(admitted), "when it is done the place is free"
    older.close()


def test_steal_from_one_that_does_not_read(daemon):
    """Its answers are stuck: it is ended hard, long before it would be given up otherwise."""
    data = {offset: b"d" * (1 << 20) for offset in range(0, 64 << 20, 1 << 20)}
    daemon.serve("a", 64 << 20, data, on_busy="steal")
    older = daemon.open("a")
    for part in range(60):
        older.submit(Cmd.READ, part << 20, 1 << 20)
    assert harness.wait_for(older.readable), "its first answer is on its way"
    newer = Asker(daemon.wire(STRUCTURED), "a")
    assert newer.answer().ok
    newer.close()
    older.close()


class Host:
    """A machine that can die: a network namespace behind an address of ours, whose connections end
    without a word."""

    net = f"198.19.{os.getpid() % 250}"
    address = f"{net}.1"

    def __init__(self):
        self.name = f"nbdb{os.getpid()}"
        self.prefix = ["ip", "netns", "exec", self.name]

    def up(self):
        ours, theirs = f"bb{os.getpid() % 100000}a", f"bb{os.getpid() % 100000}b"
        for words in (
            ["netns", "add", self.name],
            ["link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", self.name],
            ["addr", "add", f"{self.address}/30", "dev", ours],
            ["link", "set", ours, "up"],
            ["-n", self.name, "addr", "add", f"{self.net}.2/30", "dev", theirs],
            ["-n", self.name, "link", "set", theirs, "up"],
        ):
            done = subprocess.run(["ip", *words], capture_output=True, check=False)
            if done.returncode:
                pytest.skip(f"no network namespaces here: {done.stderr.decode().strip()}")

    def die(self):
        ours = f"bb{os.getpid() % 100000}a"
        subprocess.run(["ip", "link", "del", ours], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)

    def client(self, address, what):
        script = CLIENT.format(folder=str(harness.HERE))
        return subprocess.Popen([*self.prefix, sys.executable, "-c", script, address, what],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.skipif(os.getuid() != 0, reason="network namespaces need root")
@pytest.mark.parametrize("what", ["idle", "busy"])
def test_steal_from_a_dead_host(make_daemon, what):
    """The guest's host has died without a word, and the guest comes back: another port of the same
    address. Nobody else would find out in the time that this takes."""
    daemon = make_daemon("--dead-peer-seconds", 600)
    data = {offset: b"d" * (1 << 20) for offset in range(0, 64 << 20, 1 << 20)}
    daemon.serve("a", 64 << 20, data, on_busy="steal")
    host, clients = Host(), []
    try:
        host.up()
        tcp = daemon.rpc.plain("listener.add", name="t", address=f"tcp:{host.address}:0")["address"]
        clients.append(host.client(tcp, what))
        assert clients[0].stdout.readline() == b"connected\n"
        host.die()
        clients[0].kill()
        host.up()
        assert len(daemon.clients_of("a")) == 1, "nobody has told the daemon"
        with daemon.wire() as other:
            assert other.go("a").type == Rep.ERR_POLICY, "another address is somebody else"
        clients.append(host.client(tcp, "idle"))
        assert clients[1].stdout.readline() == b"connected\n"
        assert len(daemon.clients_of("a")) == 1
    finally:
        for process in clients:
            process.kill()
            process.wait()
        host.die()


def test_steal_is_for_the_same_identity(daemon, tmp_path):
    """With certificates the address says nothing: alice from elsewhere is alice, bob from the same
    place is not."""
    authority = Authority(tmp_path / "ca")
    material = authority.issue(tmp_path / "server", "server", "localhost")
    people = {name: authority.issue(tmp_path / name, "client", name) for name in ("alice", "bob")}
    daemon.serve("a", SIZE, on_busy="steal")
    daemon.call("tls.add", name="main", kind="x509", dir=str(material), verify_client=True)
    address = daemon.call("listener.add", name="tls", address="tcp:127.0.0.1:0", tls="main")["address"]
    older = tls_wire(address, authority, people["alice"])
    assert older.go("a").ok
    with tls_wire(address, authority, people["bob"]) as bob:
        reply = bob.go("a")
        assert reply.type == Rep.ERR_POLICY and "exclusive" in reply.text
    with daemon.wire() as plain:
        assert plain.go("a").type == Rep.ERR_POLICY, "nor is somebody in plaintext"
    assert older.read(0, 1).error == 0
    with tls_wire(address, authority, people["alice"]) as newer:
        assert newer.go("a").ok
        older.expect_close()
    older.close()


@need("qemu-io")
def test_a_guest_comes_back(daemon):
    """QEMU with reconnect-delay: somebody of its identity takes its place, and it takes it back
    without an error."""
    daemon.serve("a", SIZE, on_busy="steal")
    image = (f"driver=nbd,export=a,server.type=unix,server.path={daemon.nbd_path},"
             "reconnect-delay=100")
    guest = subprocess.Popen(["qemu-io", "--image-opts", image], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True, bufsize=1)
    try:
        for turn in range(3):
            guest.stdin.write(f"write -P {turn + 1} 0 4k\n")
            line = ""
            while "wrote" not in line:
                line = guest.stdout.readline()
                assert line and "rror" not in line, line
            assert harness.wait_for(lambda: len(daemon.clients_of("a")) == 1)
            with daemon.open("a") as other:
                assert other.read(0, 1).data == bytes([turn + 1])
        out, _ = guest.communicate("quit\n", timeout=60 * harness.SLOW)
        assert guest.returncode == 0, out
    finally:
        guest.kill()
        guest.wait()


def test_steal_by_two_at_once(daemon):
    """Each takes over from the one before; the last one stays, and never are there two."""
    daemon.serve("a", SIZE, on_busy="steal")
    askers = [Asker(daemon.wire(STRUCTURED), "a") for _ in range(8)]
    assert all(one.answer().ok for one in askers)
    assert harness.wait_for(lambda: len(daemon.clients_of("a")) == 1)
    alive = 0
    for one in askers:
        try:
            alive += one.wire.read(0, 1).error == 0
        except (Closed, OSError):
            pass
        one.close()
    assert alive == 1


def test_events_of_waiting_and_stealing(daemon):
    daemon.serve("a", SIZE, on_busy="steal")
    with harness.rpc.Rpc(str(daemon.socket)) as control:
        control.plain("event.subscribe", topics=["client"])
        older = daemon.open("a")
        with daemon.open("a"):
            seen = []
            while "replaced" not in seen or seen.count("attached") < 2:
                message = control.receive()
                if message.get("method") == "event":
                    seen.append(message["params"]["event"])
        assert seen.index("waiting") < seen.index("replaced")
        older.close()


# --- settings ---


def test_settings_are_kept(daemon):
    daemon.serve("a", SIZE, on_busy="steal", max_clients_per_identity=1)
    shown = daemon.call("export.show", name="a")
    assert shown["on_busy"] == "steal" and shown["max_clients_per_identity"] == 1
    daemon.restart()
    assert daemon.call("export.show", name="a") == shown
    daemon.call("export.set", name="a", on_busy="wait", max_clients_per_identity=None)
    daemon.restart()
    shown = daemon.call("export.show", name="a")
    assert shown["on_busy"] == "wait" and shown["max_clients_per_identity"] is None
    assert daemon.refused("export.set", "invalid-argument", name="a", sharing="shared").path == (
        "/params/on_busy"
    )
    daemon.call("export.set", name="a", sharing="shared", on_busy="refuse")


# --- bounds ---


def test_clients_of_one_identity(make_daemon):
    daemon = make_daemon("--max-clients-per-identity", 3)
    daemon.serve("a", SIZE, sharing="shared", max_clients_per_identity=2)
    daemon.serve("b", SIZE, sharing="shared")
    tcp = daemon.rpc.plain("listener.add", name="tcp", address="tcp:127.0.0.1:0")["address"]
    held = [daemon.open("a"), daemon.open("a")]
    with daemon.wire() as wire:
        reply = wire.go("a")
        assert reply.type == Rep.ERR_POLICY and "per_identity" in reply.text
        with open_wire(tcp) as other:
            assert other.go("a").ok, "who comes by TCP is somebody else"
        held.pop().close()
        assert harness.wait_for(lambda: wire.go("a").ok), "a slot is given back"
        held += [daemon.open("b") for _ in range(3)]
        with daemon.wire() as fourth:
            assert fourth.go("b").type == Rep.ERR_POLICY, "the daemon's bound, for each export"
    for wire in held:
        wire.close()


def test_clients_of_one_identity_at_all_exports(make_daemon):
    """A bound of its own beside that for each export; handshakes do not count, and who goes gives
    its slot back."""
    daemon = make_daemon("--max-clients-per-identity", 2, "--max-clients-per-identity-overall", 3)
    for name in "abc":
        daemon.serve(name, SIZE, sharing="shared")
    tcp = daemon.rpc.plain("listener.add", name="tcp", address="tcp:127.0.0.1:0")["address"]
    with daemon.wire() as fourth, daemon.wire(), open_wire(tcp) as other:
        held = [daemon.open("a"), daemon.open("a"), daemon.open("b")]
        for name in "bc":
            reply = fourth.go(name)
            assert reply.type == Rep.ERR_POLICY and "per-identity-overall" in reply.text
        assert "max_clients_per_identity" in fourth.go("a").text, "that of the export comes first"
        assert other.go("a").ok, "who comes by TCP is somebody else"
        held.pop(0).close()
        assert harness.wait_for(lambda: fourth.go("c").ok)
        with daemon.wire() as fifth:
            assert fifth.go("a").type == Rep.ERR_POLICY
    for wire in held:
        wire.close()


def test_multi_conn_only_where_another_connection_would_be_admitted(make_daemon):
    daemon = make_daemon()
    daemon.serve("a", SIZE, sharing="shared")
    narrow = daemon.rpc.plain("listener.add", name="n", address=f"unix:{daemon.root}/narrow",
                              max_clients=1)["address"]
    with daemon.wire() as wire, open_wire(narrow) as single:
        assert Flag.CAN_MULTI_CONN in wire.info("a").flags
        assert Flag.CAN_MULTI_CONN not in single.info("a").flags
        for bound in ("max_clients", "max_clients_per_identity"):
            daemon.rpc.plain("export.set", name="a", **{bound: 1})
            assert Flag.CAN_MULTI_CONN not in wire.info("a").flags
            daemon.rpc.plain("export.set", name="a", **{bound: 2})
            assert Flag.CAN_MULTI_CONN in wire.info("a").flags
            daemon.rpc.plain("export.set", name="a", **{bound: None})
    daemon = make_daemon("--max-clients-per-identity-overall", 1)
    daemon.serve("a", SIZE, sharing="shared")
    with daemon.wire() as wire:
        assert Flag.CAN_MULTI_CONN not in wire.info("a").flags


def ends(daemon, wire, how):
    if how == "disconnect command":
        daemon.rpc.plain("client.disconnect", id=daemon.clients_of("a")[0]["id"])
    elif how == "disconnect identity":
        uid = os.getuid()
        daemon.rpc.plain("client.disconnect", identity=f"unix:{uid}")
    elif how == "hard removal":
        daemon.rpc.plain("export.remove", name="a", mode="hard")
        daemon.rpc.plain("export.add", name="a", disk="a", max_clients=1, max_clients_per_identity=1)
    elif how == "garbage":
        wire.send(b"\xde\xad" * 1000)
    elif how == "half a request":
        wire.send(b"\x25\x60\x95\x13\0\0")
        wire.close()
    elif how == "half a payload":
        wire.send(wire.header(Cmd.WRITE, 0, 1, 0, 65536) + b"x" * 100)
        wire.close()
    elif how == "half open":
        wire.sock.shutdown(1)
    elif how == "evict":
        daemon.rpc.plain("export.set", name="a", allow=[], evict=True)
        daemon.rpc.plain("export.set", name="a", allow=None)
    else:
        wire.close()


@pytest.mark.parametrize("how", [
    "close", "disconnect command", "disconnect identity", "hard removal", "garbage",
    "half a request", "half a payload", "half open", "evict",
])
def test_a_slot_is_given_back_however_a_client_goes(make_daemon, how):
    """Of the export, the identity, the listener and the daemon: each bound is one."""
    daemon = make_daemon("--max-clients", 1, "--max-clients-per-identity-overall", 1, listen=False)
    daemon.serve("a", SIZE, max_clients=1, max_clients_per_identity=1)
    address = daemon.rpc.plain("listener.add", name="n", address=daemon.nbd, max_clients=1)["address"]
    for _ in range(3):
        wire = open_wire(address)
        assert wire.go("a").ok
        ends(daemon, wire, how)
        with open_wire(address) as next_one:
            assert harness.wait_for(lambda: next_one.go("a").ok), how
            assert next_one.read(0, 1).error == 0
        daemon.no_clients()
        wire.close()
