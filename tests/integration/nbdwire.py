"""A small NBD client that speaks the wire itself, right or wrong.

Right: `open_export()` gives a connection in the transmission phase whose every reply is held
against the specification (cookies, DONE on the last chunk only, chunks inside the request, no
overlap, nothing left out, one status chunk per context, extents inside the request and merged).
A breach raises ProtocolError, which is an AssertionError: any test that uses the client checks
the whole of that.

Wrong: `Wire` sends whatever it is told to (`send`, `send_option` with a false length or magic,
`submit` with any flag), so that a test can say what the server must answer to it.

Numbers and layouts are those of the NBD specification; standard library only.
"""

import dataclasses
import select
import socket
import struct
import time

from nbdproto import (
    EXTENDED, EXTENDED_REPLY_MAGIC, EXTENDED_REQUEST_MAGIC, IHAVEOPT, MAX_EXTENTS, MAX_PAYLOAD,
    MAX_STRING, NBDMAGIC, REPLY_MAGIC, REQUEST_MAGIC, SIMPLE, SIMPLE_REPLY_MAGIC, STRUCTURED,
    STRUCTURED_REPLY_MAGIC, Chunk, Cmd, CmdFlag, Err, Flag, HandshakeFlag, InfoType, Opt, Rep,
    info_data, meta_data,
)


# How long what should come at once may take: it is waited for so long where something is broken alone.
PATIENCE = 60.0


class Closed(Exception):
    """The server ended the connection; `got` is what came of the message that was awaited."""

    def __init__(self, got=b""):
        super().__init__(f"connection closed by the server, {len(got)} bytes into a message")
        self.got = got


class ProtocolError(AssertionError):
    """The server broke the specification."""


def require(condition, text):
    if not condition:
        raise ProtocolError(text)


def connect(address, timeout=PATIENCE):
    """A connected socket for `unix:PATH` or `tcp:HOST:PORT` (IPv6 hosts in brackets)."""
    kind, _, rest = address.partition(":")
    if kind == "unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        sock.connect(rest)
    elif kind == "tcp":
        host, _, port = rest.rpartition(":")
        sock = socket.create_connection((host.strip("[]"), int(port)), timeout=timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    else:
        raise ValueError(f"no address: {address}")
    return sock


@dataclasses.dataclass
class OptionReply:
    option: int
    type: int
    data: bytes

    @property
    def is_error(self):
        return bool(self.type & 0x80000000)

    @property
    def text(self):
        return self.data.decode() if self.is_error else ""


@dataclasses.dataclass
class Info:
    """What INFO or GO answered."""

    type: int  # of the final reply
    text: str = ""  # of an error
    size: int = -1
    flags: Flag = Flag(0)
    name: str | None = None
    description: str | None = None
    block_size: tuple | None = None  # minimum, preferred, maximum payload

    @property
    def ok(self):
        return self.type == Rep.ACK


@dataclasses.dataclass
class Piece:
    """One chunk of a reply."""

    type: int
    done: bool
    length: int
    offset: int = -1  # of data, hole, or error offset
    size: int = 0  # of data or hole
    error: int = 0
    message: str = ""


@dataclasses.dataclass
class Reply:
    error: int = 0  # first error
    message: str = ""
    data: bytes = b""  # of a successful READ
    pieces: list = dataclasses.field(default_factory=list)
    status: dict = dataclasses.field(default_factory=dict)  # context id -> [(length, flags)]
    done: bool = False

    @property
    def holes(self):
        return [(p.offset, p.size) for p in self.pieces if p.type == Chunk.OFFSET_HOLE]

    @property
    def chunks(self):
        return [(p.offset, p.size) for p in self.pieces if p.type == Chunk.OFFSET_DATA]

    @property
    def error_offsets(self):
        return [p.offset for p in self.pieces if p.type == Chunk.ERROR_OFFSET]


@dataclasses.dataclass
class Request:
    cookie: int
    type: int
    flags: int
    offset: int
    length: int  # effect length
    contexts: tuple = ()  # ids a BLOCK_STATUS must report


class Wire:
    """One connection. Nothing is sent or read until a method says so."""

    def __init__(self, address, timeout=PATIENCE, sock=None):
        self.sock = sock or connect(address, timeout)
        self.timeout = timeout
        self.sock.settimeout(timeout)
        self.mode = SIMPLE
        self.size = -1
        self.flags = Flag(0)
        self.contexts = {}  # name -> id, as the last SET_META_CONTEXT answered
        self.pending = {}  # cookie -> Request
        self.replies = {}  # cookie -> Reply
        self.cookie = 0x6E62640000000000
        self.buffer = bytearray()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Drop the connection without a word."""
        self.sock.close()

    # --- bytes ---

    def send(self, data):
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed() from error

    def recv(self, count):
        while len(self.buffer) < count:
            try:
                part = self.sock.recv(max(65536, count - len(self.buffer)))
            except ConnectionResetError:
                part = b""
            if not part:
                got, self.buffer = bytes(self.buffer), bytearray()
                raise Closed(got)
            self.buffer += part
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    def unpack(self, layout):
        return struct.unpack(layout, self.recv(struct.calcsize(layout)))

    def readable(self, seconds=0.0):
        """Whether anything (data or the end) can be read within that time."""
        return bool(self.buffer) or bool(select.select([self.sock], [], [], seconds)[0])

    def expect_close(self, seconds=PATIENCE):
        """The server closes within that time and sends nothing more."""
        self.sock.settimeout(seconds)
        try:
            rest = bytes(self.buffer) + self.sock.recv(65536)
        except ConnectionResetError:
            rest = bytes(self.buffer)
        except socket.timeout:
            raise ProtocolError(f"the server did not close within {seconds} s") from None
        finally:
            self.sock.settimeout(self.timeout)
        require(not rest, f"expected the end, got {rest[:64]!r}")

    # --- handshake ---

    def greeting(self):
        first, second, flags = self.unpack(">QQH")
        require(first == NBDMAGIC, f"first magic is {first:#x}")
        require(second == IHAVEOPT, f"second magic is {second:#x}")
        return HandshakeFlag(flags)

    def greet(self, flags=HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES):
        server = self.greeting()
        self.send(struct.pack(">I", flags))
        self.no_zeroes = bool(flags & HandshakeFlag.NO_ZEROES)
        return server

    def send_option(self, option, data=b"", length=None, magic=IHAVEOPT):
        size = len(data) if length is None else length
        self.send(struct.pack(">QII", magic, option, size) + data)

    def recv_option(self, option=None):
        magic, about, kind, length = self.unpack(">QIII")
        require(magic == REPLY_MAGIC, f"option reply magic is {magic:#x}")
        require(length <= 1 << 20, f"option reply of {length} bytes")
        data = self.recv(length)
        if option is not None:
            require(about == option, f"reply to option {about}, asked {option}")
        if kind == Rep.ACK:
            require(not data, "ACK carries data")
        if kind & 0x80000000:
            require(length <= MAX_STRING, "error text longer than a string may be")
            data.decode()
        return OptionReply(about, kind, data)

    def option(self, option, data=b"", length=None):
        """Sends an option and reads its replies up to the final one."""
        self.send_option(option, data, length)
        replies = [self.recv_option(option)]
        while not replies[-1].is_error and replies[-1].type != Rep.ACK:
            replies.append(self.recv_option(option))
        if option == Opt.STRUCTURED_REPLY and replies[-1].type == Rep.ACK:
            self.mode = STRUCTURED
        if option == Opt.EXTENDED_HEADERS and replies[-1].type == Rep.ACK:
            self.mode = EXTENDED
        return replies

    def answer(self, option, data=b""):
        """The type of the final (and only) reply."""
        replies = self.option(option, data)
        require(len(replies) == 1, f"{len(replies)} replies where one is due")
        return replies[0].type

    def negotiate(self, mode):
        if mode == STRUCTURED:
            require(self.answer(Opt.STRUCTURED_REPLY) == Rep.ACK, "no structured replies")
        elif mode == EXTENDED:
            require(self.answer(Opt.EXTENDED_HEADERS) == Rep.ACK, "no extended headers")

    def list_exports(self):
        """{name: description} that LIST answers; it must succeed."""
        replies = self.option(Opt.LIST)
        require(replies[-1].type == Rep.ACK, f"LIST answered {replies[-1]}")
        exports = {}
        for reply in replies[:-1]:
            require(reply.type == Rep.SERVER, f"LIST answered {reply}")
            (length,) = struct.unpack_from(">I", reply.data)
            require(length <= len(reply.data) - 4, "name passes the reply")
            name = reply.data[4 : 4 + length].decode()
            require(name not in exports, f"{name} listed twice")
            exports[name] = reply.data[4 + length :].decode()
        return exports

    def info(self, name, infos=(), option=Opt.INFO):
        replies = self.option(option, info_data(name, infos))
        result = Info(replies[-1].type, replies[-1].text)
        seen = set()
        for reply in replies[:-1]:
            require(reply.type == Rep.INFO, f"INFO answered {reply}")
            (kind,) = struct.unpack_from(">H", reply.data)
            body = reply.data[2:]
            require(kind not in seen, f"information {kind} sent twice")
            seen.add(kind)
            if kind == InfoType.EXPORT:
                require(len(body) == 10, "EXPORT information has the wrong length")
                size, flags = struct.unpack(">QH", body)
                result.size, result.flags = size, Flag(flags)
            elif kind == InfoType.NAME:
                result.name = body.decode()
            elif kind == InfoType.DESCRIPTION:
                result.description = body.decode()
            elif kind == InfoType.BLOCK_SIZE:
                require(len(body) == 12, "BLOCK_SIZE information has the wrong length")
                result.block_size = struct.unpack(">III", body)
                low, preferred, high = result.block_size
                require(low & (low - 1) == 0 and 1 <= low <= 65536, f"minimum block {low}")
                require(
                    preferred & (preferred - 1) == 0 and preferred >= max(low, 512),
                    f"preferred block {preferred}",
                )
                require(high >= preferred, f"maximum payload {high}")
        if result.ok:
            require(InfoType.EXPORT in seen, "ACK without EXPORT information")
            require(Flag.HAS_FLAGS in result.flags, "HAS_FLAGS is not set")
        return result

    def go(self, name, infos=()):
        result = self.info(name, infos, Opt.GO)
        if result.ok:
            self.size, self.flags = result.size, result.flags
        return result

    def export_name(self, name):
        """EXPORT_NAME; raises Closed when the server refuses."""
        self.send_option(Opt.EXPORT_NAME, name.encode() if isinstance(name, str) else name)
        self.size, flags = self.unpack(">QH")
        self.flags = Flag(flags)
        if not self.no_zeroes:
            require(self.recv(124) == bytes(124), "the reserved bytes are not zero")

    def meta(self, option, name, queries=()):
        """(type of the final reply, {context: id}) of LIST_ or SET_META_CONTEXT."""
        replies = self.option(option, meta_data(name, queries))
        found = {}
        for reply in replies[:-1]:
            require(reply.type == Rep.META_CONTEXT, f"a meta context query answered {reply}")
            (number,) = struct.unpack_from(">I", reply.data)
            context = reply.data[4:].decode()
            require(context not in found, f"context {context} sent twice")
            if option == Opt.LIST_META_CONTEXT:
                require(number == 0, f"LIST gave {context} the id {number}")
            else:
                require(number not in found.values(), f"two contexts with id {number}")
            found[context] = number
        if option == Opt.SET_META_CONTEXT:
            self.contexts = found if replies[-1].type == Rep.ACK else {}
        return replies[-1].type, found

    def list_meta(self, name, queries=()):
        kind, found = self.meta(Opt.LIST_META_CONTEXT, name, queries)
        require(kind == Rep.ACK, f"LIST_META_CONTEXT answered {kind:#x}")
        return sorted(found)

    def set_meta(self, name, queries=()):
        kind, found = self.meta(Opt.SET_META_CONTEXT, name, queries)
        require(kind == Rep.ACK, f"SET_META_CONTEXT answered {kind:#x}")
        return sorted(found)

    # --- requests ---

    def header(self, kind, flags, cookie, offset, length, magic=None):
        if self.mode == EXTENDED:
            layout, own = ">IHHQQQ", EXTENDED_REQUEST_MAGIC
        else:
            layout, own = ">IHHQQI", REQUEST_MAGIC
        return struct.pack(layout, own if magic is None else magic, flags, kind, cookie, offset, length)

    def prepare(self, kind, offset=0, length=0, flags=0, payload=None, contexts=None):
        """(cookie, bytes to send) of a request that a reply is due for.

        With extended headers a payload sets PAYLOAD_LEN and its size takes the place of length in
        the header; `length` stays the effect length that the reply is held against."""
        self.cookie += 1
        wire_length = length
        if payload is not None and self.mode == EXTENDED:
            flags |= CmdFlag.PAYLOAD_LEN
            wire_length = len(payload)
        ids = tuple(self.contexts.values()) if contexts is None else tuple(contexts)
        request = Request(self.cookie, kind, flags, offset, length, ids)
        if kind != Cmd.DISC:
            self.pending[self.cookie] = request
            self.replies[self.cookie] = Reply()
        data = self.header(kind, flags, self.cookie, offset, wire_length)
        return self.cookie, data + (payload or b"")

    def submit(self, *args, **kwargs):
        cookie, data = self.prepare(*args, **kwargs)
        self.send(data)
        return cookie

    def call(self, *args, **kwargs):
        return self.wait(self.submit(*args, **kwargs))

    def read(self, offset, length, flags=0):
        return self.call(Cmd.READ, offset, length, flags)

    def write(self, offset, data, flags=0):
        return self.call(Cmd.WRITE, offset, len(data), flags, payload=data)

    def zero(self, offset, length, flags=0):
        return self.call(Cmd.WRITE_ZEROES, offset, length, flags)

    def trim(self, offset, length, flags=0):
        return self.call(Cmd.TRIM, offset, length, flags)

    def cache(self, offset, length, flags=0):
        return self.call(Cmd.CACHE, offset, length, flags)

    def flush(self, flags=0):
        return self.call(Cmd.FLUSH, flags=flags)

    def block_status(self, offset, length, flags=0):
        return self.call(Cmd.BLOCK_STATUS, offset, length, flags)

    def disconnect(self):
        self.submit(Cmd.DISC)

    def extents(self, context, offset=0, length=None, step=None):
        """Every extent of a context over a range, [(offset, length, flags)], over many requests."""
        end = self.size if length is None else offset + length
        step = step or ((1 << 62) if self.mode == EXTENDED else 0xFFFF0000)
        number, found = self.contexts[context], []
        while offset < end:
            reply = self.block_status(offset, min(end - offset, step))
            require(reply.error == 0, f"BLOCK_STATUS answered {reply.error} {reply.message}")
            for size, flags in reply.status[number]:
                if found and found[-1][2] == flags:
                    found[-1] = (found[-1][0], found[-1][1] + size, flags)
                else:
                    found.append((offset, size, flags))
                offset += size
        return found

    # --- replies ---

    def wait(self, cookie):
        """The complete reply to one request; others that arrive meanwhile are kept."""
        while not self.replies[cookie].done:
            self.recv_chunk()
        return self.replies.pop(cookie)

    def wait_all(self):
        """Complete replies to everything that is pending, {cookie: Reply}."""
        while self.pending:
            self.recv_chunk()
        done, self.replies = self.replies, {}
        return done

    def recv_chunk(self):
        """Reads one message of the server and files it under its cookie, which it answers."""
        if self.mode == EXTENDED:
            magic, flags, kind, cookie, offset, length = self.unpack(">IHHQQQ")
            require(magic == EXTENDED_REPLY_MAGIC, f"reply magic {magic:#x} with extended headers")
            request = self.find(cookie)
            require(offset == request.offset, "an extended reply repeats the request's offset")
            self.recv_structured(request, flags, kind, length)
            return cookie
        (magic,) = self.unpack(">I")
        if magic == SIMPLE_REPLY_MAGIC:
            error, cookie = self.unpack(">IQ")
            request = self.find(cookie)
            require(
                self.mode == SIMPLE or request.type != Cmd.READ,
                "a simple reply to READ though structured replies were negotiated",
            )
            require(
                request.type != Cmd.BLOCK_STATUS or error, "BLOCK_STATUS without a structured reply"
            )
            reply = self.replies[cookie]
            reply.error = self.check_error(error) if error else 0
            if request.type == Cmd.READ and not error:
                reply.data = self.recv(request.length)
            self.finish(request)
            return cookie
        require(magic == STRUCTURED_REPLY_MAGIC, f"reply magic is {magic:#x}")
        require(self.mode == STRUCTURED, "a structured reply that was not negotiated")
        flags, kind, cookie, length = self.unpack(">HHQI")
        self.recv_structured(self.find(cookie), flags, kind, length)
        return cookie

    def find(self, cookie):
        require(cookie in self.pending, f"a reply to {cookie:#x}, which is not pending")
        return self.pending[cookie]

    @staticmethod
    def check_error(error):
        require(error in set(Err), f"error {error} is not one of the specification")
        return error

    def finish(self, request):
        del self.pending[request.cookie]
        self.replies[request.cookie].done = True

    def recv_structured(self, request, flags, kind, length):
        reply = self.replies[request.cookie]
        require(flags & ~1 == 0, f"unknown reply flags {flags:#x}")
        require(length <= MAX_PAYLOAD + 4096, f"a chunk of {length} bytes")
        body = self.recv(length)
        piece = Piece(kind, bool(flags & 1), length)
        if kind == Chunk.NONE:
            require(not body, "NONE carries a payload")
            require(piece.done, "NONE without DONE")
        elif kind in (Chunk.OFFSET_DATA, Chunk.OFFSET_HOLE):
            self.take_content(request, reply, piece, body)
        elif kind in (Chunk.BLOCK_STATUS, Chunk.BLOCK_STATUS_EXT):
            self.take_status(request, reply, piece, body)
        elif kind in (Chunk.ERROR, Chunk.ERROR_OFFSET):
            tail = 8 if kind == Chunk.ERROR_OFFSET else 0
            require(length >= 6 + tail, "an error chunk that is too short")
            piece.error, size = struct.unpack_from(">IH", body)
            self.check_error(piece.error)
            require(piece.error != 0, "an error chunk with error 0")
            require(size == length - 6 - tail, "the text does not fill the error chunk")
            require(size <= MAX_STRING, "a text longer than a string may be")
            piece.message = body[6 : 6 + size].decode()
            if tail:
                (piece.offset,) = struct.unpack_from(">Q", body, 6 + size)
                require(
                    request.offset <= piece.offset < request.offset + request.length,
                    "an error offset outside the request",
                )
            if not reply.error:
                reply.error, reply.message = piece.error, piece.message
        else:
            raise ProtocolError(f"unknown chunk type {kind}")
        reply.pieces.append(piece)
        if piece.done:
            self.check_complete(request, reply)
            self.finish(request)

    def take_content(self, request, reply, piece, body):
        require(request.type == Cmd.READ, "content in reply to something other than READ")
        if piece.type == Chunk.OFFSET_DATA:
            require(len(body) > 8, "a data chunk without data")
            (piece.offset,) = struct.unpack_from(">Q", body)
            piece.size = len(body) - 8
        else:
            require(len(body) == 12, "a hole chunk has 12 bytes")
            piece.offset, piece.size = struct.unpack(">QI", body)
            require(piece.size, "a hole of no bytes")
        start, end = piece.offset - request.offset, piece.offset + piece.size - request.offset
        require(0 <= start and end <= request.length, "content outside the request")
        for other in reply.pieces:
            if other.type in (Chunk.OFFSET_DATA, Chunk.OFFSET_HOLE):
                apart = end <= other.offset - request.offset or (
                    start >= other.offset + other.size - request.offset
                )
                require(apart, "content chunks overlap")
        if not isinstance(reply.data, bytearray):
            reply.data = bytearray(request.length)
        if piece.type == Chunk.OFFSET_DATA:
            reply.data[start:end] = body[8:]

    def take_status(self, request, reply, piece, body):
        require(request.type == Cmd.BLOCK_STATUS, "block status that nobody asked for")
        extended = self.mode == EXTENDED
        wanted = Chunk.BLOCK_STATUS_EXT if extended else Chunk.BLOCK_STATUS
        require(piece.type == wanted, f"status chunk of type {piece.type}")
        if extended:
            number, count = struct.unpack_from(">II", body)
            require(len(body) == 8 + 16 * count, "the descriptor count does not fit the chunk")
            extents = list(struct.iter_unpack(">QQ", body[8:]))
        else:
            (number,) = struct.unpack_from(">I", body)
            require((len(body) - 4) % 8 == 0, "half a descriptor")
            extents = list(struct.iter_unpack(">II", body[4:]))
        require(number in request.contexts, f"status of context {number}, not asked for")
        require(number not in reply.status, f"two chunks for context {number}")
        require(extents, "a status chunk without a descriptor")
        require(len(extents) <= MAX_EXTENTS, f"{len(extents)} descriptors in a chunk")
        require(all(size for size, _ in extents), "an extent of no bytes")
        total = sum(size for size, _ in extents)
        require(total <= request.length, "the extents pass the request")
        require(
            all(a[1] != b[1] for a, b in zip(extents, extents[1:])), "equal neighbours not merged"
        )
        if request.flags & CmdFlag.REQ_ONE:
            require(len(extents) == 1, "REQ_ONE answered with several extents")
        names = {value: name for name, value in self.contexts.items()}
        allowed = 3 if names.get(number) == "base:allocation" else 1
        require(
            all(bits & ~allowed == 0 for _, bits in extents),
            f"flags that {names.get(number)} does not have",
        )
        reply.status[number] = extents

    def check_complete(self, request, reply):
        if reply.error:
            return
        content = [p for p in reply.pieces if p.type in (Chunk.OFFSET_DATA, Chunk.OFFSET_HOLE)]
        if request.type == Cmd.READ:
            covered = sum(p.size for p in content)
            require(covered == request.length, f"{covered} of {request.length} bytes were sent")
            reply.data = bytes(reply.data)
            if request.flags & CmdFlag.DF:
                require(len(content) <= 1, "a fragmented reply under DF")
                require(not reply.holes, "a hole under DF")
        elif request.type == Cmd.BLOCK_STATUS:
            require(
                set(reply.status) == set(request.contexts),
                f"status of {sorted(reply.status)}, wanted {sorted(request.contexts)}",
            )


def open_wire(address, mode=SIMPLE, timeout=PATIENCE):
    """A connection in the handshake, with the mode's option negotiated."""
    wire = Wire(address, timeout)
    wire.greet()
    wire.negotiate(mode)
    return wire


def open_export(address, name, mode=STRUCTURED, contexts=(), infos=(), timeout=PATIENCE):
    """A connection in the transmission phase."""
    wire = open_wire(address, mode, timeout)
    if contexts:
        found = wire.set_meta(name, contexts)
        require(set(found) == set(contexts), f"asked for {contexts}, got {found}")
    result = wire.go(name, infos)
    require(result.ok, f"GO {name} answered {result.type:#x} {result.text}")
    return wire


def wait_for(condition, seconds=10.0, step=0.02):
    """Polls until condition() is true; the last value."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(step)


COMMANDS = {
    Cmd.READ: 512,
    Cmd.WRITE: 512,
    Cmd.FLUSH: 0,
    Cmd.TRIM: 512,
    Cmd.CACHE: 512,
    Cmd.WRITE_ZEROES: 512,
    Cmd.BLOCK_STATUS: 512,
}


def ask(wire, command, flags):
    """One well-formed request of that kind, but for its flags."""
    length = COMMANDS[command]
    payload = bytes(length) if command == Cmd.WRITE else None
    return wire.call(command, 0, length, flags, payload=payload)
