"""The servers that are measured, each with the settings that suit it best.

QEMU's servers exist in variants (how they reach the file); the first round of each kind of work
tries them all and the best one is measured. Every server shows the same file, so QEMU's locks
are off: nbdd holds its own."""

import dataclasses
import os
import re
import shutil
import subprocess
from pathlib import Path

import control
from process import BenchError, Process

EXPORT = "disk"
# As the peers have it, so that all of them use the same cipher.
PRIORITY = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"


@dataclasses.dataclass
class Setup:
    """What a piece of work wants of a server."""

    image: Path = None
    transport: str = "unix"
    direct: bool = False
    read_only: bool = False
    bitmaps: int = 0
    tls: Path = None  # the folder of the certificates, HOME/.pki/libnbd
    clients: int = 16


class Server:
    """One server that can be started for a setup; then address, uri(), process and stop()."""

    variants = ("",)
    kind = ""

    def __init__(self, program, name, folder):
        self.program = program
        self.name = name
        self.folder = Path(folder)
        self.process = None
        self.control = None
        self.port = None

    def can(self, setup):
        """None, or why it cannot do that."""
        return None

    def start(self, setup, variant):
        self.folder.mkdir(parents=True, exist_ok=True)
        self.setup = setup
        self.variant = variant
        self.socket = self.folder / "nbd.sock"
        self.socket.unlink(missing_ok=True)
        self.port = control.free_port() if setup.transport == "tcp" else None
        try:
            self.launch()
        except (OSError, BenchError):
            self.stop()
            raise
        return self

    def launch(self):
        raise NotImplementedError

    def spawn(self, *words, env=None):
        self.process = Process([self.program, *words], self.folder / "log", env)
        return self.process

    def wait(self):
        if self.port:
            self.process.wait_for(lambda: control.listens(self.port))
        else:
            self.process.wait_for(lambda: self.socket.exists() and control.answers(self.socket))

    @property
    def address(self):
        """As our load generator takes it."""
        return f"tcp:{self.port}" if self.port else f"unix:{self.socket}"

    def uri(self):
        """As libnbd takes it. Its certificates are where home() says."""
        scheme = "nbds" if self.setup.tls else "nbd"
        if self.port:
            return f"{scheme}://127.0.0.1:{self.port}/{EXPORT}"
        return f"{scheme}+unix:///{EXPORT}?socket={self.socket}"

    def home(self):
        """The client's environment: libnbd looks for certificates in HOME/.pki/libnbd. (fio allows no
        file names in the URI.)"""
        return {"HOME": str(self.setup.tls.parent.parent)} if self.setup.tls else None

    def stop(self):
        if self.control is not None:
            self.control.close()
            self.control = None
        if self.process is not None:
            self.process.stop()
            self.process = None


class Nbdd(Server):
    kind = "nbdd"
    args = ()
    env = None

    def launch(self):
        state, socket = self.folder / "state", self.folder / "control.sock"
        shutil.rmtree(state, ignore_errors=True)
        setup = self.setup
        where = f"tcp:127.0.0.1:{self.port}" if self.port else f"unix:{self.socket}"
        listen = [] if setup.tls else ["--listen", where]
        self.spawn("--state-dir", state, "--socket", socket, *listen, *self.args, env=self.env)
        self.process.wait_for(lambda: socket.exists() and control.answers(socket))
        self.control = control.Rpc(socket)
        call = self.control.call
        cache = "direct" if setup.direct else "writeback"
        image = self.own_image() if setup.bitmaps else setup.image
        call("disk.add", name=EXPORT, path=str(image), cache=cache, read_only=setup.read_only)
        for number in range(setup.bitmaps):
            call("bitmap.add", disk=EXPORT, name=f"b{number}")
        call("export.add", name=EXPORT, disk=EXPORT, sharing="shared", read_only=setup.read_only)
        if setup.tls:
            call("tls.add", name="t", kind="x509", dir=str(setup.tls), priority=PRIORITY)
            call("listener.add", name="l", address=where, tls="t")
        self.wait()

    def own_image(self):
        """Peers write to theirs. To nbdd that is somebody else, who makes its bitmaps invalid."""
        image = self.setup.image.with_name(f"own-{self.setup.image.name}")
        if not image.exists():
            subprocess.run(["cp", "--sparse=always", self.setup.image, image], check=True)
        return image

    def engine(self):
        return self.control.call("daemon.info")["engine"]


class Nbdkit(Server):
    kind = "nbdkit"

    def can(self, setup):
        if setup.direct:
            return "its file plugin has no O_DIRECT"
        if setup.bitmaps:
            return "has no bitmaps"
        return None

    def launch(self):
        setup = self.setup
        where = ["-i", "127.0.0.1", "-p", self.port] if self.port else ["-U", self.socket]
        tls = ["--tls=require", f"--tls-certificates={setup.tls}"] if setup.tls else []
        only = ["-r"] if setup.read_only else []
        self.spawn("-f", *where, *tls, *only, self.plugin(), f"file={setup.image}")
        self.wait()

    def plugin(self):
        """The one beside it, when it is not installed but unpacked."""
        tree = Path(os.path.realpath(self.program)).parent.parent / "tree"
        found = sorted(tree.rglob("nbdkit-file-plugin.so")) if tree.is_dir() else []
        return found[0] if found else "file"


class Qemu(Server):
    variants = ("io_uring", "threads")

    def protocol(self):
        """The options of the node that reaches the file."""
        direct = self.setup.direct
        return {"driver": "file", "filename": str(self.setup.image), "locking": "off",
                "aio": self.variant.split()[0], "cache.direct": "on" if direct else "off"}

    def credentials(self):
        if not self.setup.tls:
            return []
        return ["--object",
                f"tls-creds-x509,id=t,dir={self.setup.tls},endpoint=server,verify-peer=off"]


class QemuNbd(Qemu):
    kind = "qemu-nbd"

    def can(self, setup):
        return "cannot start a bitmap" if setup.bitmaps else None

    def launch(self):
        setup = self.setup
        options = ",".join(f"file.{key}={value}" for key, value in self.protocol().items())
        where = ["-b", "127.0.0.1", "-p", self.port] if self.port else ["-k", self.socket]
        only = ["-r"] if setup.read_only else []
        creds = ["--tls-creds=t"] if setup.tls else []
        self.spawn("-t", "-e", setup.clients, "-x", EXPORT, *where, *only, *self.credentials(), *creds,
                   "--image-opts", f"driver=raw,{options}")
        self.wait()


class StorageDaemon(Qemu):
    kind = "storage-daemon"
    variants = ("io_uring iothread", "threads iothread", "io_uring", "threads")

    def __init__(self, program, name, folder):
        super().__init__(program, name, folder)
        # QEMU 7.2 aborts when a client leaves an export that an iothread serves.
        if int(name.split()[1].split(".")[0]) < 8:
            self.variants = Qemu.variants

    def launch(self):
        setup = self.setup
        qmp = self.folder / "qmp.sock"
        qmp.unlink(missing_ok=True)
        options = ",".join(f"{key}={value}" for key, value in self.protocol().items())
        only = "on" if setup.read_only else "off"
        address = (f"addr.type=inet,addr.host=127.0.0.1,addr.port={self.port}" if self.port
                   else f"addr.type=unix,addr.path={self.socket}")
        creds = ",tls-creds=t" if setup.tls else ""
        self.spawn(
            "--object", "iothread,id=io", *self.credentials(),
            "--blockdev", f"node-name=f,read-only={only},{options}",
            "--blockdev", f"driver=raw,node-name=d,file=f,read-only={only}",
            "--nbd-server", f"{address},max-connections=0{creds}",
            "--chardev", f"socket,id=q,path={qmp},server=on,wait=off", "--monitor", "chardev=q",
        )
        self.process.wait_for(lambda: qmp.exists() and control.answers(qmp))
        self.control = control.Qmp(qmp)
        names = [f"b{number}" for number in range(setup.bitmaps)]
        for name in names:
            self.control.call("block-dirty-bitmap-add", node="d", name=name, granularity=65536)
        extra = {"bitmaps": names} if names else {}
        if "iothread" in self.variant:
            extra["iothread"] = "io"
        self.control.call("block-export-add", type="nbd", id="e", name=EXPORT,
                          writable=not setup.read_only, **{"node-name": "d"}, **extra)


PEERS = (("nbdkit", Nbdkit), ("qemu-nbd", QemuNbd), ("qemu-storage-daemon", StorageDaemon))


def version_of(program):
    try:
        done = subprocess.run([program, "--version"], capture_output=True, timeout=20, check=False)
    except OSError:
        return None
    found = re.search(r"\d+(\.\d+)+", done.stdout.decode(errors="replace"))
    return found.group() if done.returncode == 0 and found else None


def find_peers(newer, which, folder):
    """The peers that run here. which: "newest" takes each in its newest version, "installed" those
    of the system, "all" both. newer: the folder that tests/newer-peers made, or None."""
    peers = []
    for program, kind in PEERS:
        places = {"newest": [newer, ""], "installed": [""], "all": ["", newer]}[which]
        for place in places:
            path = shutil.which(program) if place == "" else place and str(Path(place, program))
            version = path and version_of(path)
            if version:
                name = f"{kind.kind} {version}"
                peers.append(kind(path, name, Path(folder) / name.replace(" ", "-")))
                if which != "all":
                    break
    return peers
