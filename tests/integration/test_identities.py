"""Identity x export: who gets in where, and that an export one may not use cannot be told from one
that does not exist. What is expected comes from a reading of the contract of its own (`right`)."""

import contextlib
import fnmatch
import ipaddress
import itertools
import os
import random
import socket
import ssl
import struct

import pytest

import nbdwire
from harness import Daemon, run
from nbdproto import (
    EXTENDED, IHAVEOPT, REPLY_MAGIC, SIMPLE, STRUCTURED, Cmd, CmdFlag, Err, Flag, InfoType, Opt,
    Rep, info_data, meta_data,
)
from peers import need
from pki import Authority, psk_file

SIZE = 1 << 20
DATA = b"\x77" * SIZE
ROOT = os.getuid() == 0
NOBODY = 54321  # no user has it

as_root = pytest.mark.skipif(not ROOT, reason="clients of other users need root")


# --- identities ---


class Who:
    """A way to connect, and what it proves of whoever does. `facts` is what `right` matches."""

    def __init__(self, name, site, listener, tls=None, uid=None, source=None, **facts):
        self.name, self.site, self.listener = name, site, listener
        self.tls, self.uid, self.source = tls, uid, source
        self.facts = facts

    def __repr__(self):
        return self.name

    def socket(self):
        address = self.site.address[self.listener]
        if address.startswith("unix:"):
            return self.unix(address.partition(":")[2])
        host, _, port = address.partition(":")[2].rpartition(":")
        sock = socket.create_connection((host, int(port)), 15, (self.source or "127.0.0.1", 0))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def unix(self, path):
        """The kernel notes who connects, and when: at that moment this process is somebody else."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(15)
        if self.uid in (None, os.getuid()):
            sock.connect(path)
            return sock
        os.seteuid(self.uid)
        try:
            sock.connect(path)
        finally:
            os.seteuid(0)
        return sock

    def wire(self, mode=SIMPLE):
        wire = nbdwire.Wire(self.name, sock=self.socket())
        wire.greet()
        if self.tls:
            assert wire.answer(Opt.STARTTLS) == Rep.ACK
            wire.sock = self.tls(wire.sock)
        wire.negotiate(mode)
        return wire


def right(allow, facts):
    """What a list says: "write", "read" or nothing. The first entry that matches decides."""
    if allow is None:
        return "write"
    for entry in allow:
        what = "write"
        if entry.startswith("!"):
            what, entry = None, entry[1:]
        elif entry.startswith("ro:"):
            what, entry = "read", entry[3:]
        if matches(entry, facts):
            return what
    return None


def matches(entry, facts):
    kind, _, rest = entry.partition(":")
    if kind == "x509" and "x509" in facts:
        return all(
            any(fnmatch.fnmatchcase(have, value) for have in facts["x509"].get(key, ()))
            for key, value in (pair.split("=", 1) for pair in rest.split(","))
        )
    if kind == "psk":
        return facts.get("psk") == rest
    if kind == "unix" and rest.startswith("@"):
        return rest[1:] in facts.get("groups", ())
    if kind == "unix":
        return str(facts.get("uid")) == rest
    if kind == "ip" and "ip" in facts:
        return ipaddress.ip_address(facts["ip"]) in ipaddress.ip_network(rest)
    return False


# --- exports: (allow, tls: require) ---

LISTS = [
    None,
    [],
    ["unix:0"],
    [f"unix:{NOBODY}"],
    [f"unix:{NOBODY + 1}"],
    ["unix:@daemon"],
    ["!unix:0", f"unix:{NOBODY}", "ip:127.0.0.0/8"],
    ["ro:unix:0", "unix:0", "ip:127.0.0.1"],
    ["unix:0", "ro:unix:0"],
    ["ip:127.0.0.2"],
    ["!ip:127.0.0.2", "ip:127.0.0.0/8"],
    ["ip:127.0.0.0/8", "!ip:127.0.0.2"],
    ["ro:ip:0.0.0.0/0"],
    ["ip:10.0.0.0/8", "ip:::/96"],
    ["x509:CN=alice"],
    ["x509:CN=alice,O=Acme"],
    ["x509:CN=alice,O=Other"],
    ["x509:CN=al*"],
    ["x509:CN=al?"],
    ["x509:CN=*"],
    ["x509:O=Acme", "!ip:127.0.0.1"],
    ["!x509:CN=bob", "x509:O=Acme"],
    ["ro:x509:O=A*", "psk:alice"],
    ["!x509:CN=*", "ip:127.0.0.0/8"],
    ["psk:alice"],
    ["psk:*"],
    ["psk:Alice"],
    ["ro:psk:alice", "ro:psk:bob", "unix:0"],
    ["!psk:bob", "ip:127.0.0.1", "unix:0"],
]
EXPORTS = {
    f"export-{number:02}": (allow, tls)
    for number, (allow, tls) in enumerate(itertools.product(LISTS, (False, True)))
}
GHOST = "export-zz"  # as long as the others, and not there


class Site:
    def __init__(self, daemon, root):
        self.daemon = daemon
        authority = Authority(root / "ca")
        self.authority = authority
        server = authority.issue(root / "server", "server", "localhost")
        psk_file(root / "keys.psk", "alice", "bob")
        self.keys = root / "keys.psk"
        daemon.call("tls.add", name="x509", kind="x509", dir=str(server), verify_client=True)
        daemon.call("tls.add", name="open", kind="x509", dir=str(server))
        self.address = {"unix": daemon.nbd}
        for name, address, more in (
            ("tcp", "tcp:127.0.0.1:0", {}),
            ("x509", "tcp:127.0.0.1:0", {"tls": "x509", "tls_mode": "allow"}),
            ("open", "tcp:127.0.0.1:0", {"tls": "open", "tls_mode": "require"}),
            ("unix-x509", f"unix:{daemon.root}/x.sock", {"tls": "x509"}),
        ):
            answer = daemon.call("listener.add", name=name, address=address, **more)
            self.address[name] = answer["address"]
        os.chmod(daemon.root, 0o711)
        for path in (daemon.nbd_path, daemon.root / "x.sock"):
            os.chmod(path, 0o666)
        path = str(daemon.image("matrix.img", SIZE, {0: DATA}))
        daemon.rpc.plain("disk.add", name="matrix", path=path)
        daemon.rpc.plain("bitmap.add", disk="matrix", name="secret")
        for name, (allow, tls) in EXPORTS.items():
            more = {} if allow is None else {"allow": allow}
            if tls:
                more["tls"] = "require"
            daemon.rpc.plain("export.add", name=name, disk="matrix", sharing="shared",
                             description=f"about {name}", **more)
        self.people = {who.name: who for who in self.make_people(root)}

    def context(self, folder=None):
        context = ssl.create_default_context(cafile=str(self.authority.cert))
        if folder:
            context.load_cert_chain(folder / "client-cert.pem", folder / "client-key.pem")
        return lambda sock: context.wrap_socket(sock, server_hostname="localhost")

    def make_people(self, root):
        def x509(folder, common, organization):
            return self.context(self.authority.issue(root / folder, "client", common,
                                                     organization=organization))

        alice, bob = x509("alice", "alice", "Acme"), x509("bob", "bob", "Acme")
        odd = x509("odd", "bob,O=Acme,CN=alice", "A*")
        yield Who("tcp", self, "tcp", ip="127.0.0.1")
        yield Who("tcp-2", self, "tcp", source="127.0.0.2", ip="127.0.0.2")
        yield Who("plain", self, "x509", ip="127.0.0.1")
        yield Who("alice", self, "x509", alice, ip="127.0.0.1",
                  x509={"CN": ["alice"], "O": ["Acme"]})
        yield Who("bob-2", self, "x509", bob, source="127.0.0.2", ip="127.0.0.2",
                  x509={"CN": ["bob"], "O": ["Acme"]})
        yield Who("odd", self, "x509", odd, ip="127.0.0.1",
                  x509={"CN": ["bob,O=Acme,CN=alice"], "O": ["A*"]})
        yield Who("unverified", self, "open", self.context(root / "alice"), ip="127.0.0.1")
        yield Who("unix", self, "unix", uid=os.getuid())
        if ROOT:
            yield Who("unix-nobody", self, "unix", uid=NOBODY)
            yield Who("unix-daemon", self, "unix", uid=1)
            yield Who("unix-alice", self, "unix-x509", alice, uid=NOBODY,
                      x509={"CN": ["alice"], "O": ["Acme"]})


PEOPLE = ["tcp", "tcp-2", "plain", "alice", "bob-2", "odd", "unverified", "unix"] + [
    pytest.param(name, marks=as_root) for name in ("unix-nobody", "unix-daemon", "unix-alice")
]
GROUPS = {0: ["root"], 1: ["daemon"]}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    daemon = Daemon()
    try:
        yield Site(daemon.start(), tmp_path_factory.mktemp("identities"))
    finally:
        daemon.finish()


@pytest.fixture
def who(site, request):
    who = site.people[request.param]
    if who.uid is not None:
        who.facts.update(uid=who.uid, groups=GROUPS.get(who.uid, []))
    return who


everybody = pytest.mark.parametrize("who", PEOPLE, indirect=True)


def expected(who, name):
    """("write" or "read" or None, whether TLS_REQD is the answer to INFO and GO)"""
    allow, tls = EXPORTS[name]
    what = right(allow, who.facts)
    if what and tls and not who.tls:
        return None, who.listener == "x509"
    return what, False


# --- the matrix ---


@everybody
def test_list_info_and_go(site, who):
    with who.wire() as wire:
        listed = wire.list_exports()
        assert set(listed) == {name for name in EXPORTS if expected(who, name)[0]}
        for name in EXPORTS:
            what, wants_tls = expected(who, name)
            info = wire.info(name)
            if what is None:
                assert info.type == (Rep.ERR_TLS_REQD if wants_tls else Rep.ERR_UNKNOWN), name
                assert wire.info(name, option=Opt.GO).type == info.type, name
                continue
            assert info.ok and info.size == SIZE and listed[name] == info.description
            assert (Flag.READ_ONLY in info.flags) == (what == "read"), name
    for name in EXPORTS:
        what, _ = expected(who, name)
        if what:
            with who.wire(STRUCTURED) as wire:
                assert wire.go(name).ok
                assert (Flag.READ_ONLY in wire.flags) == (what == "read"), name
                assert wire.read(0, 64).data == DATA[:64]
                wire.disconnect()


def replies(wire, option, data):
    """Every byte that an option is answered with, up to the final reply; or up to the end."""
    wire.send(struct.pack(">QII", IHAVEOPT, option, len(data)) + data)
    said = b""
    while True:
        try:
            head = wire.recv(20)
            magic, about, kind, length = struct.unpack(">QIII", head)
            assert (magic, about) == (REPLY_MAGIC, option)
            said += head + wire.recv(length)
        except nbdwire.Closed as closed:
            return said + closed.got + b"<closed>"
        if kind == Rep.ACK or kind & 0x80000000:
            return said


ALL_INFO = [InfoType.EXPORT, InfoType.NAME, InfoType.DESCRIPTION, InfoType.BLOCK_SIZE]
QUERIES = [[], ["base:allocation"], ["qemu:"], ["qemu:dirty-bitmap:secret"], ["nope:", "base:"]]


def steps(name, seen):
    """Conversations about an export, each [(option, payload)]: right, wrong, and mixed with those
    about an export that one may use (`seen`)."""
    short = info_data(name)[:-1]
    for mode in ([], [(Opt.STRUCTURED_REPLY, b"")], [(Opt.EXTENDED_HEADERS, b"")]):
        yield mode + [(Opt.INFO, info_data(name)), (Opt.GO, info_data(name, ALL_INFO)),
                      (Opt.INFO, info_data(name, ALL_INFO)), (Opt.LIST, b"")]
        yield mode + [(option, meta_data(name, query))
                      for option in (Opt.LIST_META_CONTEXT, Opt.SET_META_CONTEXT)
                      for query in QUERIES]
        yield mode + [(Opt.GO, info_data(name)), (Opt.EXPORT_NAME, name.encode())]
        yield mode + [
            (Opt.INFO, short), (Opt.GO, info_data(name, [1, 2], count=7)),
            (Opt.GO, info_data(name, name_length=3)), (Opt.INFO, info_data(name + "\0")),
            (Opt.SET_META_CONTEXT, meta_data(name, ["qemu:"], count=2)),
            (Opt.LIST_META_CONTEXT, meta_data(name, ["x" * 5000])),
            (Opt.GO, info_data(name + "/")), (Opt.GO, info_data(name.upper())),
        ]
        if seen:
            yield mode + [
                (Opt.SET_META_CONTEXT, meta_data(seen, ["base:allocation"])),
                (Opt.SET_META_CONTEXT, meta_data(name, ["base:allocation"])),
                (Opt.GO, info_data(name)),
                (Opt.LIST_META_CONTEXT, meta_data(seen)),
                (Opt.INFO, info_data(seen)),
            ]
    yield [(Opt.EXPORT_NAME, name.encode())]
    yield [(Opt.LIST, name.encode()), (Opt.PEEK_EXPORT, name.encode())]


def transcript(who, name, seen):
    """What a server says in all of that, with the name taken out."""
    said = []
    for conversation in steps(name, seen):
        with who.wire() as wire:
            said.append([replies(wire, *step).replace(name.encode(), b"<name>")
                         .replace(name.upper().encode(), b"<NAME>") for step in conversation])
    return said


# Of so many, others each time: all of them for everybody take minutes.
MOST_HIDDEN = 8


@everybody
def test_a_hidden_export_is_none(site, who):
    """Byte for byte: replies and their number, lengths, texts, how the connection ends."""
    hidden = [name for name in EXPORTS if expected(who, name) == (None, False)]
    hidden = random.sample(hidden, min(len(hidden), MOST_HIDDEN))
    seen = next((name for name in EXPORTS if expected(who, name)[0]), None)
    assert hidden
    ghost = transcript(who, GHOST, seen)
    for name in hidden:
        assert transcript(who, name, seen) == ghost, f"{name}, {EXPORTS[name]}"
    assert not site.daemon.clients_of("export-02")


@everybody
def test_what_is_told_of_attempts(site, who):
    """The daemon's own counters and events make no difference either: who may read them is told
    who is connected, and nothing of what was asked for."""
    hidden = next(name for name in EXPORTS if expected(who, name) == (None, False))

    def told(name):
        site.daemon.no_clients()
        start = site.daemon.rpc.plain("event.subscribe", topics=["client", "export"])
        before = site.daemon.rpc.plain("stats")["daemon"]
        site.daemon.rpc.notifications.clear()
        with who.wire() as wire:
            for option in (Opt.INFO, Opt.GO):
                replies(wire, option, info_data(name))
            replies(wire, Opt.LIST_META_CONTEXT, meta_data(name))
        site.daemon.no_clients()
        after = site.daemon.rpc.plain("stats")["daemon"]
        assert start is not None
        events = [
            (note["params"]["event"], note["params"]["object"].get("export"))
            for note in site.daemon.rpc.notifications
        ]
        return events, counters(before, after)

    assert told(hidden) == told(GHOST)


def counters(before, after):
    return {
        key: after[key] - before[key]
        for key in after
        if isinstance(after[key], int) and "uptime" not in key and "seconds" not in key
    }


@pytest.mark.parametrize("on_busy", ["refuse", "wait", "steal"])
def test_a_busy_hidden_export_is_none(site, on_busy):
    """Fullness, waiting and taking over are for those who may use it."""
    daemon, alice, tcp = site.daemon, site.people["alice"], site.people["tcp-2"]
    daemon.rpc.plain("export.add", name="export-bb", disk="matrix", sharing="exclusive",
                     read_only=True, allow=["x509:CN=alice"], on_busy=on_busy)
    try:
        with alice.wire() as holder:
            assert holder.go("export-bb").ok
            assert transcript(tcp, "export-bb", None) == transcript(tcp, GHOST, None)
            assert holder.read(0, 512).error == 0
    finally:
        daemon.rpc.plain("export.remove", name="export-bb", mode="hard")


def test_an_export_that_goes_while_it_is_hidden(site):
    daemon, alice, tcp = site.daemon, site.people["alice"], site.people["tcp-2"]
    ghost = transcript(tcp, GHOST, None)
    for change in ({"allow": []}, {"allow": ["x509:CN=alice"], "tls": "require"},
                   {"allow": ["!ip:127.0.0.2", "ip:127.0.0.1"]}):
        daemon.rpc.plain("export.add", name="export-gg", disk="matrix", sharing="shared")
        with contextlib.closing(tcp.wire()) as wire:
            assert wire.info("export-gg").ok
            daemon.rpc.plain("export.set", name="export-gg", **change)
            assert wire.go("export-gg").type == Rep.ERR_UNKNOWN, "what INFO promised is no right"
            assert transcript(tcp, "export-gg", None) == ghost
        daemon.rpc.plain("export.remove", name="export-gg")
    assert alice.wire().info("export-gg").type == Rep.ERR_UNKNOWN


# --- reading alone ---


def dirty(site):
    (bitmap,) = site.daemon.rpc.plain("bitmap.list", disk="matrix")["bitmaps"]
    return bitmap["dirty_bytes"]


@everybody
@pytest.mark.parametrize("mode", [SIMPLE, STRUCTURED, EXTENDED])
def test_reading_alone(site, who, mode):
    """`ro:` cannot write by any command or flag, its flags say so, and everything else works."""
    names = [name for name in EXPORTS if expected(who, name)[0] == "read"]
    before = dirty(site)
    for name in names[:3]:
        with who.wire(mode) as wire:
            assert wire.go(name).ok
            assert Flag.READ_ONLY in wire.flags
            assert not wire.flags & (Flag.SEND_TRIM | Flag.SEND_WRITE_ZEROES | Flag.SEND_FAST_ZERO)
            for flags in (0, CmdFlag.FUA):
                assert wire.write(0, b"x" * 512, flags).error == Err.EPERM
                assert wire.write(SIZE - 1, b"x", flags).error == Err.EPERM
                assert wire.trim(0, 4096, flags).error == Err.EPERM
                for more in (0, CmdFlag.NO_HOLE, CmdFlag.FAST_ZERO):
                    assert wire.zero(0, 4096, flags | more).error == Err.EPERM
            assert wire.write(0, b"").error in (0, Err.EPERM)
            assert wire.cache(0, 4096).error == 0
            assert wire.flush().error == 0
            assert wire.call(Cmd.READ, 0, 4096, CmdFlag.FUA).data == DATA[:4096]
            assert wire.read(0, SIZE).data == DATA
            wire.disconnect()
    assert dirty(site) == before


def test_promises_do_not_lend_rights(site):
    """Who asked while it might write, and may only read by the time of GO, does not write."""
    daemon, tcp = site.daemon, site.people["tcp"]
    daemon.rpc.plain("export.add", name="export-pp", disk="matrix", sharing="shared")
    try:
        with tcp.wire() as wire:
            assert Flag.READ_ONLY not in wire.info("export-pp").flags
            daemon.rpc.plain("export.set", name="export-pp", allow=["ro:ip:127.0.0.1"])
            answer = wire.go("export-pp")
            assert answer.type == Rep.ERR_POLICY
            assert Flag.READ_ONLY in wire.info("export-pp").flags
            assert wire.go("export-pp").ok
            assert wire.write(0, b"x").error == Err.EPERM
    finally:
        daemon.rpc.plain("export.remove", name="export-pp", mode="hard")


# --- real clients ---


@as_root
@need("nbdinfo", "setpriv")
def test_nbdinfo_as_another_user(site):
    words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    uri = f"nbd+unix://?socket={site.daemon.nbd_path}"
    out = run(*words, "nbdinfo", "--list", uri)
    listed = {line.split('"')[1] for line in out.splitlines() if line.startswith("export=")}
    facts = {"uid": NOBODY, "groups": []}
    assert listed == {n for n, (allow, tls) in EXPORTS.items() if not tls and right(allow, facts)}
    hidden = run(*words, "nbdinfo", site.daemon.uri("export-04"), check=False)
    ghost = run(*words, "nbdinfo", site.daemon.uri(GHOST), check=False)
    assert hidden[0] != 0
    assert hidden[1].replace("export-04", GHOST) == ghost[1]


@need("qemu-img")
def test_qemu_img_with_keys(site):
    """Users of a PSK listener, with a real client: Python's TLS has no pre-shared keys."""
    daemon = site.daemon
    daemon.rpc.plain("tls.add", name="psk", kind="psk", keys=str(site.keys))
    answer = daemon.rpc.plain("listener.add", name="psk", address="tcp:127.0.0.1:0", tls="psk")
    port = answer["address"].rpartition(":")[2]
    try:
        for user in ("alice", "bob"):
            secret = (f"tls-creds-psk,id=t,endpoint=client,dir={site.keys.parent},username={user}")
            facts = {"psk": user, "ip": "127.0.0.1"}
            said = {}
            for name in [GHOST, *EXPORTS]:
                image = f"driver=nbd,host=127.0.0.1,port={port},export={name},tls-creds=t"
                status, out = run("qemu-img", "info", "--object", secret, "--image-opts", image,
                                  check=False)
                if name == GHOST or not right(EXPORTS[name][0], facts):
                    assert status != 0
                    said[name] = out.replace(name, "<name>")
                    assert said[name] == said[GHOST]
                else:
                    assert status == 0 and "1 MiB" in out, name
    finally:
        daemon.rpc.plain("listener.remove", name="psk")
        daemon.rpc.plain("tls.remove", name="psk")
