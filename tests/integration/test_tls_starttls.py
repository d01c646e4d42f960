"""STARTTLS on the wire: what was said before it, behind it in plaintext, and into it. (Twice, with a
payload, without a credential: test_tls_matrix.py.)"""

import itertools
import socket
import ssl
import struct

import pytest

from harness import wait_for
from nbdproto import (
    EXTENDED, IHAVEOPT, SIMPLE, STRUCTURED, Cmd, Err, Flag, Opt, Rep, info_data, meta_data,
)
from nbdwire import Closed, open_wire
from test_tls_matrix import SIZE, Site
from test_tls_rotation import hello


@pytest.fixture(scope="module")
def site(server, tmp_path_factory):
    return Site(server, tmp_path_factory.mktemp("site"))


def go_on_in_tls(site, wire, folder=None, version=None):
    context = site.context(folder or site.client)
    if version:
        context.minimum_version = context.maximum_version = version
    wire.sock = context.wrap_socket(wire.sock, server_hostname="localhost")
    wire.mode, wire.contexts = SIMPLE, {}
    return wire


def secured(site, wire):
    assert wire.answer(Opt.STARTTLS) == Rep.ACK
    return go_on_in_tls(site, wire)


# --- state from before it ---


@pytest.mark.parametrize("mode", [STRUCTURED, EXTENDED])
def test_encodings_are_forgotten(site, mode):
    """Replies are simple again, and the option may be sent again."""
    with open_wire(site.address["allow"]) as wire:
        wire.negotiate(mode)
        secured(site, wire)
        assert wire.go("disk").ok
        assert Flag.SEND_DF not in wire.flags
        assert wire.read(0, 512).data == b"\x11" * 512
        assert wire.block_status(0, 512).error == Err.EINVAL
    for again in (STRUCTURED, EXTENDED):
        with open_wire(site.address["allow"]) as wire:
            wire.negotiate(mode)
            secured(site, wire).negotiate(again)
            assert wire.go("disk").ok


@pytest.mark.parametrize("mode", [STRUCTURED, EXTENDED])
def test_contexts_are_forgotten(site, mode):
    with open_wire(site.address["allow"]) as wire:
        wire.negotiate(mode)
        assert wire.set_meta("disk", ["base:allocation"])
        secured(site, wire).negotiate(mode)
        assert wire.go("disk").ok
        wire.contexts = {}
        assert Flag.BLOCK_STATUS_PAYLOAD not in wire.flags
        assert wire.call(Cmd.BLOCK_STATUS, 0, 512).error == Err.EINVAL


def test_promises_are_forgotten(site):
    """INFO in plaintext said read-only; that is not what holds for who has proven more."""
    site.daemon.rpc.plain("export.add", name="mixed", disk="disk", sharing="shared",
                          allow=["x509:CN=alice", "ro:ip:127.0.0.1"])
    try:
        with open_wire(site.address["allow"]) as wire:
            assert Flag.READ_ONLY in wire.info("mixed").flags
            secured(site, wire)
            assert wire.go("mixed").ok
            assert Flag.READ_ONLY not in wire.flags
        with open_wire(site.address["allow"]) as wire:
            assert wire.go("mixed").ok
            assert wire.write(0, b"x").error == Err.EPERM
    finally:
        site.daemon.rpc.plain("export.remove", name="mixed", mode="hard")


def test_half_an_option_is_not_carried_over(site):
    """The last option before it was refused half-way through; TLS begins with a header."""
    with open_wire(site.address["allow"]) as wire:
        assert wire.answer(Opt.GO, info_data("disk", [3], count=9)) == Rep.ERR_INVALID
        assert wire.answer(99, b"x" * 5000) == Rep.ERR_UNSUP
        secured(site, wire)
        assert wire.info("disk").ok


# --- plaintext behind it ---


def option(number, data=b""):
    return struct.pack(">QII", IHAVEOPT, number, len(data)) + data


INJECTED = {
    "an option": option(Opt.LIST),
    "half an option": option(Opt.LIST)[:11],
    "one byte": b"I",
    "GO": option(Opt.GO, info_data("disk")),
    "EXPORT_NAME": option(Opt.EXPORT_NAME, b"disk"),
    "SET_META_CONTEXT": option(Opt.STRUCTURED_REPLY)
    + option(Opt.SET_META_CONTEXT, meta_data("disk", ["base:allocation"])),
    "STARTTLS": option(Opt.STARTTLS),
    "ABORT": option(Opt.ABORT),
    "much": option(Opt.LIST) * 10000,
}
PLACES = ["with STARTTLS", "behind STARTTLS", "behind the answer", "with the hello"]


@pytest.mark.parametrize("what", INJECTED)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("listener", ["allow", "require"])
def test_injected_plaintext(site, listener, place, what):
    """CVE-2021-3716: it is never answered, and never counts as if it had been encrypted; the
    connection ends before there is a TLS session."""
    wire = open_wire(site.address[listener])
    start, injected = option(Opt.STARTTLS), INJECTED[what]
    client_hello = hello(site.context(site.client))
    try:
        if place == "with STARTTLS":
            wire.send(start + injected)
        elif place == "with the hello":
            wire.send(start + injected + client_hello)
        else:
            wire.send(start)
            if place == "behind the answer":
                assert wire.recv_option(Opt.STARTTLS).type == Rep.ACK
            wire.send(injected)
        if place != "behind the answer":
            assert wire.recv_option(Opt.STARTTLS).type == Rep.ACK
        if place != "with the hello":
            wire.send(client_hello)
        rest = everything(wire)
    except Closed:
        rest = b""
    # At most an alert of TLS; neither an answer to an option nor a ServerHello.
    assert rest == b"" or (rest[0] == 0x15 and len(rest) < 32), rest[:64]
    wire.close()
    assert wait_for(lambda: not site.daemon.clients_of())


def everything(wire):
    """What still comes until the end."""
    said = bytes(wire.buffer)
    while True:
        try:
            part = wire.sock.recv(65536)
        except ConnectionError:
            return said
        if not part:
            return said
        said += part


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("phase", ["handshake", "transmission"])
@pytest.mark.parametrize("what", ["plaintext", "a record that is none of ours", "an alert"])
def test_plaintext_into_a_session(site, version, phase, what):
    """Bytes that somebody on the way puts between the records end the connection."""
    wire = open_wire(site.address["require"])
    assert wire.answer(Opt.STARTTLS) == Rep.ACK
    raw = socket.socket(fileno=socket.dup(wire.sock.fileno()))
    go_on_in_tls(site, wire, version=version)
    if phase == "transmission":
        assert wire.go("disk").ok
        assert wire.read(0, 512).error == 0
    else:
        assert wire.info("disk").ok
    raw.sendall({
        "plaintext": option(Opt.INFO, info_data("disk")),
        "a record that is none of ours": b"\x17\x03\x03\x00\x40" + b"\x5a" * 64,
        "an alert": b"\x15\x03\x03\x00\x02\x02\x28",
    }[what])
    raw.close()
    with pytest.raises((ssl.SSLError, Closed, ConnectionError)):
        if wire.sock.recv(65536) == b"":
            raise Closed
    wire.close()
    assert wait_for(lambda: not site.daemon.clients_of())


def test_renegotiation_is_refused(site):
    """TLS 1.2: Python cannot ask for one, so what is shown is that a session has one hello."""
    wire = open_wire(site.address["require"])
    assert wire.answer(Opt.STARTTLS) == Rep.ACK
    raw = socket.socket(fileno=socket.dup(wire.sock.fileno()))
    go_on_in_tls(site, wire, version=ssl.TLSVersion.TLSv1_2)
    assert wire.go("disk").ok
    raw.sendall(hello(site.context(site.client)))
    raw.close()
    with pytest.raises((ssl.SSLError, Closed, ConnectionError)):
        if wire.sock.recv(65536) == b"":
            raise Closed
    wire.close()


def test_no_session_is_resumed(site):
    """A resumed one would not look at revocations again."""
    sessions = []
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = site.context(site.client)
        context.minimum_version = context.maximum_version = version
        session = None
        for _ in range(2):
            wire = open_wire(site.address["require"])
            assert wire.answer(Opt.STARTTLS) == Rep.ACK
            wire.sock = context.wrap_socket(wire.sock, server_hostname="localhost", session=session)
            assert wire.info("disk").ok
            sessions.append(wire.sock.session_reused)
            session = wire.sock.session
            wire.close()
    assert not any(sessions)


def test_every_way_in_is_the_same(site):
    """All clients of the plain and encrypted kinds see the same export."""
    seen = set()
    for listener, tls in itertools.product(("allow", "require"), (False, True)):
        if listener == "require" and not tls:
            continue
        with open_wire(site.address[listener]) as wire:
            if tls:
                secured(site, wire)
            answer = wire.info("disk", [0, 1, 2, 3])
            seen.add((answer.type, answer.size, answer.flags, answer.block_size))
    assert len(seen) == 1 and next(iter(seen))[1] == SIZE
