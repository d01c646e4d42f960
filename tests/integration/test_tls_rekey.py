"""Changes of keys within a TLS 1.3 session (RFC 8446 4.6.3), by OpenSSL's own client: alone, and in
one segment with what comes behind them. tests/unit/test_tls_session.c has the same with GnuTLS."""

import contextlib
import os
import select
import socket
import subprocess
import threading

import pytest

from harness import SLOW, wait_for
from nbdproto import Opt, Rep
from nbdwire import open_wire
from peers import need
from test_tls_matrix import SIZE, Site
from test_tls_rotation import cpu_ticks

pytestmark = need("openssl")


@pytest.fixture(scope="module")
def site(server, tmp_path_factory):
    return Site(server, tmp_path_factory.mktemp("site"))


class Client:
    """`openssl s_client` behind STARTTLS, in place of a wire's socket. Its records pass a relay,
    which can hold them back and let them go as one segment."""

    def __init__(self, site, folder):
        self.wire = open_wire(site.address["require"])
        assert self.wire.answer(Opt.STARTTLS) == Rep.ACK
        self.far, self.wire.sock = self.wire.sock, self
        self.messages = folder / "messages"
        self.lock, self.holding, self.held = threading.Lock(), False, b""
        with socket.create_server(("127.0.0.1", 0)) as ears:
            ears.settimeout(10 * SLOW)
            self.process = subprocess.Popen(
                ["openssl", "s_client", "-connect", f"127.0.0.1:{ears.getsockname()[1]}",
                 "-quiet", "-no_ign_eof", "-tls1_3", "-msg", "-msgfile", self.messages,
                 "-CAfile", site.authority.cert, "-verify_return_error",
                 "-cert", site.client / "client-cert.pem", "-key", site.client / "client-key.pem"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
            )
            self.near, _ = ears.accept()
        self.threads = [threading.Thread(target=self.relay_out), threading.Thread(target=self.relay_in)]
        for thread in self.threads:
            thread.start()

    def relay_out(self):
        with contextlib.suppress(OSError):
            while data := self.near.recv(65536):
                with self.lock:
                    if self.holding:
                        self.held += data
                    else:
                        self.far.sendall(data)
            self.far.shutdown(socket.SHUT_WR)

    def relay_in(self):
        with contextlib.suppress(OSError):
            while data := self.far.recv(65536):
                self.near.sendall(data)

    def hold(self):
        with self.lock:
            self.holding = True

    def wait_held(self, length):
        """Until there is more than so much, which it answers."""
        assert wait_for(lambda: len(self.held) > length), "the client sent nothing"
        return len(self.held)

    def release(self, length=None):
        """What was held goes in one segment; with a length so much of it, and holding goes on."""
        with self.lock:
            part = self.held[:length]
            self.held = self.held[len(part) :]
            self.holding = length is not None
            self.far.sendall(part)

    def rekey(self, ask):
        """A line of this letter is a command of s_client's, if it is read alone."""
        before = self.told(">>>")
        self.process.stdin.write(b"K" if ask else b"k")
        assert wait_for(lambda: self.told(">>>") > before), "it does not change its keys"

    def told(self, direction):
        """Changes of keys that went in that direction."""
        lines = self.messages.read_text(errors="replace").split("\n")
        return sum("KeyUpdate" in line and line.startswith(direction) for line in lines)

    # --- as a socket ---

    def sendall(self, data):
        self.process.stdin.write(data)

    def recv(self, length):
        ready, _, _ = select.select([self.process.stdout], [], [], 10 * SLOW)
        if not ready:
            raise socket.timeout("no answer")
        return os.read(self.process.stdout.fileno(), length)

    def settimeout(self, seconds):
        pass

    def close(self):
        self.process.kill()
        self.process.wait()
        for thread in self.threads:
            thread.join()
        for one in (self.near, self.far, self.process.stdin, self.process.stdout):
            one.close()


def haggling(wire):
    return lambda: wire.info("disk").size == SIZE


def served(wire):
    assert wire.go("disk").ok
    return lambda: wire.read(0, 512).data == b"\x11" * 512


@pytest.fixture(params=[haggling, served], ids=lambda one: one.__name__)
def client(request, site, tmp_path):
    client = Client(site, tmp_path)
    try:
        client.ask = request.param(client.wire)
        assert client.ask()
        yield client
    finally:
        client.close()
    assert wait_for(lambda: not site.daemon.clients_of())


def held_request(client, ask):
    """New keys and a request are held: how long the keys are. A thread waits for the answer."""
    client.hold()
    client.rekey(ask)
    keys = client.wait_held(0)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(client.ask()))
    thread.start()
    client.wait_held(keys)
    return keys, lambda: (thread.join(), answers == [True])[1]


asking = pytest.mark.parametrize("ask", [False, True], ids=["", "and asks the server to"])


@asking
def test_alone(client, ask):
    for count in range(1, 4):
        client.rekey(ask)
        assert client.ask()
        assert client.told("<<<") == (count if ask else 0)


@asking
def test_with_a_request_in_one_segment(client, ask):
    for count in range(1, 4):
        _, answered = held_request(client, ask)
        client.release()
        assert answered()
        assert client.told("<<<") == (count if ask else 0)


@asking
def test_with_half_a_request(client, site, ask):
    """It waits for the rest, and that costs nothing."""
    keys, answered = held_request(client, ask)
    client.release(keys + 9)
    ticks = cpu_ticks(site.daemon)
    assert not wait_for(lambda: cpu_ticks(site.daemon) - ticks > 5, 0.5), "it burns processor time"
    client.release()
    assert answered()
