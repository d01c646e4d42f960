"""Writes whose payload goes onto the disk as it comes (64 KiB and more): whatever the pieces, the disk
holds what was sent, and the bitmaps know it."""

import array
import errno
import fcntl
import random
import termios

import pytest

import harness
from nbdproto import Cmd, Err

KIB = 1024
PIECE = 64 * KIB
SIZE = 8 << 20

pytestmark = pytest.mark.threads


@pytest.fixture(scope="module", autouse=True)
def exports(server):
    server.serve("large", SIZE, {0: b"o" * SIZE}, sharing="shared")


def content(daemon):
    return (daemon.root / "large.img").read_bytes()


def send_in_pieces(wire, offset, payload, sizes):
    """Each piece is sent when the server has taken the one before it: its client is idle."""
    cookie, data = wire.prepare(Cmd.WRITE, offset, len(payload), payload=payload)
    sent = 0
    for size in sizes:
        wire.send(data[sent : sent + size])
        sent += size
        assert harness.wait_for(lambda: not unread(wire), step=0.001)
    wire.send(data[sent:])
    return wire.wait(cookie)


def unread(wire):
    """Bytes that were sent and not yet received."""
    count = array.array("i", [0])
    fcntl.ioctl(wire.sock.fileno(), termios.TIOCOUTQ, count)
    return count[0]


@pytest.mark.parametrize("seed", range(6))
def test_any_pieces(server, mode, seed):
    """Odd offsets, odd lengths, odd pieces: every byte is where it belongs, and its neighbours are as
    they were."""
    choice = random.Random(seed)
    with server.open("large", mode) as wire:
        for _ in range(4):
            before = bytearray(content(server))
            length = choice.choice((PIECE, PIECE + 1, choice.randrange(PIECE, 1 << 20), 2 << 20))
            offset = choice.randrange(SIZE - length)
            payload = choice.randbytes(length)
            sizes = [choice.choice((1, 28, 4096, 65535, choice.randrange(1, length // 2)))
                     for _ in range(choice.randrange(5))]
            reply = send_in_pieces(wire, offset, payload, sizes)
            assert reply.error == Err.OK
            before[offset : offset + length] = payload
            assert content(server) == bytes(before)


def test_other_requests_before_and_behind(server, mode):
    """What is sent in one go with it is answered as ever."""
    payload = random.Random(1).randbytes(300 * KIB)
    with server.open("large", mode) as wire:
        cookies, data = [], b""
        for request in ((Cmd.READ, 0, 4096), (Cmd.WRITE, 5000, len(payload), 0, payload),
                        (Cmd.READ, 5000, len(payload)), (Cmd.WRITE, 4 << 20, len(payload), 0, payload),
                        (Cmd.FLUSH,)):
            cookie, part = wire.prepare(*request)
            cookies.append(cookie)
            data += part
        wire.send(data)
        replies = wire.wait_all()
        assert [replies[cookie].error for cookie in cookies] == [Err.OK] * 5
        assert wire.read(5000, len(payload)).data == payload
    assert content(server)[4 << 20 :][: len(payload)] == payload


def test_bitmaps_that_make_it_wait(make_daemon, mode):
    """The first piece lies in a region that is on record, the next one's record has to be made first:
    the rest goes on without the connection's thread, and all of it is dirty."""
    daemon = make_daemon("--region-size", "64k", "--checkpoint-seconds", 3600)
    daemon.serve("large", SIZE, {0: b"o" * SIZE})
    daemon.rpc.plain("bitmap.add", disk="large", name="b0", granularity=4096)
    payload = random.Random(2).randbytes(16 * PIECE)
    with daemon.open("large", mode) as wire:
        assert wire.write(2 * PIECE, b"x").error == Err.OK
        reply = send_in_pieces(wire, 2 * PIECE, payload, (PIECE + 100, PIECE, 5 * PIECE))
        assert reply.error == Err.OK
        assert wire.read(2 * PIECE, len(payload)).data == payload
    dirty = daemon.rpc.plain("bitmap.extents", disk="large", name="b0")["extents"]
    assert dirty == [{"offset": 2 * PIECE, "length": len(payload)}]


@pytest.mark.parametrize("place", [0, 200 * KIB, 511 * KIB])
def test_an_error_of_the_disk(broken, mode, place):
    """Wherever the disk fails: an error, once, and the connection is in step."""
    daemon, faults = broken
    with daemon.open("broken", mode) as wire:
        faults.set(faults.WRITE, errno.EIO, start=place, end=place + 512)
        assert wire.write(0, b"n" * (512 * KIB)).error == Err.EIO
        faults.clear()
        assert wire.write(0, b"m" * (512 * KIB)).error == Err.OK
        assert wire.read(0, 512 * KIB).data == b"m" * (512 * KIB)


def test_a_client_that_dies_in_the_middle(make_daemon, mode):
    """What it had sent may be on the disk, as far as whole blocks go, and is dirty then."""
    daemon = make_daemon()
    daemon.serve("large", SIZE, {0: b"o" * SIZE})
    daemon.rpc.plain("bitmap.add", disk="large", name="b0", granularity=4096)
    with daemon.open("large", mode) as wire:
        assert wire.write(0, b"o").error == Err.OK  # the region is on record
        data = wire.prepare(Cmd.WRITE, 0, 1 << 20, payload=b"n" * (1 << 20))[1]
        wire.send(data[: 300 * KIB])
    daemon.no_clients()
    found = content(daemon)
    written = len(found) - len(found.lstrip(b"n"))
    assert found[written:] == b"o" * (SIZE - written)
    assert written % 4096 == 0 and 0 < written <= 300 * KIB
    dirty = daemon.rpc.plain("bitmap.extents", disk="large", name="b0")["extents"]
    assert dirty[0]["offset"] == 0 and dirty[0]["length"] >= written
