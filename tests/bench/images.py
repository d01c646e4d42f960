"""The disks that are served, and where they are: memory for what measures the server, a real file
system for what measures the way to the disk."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "integration"))
import pki  # noqa: E402  (certificates as the tests make them)

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
EXTENTS = 100_000


class Images:
    """Makes each image when it is first asked for. quick: small ones."""

    def __init__(self, folder, quick=False):
        self.quick = quick
        self.disk = Path(tempfile.mkdtemp(prefix="nbdd-bench-", dir=folder))
        shared = Path("/dev/shm")
        room = shutil.disk_usage(shared).free if shared.is_dir() else 0
        self.in_memory = room > 5 * GIB or quick and room > GIB
        self.memory = self.disk
        if self.in_memory:
            self.memory = Path(tempfile.mkdtemp(prefix="nbdd-bench-", dir=shared))

    def close(self):
        shutil.rmtree(self.disk, ignore_errors=True)
        shutil.rmtree(self.memory, ignore_errors=True)

    def size(self, full):
        return min(full, 64 * MIB) if self.quick else full

    def filled(self, place, name, full):
        """A file of random bytes."""
        path = getattr(self, place) / name
        if not path.exists():
            piece = os.urandom(4 * MIB)
            with open(path, "wb") as file:
                for number in range(self.size(full) // len(piece)):
                    file.write(number.to_bytes(8, "big") + piece[8:])
                file.flush()
                os.fsync(file.fileno())
        return path

    def copied(self):
        """2 GiB in memory: for copies and for small requests."""
        return self.filled("memory", "copied.img", 2 * GIB)

    def source(self):
        """What is written by a copy; another file than the one it goes to."""
        return self.filled("memory", "source.img", 2 * GIB)

    def direct(self):
        return self.filled("disk", "direct.img", 2 * GIB)

    def sparse(self, place="disk", name="sparse.img", size=TIB):
        """An empty disk."""
        path = getattr(self, place) / name
        if not path.exists():
            with open(path, "wb") as file:
                file.truncate(size)
        return path

    def fragments(self):
        """(offsets of the fragments of a fragmented disk or bitmap, size of the disk)."""
        count = EXTENTS // 100 if self.quick else EXTENTS
        stride = TIB // EXTENTS // 65536 * 65536
        return [number * stride for number in range(count)], count * stride + stride

    def fragmented(self):
        """A sparse disk with 100,000 pieces of data."""
        path = self.disk / "fragmented.img"
        if not path.exists():
            offsets, size = self.fragments()
            with open(path, "wb") as file:
                file.truncate(size)
                for offset in offsets:
                    os.pwrite(file.fileno(), b"data" * 1024, offset)
                os.fsync(file.fileno())
        return path

    def certificates(self):
        folder = self.disk / "home" / ".pki" / "libnbd"
        if not folder.exists():
            pki.Authority(self.disk / "authority").issue(folder, "server", "localhost")
        return folder
