"""Which engine is chosen, and that everything works with it."""

import errno
import random
from pathlib import Path

import pytest

import differential
import harness
from nbdproto import Cmd

LAUNCHER = Path(__file__).parent / "without_io_uring.py"


def kernel_has_io_uring():
    """Whether this kernel lets root, or us, have one."""
    disabled = Path("/proc/sys/kernel/io_uring_disabled")
    return not disabled.exists() or disabled.read_text().strip() == "0"


def test_io_uring_is_the_first_choice(make_daemon):
    if not kernel_has_io_uring():
        pytest.skip("the kernel lets nobody have io_uring")
    daemon = make_daemon("--io-engine", "auto")
    assert daemon.call("daemon.info")["engine"] == "io_uring"
    assert any("io_uring" in link for link in daemon.fd_names())


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.ENOMEM], ids=errno.errorcode.get)
def test_threads_where_the_kernel_refuses(make_daemon, number):
    """It says so, and serves all the same."""
    daemon = make_daemon("--io-engine", "auto", wrap=[str(LAUNCHER), str(number)])
    assert daemon.call("daemon.info")["engine"] == "threads"
    info = harness.run(harness.NBDCTL, "--socket", daemon.socket, "daemon", "info")
    assert "threads" in info
    assert not any("io_uring" in link for link in daemon.fd_names())
    print(differential.Run(daemon, 8, cache="direct").operations(500))
    rand = random.Random(number)
    data = rand.randbytes(1 << 20)
    path = daemon.serve("plain", 1 << 20, {0: data}, cache="direct")
    with daemon.open("plain") as wire:
        cookies = [wire.submit(Cmd.READ, offset, 4096) for offset in range(0, 1 << 20, 4096)]
        for offset, cookie in zip(range(0, 1 << 20, 4096), cookies):
            assert wire.wait(cookie).data == data[offset:offset + 4096]
    assert path.read_bytes() == data


def test_threads_by_choice(make_daemon):
    daemon = make_daemon("--io-engine", "threads")
    assert daemon.call("daemon.info")["engine"] == "threads"
    assert not any("io_uring" in link for link in daemon.fd_names())
