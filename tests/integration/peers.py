"""Which other NBD clients there are: those installed, and newer ones.

Newer: NBDD_NEWER_BIN names a folder with nbdinfo, nbdcopy, nbdsh, qemu-img, qemu-io that run as
they are (tests/newer-peers makes one); or NBDD_NEWER_ROOT names the root of a newer Debian, made by
debootstrap, entered with chroot (as root alone)."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

BIN = os.environ.get("NBDD_NEWER_BIN")
ROOT = os.environ.get("NBDD_NEWER_ROOT")


def need(*programs):
    """A mark that skips unless all of these are installed."""
    missing = [program for program in programs if not shutil.which(program)]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def newer_missing():
    if BIN:
        return "" if Path(BIN, "nbdinfo").exists() else f"no nbdinfo in {BIN}"
    if ROOT:
        if os.getuid() != 0:
            return "entering NBDD_NEWER_ROOT needs root"
        return "" if Path(ROOT, "usr/bin/nbdinfo").exists() else f"no nbdinfo in {ROOT}"
    return "no newer peers: run tests/newer-peers and set NBDD_NEWER_BIN"


newer = pytest.mark.skipif(bool(newer_missing()), reason=newer_missing())


class NewerRoot:
    """Commands of the newer peers, with a folder of ours visible to them under its own name."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.bound = None
        if not BIN:
            self.bound = Path(ROOT, str(self.folder).lstrip("/"))
            self.bound.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--bind", self.folder, self.bound], check=True)

    def command(self, program, *words):
        if BIN:
            return [str(Path(BIN, program)), *words]
        return ["chroot", ROOT, program, *words]

    def close(self):
        if self.bound is not None:
            subprocess.run(["umount", self.bound], check=True)
            self.bound.rmdir()
