"""Credentials rotated under load, and TLS peers that die, stall or send garbage."""

import os
import socket
import ssl
import subprocess
import threading

import pytest

from harness import wait_for
from nbdproto import Opt, Rep
from nbdwire import open_wire
from peers import need
from pki import Authority

SIZE = 8 << 20
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


def tls_wire(address, authority, client):
    context = ssl.create_default_context(cafile=str(authority.cert))
    context.load_cert_chain(client / "client-cert.pem", client / "client-key.pem")
    wire = open_wire(address)
    assert wire.answer(Opt.STARTTLS) == Rep.ACK
    wire.sock = context.wrap_socket(wire.sock, server_hostname="localhost")
    return wire


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
                for offset in range(0, SIZE, 1 << 20):
                    reply = self.wire.read(offset, 1 << 20)
                    assert reply.error == 0 and reply.data == b"\x42" * (1 << 20)
                self.copies += 1
        except Exception as error:  # noqa: BLE001 (told by the test)
            self.failure = error


@pytest.mark.threads
def test_rotations_under_clients_that_copy(secure):
    daemon, authority, material, client, address = secure
    other = authority.issue(material.parent / "other", "server", "localhost")
    wires = [tls_wire(address, authority, client) for _ in range(COPIERS)]
    for wire in wires:
        assert wire.go("disk").ok
    copiers = [Copier(wire) for wire in wires]
    for copier in copiers:
        copier.start()
    try:
        for count in range(ROTATIONS):
            folder = (other, material)[count % 2]
            if count % 3:
                daemon.rpc.plain("tls.set", name="main", dir=str(folder))
            else:
                daemon.rpc.plain("tls.set", name="main", dir=str(folder))
                daemon.rpc.plain("tls.reload", name="main")
            pem = (folder / "server-cert.pem").read_text()
            with tls_wire(address, authority, client) as wire:
                assert wire.sock.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(pem)
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
    assert wait_for(lambda: not daemon.clients_of(), 15)
    assert wait_for(lambda: int(daemon.proc_status("Threads")) <= before + 2, 15)


@pytest.mark.long
def test_a_silent_handshake_ends_by_itself(secure):
    daemon, _, _, _, address = secure
    with open_wire(address) as wire:
        assert wire.answer(Opt.STARTTLS) == Rep.ACK
        wire.expect_close(15)


@need("nbdcopy")
def test_nbdcopy_with_four_connections(secure, tmp_path):
    _, _, _, client, address = secure
    port = address.rsplit(":", 1)[1]
    uri = f"nbds://localhost:{port}/disk?tls-certificates={client}"
    subprocess.run(["nbdcopy", "--connections=4", uri, tmp_path / "copy"], check=True, timeout=60)
    assert (tmp_path / "copy").read_bytes() == b"\x42" * SIZE
    subprocess.run(["nbdcopy", "--connections=4", tmp_path / "copy", uri], check=True, timeout=60)
