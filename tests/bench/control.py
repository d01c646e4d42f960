"""Steering servers: nbdd's control socket and QEMU's QMP. Both are JSON, one text a line."""

import json
import socket

from process import BenchError


class Lines:
    """A Unix socket with one JSON text on each line."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(str(path))
        self.file = self.sock.makefile("rb")

    def send(self, message):
        self.sock.sendall(json.dumps(message).encode() + b"\n")

    def receive(self):
        line = self.file.readline()
        if not line:
            raise BenchError("the control socket was closed")
        return json.loads(line)

    def close(self):
        self.file.close()
        self.sock.close()


class Rpc(Lines):
    """JSON-RPC 2.0 as nbdd speaks it."""

    def call(self, method, **params):
        self.send({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        answer = self.receive()
        if "error" in answer:
            raise BenchError(f"{method}: {answer['error']['message']}")
        return answer["result"]


class Qmp(Lines):
    """QEMU's protocol."""

    def __init__(self, path):
        super().__init__(path)
        self.receive()
        self.call("qmp_capabilities")

    def call(self, command, **arguments):
        self.send({"execute": command, "arguments": arguments})
        while True:
            answer = self.receive()
            if "error" in answer:
                raise BenchError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]


def answers(path):
    """Whether somebody listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(str(path))
        except OSError:
            return False
        return True


def listens(port):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
