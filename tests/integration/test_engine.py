"""Which engine is chosen, and that everything works with it."""

import contextlib
import errno
import random
import re
import select
import ssl
import subprocess
import time
from pathlib import Path

import pytest

import differential
import harness
from nbdproto import Cmd, CmdFlag, Opt, Rep
from nbdwire import SIMPLE, open_wire
from pki import Authority
from test_tls_rotation import tls_wire

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
    daemon.serve("direct", 1 << 20, cache="direct")

    def rings():
        return sum("io_uring" in link for link in daemon.fd_names())

    def reads_by_ring():
        """It goes a second after the last request, so we may come too late to see it."""
        assert many_reads(wire) == [bytes(4096)] * 256
        return rings() == 1
    with daemon.open("direct") as wire:
        assert rings() == 0
        assert harness.succeeds(reads_by_ring)
        # Nor does one stay with a client that is idle.
        assert harness.wait_for(lambda: rings() == 0)
        assert harness.succeeds(reads_by_ring)
    daemon.no_clients()
    assert harness.wait_for(lambda: rings() == 0)


def many_reads(wire):
    """All of the first MiB, in requests that overlap: they are sent in one piece."""
    requests = [wire.prepare(Cmd.READ, offset, 4096) for offset in range(0, 1 << 20, 4096)]
    wire.send(b"".join(data for _, data in requests))
    return [wire.wait(cookie).data for cookie, _ in requests]


@pytest.mark.threads
@pytest.mark.parametrize("engine", ["auto", "threads"])
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_a_client_that_does_not_read_holds_up_no_change(make_daemon, tmp_path, engine, encrypted):
    """Its writes that are done are out of everybody's way, whether or not it takes its answers."""
    daemon = make_daemon("--io-engine", engine)
    daemon.serve("direct", 64 << 20, cache="direct", sharing="shared")
    with contextlib.ExitStack() as stack:
        slow = stack.enter_context(
            encrypted_wire(daemon, tmp_path) if encrypted else daemon.open("direct", SIMPLE))
        other = stack.enter_context(daemon.open("direct"))
        # Reads of nothing are done while the large writes in front of them are on their way.
        batch = [slow.prepare(Cmd.WRITE, number << 20, 1 << 20, payload=bytes(1 << 20))[1]
                 for number in range(40)]
        batch += [slow.prepare(Cmd.READ, 48 << 20, 64 << 10)[1] for _ in range(64)]
        rest = send_for(slow, b"".join(batch), seconds=0.3)
        # The slow one goes on when these have been answered, and no sooner.
        daemon.call("bitmap.add", disk="direct", name="b")
        # Whole pages are held by a write into one of them.
        assert other.write(100, b"o" * 100).error == 0
        assert not send_for(slow, rest, seconds=60 * harness.SLOW, receive=True)
        assert all(reply.error == 0 for reply in slow.wait_all().values())


def send_for(wire, data, seconds, receive=False):
    """What could not be sent in that time. With `receive` it takes what comes as well, on one thread:
    TLS of Python is not for two."""
    end, left = time.monotonic() + seconds, memoryview(data)
    wait = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
    timeout = wire.sock.gettimeout()
    wire.sock.setblocking(False)
    while left and time.monotonic() < end:
        with contextlib.suppress(*wait):
            left = left[wire.sock.send(left[:16384]):]
            continue
        if receive:
            with contextlib.suppress(*wait):
                got = wire.sock.recv(65536)
                assert got, "the server has closed the connection"
                wire.buffer += got
                continue
        select.select([wire.sock] if receive else [], [wire.sock], [], 0.05)
    wire.sock.settimeout(timeout)
    return left


@pytest.mark.threads
@pytest.mark.parametrize("engine", ["auto", "threads"])
def test_a_client_that_has_always_more_to_say_holds_up_no_change(make_daemon, tmp_path, engine):
    """Over TLS, where there may be more at hand without a wait for the socket."""
    daemon = make_daemon("--io-engine", engine)
    daemon.serve("direct", 1 << 20, cache="direct", sharing="shared")
    authority = Authority(tmp_path / "ca")
    server = authority.issue(tmp_path / "server", "server", "localhost")
    daemon.call("tls.add", name="t", kind="x509", dir=str(server))
    address = f"unix:{tmp_path}/tls.sock"
    daemon.call("listener.add", name="tls", address=address, tls="t")
    # A flood may be over before anything was asked for, where the machine has no time for us.
    assert harness.succeeds(lambda: changes_beside_a_flood(daemon, address, authority, tmp_path), 5)


def changes_beside_a_flood(daemon, address, authority, tmp_path):
    """Whether a change is made while the flood goes on."""
    wire = open_wire(address)
    assert wire.answer(Opt.STARTTLS) == Rep.ACK
    pipe = TlsPipe(wire.sock, authority)
    wire.sock = pipe
    assert wire.answer(Opt.STRUCTURED_REPLY) == Rep.ACK
    assert wire.set_meta("direct", ["base:allocation"])
    assert wire.go("direct").ok
    # More that is answered at once than is read before the change has been made; among it a write.
    write = wire.prepare(Cmd.WRITE, 0, 4096, payload=bytes(4096))[1]
    others = wire.header(Cmd.BLOCK_STATUS, CmdFlag.REQ_ONE, 7, 0, 4096) * 500
    flood = b"".join(pipe.encrypt(write if number == 5 else others) for number in range(5000))
    (tmp_path / "flood").write_bytes(flood)
    pipe.sock.setblocking(True)
    # Processes: they are quicker than the server, as threads here would not be.
    with pipe.sock, subprocess.Popen(["cat"], stdin=pipe.sock, stdout=subprocess.DEVNULL) as reader, \
            subprocess.Popen(["cat", tmp_path / "flood"], stdout=pipe.sock) as sender:
        try:
            time.sleep(0.1)
            daemon.rpc.plain("bitmap.add", disk="direct", name="b", if_exists="same")
            return sender.poll() is None
        finally:
            sender.kill()
            reader.kill()


class TlsPipe:
    """The client's side of TLS in memory, in place of a wire's socket: what is encrypted can be sent
    later, as fast as it goes."""

    def __init__(self, sock, authority):
        self.sock, self.incoming, self.outgoing = sock, ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=str(authority.cert))
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.ask(self.tls.do_handshake)

    def ask(self, call, *words):
        while True:
            try:
                return call(*words)
            except ssl.SSLWantReadError:
                self.sock.sendall(self.outgoing.read())
                self.incoming.write(self.sock.recv(1 << 16))

    def encrypt(self, data):
        self.tls.write(data)
        return self.outgoing.read()

    def sendall(self, data):
        self.sock.sendall(self.encrypt(data))

    def recv(self, count):
        return self.ask(self.tls.read, count)


def encrypted_wire(daemon, folder):
    authority = Authority(folder / "ca")
    server = authority.issue(folder / "server", "server", "localhost")
    client = authority.issue(folder / "client", "client", "alice")
    daemon.call("tls.add", name="t", kind="x509", dir=str(server), verify_client=True)
    address = f"unix:{folder}/tls.sock"
    daemon.call("listener.add", name="tls", address=address, tls="t")
    wire = tls_wire(address, authority, client)
    assert wire.go("direct").ok
    return wire


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


def sleeps(daemon):
    """How often each of its threads has gone to sleep."""
    found = {}
    for task in Path(f"/proc/{daemon.process.pid}/task").iterdir():
        try:
            status = (task / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        found[task.name] = int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.M)[1])
    return found


@pytest.mark.alone
@pytest.mark.skipif(harness.FLAVOUR != "plain", reason="a sanitizer has sleeps of its own")
def test_one_request_at_a_time_needs_no_other_thread(make_daemon):
    """The thread of the connection sleeps to receive and to read; a worker would sleep as well. Where
    the machine is busy some reads take long, and then a worker has the next one."""
    daemon = make_daemon("--io-engine", "threads")
    daemon.serve("direct", 1 << 20, {0: b"d" * (1 << 20)}, cache="direct")
    with daemon.open("direct") as wire:
        def sleeps_of_others():
            before = sleeps(daemon)
            for offset in range(0, 1 << 20, 4096):
                assert wire.read(offset, 4096).data == b"d" * 4096
            slept = [count - before.get(task, 0) for task, count in sleeps(daemon).items()]
            return sum(slept) - max(slept)
        assert any(sleeps_of_others() < 256 / 2 for _ in range(30))


def test_requests_that_overlap_are_for_workers(faulty):
    """However quick they are. A worker sleeps in the read and when it has done it."""
    daemon, faults = faulty
    faults.target(daemon.serve("two", 1 << 20, sharing="shared", cache="direct"))
    pairs = 200
    try:
        with daemon.open("two") as wire:
            assert wire.flush().error == 0
            faults.set(faults.READ, delay=0.0004)

            def workers_sleep():
                """It takes luck that the second comes while the first is read: not too much of it, as
                one of them is enough for hundreds of requests."""
                before = sleeps(daemon)
                for _ in range(pairs):
                    first = wire.submit(Cmd.READ, 0, 4096)
                    time.sleep(0.0002)
                    second = wire.submit(Cmd.READ, 4096, 4096)
                    assert wire.wait(first).error == wire.wait(second).error == 0
                slept = [count - before.get(task, 0) for task, count in sleeps(daemon).items()]
                return sum(slept) - max(slept) > pairs * 0.7
            assert harness.succeeds(workers_sleep, 30)
    finally:
        faults.clear()
        daemon.drop("two")
