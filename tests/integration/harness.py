"""Starting, stopping and killing a real nbdd, and small things around it."""

import contextlib
import ctypes
import mmap
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import nbdwire
import rpc

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent
BUILD = Path(os.environ.get("NBDD_BUILD", REPO / "build")).resolve()
NBDD = BUILD / "daemon" / "nbdd"
NBDCTL = BUILD / "ctl" / "nbdctl"
FLAVOUR = os.environ.get("NBDD_FLAVOUR", "plain")
# The engine of every daemon that a test does not choose one for: "" is the daemon's own choice.
ENGINE = os.environ.get("NBDD_IO_ENGINE", "")
# How much longer things may take under a sanitizer, and where other tests run beside this one.
SLOW = {"plain": 1.0, "asan": 3.0, "tsan": 8.0}.get(FLAVOUR, 3.0)
SLOW *= 2.0 if "PYTEST_XDIST_WORKER" in os.environ else 1.0
# The daemon's own patience with a handshake is no test's business but of those that say so: a client
# that is held up by the machine must not be taken for one that is silent.
HANDSHAKE_SECONDS = 120
# An address of this process alone: a port that was free a moment ago still is, whoever else takes some.
LOOPBACK = f"127.{64 + os.getpid() // 62500 % 64}.{os.getpid() // 250 % 250}.{1 + os.getpid() % 250}"

CRASH = re.compile(
    r"Sanitizer|runtime error:|CRITICAL|Assertion|assertion failed|Segmentation|\bBUG\b|panic"
)


def schema():
    return rpc.find_schema(BUILD)


class Daemon:
    """One nbdd with a state directory, a control socket and one Unix NBD listener of its own.

    stop() is a clean end (exit 0, no sanitizer report, no critical message); kill() is kill -9;
    start() begins again on the same state."""

    def __init__(self, root=None, args=(), env=None, listen=True, wrap=(),
                 handshake=HANDSHAKE_SECONDS):
        self.root = Path(root or tempfile.mkdtemp(prefix="nbdd-"))
        self.root.mkdir(exist_ok=True)
        self.own_root = root is None
        self.state = self.root / "state"
        self.socket = self.root / "c.sock"
        self.nbd_path = self.root / "n.sock"
        self.log_path = self.root / "log"
        self.args = list(args)
        self.env = dict(env or {})
        self.listen = listen
        self.wrap = list(wrap)  # words in front of the command: another user, a namespace
        self.handshake = handshake  # None: the daemon's own choice
        self.process = None
        self.finished = False
        self._rpc = None

    # --- life ---

    def command(self):
        words = [*self.wrap, str(NBDD), "--state-dir", str(self.state), "--socket", str(self.socket)]
        if self.listen:
            words += ["--listen", f"unix:{self.nbd_path}"]
        if ENGINE and "--io-engine" not in self.args:
            words += ["--io-engine", ENGINE]
        if self.handshake and "--handshake-seconds" not in self.args:
            words += ["--handshake-seconds", str(self.handshake)]
        return words + [str(arg) for arg in self.args]

    def spawn(self):
        """Starts the process and does not wait until it serves."""
        env = dict(os.environ, G_DEBUG="fatal-criticals", LC_ALL="C.UTF-8", **self.env)
        env.pop("NBDD_SOCKET", None)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env
            )
        return self

    def start(self, seconds=30.0):
        self.spawn()
        end = time.monotonic() + seconds * SLOW
        while True:
            assert self.process.poll() is None, f"nbdd ended at once: {self.log()}"
            try:
                self.rpc.plain("daemon.info")
                return self
            except (OSError, rpc.Disconnected):
                self.drop_rpc()
                assert time.monotonic() < end, f"nbdd does not answer: {self.log()}"
                time.sleep(0.01)

    def stop(self, sig=signal.SIGTERM, seconds=30.0):
        self.drop_rpc()
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            status = self.process.wait(seconds * SLOW)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait()
            raise AssertionError(f"nbdd does not stop: {self.log()}") from None
        assert status == 0, f"nbdd ended with {status}: {self.log()}"
        self.check_log()

    def kill(self):
        self.drop_rpc()
        self.process.kill()
        self.process.wait()
        self.check_log()

    def restart(self):
        self.stop()
        return self.start()

    def finish(self):
        """What a fixture calls at the end, whatever the test did; a second time does nothing."""
        if self.finished:
            return
        self.finished = True
        try:
            if self.process is not None and self.process.poll() is None:
                self.stop()
            elif self.process is not None:
                assert self.process.returncode in (0, -signal.SIGKILL), self.log()
                self.check_log()
        finally:
            if self.process is not None and self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.drop_rpc()
            if self.own_root:
                shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.finish()

    def log(self):
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return text[-6000:]

    def check_log(self):
        text = self.log_path.read_text(errors="replace")
        found = CRASH.search(text)
        assert not found, f"{found.group()} in the log: {text[max(0, found.start() - 200):][:6000]}"

    # --- talking to it ---

    @property
    def rpc(self):
        if self._rpc is None:
            self._rpc = rpc.Rpc(str(self.socket), schema())
        return self._rpc

    def drop_rpc(self):
        if self._rpc is not None:
            self._rpc.close()
            self._rpc = None

    def call(self, method, **params):
        return self.rpc.call(method, **params)

    def refused(self, method, kind, /, **params):
        return self.rpc.refused(method, kind, **params)

    @property
    def nbd(self):
        return f"unix:{self.nbd_path}"

    def uri(self, export):
        """For libnbd's tools and qemu."""
        return f"nbd+unix:///{export}?socket={self.nbd_path}"

    def open(self, export, mode=nbdwire.STRUCTURED, contexts=(), infos=(), timeout=30.0):
        return nbdwire.open_export(self.nbd, export, mode, contexts, infos, timeout * SLOW)

    def wire(self, mode=nbdwire.SIMPLE, timeout=30.0):
        return nbdwire.open_wire(self.nbd, mode, timeout * SLOW)

    def clients_of(self, export=None):
        params = {"export": export} if export else {}
        return self.rpc.plain("client.list", **params)["clients"]

    def no_clients(self, seconds=30.0):
        """Waits until nobody is connected any more."""
        assert nbdwire.wait_for(lambda: not self.clients_of(), seconds * SLOW), self.clients_of()

    # --- images ---

    def image(self, name="disk.img", size=1 << 20, data=None, folder=None):
        path = Path(folder or self.root) / name
        with open(path, "wb") as file:
            file.truncate(size)
            for offset, part in (data or {}).items():
                file.seek(offset)
                file.write(part)
        return path

    def serve(self, name, size=1 << 20, data=None, folder=None, cache=None, **export):
        """An image, a disk and an export of that name; the image's path. (Names of disks have no
        slash: there it becomes an underscore.)"""
        disk = name.replace("/", "_")
        path = self.image(f"{disk}.img", size, data, folder)
        extra = {"cache": cache} if cache else {}
        self.rpc.plain("disk.add", name=disk, path=str(path), **extra)
        self.rpc.plain("export.add", name=name, disk=disk, **export)
        return path

    def drop(self, name):
        """Takes away what serve() made, whoever is connected."""
        self.rpc.plain("export.remove", name=name, mode="hard", missing_ok=True)
        self.rpc.plain("disk.remove", name=name.replace("/", "_"), force=True, missing_ok=True)

    # --- the process from outside ---

    def proc_status(self, field):
        """A number of /proc/PID/status: VmRSS (KiB), Threads, FDSize."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+)", text, re.M).group(1))

    def grew_less_than(self, before, bound):
        """Resident memory, in KiB; a sanitizer's own (it keeps what was freed) means nothing."""
        now = self.proc_status("VmRSS")
        assert FLAVOUR != "plain" or now < before + bound, f"{before} KiB before, {now} KiB now"

    def fd_count(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def fd_names(self):
        """What its descriptors are, as far as they stay."""
        names = []
        for link in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                names.append(os.readlink(link))
        return names


class _Kind(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("error", "delay_us", "start", "end", "calls")]


class _Page(ctypes.Structure):
    _fields_ = [("device", ctypes.c_uint64), ("inode", ctypes.c_uint64), ("kinds", _Kind * 5)]


class Faults:
    """The other end of fault.c: makes I/O of a daemon on one file slow, failing, and counted."""

    READ, WRITE, SYNC, ZERO, WHOLE_SYNC = range(5)  # SYNC: also of one write alone
    FOREVER = -1  # a delay: until clear()
    library = None

    def __init__(self, folder):
        if Faults.library is None:
            Faults.library = Path(tempfile.mkdtemp(prefix="nbdd-fault-")) / "fault.so"
            compiler = os.environ.get("CC", "cc").split()
            subprocess.run(
                [*compiler, "-shared", "-fPIC", "-O1", "-o", Faults.library, HERE / "fault.c"],
                check=True,
            )
        path = Path(folder) / "faults"
        path.write_bytes(bytes(4096))
        self.file = open(path, "r+b")
        self.map = mmap.mmap(self.file.fileno(), 4096)
        self.page = _Page.from_buffer(self.map)
        self.env = {
            "LD_PRELOAD": str(Faults.library),
            "NBDD_FAULT_FILE": str(path),
            "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0",
        }

    def target(self, path):
        info = os.stat(path)
        self.clear()
        self.page.device, self.page.inode = info.st_dev, info.st_ino

    def set(self, kind, error=0, delay=0.0, start=0, end=1 << 63):
        entry = self.page.kinds[kind]
        entry.error = error
        entry.delay_us = (1 << 64) - 1 if delay == Faults.FOREVER else int(delay * 1e6)
        entry.start, entry.end = start, end

    def clear(self):
        for entry in self.page.kinds:
            entry.end = 0

    def calls(self, kind):
        return self.page.kinds[kind].calls


def run(*words, check=True, timeout=120, env=None, **kwargs):
    """Runs a command; its output as text. A failure shows what it said."""
    done = subprocess.run(
        [str(word) for word in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        timeout=timeout * SLOW,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
        **kwargs,
    )
    text = done.stdout.decode(errors="replace")
    if check:
        assert done.returncode == 0, f"{words} ended with {done.returncode}: {text}"
        return text
    return done.returncode, text


def wait_for(condition, seconds=30.0, step=0.02):
    return nbdwire.wait_for(condition, seconds * SLOW, step)


def succeeds(attempt, times=10):
    """Whether it comes out in one of some attempts: for what comes out wrong when the machine has no
    time for us in the middle, and every time when the daemon is at fault."""
    return next((value for value in (attempt() for _ in range(times)) if value), None)
