"""Callers who may only read, by the hundred, with the most expensive requests there are: they hold
up admins neither by time nor by memory."""

import json
import os
import socket
import time

import pytest

import rpc
from harness import FLAVOUR, SLOW, wait_for

READER = 54321
CONNECTIONS = 100
# Mostly an admin waits for some hundredths of a second; one who had to wait for all of them, whose
# answers nobody reads, would for ever.
PATIENCE = 30 * SLOW

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(os.getuid() != 0, reason="callers of another user need root"),
]


def call(method, **params):
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()


BATCH = b"[" + b",".join([call("rpc.discover")] * 4000) + b"]\n"  # answers of 16 MiB: the most


@pytest.fixture
def readers(daemon):
    """Connections of somebody who is nobody in particular."""
    os.chmod(daemon.root, 0o711)
    os.chmod(daemon.socket, 0o666)
    made = []
    os.seteuid(READER)
    try:
        for _ in range(CONNECTIONS):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(daemon.socket))
            sock.setblocking(False)
            made.append(sock)
    finally:
        os.seteuid(0)
    yield made
    for sock in made:
        sock.close()


def push(sockets, texts):
    """Sends as much of each text as goes now; what is left of each."""
    left = []
    for sock, text in zip(sockets, texts):
        try:
            text = text[sock.send(text):]
        except BlockingIOError:
            pass
        except OSError:
            text = b""  # it was told enough
        left.append(text)
    return left


def admin_waits(daemon):
    """Seconds that an admin's requests take, one that is answered at once and one that is not."""
    begin = time.monotonic()
    with rpc.Rpc(str(daemon.socket)) as control:
        control.plain("daemon.info")
        control.plain("disk.add", name="d", path=str(daemon.root / "d.img"))
        control.plain("disk.remove", name="d")
    return time.monotonic() - begin


def test_batches_that_nobody_reads(daemon, readers):
    daemon.image("d.img")
    before = daemon.proc_status("VmRSS")
    peak, longest, left = 0, 0.0, [BATCH] * CONNECTIONS
    end = time.monotonic() + 6
    # Six seconds, or as long as it takes until most have said what they want.
    while time.monotonic() < end or sum(not text for text in left) <= CONNECTIONS / 2:
        left = push(readers, left)
        peak = max(peak, daemon.proc_status("VmRSS"))
        longest = max(longest, admin_waits(daemon))
        assert time.monotonic() < end + 120 * SLOW, "it is not what this is about"
    print(f"an admin waited {longest:.2f} s; {(peak - before) // 1024} MiB at most")
    assert longest < PATIENCE
    # Lines and what is made of them, 64 MiB unsent, 16 MiB for each of the threads.
    assert FLAVOUR != "plain" or peak - before < 500 * 1024
    for sock in readers:
        sock.close()
    assert FLAVOUR != "plain" or wait_for(
        lambda: daemon.proc_status("VmRSS") < before + 64 * 1024
    ), "it keeps what it took"


def test_requests_without_end(daemon, readers):
    """Short ones, answered on the main thread, each connection as fast as it goes."""
    daemon.image("d.img")
    for number in range(100):
        daemon.serve(f"export-{number}", 1 << 20)
    text = (call("export.list") + b"\n") * 50
    longest, end = 0.0, time.monotonic() + 3
    while time.monotonic() < end:
        push(readers, [text] * CONNECTIONS)
        for sock in readers:
            try:
                while sock.recv(1 << 20):
                    pass
            except OSError:
                pass
        longest = max(longest, admin_waits(daemon))
    print(f"an admin waited {longest:.2f} s")
    assert longest < PATIENCE
