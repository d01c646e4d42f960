"""Builds what is measured: nbdd as people install it, the load generator and the fsync counter."""

import os
import subprocess
from pathlib import Path

from process import BenchError

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent
PACKAGES = ("gcc", "meson", "ninja-build", "pkg-config", "libglib2.0-dev", "libjson-c-dev",
            "libsqlite3-dev", "libgnutls28-dev", "liburing-dev", "nbdkit", "qemu-utils",
            "qemu-system-common", "fio", "libnbd-bin", "gnutls-bin", "debian-archive-keyring")
LOAD = ("load.c", "load_wire.c", "load_requests.c", "load_status.c")


def command(*words, **options):
    done = subprocess.run([str(word) for word in words], capture_output=True, check=False, **options)
    if done.returncode != 0:
        said = (done.stderr + done.stdout).decode(errors="replace").strip()
        raise BenchError(f"{Path(words[0]).name} failed: {said[-600:]}")
    return done.stdout.decode(errors="replace").strip()


def install():
    command(REPO / "tests" / "tools" / "install-packages", *PACKAGES)


def daemon():
    """The release build's nbdd; with NBDD_BUILD the one that is built there."""
    if os.environ.get("NBDD_BUILD"):
        return Path(os.environ["NBDD_BUILD"]).resolve() / "daemon" / "nbdd"
    folder = REPO / "build-release"
    if not (folder / "build.ninja").exists():
        command("meson", "setup", "-Dbuildtype=release", folder, cwd=REPO)
    command("ninja", "-C", folder, "daemon/nbdd")
    return folder / "daemon" / "nbdd"


def tools():
    """(load generator, library that counts syncs)."""
    folder = REPO / "build-bench"
    folder.mkdir(exist_ok=True)
    load, counter = folder / "load", folder / "count_syncs.so"
    compiler = os.environ.get("CC", "cc").split()
    flags = ["-O2", "-D_GNU_SOURCE", "-std=gnu11", "-Wall", "-Wextra"]
    command(*compiler, *flags, "-o", load, *[HERE / name for name in LOAD], "-lpthread")
    command(*compiler, *flags, "-shared", "-fPIC", "-o", counter, HERE / "count_syncs.c")
    return load, counter


def newer():
    """The folder of newer peers, or None. It may take a minute the first time."""
    try:
        return command(REPO / "tests" / "newer-peers", timeout=300)
    except (BenchError, subprocess.TimeoutExpired):
        return None


def commit():
    try:
        changed = command("git", "-C", REPO, "status", "--porcelain", "--", "daemon", "storage")
        name = command("git", "-C", REPO, "rev-parse", "--short=12", "HEAD")
        return name + (" with changes" if changed else "")
    except BenchError:
        return None
