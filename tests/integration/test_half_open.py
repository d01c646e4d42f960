"""Connections that are opened and then do nothing, by the thousand: they hold up nobody, take
little memory, and go. "Half-open" is anything before the end of the handshake."""

import contextlib
import resource
import socket
import ssl
import struct
import subprocess
import sys
import time

import pytest

from harness import FLAVOUR, SLOW, wait_for
from nbdproto import EXTENDED, EXTENDED_REQUEST_MAGIC, IHAVEOPT, Cmd, Opt, Rep
from nbdwire import STRUCTURED, Closed, connect, open_export, open_wire
from pki import Authority
from test_tls_rotation import hello, tls_wire

HALF_OPEN = 2000 if FLAVOUR == "plain" else 400
SERVED = 200
SIZE = 8 << 20
KIB_EACH = 64  # before anybody has proven who he is
# A proper client is served within that all the same. Here nobody's place is free before, but for that of
# one who gives way: the time for a handshake is far longer.
SECONDS = 30
LONG = ["--handshake-seconds", 600]

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module", autouse=True)
def descriptors():
    """This process holds the other ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * (HALF_OPEN + SERVED)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"only {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


class Place:
    """A daemon with a plain and a TLS listener."""

    def __init__(self, daemon, root):
        self.daemon = daemon
        self.authority = Authority(root / "ca")
        server = self.authority.issue(root / "server", "server", "localhost")
        self.client = self.authority.issue(root / "client", "client", "alice")
        daemon.serve("disk", SIZE, sharing="shared")
        daemon.call("tls.add", name="x509", kind="x509", dir=str(server), verify_client=True)
        self.tls = daemon.call(
            "listener.add", name="tls", address="tcp:127.0.0.1:0", tls="x509"
        )["address"]
        self.tcp = daemon.call("listener.add", name="tcp", address="tcp:127.0.0.1:0")["address"]
        self.hello = hello(ssl.create_default_context(cafile=str(self.authority.cert)))

    def tls_client(self):
        return tls_wire(self.tls, self.authority, self.client)


@pytest.fixture
def place(make_daemon, tmp_path):
    return Place(make_daemon(*LONG), tmp_path)


# --- the kinds of half-open connections; each answers something that has close() ---


def silent(place):
    """Not a byte."""
    return connect(place.tcp)


def greeted(place):
    """Between two options."""
    return open_wire(place.tcp)


def in_an_option(place):
    wire = open_wire(place.tcp)
    wire.send(struct.pack(">QII", IHAVEOPT, Opt.SET_META_CONTEXT, 100000) + bytes(5000))
    return wire


def starttls(place):
    wire = open_wire(place.tls)
    assert wire.answer(Opt.STARTTLS) == Rep.ACK
    return wire


def half_a_hello(place):
    wire = starttls(place)
    wire.send(place.hello[: len(place.hello) // 2])
    return wire


def whole_hello(place):
    wire = starttls(place)
    wire.send(place.hello)
    return wire


def long_hello(place):
    """A message of the handshake that says it has 16 MiB, as much of it as is taken."""
    wire = starttls(place)
    head = b"\x01" + struct.pack(">I", (1 << 24) - 1)[1:] + place.hello[9:]
    for part in (head + bytes(8192 - len(head)), bytes(8000)):
        wire.send(b"\x16\x03\x01" + struct.pack(">H", len(part)) + part)
    return wire


def authenticated(place):
    """Past TLS, where it has shown a certificate, and between two options."""
    wire = place.tls_client()
    # A client is through with TLS before the server has seen its certificate.
    wire.negotiate(STRUCTURED)
    return wire


KINDS = [silent, greeted, in_an_option, starttls, half_a_hello, whole_hello, long_hello]


def proper_clients(place):
    """Seconds that a client of every kind of listener needs, from connecting to its first bytes."""
    took = []
    for make in (
        lambda: place.daemon.open("disk"),
        lambda: open_export(place.tcp, "disk"),
        place.tls_client,
    ):
        begin = time.monotonic()
        with make() as wire:
            assert wire.size >= 0 or wire.go("disk").ok
            assert wire.read(0, 4096).error == 0
            took.append(time.monotonic() - begin)
            wire.disconnect()
    return max(took)


def threads(daemon):
    return daemon.proc_status("Threads")


def test_two_thousand_half_open_connections(place):
    """And two hundred idle ones. All kinds at once; what each takes, kind by kind."""
    daemon = place.daemon
    served = []
    for _ in range(SERVED):
        served.append(place.tls_client())
        assert served[-1].go("disk").ok
    assert proper_clients(place) < SECONDS * SLOW
    before, rss, fds = threads(daemon), daemon.proc_status("VmRSS"), daemon.fd_count()
    held = []
    kinds = [*KINDS, authenticated]
    for kind in kinds:
        was = daemon.proc_status("VmRSS")
        made = [kind(place) for _ in range(HALF_OPEN // len(kinds))]
        held += made
        each = (daemon.proc_status("VmRSS") - was) / len(made)
        print(f"{kind.__name__}: {each:.1f} KiB each")
    each = (daemon.proc_status("VmRSS") - rss) / len(held)
    print(f"{len(held)} half-open connections, {each:.1f} KiB each")
    took = proper_clients(place)
    assert took < SECONDS * SLOW, f"a proper client waited {took:.2f} s"
    assert FLAVOUR != "plain" or each < KIB_EACH
    for one in held:
        one.close()
    assert wait_for(lambda: threads(daemon) <= before + 2)
    assert wait_for(lambda: daemon.fd_count() <= fds + 4)
    assert len(daemon.clients_of()) == SERVED
    assert all(wire.read(0, 512).error == 0 for wire in served)
    for one in served:
        one.close()
    daemon.no_clients()


def test_half_open_connections_end_at_the_deadline(make_daemon, tmp_path):
    """By themselves, each kind of them; those that are served stay."""
    daemon = make_daemon("--handshake-seconds", 4)
    place = Place(daemon, tmp_path)
    # Whoever has no time for a handshake in that is not served: once more, then.
    assert wait_for(lambda: attempt(lambda: proper_clients(place)) is not None)
    served = daemon.open("disk")
    before, fds, held = threads(daemon), daemon.fd_count(), []
    for kind in [*KINDS, authenticated] * 3:
        held.append(attempt(lambda: kind(place)))
    assert any(held)
    assert wait_for(lambda: len(daemon.clients_of()) == 1)
    assert wait_for(lambda: threads(daemon) <= before)
    assert wait_for(lambda: daemon.fd_count() <= fds)
    assert served.read(0, 512).error == 0
    for one in [served, *filter(None, held)]:
        one.close()


def attempt(make):
    """None where the deadline came first."""
    try:
        return make()
    except (Closed, OSError):
        return None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_memory_before_anybody_has_proven_who_he_is(place, kind):
    daemon = place.daemon
    proper_clients(place)
    rss = daemon.proc_status("VmRSS")
    held = [kind(place) for _ in range(500)]
    each = (daemon.proc_status("VmRSS") - rss) / len(held)
    print(f"{kind.__name__}: {each:.1f} KiB each")
    assert FLAVOUR != "plain" or each < KIB_EACH
    for one in held:
        one.close()
    daemon.no_clients()


def test_a_message_of_the_handshake_has_a_bound(place):
    """GnuTLS would keep 16 MiB of it."""
    wire = long_hello(place)
    with pytest.raises(Closed):
        for _ in range(1000):
            wire.send(b"\x16\x03\x01\x10\x00" + bytes(4096))
            wire.send(b"")
    wire.close()


# --- floods ---

# It lets go of nothing: a connection is closed here when the server has hung up, and not before.
FLOOD = """
import select, socket, sys, time
kind, where, source = sys.argv[1:4]
held, ended, end = {}, select.poll(), time.monotonic() + 600
print("flooding", flush=True)
while time.monotonic() < end:
    sock = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
    sock.settimeout(5)
    try:
        if kind == "tcp":
            sock.bind((source, 0))
        sock.connect(where if kind == "unix" else ("127.0.0.1", int(where)))
        held[sock.fileno()] = sock
        ended.register(sock, select.POLLRDHUP)
    except OSError:
        sock.close()
        time.sleep(0.005)
    for number, _ in ended.poll(0):
        ended.unregister(number)
        held.pop(number).close()
    time.sleep(0.0005)  # this many are a flood; more would only take the processor
"""


@contextlib.contextmanager
def flood(kind, where, source="127.0.0.1"):
    process = subprocess.Popen(
        [sys.executable, "-c", FLOOD, kind, str(where), source], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"flooding\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def worst(make, seconds):
    """The longest that a client waits while something goes on."""
    longest, end, rounds = 0.0, time.monotonic() + seconds, 0
    while time.monotonic() < end:
        begin = time.monotonic()
        while True:
            try:
                with make() as wire:
                    assert wire.size >= 0 or wire.go("disk").ok
                    wire.disconnect()
                break
            except (Closed, OSError):
                assert time.monotonic() - begin < SECONDS * SLOW, "locked out"
        longest = max(longest, time.monotonic() - begin)
        rounds += 1
        time.sleep(0.02)
    return longest, rounds


@pytest.mark.parametrize("flooded", ["tcp", "unix"])
def test_a_flood_drives_itself_out(make_daemon, tmp_path, flooded):
    """Connection after connection from one peer, far more than there is room for, and none of them
    ever goes by itself: others are served all the same, and so are those from the same peer."""
    daemon = make_daemon("--max-handshakes", 100, *LONG)
    place = Place(daemon, tmp_path)
    port = place.tcp.rpartition(":")[2]
    tls_port = place.tls.rpartition(":")[2]
    flooding = []
    with contextlib.ExitStack() as floods:
        if flooded == "tcp":
            flooding.append(floods.enter_context(flood("tcp", port)))
            flooding.append(floods.enter_context(flood("tcp", tls_port, "127.0.0.3")))
        else:
            flooding.append(floods.enter_context(flood("unix", daemon.nbd_path)))
        assert wait_for(lambda: len(daemon.clients_of()) >= 90), "no flood"
        for make in (lambda: daemon.open("disk"), place.tls_client):
            longest, rounds = worst(make, 2)
            print(f"{rounds} clients beside a flood, the slowest in {longest:.3f} s")
            assert all(process.poll() is None for process in flooding), "the flood is over"
    assert wait_for(lambda: not daemon.clients_of())


def test_an_authenticated_flood_locks_nobody_out(make_daemon, tmp_path):
    """Who has shown a certificate and then does nothing takes as much room as anybody."""
    daemon = make_daemon("--max-handshakes", 20, *LONG)
    place = Place(daemon, tmp_path)
    with contextlib.ExitStack() as held:
        for _ in range(3):
            for _ in range(20):
                held.enter_context(authenticated(place))
            took = proper_clients(place)
            assert took < SECONDS * SLOW, f"a proper client waited {took:.2f} s"
        assert len(daemon.clients_of()) >= 10, "half of the room is theirs"
    daemon.no_clients()


def test_strangers_do_not_drive_out_the_authenticated(make_daemon, tmp_path):
    daemon = make_daemon("--max-handshakes", 20, *LONG)
    place = Place(daemon, tmp_path)
    with contextlib.ExitStack() as held:
        known = [held.enter_context(authenticated(place)) for _ in range(10)]
        for _ in range(100):
            held.enter_context(contextlib.closing(silent(place)))
        assert all(wire.go("disk").ok for wire in known)


def test_when_descriptors_are_short(make_daemon):
    """Fewer descriptors than connections: those in the handshake give way, and accepting goes on."""
    daemon = make_daemon(*LONG, wrap=["prlimit", "--nofile=200:200"])
    daemon.serve("disk", SIZE, sharing="shared")
    keeper = daemon.open("disk")
    held = []
    for _ in range(300):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(daemon.nbd_path))
        held.append(sock)
    longest, _ = worst(lambda: daemon.open("disk"), 1)
    assert longest < SECONDS * SLOW, f"a proper client waited {longest:.2f} s"
    assert keeper.read(0, 512).error == 0
    assert daemon.call("daemon.info"), "the control socket has descriptors, too"
    for sock in held:
        sock.close()
    keeper.close()
    daemon.no_clients()
    assert wait_for(lambda: daemon.fd_count() < 60)


def test_lingering_has_a_bound(daemon):
    """Who breaks the protocol and stays costs half a second of a thread, but not for any number."""
    address = daemon.call("listener.add", name="tcp", address="tcp:127.0.0.1:0")["address"]
    before = threads(daemon)
    wires = []
    most = 0
    for _ in range(1500):
        sock = connect(address)
        sock.sendall(b"\xff" * 4)  # flags that are not known: the server hangs up
        # It says so before it lingers: no more than one is on its way to that.
        with contextlib.suppress(ConnectionError):
            while sock.recv(100):
                pass
        wires.append(sock)
        if len(wires) % 100 == 0:
            most = max(most, threads(daemon))
    assert most < before + 400, f"{most} threads"
    for sock in wires:
        sock.close()
    assert wait_for(lambda: threads(daemon) <= before + 1)


# --- clients that are served and do not read ---


def test_tls_buffers_have_a_bound(make_daemon, tmp_path):
    """What encryption takes counts like payload (--total-bytes); whoever gets no large buffer goes on
    with a small one; what is not used is given back."""
    daemon = make_daemon("--total-bytes", "32M", "--client-bytes", "32M")
    place = Place(daemon, tmp_path)
    reader = place.tls_client()
    assert reader.go("disk").ok
    assert reader.read(0, 1 << 20).error == 0
    alone = daemon.proc_status("VmRSS")
    deaf = []
    for _ in range(300):
        wire = place.tls_client()
        deaf.append(wire)
        assert wire.go("disk").ok
        for _ in range(8):
            wire.submit(Cmd.READ, 0, 4 << 20)
    wait_for(lambda: False, 1.0 / SLOW)
    # Small buffers are bounded by the number of clients: 32 and 36 KiB to send from, 16 to read in.
    daemon.grew_less_than(alone, 32 * 1024 + 300 * (KIB_EACH + 32 + 36 + 16))
    # The others keep their buffers until they are closed: whoever waited for those would for ever.
    for _ in range(20):
        assert len(reader.read(0, 1 << 20).data) == 1 << 20
        assert reader.write(0, b"\x01" * (1 << 20)).error == 0
    for wire in deaf:
        wire.close()
    assert wait_for(lambda: len(daemon.clients_of()) == 1)
    # The C library keeps some of GnuTLS's.
    assert FLAVOUR != "plain" or wait_for(lambda: daemon.proc_status("VmRSS") < alone + 20 * 1024)
    reader.close()


def test_block_status_has_a_bound(make_daemon):
    """Answers about many contexts to clients that do not read them: no more than --total-bytes, and
    for each client what one request needs."""
    daemon = make_daemon("--total-bytes", "32M", "--client-bytes", "32M")
    daemon.serve("disk", 64 << 20, sharing="shared")
    names = [f"b{number}" for number in range(60)]
    for name in names:
        daemon.rpc.plain("bitmap.add", disk="disk", name=name)
    contexts = [f"qemu:dirty-bitmap:{name}" for name in names]
    before = daemon.proc_status("VmRSS")
    ask = struct.pack(">IHHQQQ", EXTENDED_REQUEST_MAGIC, 0, Cmd.BLOCK_STATUS, 1, 0, 64 << 20)
    deaf = [daemon.open("disk", EXTENDED, contexts) for _ in range(20)]
    for wire in deaf:
        wire.sock.setblocking(False)
    for _ in range(30):
        for wire in deaf:
            with contextlib.suppress(BlockingIOError):
                wire.sock.send(ask * 100)
        time.sleep(0.02)
    daemon.grew_less_than(before, 32 * 1024 + 20 * 2 * KIB_EACH)
    with daemon.open("disk", EXTENDED, contexts) as wire:
        status = wire.block_status(0, 64 << 20).status
        assert list(status.values()) == [[(64 << 20, 0)]] * len(names)
    for wire in deaf:
        wire.close()
    daemon.no_clients()
