"""Which other NBD clients there are: those installed, and newer ones (`tests/newer-peers` makes them;
NBDD_NEWER_BIN names the folder of their programs, if it is not the usual one)."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MAKER = Path(__file__).resolve().parent.parent / "newer-peers"


def newer_folder():
    if "NBDD_NEWER_BIN" in os.environ:
        return os.environ["NBDD_NEWER_BIN"] or None
    done = subprocess.run([MAKER, "--have"], capture_output=True, check=False)
    return done.stdout.decode().strip() if done.returncode == 0 else None


NEWER = newer_folder()


def need(*programs):
    """A mark that skips unless all of these are installed."""
    missing = [program for program in programs if not shutil.which(program)]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


newer = pytest.mark.skipif(NEWER is None, reason="no newer peers: tests/newer-peers failed")

# For parametrize: the same test with what is installed and with what is newer.
GENERATIONS = [pytest.param("installed"), pytest.param("newer", marks=newer)]


def program(name, generation="installed"):
    """The path of a program, or a skip."""
    found = str(Path(NEWER, name)) if generation == "newer" else shutil.which(name)
    if found is None or not os.access(found, os.X_OK):
        pytest.skip(f"{name} ({generation}) is not installed")
    return found
