"""OpenSSL's own client (`openssl s_client`) behind STARTTLS, in place of a wire's socket. Its records
pass a relay, which can hold them back and let them go as one segment."""

import contextlib
import os
import select
import socket
import subprocess
import threading

from harness import SLOW, wait_for
from nbdproto import Opt, Rep
from nbdwire import open_wire


def with_certificate(authority, folder):
    return ["-CAfile", authority.cert, "-verify_return_error",
            "-cert", folder / "client-cert.pem", "-key", folder / "client-key.pem"]


def with_key(user, key):
    return ["-psk_identity", user, "-psk", key, "-cipher", "ECDHE-PSK-CHACHA20-POLY1305"]


class SClient:
    """The words are s_client's. hold: all that it sends behind its hello is held. `messages` is a
    file for what it tells of the handshake."""

    def __init__(self, address, messages, *words, hold=False):
        self.wire = open_wire(address)
        assert self.wire.answer(Opt.STARTTLS) == Rep.ACK
        self.far, self.wire.sock = self.wire.sock, self
        self.messages = messages
        self.lock, self.holding, self.held = threading.Lock(), False, b""
        self.hold_behind_hello = hold
        with socket.create_server(("127.0.0.1", 0)) as ears:
            ears.settimeout(60 * SLOW)
            self.process = subprocess.Popen(
                ["openssl", "s_client", "-connect", f"127.0.0.1:{ears.getsockname()[1]}",
                 "-quiet", "-no_ign_eof", "-msg", "-msgfile", messages, *words],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
            )
            self.near, _ = ears.accept()
        self.threads = [threading.Thread(target=way) for way in (self.relay_out, self.relay_in)]
        for thread in self.threads:
            thread.start()

    def relay_out(self):
        with contextlib.suppress(OSError):
            while data := self.near.recv(65536):
                with self.lock:
                    if self.holding:
                        self.held += data
                        continue
                    self.far.sendall(data)
                    self.holding, self.hold_behind_hello = self.hold_behind_hello, False
            self.far.shutdown(socket.SHUT_WR)

    def relay_in(self):
        with contextlib.suppress(OSError):
            while data := self.far.recv(65536):
                self.near.sendall(data)
            self.near.shutdown(socket.SHUT_WR)

    def hold(self):
        with self.lock:
            self.holding = True

    def wait_held(self, length=0):
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
        ready, _, _ = select.select([self.process.stdout], [], [], 60 * SLOW)
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
