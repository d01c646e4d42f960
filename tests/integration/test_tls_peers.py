"""TLS peers that die, stall or send garbage, in every state of a connection: the thread ends, the
slot is free, descriptors come back, and nobody burns processor time meanwhile."""

import contextlib
import itertools
import os
import socket
import ssl
import struct
import time

import pytest

import nbdwire
from harness import Daemon, succeeds, wait_for
from nbdproto import IHAVEOPT, SIMPLE_REPLY_MAGIC, Cmd, Opt, Rep, info_data
from nbdwire import Closed
from pki import Authority
from test_tls_rotation import cpu_ticks

SIZE = 8 << 20
HANDSHAKE_SECONDS = 1
FAR_TOO_LONG = 40  # for the same, where the machine has no time for us
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class Place:
    def __init__(self, daemon, root):
        self.daemon = daemon
        authority = Authority(root / "ca")
        server = authority.issue(root / "server", "server", "localhost")
        self.client = authority.issue(root / "client", "client", "alice")
        self.authority = authority
        daemon.serve("slot", SIZE, {0: b"\x33" * SIZE}, sharing="exclusive")
        daemon.serve("many", SIZE, {0: b"\x33" * SIZE}, sharing="shared")
        daemon.call("tls.add", name="x509", kind="x509", dir=str(server), verify_client=True)
        self.address = daemon.call(
            "listener.add", name="tls", address="tcp:127.0.0.1:0", tls="x509"
        )["address"]

    def context(self, version="1.3"):
        context = ssl.create_default_context(cafile=str(self.authority.cert))
        context.load_cert_chain(self.client / "client-cert.pem", self.client / "client-key.pem")
        context.minimum_version = context.maximum_version = VERSIONS[version]
        return context

    def try_slot(self):
        """Whether a proper client gets the export."""
        peer = Peer(self)
        try:
            peer.handshake()
            peer.say(option(Opt.GO, info_data("slot")))
            return peer.hear_until(Rep.ACK)
        except (Closed, OSError, ssl.SSLError):
            return False
        finally:
            peer.sock.close()


def make_place(folder, **options):
    daemon = Daemon(**options)
    try:
        place = Place(daemon.start(), folder)
        assert wait_for(place.try_slot)
        daemon.no_clients()
        yield place
    finally:
        daemon.finish()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where the deadline does not matter."""
    yield from make_place(tmp_path_factory.mktemp("peers"))


@pytest.fixture(scope="module")
def hasty(tmp_path_factory):
    """Where it comes soon: bring() for whoever has to get somewhere before."""
    yield from make_place(tmp_path_factory.mktemp("hasty"),
                          args=["--handshake-seconds", HANDSHAKE_SECONDS])


def option(number, data=b""):
    return struct.pack(">QII", IHAVEOPT, number, len(data)) + data


def request(kind, length=0, payload=b""):
    return struct.pack(">IHHQQI", 0x25609513, 0, kind, 7, 0, length) + payload


ANSWER = struct.pack(">IIQ", SIMPLE_REPLY_MAGIC, 0, 7)


class Peer:
    """TLS in memory: what goes to the socket, and when, is the test's to say."""

    def __init__(self, place, version="1.3", export="slot"):
        self.export = export
        self.wire = nbdwire.open_wire(place.address)
        self.sock = self.wire.sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = place.context(version).wrap_bio(
            self.incoming, self.outgoing, server_hostname="localhost"
        )
        self.heard = b""
        # Of one that is served and stalls: what it has left to send, and what it is to hear then.
        self.rest, self.due = b"", []

    def starttls(self):
        assert self.wire.answer(Opt.STARTTLS) == Rep.ACK

    def flight(self):
        """The client's next bytes of the handshake."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.outgoing.read()

    def listen(self):
        data = self.sock.recv(65536)
        if not data:
            raise Closed
        self.incoming.write(data)

    def second_flight(self):
        """With what the server said to the first; a whole flight may come in pieces."""
        self.sock.sendall(self.flight())
        while True:
            self.listen()
            data = self.flight()
            if data:
                return data

    def handshake(self):
        self.starttls()
        self.sock.sendall(self.second_flight())
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.listen()
        self.sock.sendall(self.outgoing.read())

    def encrypt(self, data):
        self.tls.write(data)
        return self.outgoing.read()

    def say(self, data):
        self.sock.sendall(self.encrypt(data))

    def hear(self):
        while True:
            try:
                data = self.tls.read(65536)
            except ssl.SSLWantReadError:
                self.listen()
                continue
            if not data:
                raise Closed  # with a goodbye
            return data

    def hear_bytes(self, count):
        parts = [self.heard]
        while sum(map(len, parts)) < count:
            parts.append(self.hear())
        whole = b"".join(parts)
        self.heard = whole[count:]
        return whole[:count]

    def hear_until(self, kind):
        """Replies to one option up to the final one: whether that was of this kind."""
        while True:
            _, _, found, length = struct.unpack(">QIII", self.hear_bytes(20))
            self.hear_bytes(length)
            if found == Rep.ACK or found & 0x80000000:
                return found == kind

    def serve(self):
        self.handshake()
        self.say(option(Opt.GO, info_data(self.export)))
        assert self.hear_until(Rep.ACK)

    def go_on(self):
        self.sock.sendall(self.rest)
        for part in self.due:
            assert self.hear_bytes(len(part)) == part


def bring(place, state, *words, **more):
    """A peer in that state. Where the machine has no time for us the deadline may come before."""
    def attempt():
        with contextlib.suppress(Closed, OSError):
            peer = Peer(place, *words, **more)
            try:
                state(peer)
                return peer
            except (Closed, OSError):
                peer.sock.close()
    return succeeds(attempt)


# --- states: each brings a peer into it ---


def before_starttls(peer):
    pass


def starttls(peer):
    peer.starttls()


def half_a_hello(peer):
    peer.starttls()
    data = peer.flight()
    peer.sock.sendall(data[: len(data) // 2])


def hello(peer):
    peer.starttls()
    peer.sock.sendall(peer.flight())


def half_a_flight(peer):
    peer.starttls()
    data = peer.second_flight()
    peer.sock.sendall(data[: len(data) // 2])


def nearly_all(peer):
    peer.starttls()
    peer.sock.sendall(peer.second_flight()[:-1])


def haggling(peer):
    peer.handshake()
    peer.say(option(Opt.LIST))
    assert peer.hear_until(Rep.ACK)


def half_an_option(peer):
    peer.handshake()
    peer.say(option(Opt.GO, info_data("slot"))[:19])


def half_a_record(peer):
    peer.handshake()
    data = peer.encrypt(option(Opt.GO, info_data("slot")))
    peer.sock.sendall(data[: len(data) // 2])


def served(peer):
    peer.serve()
    peer.rest = peer.encrypt(request(Cmd.READ, 512))
    peer.due = [ANSWER + b"\x33" * 512]


def worked(peer):
    peer.serve()
    peer.say(request(Cmd.READ, 65536))
    assert peer.hear_bytes(16 + 65536) == ANSWER + b"\x33" * 65536
    peer.rest = peer.encrypt(request(Cmd.WRITE, 512, b"\x33" * 512))
    peer.due = [ANSWER]


def half_a_request(peer):
    peer.serve()
    data = request(Cmd.READ, 512)
    peer.say(data[:13])
    peer.rest = peer.encrypt(data[13:])
    peer.due = [ANSWER + b"\x33" * 512]


def half_a_record_of_a_request(peer):
    peer.serve()
    data = peer.encrypt(request(Cmd.READ, 512))
    peer.sock.sendall(data[:11])
    peer.rest = data[11:]
    peer.due = [ANSWER + b"\x33" * 512]


def half_a_payload(peer):
    peer.serve()
    data = request(Cmd.WRITE, 1 << 20, b"\x33" * (1 << 20))
    peer.say(data[:500000])
    peer.rest = peer.encrypt(data[500000:])
    peer.due = [ANSWER]


def deaf(peer):
    """Far more is asked for than any buffer on the way holds."""
    peer.serve()
    for _ in range(30):
        peer.say(request(Cmd.READ, SIZE))
    peer.due = [ANSWER + b"\x33" * SIZE] * 30


HANDSHAKE = [before_starttls, starttls, half_a_hello, hello, half_a_flight, nearly_all, haggling,
             half_an_option, half_a_record]
SERVED = [served, worked, half_a_request, half_a_record_of_a_request, half_a_payload, deaf]


# --- ends ---


def resets(peer):
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.sock.close()


def closes(peer):
    peer.sock.close()


def half_closes(peer):
    """No goodbye of TLS before it: and it still listens."""
    peer.sock.shutdown(socket.SHUT_WR)
    with contextlib.suppress(OSError):
        while peer.sock.recv(1 << 20):
            pass
    peer.sock.close()


def garbage(peer):
    """And it listens, so that a server that wants to say something can. (Bytes that are no record,
    and bytes that look like one.)"""
    with contextlib.suppress(OSError):
        peer.sock.sendall(b"\x17\x03\x03\x00\x20" + os.urandom(32) + os.urandom(70000))
        while peer.sock.recv(1 << 20):
            pass
    peer.sock.close()


ENDS = [resets, closes, half_closes, garbage]


@contextlib.contextmanager
def nothing_left(place):
    """Afterwards threads and descriptors are as many as before, and the slot is free."""
    daemon = place.daemon
    threads, fds = daemon.proc_status("Threads"), daemon.fd_count()
    yield
    assert wait_for(lambda: not daemon.clients_of()), "it is still a client"
    assert wait_for(lambda: daemon.proc_status("Threads") <= threads), "its thread is still there"
    assert wait_for(lambda: daemon.fd_count() <= fds), "descriptors were not closed"
    assert wait_for(place.try_slot), "its slot was not given back"
    daemon.no_clients()


ALL = [(state, "1.3") for state in HANDSHAKE + SERVED] + [(state, "1.2") for state in HANDSHAKE]


@pytest.mark.parametrize("end", ENDS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("state,version", ALL, ids=lambda one: getattr(one, "__name__", one))
def test_a_peer_that_ends(place, state, end, version):
    with nothing_left(place):
        peer = Peer(place, version)
        state(peer)
        begin = time.monotonic()
        end(peer)
        # The deadline is not what ends it, nor our own patience.
        assert time.monotonic() - begin < nbdwire.PATIENCE / 2


def is_idle(place, seconds=0.4):
    before = cpu_ticks(place.daemon)
    time.sleep(seconds)
    return cpu_ticks(place.daemon) - before <= 2


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("state", HANDSHAKE, ids=lambda one: one.__name__)
def test_a_peer_that_stalls_in_the_handshake(place, hasty, state, version):
    """It waits without a tick of the processor, and the deadline ends it."""
    with nothing_left(place):
        peer = Peer(place, version)
        state(peer)
        assert wait_for(lambda: is_idle(place, 0.2)), "it burns processor time"
        assert place.daemon.clients_of(), "it was given up too early"
        peer.sock.close()
    with nothing_left(hasty):
        begin = time.monotonic()
        peer = bring(hasty, state, version)
        assert wait_for(lambda: not hasty.daemon.clients_of())
        assert time.monotonic() - begin > HANDSHAKE_SECONDS * 0.9, "it was given up too early"
    peer.sock.close()


@pytest.mark.parametrize("state", SERVED, ids=lambda one: one.__name__)
def test_a_peer_that_stalls_while_it_is_served(place, state):
    """It may: it costs no time, and it can be told to go."""
    with nothing_left(place):
        peer = Peer(place)
        state(peer)
        assert wait_for(lambda: is_idle(place)), "it burns processor time"
        (client,) = place.daemon.clients_of("slot")
        place.daemon.call("client.disconnect", id=client["id"])
    peer.sock.close()


def test_peers_that_stall_while_they_are_served_go_on(hasty):
    """Nobody else notices, and silence has no end for them: others that are silent in their
    handshake are given up one after the other meanwhile. Then each goes on where it stopped."""
    with nothing_left(hasty):
        peers = [bring(hasty, state, export="many") for state in SERVED]
        for _ in range(2):
            silent = succeeds(lambda: nbdwire.open_wire(hasty.address))
            other = bring(hasty, served, export="many")
            other.go_on()
            silent.expect_close()
            other.sock.close()
            silent.close()
        for peer in peers:
            peer.go_on()
            peer.sock.close()


def test_a_peer_that_says_nothing_but_warnings(hasty):
    """Records that are read past never put off the deadline, nor hold the thread."""
    warning = b"\x15\x03\x03\x00\x02\x01\x5a"
    with nothing_left(hasty):
        for state in (starttls, hello):
            peer = bring(hasty, state, "1.2")
            begin = time.monotonic()
            with contextlib.suppress(OSError):
                while time.monotonic() - begin < FAR_TOO_LONG:
                    peer.sock.sendall(warning * 20000)  # without a gap
            assert time.monotonic() - begin < FAR_TOO_LONG, "it was listened to all the time"
            peer.sock.close()


def test_a_peer_that_dribbles(hasty):
    """Byte after byte, each in time: the deadline is for all of it."""
    with nothing_left(hasty):
        peer = bring(hasty, starttls)
        begin = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in itertools.cycle(peer.flight()):
                peer.sock.sendall(bytes([byte]))
                time.sleep(0.01)
                if time.monotonic() - begin > FAR_TOO_LONG:
                    break
        assert time.monotonic() - begin < FAR_TOO_LONG
        peer.sock.close()
