"""A client that never lets up, and knows what it was told: for tests that end it in the middle."""

import struct
import threading

from nbdproto import Cmd
from nbdwire import Closed, ProtocolError


class Hammer(threading.Thread):
    """Keeps requests in flight until the server ends the connection; counts what was answered.

    Every reply must be a success, and the last one must be whole: a client that loses its
    connection retries, one that gets an error does not. A block has one write in flight at most:
    of two the server may do either last."""

    BLOCKS = 64

    def __init__(self, wire, part=0, depth=16):
        super().__init__()
        self.wire, self.depth = wire, depth
        self.first = part * self.BLOCKS  # each on blocks of its own
        self.answered, self.failure = 0, None
        self.written, self.in_flight = {}, {}  # block -> the write's number
        self.stamp = 0

    def run(self):
        try:
            self.loop()
        except Closed as end:
            if end.got:
                self.failure = f"a reply was cut after {len(end.got)} bytes"
        except (AssertionError, OSError) as error:
            self.failure = repr(error)

    def submit(self):
        """The next request; the block it writes, or None."""
        self.stamp += 1
        block = self.first + self.stamp % self.BLOCKS
        if self.stamp % 3 == 0 or block in self.in_flight:
            return self.wire.submit(Cmd.READ, block * 4096, 4096), None
        self.in_flight[block] = self.stamp
        mark = struct.pack(">Q", self.stamp) * 512
        return self.wire.submit(Cmd.WRITE, block * 4096, 4096, payload=mark), block

    def loop(self):
        writes = {}  # cookie -> block
        while True:
            while len(self.wire.pending) < self.depth:
                cookie, block = self.submit()
                if block is not None:
                    writes[cookie] = block
            cookie = self.wire.recv_chunk()
            if cookie in self.wire.pending:
                continue
            reply = self.wire.replies.pop(cookie)
            if reply.error:
                raise ProtocolError(f"error {reply.error} instead of a closed connection")
            self.answered += 1
            if cookie in writes:
                block = writes.pop(cookie)
                self.written[block] = self.in_flight.pop(block)

    def check(self, path):
        """A block holds the last write that was answered, or the one that was in flight."""
        assert not self.failure, self.failure
        assert self.answered, "nothing was answered at all"
        data = path.read_bytes()
        for block, stamp in self.written.items():
            (found,) = struct.unpack_from(">Q", data, block * 4096)
            allowed = (stamp, self.in_flight.get(block))
            assert found in allowed, f"block {block} holds write {found}, not one of {allowed}"
