"""Real nbdds on a folder whose machine loses its power: started in milliseconds, recorded or not.

power_boot.c is preloaded: a Stock is an nbdd that waits before main and forks one that goes on."""

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import uuid

import harness

SOCKET, EXPORTS = "run/c.sock", "run/n.sock"
REGION = 65536


class Failed(Exception):
    """nbdd did not do what it has to."""


class Stock:
    """Makes nbdds with the same options."""

    def __init__(self, options=(), env=None):
        library = harness.BUILD / "tests" / "crash" / "power.so"
        if not library.exists():
            raise Failed(f"no {library}: build first")
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = f"nbdd-power-{uuid.uuid4().hex}"
        self.notify.bind("\0" + address)
        self.notify.settimeout(20 * harness.SLOW)
        self.pipe, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.log = tempfile.TemporaryFile()
        words = [
            str(harness.NBDD), "--state-dir", "state", "--socket", SOCKET, "--io-engine", "threads",
            "--region-size", str(REGION), "--max-intents", "16", *options,
        ]
        environment = dict(
            os.environ, LD_PRELOAD=str(library), NBDD_POWER_FD=str(other.fileno()), LC_ALL="C",
            NOTIFY_SOCKET="@" + address, G_DEBUG="fatal-criticals",
            XDG_RUNTIME_DIR="run", **(env or {}),
        )
        self.process = subprocess.Popen(
            words, env=environment, pass_fds=[other.fileno()], stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=self.log,
        )
        other.close()
        self.pipe.settimeout(60 * harness.SLOW)
        self.pid = None

    def start(self, folder, boot, log=None, times=None):
        """boot: (id, ns). times: what statx tells of the image, None: the truth."""
        self.log.truncate(0)
        self.log.seek(0)
        mtime, ctime = times or ("-", "-")
        self.pipe.send(f"{folder} {boot[0]} {boot[1]} {mtime} {ctime} {log or '-'}".encode())
        (self.pid,) = struct.unpack("i", self.pipe.recv(4))
        while True:
            # Either it says that it is ready, or its end is announced.
            try:
                self.notify.settimeout(0.2)
                if self.notify.recv(4096).startswith(b"READY=1"):
                    return
            except socket.timeout:
                if self.ended():
                    raise Failed(f"nbdd does not come up: {self.text()}") from None

    def ended(self):
        self.pipe.setblocking(False)
        try:
            return len(self.pipe.recv(4, socket.MSG_PEEK)) == 4
        except BlockingIOError:
            return False
        finally:
            self.pipe.settimeout(60 * harness.SLOW)

    def end(self, sig):
        """Sends the signal and waits; the exit status, negative for a signal."""
        try:
            os.kill(self.pid, sig)
        except ProcessLookupError:
            pass  # it is dead already, and its status is on the way
        (status,) = struct.unpack("i", self.pipe.recv(4))
        self.pid = None
        self.drain()
        return os.waitstatus_to_exitcode(status)

    def drain(self):
        self.notify.setblocking(False)
        try:
            while self.notify.recv(4096):
                pass
        except BlockingIOError:
            pass

    def text(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-3000:]

    def close(self):
        self.pipe.close()
        self.notify.close()
        if self.pid:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.kill()
        self.process.wait()


class Control:
    """The control socket, many questions at a time."""

    def __init__(self, folder):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30 * harness.SLOW)
        self.sock.connect(os.path.join(folder, SOCKET))
        self.buffer = b""

    def ask(self, questions):
        """[(method, params)] -> their answers, each with "result" or "error"."""
        lines = [
            json.dumps({"jsonrpc": "2.0", "id": i, "method": method, "params": params})
            for i, (method, params) in enumerate(questions)
        ]
        self.sock.sendall("".join(f"{line}\n" for line in lines).encode())
        answers = {}
        while len(answers) < len(lines):
            while b"\n" not in self.buffer:
                part = self.sock.recv(1 << 20)
                if not part:
                    raise Failed("nbdd closed the control connection")
                self.buffer += part
            line, self.buffer = self.buffer.split(b"\n", 1)
            answer = json.loads(line)
            answers[answer["id"]] = answer
        return [answers[i] for i in range(len(lines))]

    def call(self, method, **params):
        (answer,) = self.ask([(method, params)])
        if "error" in answer:
            raise Failed(f"{method} {params}: {answer['error']}")
        return answer["result"]

    def close(self):
        self.sock.close()


def new_boot():
    """Nothing on the disk has changed since."""
    return str(uuid.uuid4()), time.time_ns()


def make_folder(root):
    """A machine's disk: the state directory, the image, and what a reboot empties."""
    folder = tempfile.mkdtemp(prefix="nbdd-power-", dir=root)
    for name in ("state", "run"):
        os.mkdir(os.path.join(folder, name))
    open(os.path.join(folder, "disk.img"), "wb").close()
    return folder


def remove_folder(folder):
    shutil.rmtree(folder, ignore_errors=True)
