"""Fixtures: a daemon per module for tests that leave it as they found it, one per test otherwise.

Environment: NBDD_BUILD (folder of the build, default build/), NBDD_FLAVOUR (plain, asan, tsan: how
patient to be), NBDD_IO_ENGINE (threads: for every daemon that a test does not choose it for), NBDD_NEWER_BIN or NBDD_NEWER_ROOT (newer libnbd and QEMU; see peers.py)."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import harness  # noqa: E402
from nbdproto import MODES  # noqa: E402


def pytest_configure(config):
    for line in (
        "long: takes several seconds; left out by a quick run",
        "threads: worth a run under ThreadSanitizer",
        "alone: measures time or memory; not beside others",
    ):
        config.addinivalue_line("markers", line)


def pytest_collection_modifyitems(items):
    if not harness.NBDD.exists():
        for item in items:
            if "test_selfcheck" not in str(item.fspath):
                item.add_marker(pytest.mark.skip(reason=f"no nbdd at {harness.NBDD}: build first"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows the end of the log of the daemon it used."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, harness.Daemon):
                report.sections.append(("log of nbdd", value.log()))


@pytest.fixture
def daemon():
    """A fresh nbdd for one test."""
    instance = harness.Daemon()
    try:
        yield instance.start()
    finally:
        instance.finish()


@pytest.fixture(scope="module")
def server():
    """One nbdd for all tests of a file: each leaves it as it found it."""
    instance = harness.Daemon()
    try:
        yield instance.start()
    finally:
        instance.finish()


@pytest.fixture
def make_daemon():
    """Makes daemons with arguments of the test's choice, ended with the test."""
    made = []

    def make(*args, start=True, **kwargs):
        instance = harness.Daemon(args=args, **kwargs)
        made.append(instance)
        return instance.start() if start else instance

    yield make
    errors = []
    for instance in reversed(made):
        try:
            instance.finish()
        except AssertionError as error:
            errors.append(error)
    if errors:
        raise errors[0]


@pytest.fixture(scope="module")
def faulty():
    """(daemon, faults): an nbdd whose file I/O can be made to fail; see fault.c."""
    folder = tempfile.mkdtemp(prefix="nbdd-")
    faults = harness.Faults(folder)
    instance = harness.Daemon(root=os.path.join(folder, "d"), args=["--io-engine", "threads"],
                              env=faults.env)
    try:
        yield instance.start(), faults
    finally:
        try:
            instance.finish()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def tmpfs():
    """A folder in a tmpfs: very large sparse files, no FALLOC_FL_ZERO_RANGE."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no writable /dev/shm")
    folder = tempfile.mkdtemp(prefix="nbdd-", dir="/dev/shm")
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=MODES)
def mode(request):
    """The encodings of replies; a test for some of them parametrises `mode` itself."""
    return request.param


@pytest.fixture
def broken(faulty):
    """(daemon, faults, name): an export of 1 MiB of data whose file the faults are aimed at."""
    daemon, faults = faulty
    path = daemon.serve("broken", 1 << 20, {0: b"\x5a" * (1 << 20)}, sharing="shared")
    faults.target(path)
    yield daemon, faults
    faults.clear()
    daemon.drop("broken")
