"""The handshake rows of what NBD clients see, spoken on the wire. One test for each row:

flags of the greeting                                   test_greeting_*, test_client_flags_*
names up to 4096 bytes                                  test_name_of_4096_bytes_*
unknown option: drained, ERR_UNSUP                      test_unknown_option
payload on LIST, STRUCTURED_REPLY, EXTENDED_HEADERS     test_payload_where_none_is_due
STRUCTURED_REPLY or EXTENDED_HEADERS twice              test_negotiated_twice
STRUCTURED_REPLY after EXTENDED_HEADERS                 test_structured_after_extended
malformed names, lengths, empty options                 test_malformed_option, test_malformed_export_name
an option longer than is sane                           test_option_longer_than_is_sane
unknown export: ERR_UNKNOWN, the name cut to 80         test_unknown_export*
unknown export in EXPORT_NAME                           test_export_name_unknown_closes
export full under its sharing mode                      test_full_*
STARTTLS without TLS configured                         test_starttls_without_tls
an export this identity may not use                     test_not_allowed_is_unknown*
ABORT                                                   test_abort
silence for 10 s                                        test_deadline (long)
during shutdown: ERR_SHUTDOWN                           test_shutdown_*
bounds on options and connections                       test_too_many_*
"""

import fcntl
import os
import re
import signal
import socket
import struct
import termios
import time

import pytest

import harness
from nbdproto import (
    EXTENDED, MAX_PAYLOAD, STRUCTURED, Cmd, Err, Flag, HandshakeFlag, Opt, Rep, info_data,
    meta_data,
)
from nbdwire import Closed, Wire, connect, open_export

SIZE = 1 << 20
NAMED_OPTIONS = (Opt.INFO, Opt.GO, Opt.LIST_META_CONTEXT, Opt.SET_META_CONTEXT)


@pytest.fixture(scope="module", autouse=True)
def exports(server):
    server.serve("disk", SIZE, sharing="shared", description="a disk for tests")
    server.serve("bare", SIZE, sharing="shared")
    server.serve("odd", 1000001, {1000000: b"Z"}, sharing="shared")


def payload_for(option, name, **lies):
    """A well-formed payload for an option that names an export, but for the lies."""
    if option in (Opt.INFO, Opt.GO):
        return info_data(name, **lies)
    return meta_data(name, ["base:allocation"], **lies)


def still_works(wire):
    """The connection is in the handshake and in step."""
    assert "disk" in wire.list_exports()


# --- greeting ---


def test_greeting_offers_fixed_newstyle_and_no_zeroes(server):
    with Wire(server.nbd) as wire:
        assert wire.greeting() == HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES


@pytest.mark.parametrize("flags", [4, 3 | 4, 1 << 16, 1 << 31, 0xFFFFFFFF])
def test_client_flags_unknown_drop(server, flags):
    """Unknown client flags: drop the connection."""
    with Wire(server.nbd) as wire:
        wire.greet(flags)
        wire.expect_close()


def test_client_flags_reserved_bytes(server):
    """EXPORT_NAME sends 124 zeroes unless NO_ZEROES was agreed on; GO never does."""
    for flags in (HandshakeFlag.FIXED_NEWSTYLE, HandshakeFlag(3)):
        with Wire(server.nbd) as wire:
            wire.greet(flags)
            wire.export_name("disk")  # checks that the bytes are zero
            assert wire.size == SIZE
            assert wire.read(0, 512).data == bytes(512)
        with Wire(server.nbd) as wire:
            wire.greet(flags)
            assert wire.go("disk").ok
            assert wire.read(0, 512).data == bytes(512)


def test_client_flags_not_fixed_newstyle(server):
    """A client that knows plain newstyle alone still reaches an export by name."""
    with Wire(server.nbd) as wire:
        wire.greet(0)
        wire.export_name("disk")
        assert wire.size == SIZE
        assert wire.read(0, 512).data == bytes(512)


@pytest.mark.parametrize("magic", [0, 0x4E42444D41474943, 0x49484156454F5055])
def test_option_magic_wrong_closes(server, magic):
    """An option with the wrong magic: the stream is out of step, so the connection ends."""
    with Wire(server.nbd) as wire:
        wire.greet()
        wire.send_option(Opt.LIST, magic=magic)
        wire.expect_close()


# --- options ---


@pytest.mark.parametrize("option", NAMED_OPTIONS, ids=lambda o: o.name)
def test_name_of_4096_bytes_is_unknown_not_invalid(server, option):
    """Names of up to 4096 bytes are names."""
    with server.wire(STRUCTURED) as wire:
        assert wire.answer(option, payload_for(option, "n" * 4096)) == Rep.ERR_UNKNOWN
        still_works(wire)


@pytest.mark.parametrize("size", [0, 1, 1000, 65536])
@pytest.mark.parametrize("option", [0, 4, 12, 99, 1 << 31, 0xFFFFFFFF])
def test_unknown_option(server, option, size):
    """unknown option: drain the payload, ERR_UNSUP."""
    with server.wire() as wire:
        assert wire.answer(option, b"\xa5" * size) == Rep.ERR_UNSUP
        still_works(wire)


@pytest.mark.parametrize("size", [1, 4, 5000])
@pytest.mark.parametrize(
    "option", [Opt.LIST, Opt.STRUCTURED_REPLY, Opt.EXTENDED_HEADERS], ids=lambda o: o.name
)
def test_payload_where_none_is_due(server, option, size):
    """payload on LIST, STRUCTURED_REPLY, EXTENDED_HEADERS: ERR_INVALID, and nothing negotiated."""
    with server.wire() as wire:
        assert wire.answer(option, bytes(size)) == Rep.ERR_INVALID
        still_works(wire)
        assert wire.go("disk").ok
        assert Flag.SEND_DF not in wire.flags
        assert wire.read(0, 512).data == bytes(512)  # a simple reply to a compact request


@pytest.mark.parametrize(
    "option,mode",
    [(Opt.STRUCTURED_REPLY, STRUCTURED), (Opt.EXTENDED_HEADERS, EXTENDED)],
    ids=["structured", "extended"],
)
def test_negotiated_twice(server, option, mode):
    """STRUCTURED_REPLY or EXTENDED_HEADERS twice: ERR_INVALID; the first stays in force."""
    with server.wire(mode) as wire:
        assert wire.answer(option) == Rep.ERR_INVALID
        still_works(wire)
        assert wire.go("disk").ok
        assert wire.read(0, 512).data == bytes(512)


def test_structured_after_extended(server):
    """STRUCTURED_REPLY after EXTENDED_HEADERS: ERR_EXT_HEADER_REQD; extended stays."""
    with server.wire(EXTENDED) as wire:
        assert wire.answer(Opt.STRUCTURED_REPLY) == Rep.ERR_EXT_HEADER_REQD
        assert wire.mode == EXTENDED
        assert wire.go("disk").ok
        assert wire.read(0, 512).data == bytes(512)


def test_extended_after_structured(server):
    """EXTENDED_HEADERS after STRUCTURED_REPLY takes precedence."""
    with server.wire(STRUCTURED) as wire:
        assert wire.answer(Opt.EXTENDED_HEADERS) == Rep.ACK
        assert wire.mode == EXTENDED
        assert wire.go("disk").ok
        assert wire.read(0, 512).data == bytes(512)


def malformed():
    for option in NAMED_OPTIONS:
        good = payload_for(option, "disk")
        yield option, b"", "nothing"
        for size in (1, 3):
            yield option, bytes(size), f"{size} bytes"
        yield option, payload_for(option, "n" * 4097), "name of 4097"
        yield option, payload_for(option, "n" * 60000), "name of 60000"
        yield option, payload_for(option, "disk", name_length=len(good)), "name beyond the option"
        yield option, payload_for(option, "disk", name_length=0xFFFFFFFF), "name of 2^32-1"
        yield option, struct.pack(">I", 4) + b"disk", "no count"
        yield option, good[:-1], "cut short"
        yield option, payload_for(option, "disk", count=1000), "count beyond the option"
        yield option, good + b"\0", "a byte too many"
    for option in (Opt.LIST_META_CONTEXT, Opt.SET_META_CONTEXT):
        yield option, meta_data("disk", [], count=0xFFFFFFFF), "2^32-1 queries"
        query = meta_data("disk", [], count=1)
        yield option, query + struct.pack(">I", 100) + b"base:", "query beyond the option"
        yield option, query + struct.pack(">I", 0xFFFFFFFF) + b"base:", "query of 2^32-1"


@pytest.mark.parametrize(
    "option,payload", [pytest.param(o, p, id=f"{o.name}-{t}") for o, p, t in malformed()]
)
def test_malformed_option(server, option, payload):
    """name over 4096, name beyond the option, nothing where a field is due: ERR_INVALID."""
    with server.wire(STRUCTURED) as wire:
        assert wire.answer(option, payload) == Rep.ERR_INVALID
        still_works(wire)


@pytest.mark.parametrize("size", [4097, 60000])
def test_malformed_export_name(server, size):
    """EXPORT_NAME cannot be answered with an error: close."""
    with server.wire() as wire:
        wire.send_option(Opt.EXPORT_NAME, b"n" * size)
        wire.expect_close()


@pytest.mark.parametrize("option", [Opt.LIST, Opt.GO, Opt.SET_META_CONTEXT, 99, Opt.EXPORT_NAME])
@pytest.mark.parametrize("length", [0xFFFFFFFF, 1 << 30])
def test_option_longer_than_is_sane(server, option, length):
    """an option longer than is sane: drop after a bound, without reading gigabytes."""
    sent, limit = 0, 64 << 20
    with server.wire() as wire:
        wire.send_option(option, b"", length=length)
        part = bytes(1 << 20)
        try:
            while sent < limit:
                wire.send(part)
                sent += len(part)
        except Closed:
            pass
        assert sent < limit, "the server swallows it all"


@pytest.mark.parametrize("option", NAMED_OPTIONS, ids=lambda o: o.name)
def test_unknown_export(server, option):
    """unknown export in GO, INFO, LIST_META, SET_META: ERR_UNKNOWN, and one may go on."""
    with server.wire(STRUCTURED) as wire:
        for name in ("nowhere", "", "disk/x", "DISK", "dis"):
            assert wire.answer(option, payload_for(option, name)) == Rep.ERR_UNKNOWN, name
        still_works(wire)
        assert wire.go("disk").ok


@pytest.mark.parametrize("option", NAMED_OPTIONS, ids=lambda o: o.name)
def test_unknown_export_text_is_cut(server, option):
    """a name echoed in the text is cut to 80 characters (and the text stays UTF-8)."""
    with server.wire(STRUCTURED) as wire:
        for name in ("Z" * 4000, "\u00fc" * 2000, "\U0001f40d" * 1000):
            reply = wire.option(option, payload_for(option, name))[-1]
            assert reply.type == Rep.ERR_UNKNOWN
            assert reply.text.count(name[0]) <= 80
            assert len(reply.text) < 300


@pytest.mark.parametrize("name", ["nowhere", "", "x" * 4096])
def test_export_name_unknown_closes(server, name):
    """unknown export in EXPORT_NAME: close."""
    with server.wire() as wire:
        wire.send_option(Opt.EXPORT_NAME, name.encode())
        wire.expect_close()


@pytest.mark.parametrize("name", [b"\xff\xfe", b"disk\0", b"a\0b"])
def test_name_that_is_no_string(server, name):
    """A name with a NUL, or that is not UTF-8, names nothing; the answer is UTF-8 all the same."""
    with server.wire() as wire:
        assert wire.answer(Opt.GO, info_data(name)) in (Rep.ERR_UNKNOWN, Rep.ERR_INVALID)
        still_works(wire)


# --- sharing ---


@pytest.fixture
def busy_exports(server):
    server.serve("exclusive", sharing="exclusive")
    server.serve("bounded", sharing="shared", max_clients=2)
    holders = [server.open("exclusive"), server.open("bounded"), server.open("bounded")]
    yield holders
    for holder in holders:
        holder.close()
    server.drop("exclusive")
    server.drop("bounded")


@pytest.mark.parametrize("name,word", [("exclusive", "exclusive"), ("bounded", "2")])
def test_full_go_is_refused_with_text(server, busy_exports, name, word):
    """export full under its sharing mode: ERR_POLICY, with text that says so."""
    with server.wire() as wire:
        answer = wire.go(name)
        assert answer.type == Rep.ERR_POLICY
        assert re.search(r"client|connect|full|use", answer.text), answer.text
        assert word in answer.text
        still_works(wire)


@pytest.mark.parametrize("name", ["exclusive", "bounded"])
def test_full_export_name_closes(server, busy_exports, name):
    """EXPORT_NAME of an export that is full: close."""
    with server.wire() as wire:
        wire.send_option(Opt.EXPORT_NAME, name.encode())
        wire.expect_close()


@pytest.mark.parametrize("name", ["exclusive", "bounded"])
def test_full_info_is_answered(server, busy_exports, name):
    """INFO takes no slot, so it is answered though the export is full."""
    with server.wire() as wire:
        assert wire.info(name).ok


def test_full_until_a_slot_is_given_back(server, busy_exports):
    """However a client goes, its slot is free again: with DISC, or without a word."""
    for leave in (lambda w: w.disconnect(), lambda w: w.close()):
        holder = busy_exports[0]
        leave(holder)
        with server.wire() as wire:
            assert harness.wait_for(lambda: wire.go("exclusive").ok)
            holder.close()
            busy_exports[0] = wire
            with server.wire() as other:
                assert other.go("exclusive").type == Rep.ERR_POLICY
            wire.disconnect()
            wire.expect_close()
        harness.wait_for(lambda: not server.clients_of("exclusive"))
        busy_exports[0] = server.open("exclusive")


# --- TLS, access ---


def test_starttls_without_tls(server):
    """STARTTLS without TLS configured: ERR_POLICY."""
    with server.wire() as wire:
        assert wire.answer(Opt.STARTTLS) == Rep.ERR_POLICY
        still_works(wire)
        assert wire.go("disk").ok


@pytest.fixture(scope="module")
def guarded(server):
    """Exports this process may not use, by Unix identity."""
    server.serve("nobody", allow=[], sharing="shared")
    server.serve("others", allow=["unix:4294967000"], sharing="shared")
    server.serve("not-me", allow=["!unix:%d" % uid(), "unix:%d" % uid()], sharing="shared")
    server.serve("me", allow=["unix:%d" % uid()], sharing="shared")
    server.serve("me-ro", allow=["ro:unix:%d" % uid()], sharing="shared")


def uid():
    return os.getuid()


HIDDEN = ("nobody", "others", "not-me")


def test_not_allowed_is_unknown_in_list(server, guarded):
    """an export that this identity may not use: not listed."""
    with server.wire() as wire:
        names = set(wire.list_exports())
    assert names.isdisjoint(HIDDEN)
    assert {"me", "me-ro", "disk"} <= names


@pytest.mark.parametrize("option", NAMED_OPTIONS, ids=lambda o: o.name)
@pytest.mark.parametrize("name", HIDDEN)
def test_not_allowed_is_unknown(server, guarded, name, option):
    """... ERR_UNKNOWN, to the byte the same as for an export that does not exist."""
    missing = "z" * len(name)
    with server.wire(STRUCTURED) as wire:
        hidden = wire.option(option, payload_for(option, name))
        absent = wire.option(option, payload_for(option, missing))
        assert [r.type for r in hidden] == [Rep.ERR_UNKNOWN] == [r.type for r in absent]
        assert hidden[0].text.replace(name, missing) == absent[0].text


@pytest.mark.parametrize("name", HIDDEN)
def test_not_allowed_is_unknown_in_export_name(server, guarded, name):
    with server.wire() as wire:
        wire.send_option(Opt.EXPORT_NAME, name.encode())
        wire.expect_close()


def test_allowed_by_identity(server, guarded):
    """Whom the list names may use it; `ro:` admits to reading alone."""
    with server.wire() as wire:
        assert wire.go("me").ok
        assert Flag.READ_ONLY not in wire.flags
        assert wire.write(0, b"x").error == Err.OK
    with server.wire() as wire:
        assert wire.go("me-ro").ok
        assert Flag.READ_ONLY in wire.flags
        assert wire.write(0, b"x").error == Err.EPERM


# --- the end of a handshake ---


@pytest.mark.parametrize("payload", [b"", b"farewell"])
def test_abort(server, payload):
    """ABORT: ACK, close."""
    with server.wire() as wire:
        assert wire.answer(Opt.ABORT, payload) == Rep.ACK
        wire.expect_close()


@pytest.mark.long
@pytest.mark.alone
def test_deadline(make_daemon):
    """nothing, for 10 s: close. Nor do a byte now and then, or options without end, buy time."""
    server = make_daemon(handshake=None)
    server.serve("disk", SIZE)
    begin = time.monotonic()
    silent = Wire(server.nbd)
    silent.greeting()
    flagged = server.wire()
    half = server.wire()
    half.send(struct.pack(">QI", 0x49484156454F5054, Opt.LIST))
    body = server.wire()
    body.send_option(Opt.GO, b"\0\0", length=100)
    drip = server.wire()
    drip.send_option(Opt.GO, b"", length=1000)
    done = server.open("disk")
    wires = {"silent": silent, "flags": flagged, "half": half, "body": body, "drip": drip}
    ends = {}
    while wires and time.monotonic() < begin + 100:
        for name, wire in list(wires.items()):
            try:
                if name == "drip":
                    wire.send(b"\0")
                if wire.readable():
                    ends[name] = time.monotonic() - begin
                    wire.expect_close()
                    del wires[name]
            except Closed:
                ends[name] = time.monotonic() - begin
                del wires[name]
        time.sleep(0.1)
    assert not wires, f"still open after 100 s: {list(wires)}"
    for name, seconds in ends.items():
        assert seconds > 9, f"{name} was closed after {seconds:.1f} s"
    assert done.read(0, 512).error == Err.OK, "the deadline is over once an export is in use"
    done.close()


def stopping(daemon):
    """Puts a daemon into its shutdown and holds it there: one client does not read its reply."""
    holder = daemon.open("held", STRUCTURED)
    for part in range(4):
        holder.submit(Cmd.READ, part * MAX_PAYLOAD, MAX_PAYLOAD)
    # The first answer is on its way, and does not fit into the socket. (What has not been read when it
    # stops is read no more.)
    assert harness.wait_for(holder.readable)
    daemon.process.send_signal(signal.SIGTERM)
    assert harness.wait_for(lambda: daemon.rpc.plain("daemon.info")["stopping"])
    return holder


@pytest.fixture
def held(make_daemon):
    daemon = make_daemon("--drain-seconds", 120)
    data = {offset: b"d" * (1 << 20) for offset in range(0, 4 * MAX_PAYLOAD, 1 << 20)}
    daemon.serve("held", 4 * MAX_PAYLOAD, data, sharing="shared")
    return daemon


@pytest.mark.parametrize("option", [Opt.LIST, Opt.INFO, Opt.GO, Opt.SET_META_CONTEXT])
def test_shutdown_answers_err_shutdown(held, option):
    """during shutdown: ERR_SHUTDOWN; ABORT is still answered."""
    wire = held.wire(STRUCTURED)
    other = held.wire(STRUCTURED)
    holder = stopping(held)
    data = b"" if option == Opt.LIST else payload_for(option, "held")
    assert wire.answer(option, data) == Rep.ERR_SHUTDOWN
    assert other.answer(Opt.ABORT) == Rep.ACK
    wire.close()
    assert all(reply.error == 0 for reply in read_until_closed(holder))
    held.stop()


def read_until_closed(wire):
    """The complete replies that still arrive before the end."""
    done = []
    try:
        while True:
            cookie = wire.recv_chunk()
            if wire.replies[cookie].done:
                done.append(wire.replies.pop(cookie))
    except Closed as end:
        assert not end.got, "the last reply was cut"
    return done


def test_shutdown_export_name_closes(held):
    """EXPORT_NAME during shutdown: close."""
    wire = held.wire()
    holder = stopping(held)
    wire.send_option(Opt.EXPORT_NAME, b"held")
    wire.expect_close()
    read_until_closed(holder)
    held.stop()


def test_shutdown_is_not_held_up_by_a_handshake(make_daemon):
    """A client that is silent in mid-handshake does not delay the end: who is waited for would be for
    longer than stop() takes."""
    daemon = make_daemon("--drain-seconds", 600)
    wire = daemon.wire()
    wire.send(struct.pack(">QI", 0x49484156454F5054, Opt.LIST))
    daemon.stop()
    wire.close()


# --- bounds ---


def test_too_many_options_end_the_handshake(server):
    """Options are bounded: nobody haggles for ever."""
    with server.wire() as wire:
        with pytest.raises(Closed):
            for _ in range(100000):
                wire.send_option(99)
                wire.recv_option(99)


def test_too_many_handshakes_do_not_lock_others_out(make_daemon):
    """Connections in the handshake do not count against clients served; beyond their bound the
    oldest one gives way to a new one."""
    daemon = make_daemon("--max-handshakes", 4)
    daemon.serve("disk", sharing="shared")
    idle = [daemon.wire() for _ in range(4)]
    with open_export(daemon.nbd, "disk") as extra:
        idle[0].expect_close()
        assert idle[1].go("disk").ok
        assert extra.read(0, 512).error == idle[1].read(0, 512).error == 0
        extra.disconnect()
    for wire in idle:
        wire.close()


def can_open(address, name):
    """Not so while the server has not yet seen that somebody else has gone."""
    try:
        with Wire(address) as wire:
            wire.greet()
            answer = wire.go(name)
            if answer.ok:
                wire.disconnect()
            return answer.ok
    except (Closed, OSError):
        return False


def unread(wire):
    """Bytes that wait for this client to read them."""
    return struct.unpack("i", fcntl.ioctl(wire.sock, termios.FIONREAD, bytes(4)))[0]


def test_a_long_list_of_exports(daemon):
    """LIST answers every export once, in order, however much that is; who does not read the answer
    costs no memory for it."""
    names = sorted(f"{'x' * (number % 90)}{number}" for number in range(1200))
    texts = {name: (name * 1024)[:1024] for name in names}
    path = str(daemon.image())
    daemon.rpc.plain("disk.add", name="d", path=path)
    for name, text in texts.items():
        daemon.rpc.plain("export.add", name=name, disk="d", read_only=True, description=text)
    with daemon.wire() as wire:
        assert list(wire.list_exports().items()) == list(texts.items())
    before = daemon.proc_status("VmRSS")
    deaf = [daemon.wire() for _ in range(50)]
    # Each list is more than a socket holds: every thread is somewhere in the first ones and stays.
    for wire in deaf:
        for _ in range(4):
            wire.send_option(Opt.LIST)
    for wire in deaf:
        assert harness.wait_for(lambda: unread(wire) > 64 << 10), "no list"
    daemon.grew_less_than(before, 50 * 64)
    assert len(daemon.clients_of()) == len(deaf)
    for wire in deaf:
        wire.close()


def test_too_many_clients_are_refused(make_daemon):
    """Clients served at once are bounded; a slot that is given back can be used again."""
    daemon = make_daemon("--max-clients", 2)
    daemon.serve("disk", sharing="shared")
    first, second = daemon.open("disk"), daemon.open("disk")
    with Wire(daemon.nbd) as third:
        try:
            third.greet()
            answer = third.go("disk")
            assert answer.type == Rep.ERR_POLICY, answer
        except Closed:
            pass
    first.close()
    assert harness.wait_for(lambda: can_open(daemon.nbd, "disk"))
    assert second.read(0, 512).error == Err.OK
    second.close()


def test_connection_closed_in_every_state(server):
    """A client that goes away in mid-handshake leaves nothing behind."""
    option = struct.pack(">QII", 0x49484156454F5054, Opt.GO, 20) + info_data("disk", [3])[:10]
    whole = struct.pack(">I", 3) + option
    harness.wait_for(lambda: not server.clients_of())
    for size in range(0, len(whole) + 1):
        sock = connect(server.nbd)
        sock.sendall(whole[:size])
        if size % 2:
            sock.shutdown(socket.SHUT_WR)
        sock.close()
    server.no_clients()
