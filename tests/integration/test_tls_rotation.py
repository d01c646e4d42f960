"""Credentials rotated under load, and TLS peers that die, stall or send garbage."""

import functools
import os
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest

from harness import SLOW, wait_for
from nbdproto import Opt, Rep
from nbdwire import open_wire
from peers import need
from pki import Authority, fingerprint
from rpc import RpcError

SIZE = 2 << 20
ROTATIONS = int(os.environ.get("NBDD_ROTATIONS", "200"))
COPIERS = 8


@pytest.fixture(scope="module")
def secure(server, tmp_path_factory):
    """(daemon, authority, folder of the server's material, client's, address)"""
    root = tmp_path_factory.mktemp("rotation")
    authority = Authority(root / "ca")
    material = authority.issue(root / "server", "server", "localhost")
    client = authority.issue(root / "client", "client", "alice")
    server.serve("disk", SIZE, {0: b"\x42" * SIZE}, sharing="shared")
    server.call("tls.add", name="main", kind="x509", dir=str(material), verify_client=True)
    listener = server.call("listener.add", name="tls", address="tcp:127.0.0.1:0", tls="main")
    return server, authority, material, client, listener["address"]


def begin_tls(address):
    wire = open_wire(address)
    assert wire.answer(Opt.STARTTLS) == Rep.ACK
    return wire


@functools.cache
def context_of(authority, client):
    context = ssl.create_default_context(cafile=str(authority.cert))
    context.load_cert_chain(client / "client-cert.pem", client / "client-key.pem")
    return context


def end_tls(wire, authority, client):
    wire.sock = context_of(authority, client).wrap_socket(wire.sock, server_hostname="localhost")
    return wire


def tls_wire(address, authority, client):
    return end_tls(begin_tls(address), authority, client)


class Copier(threading.Thread):
    """Connects once and reads the whole disk over and over until told to stop."""

    def __init__(self, wire):
        super().__init__()
        self.wire = wire
        self.stopping = False
        self.copies = 0
        self.failure = None

    def run(self):
        try:
            while not self.stopping:
                for offset in range(0, SIZE, 256 << 10):
                    reply = self.wire.read(offset, 256 << 10)
                    assert reply.error == 0 and reply.data == b"\x42" * (256 << 10)
                    time.sleep(0.01)  # the processors are for the rotations
                self.copies += 1
        except Exception as error:  # noqa: BLE001 (told by the test)
            self.failure = error


class Rotation:
    """The credential, its material changed in every way there is. `shown` is the certificate (PEM)
    that a new handshake must show."""

    FILES = ("server-cert.pem", "server-key.pem", "ca-cert.pem")

    def __init__(self, daemon, authority, root):
        self.daemon = daemon
        sets = [authority.issue(root / f"set{n}", "server", "localhost") for n in range(3)]
        self.sets = [({name: (folder / name).read_text() for name in self.FILES},
                      fingerprint(folder / "server-cert.pem")) for folder in sets]
        self.folders = [authority.issue(root / name, "server", "localhost") for name in "ab"]
        self.count = 0
        self.move()

    def write(self, **broken):
        """The next set over the files that are there; broken: in place of one."""
        self.count += 1
        texts, self.fingerprint = self.sets[self.count % len(self.sets)]
        for name, text in texts.items():
            (self.folders[0] / name).write_text(broken.get(name.split(".")[0], text))
        return texts["server-cert.pem"]

    def state(self):
        return self.daemon.rpc.plain("tls.show", name="main")

    def hangup(self, done):
        self.daemon.process.send_signal(signal.SIGHUP)
        assert wait_for(lambda: done(self.state()), step=0.002)

    # --- ways that succeed ---

    def overwrite_and_reload(self):
        self.shown = self.write()
        self.daemon.rpc.plain("tls.reload", name="main")

    def overwrite_and_hang_up(self):
        self.shown = self.write()
        self.hangup(lambda row: row["certificates"][0]["fingerprint"] == self.fingerprint)

    def move(self):
        self.folders.reverse()
        self.shown = self.write()
        self.daemon.rpc.plain("tls.set", name="main", dir=str(self.folders[0]))

    # --- ways that do not: what is shown stays ---

    def fails(self, method, **params):
        with pytest.raises(RpcError) as caught:
            self.daemon.rpc.plain(method, name="main", **params)
        assert caught.value.kind == "tls" and self.state()["problem"] == caught.value.message

    def fail_to_reload(self):
        self.write(**{"server-cert": "garbage\n"})
        self.fails("tls.reload")

    def fail_to_hang_up(self):
        self.write(**{"server-key": "garbage\n"})
        self.hangup(lambda row: row["problem"] and "server-key.pem" in row["problem"])

    def fail_to_move(self):
        self.fails("tls.set", dir=str(self.folders[0] / "nowhere"))

    WAYS = (overwrite_and_reload, fail_to_reload, overwrite_and_hang_up, move, fail_to_hang_up,
            overwrite_and_reload, move, fail_to_move, overwrite_and_hang_up, overwrite_and_reload)


def shows(wire, pem):
    return wire.sock.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(pem)


@pytest.mark.threads
def test_rotations_under_clients_that_copy(secure, tmp_path):
    """Nobody who is connected notices, no handshake that is under way fails, and the next one shows
    what is in force."""
    daemon, authority, _, client, address = secure
    rotation = Rotation(daemon, authority, tmp_path)
    wires = [tls_wire(address, authority, client) for _ in range(COPIERS)]
    for wire in wires:
        assert wire.go("disk").ok
    copiers = [Copier(wire) for wire in wires]
    for copier in copiers:
        copier.start()
    try:
        for count in range(ROTATIONS):
            before = rotation.shown
            under_way = begin_tls(address) if count % 3 == 0 else None
            Rotation.WAYS[count % len(Rotation.WAYS)](rotation)
            with tls_wire(address, authority, client) as wire:
                assert shows(wire, rotation.shown)
            if under_way:
                with end_tls(under_way, authority, client) as wire:
                    assert shows(wire, before) and wire.info("disk").ok
        assert wait_for(lambda: all(one.copies or one.failure for one in copiers))
    finally:
        for copier in copiers:
            copier.stopping = True
        for copier in copiers:
            copier.join()
    assert [copier.failure for copier in copiers] == [None] * COPIERS
    assert all(copier.copies for copier in copiers)
    for wire in wires:
        wire.disconnect()
        wire.close()
    daemon.no_clients()


def cpu_ticks(daemon):
    fields = open(f"/proc/{daemon.process.pid}/stat", encoding="ascii").read().split()
    return int(fields[13]) + int(fields[14])


def hello(context):
    """The first bytes of a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    side = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        side.do_handshake()
    return outgoing.read()


STATES = ["nothing", "half a hello", "hello", "garbage", "garbage behind hello", "after the handshake"]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("end", ["dies", "stalls"])
def test_a_peer_that_goes_in_every_state(secure, state, end):
    """The slot comes back, the thread ends, processor time goes back to idle."""
    daemon, authority, _, client, address = secure
    before = int(daemon.proc_status("Threads"))
    context = ssl.create_default_context(cafile=str(authority.cert))
    wires = []
    for _ in range(5):
        if state == "after the handshake":
            wires.append(tls_wire(address, authority, client))
            continue
        wire = open_wire(address)
        assert wire.answer(Opt.STARTTLS) == Rep.ACK
        wire.send({
            "nothing": b"",
            "half a hello": hello(context)[:60],
            "hello": hello(context),
            "garbage": b"\xff" * 4096,
            "garbage behind hello": hello(context) + b"\x00" * 4096,
        }[state])
        wires.append(wire)
    if end == "dies":
        for wire in wires:
            wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            wire.close()
    else:
        ticks = cpu_ticks(daemon)
        with tls_wire(address, authority, client) as proper:
            assert proper.go("disk").ok
            assert proper.read(0, 512).error == 0
            proper.disconnect()
        assert cpu_ticks(daemon) - ticks < 50, "it burns processor time for a silent peer"
        for wire in wires:
            wire.close()
    assert wait_for(lambda: not daemon.clients_of())
    assert wait_for(lambda: int(daemon.proc_status("Threads")) <= before + 2)


@pytest.mark.long
def test_a_silent_handshake_ends_by_itself(make_daemon, secure, tmp_path):
    _, authority, *_ = secure
    daemon = make_daemon(handshake=None)
    material = authority.issue(tmp_path / "server", "server", "localhost")
    daemon.call("tls.add", name="main", kind="x509", dir=str(material), verify_client=True)
    address = daemon.call("listener.add", name="tls", address="tcp:127.0.0.1:0", tls="main")["address"]
    with open_wire(address) as wire:
        assert wire.answer(Opt.STARTTLS) == Rep.ACK
        wire.expect_close()


@need("nbdcopy")
def test_nbdcopy_with_four_connections(secure, tmp_path):
    _, _, _, client, address = secure
    port = address.rsplit(":", 1)[1]
    uri = f"nbds://localhost:{port}/disk?tls-certificates={client}"
    subprocess.run(["nbdcopy", "--connections=4", uri, tmp_path / "copy"], check=True, timeout=120 * SLOW)
    assert (tmp_path / "copy").read_bytes() == b"\x42" * SIZE
    subprocess.run(["nbdcopy", "--connections=4", tmp_path / "copy", uri], check=True, timeout=120 * SLOW)
