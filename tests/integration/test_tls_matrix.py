"""STARTTLS: who gets in and who does not, with real clients and on the wire."""

import socket
import ssl
import struct

import pytest

from harness import run, wait_for
from nbdproto import SIMPLE, STRUCTURED, Opt, Rep
from nbdwire import Closed, open_wire
from peers import need
from pki import Authority, psk_file

SIZE = 1 << 20


class Site:
    """A daemon with listeners of every mode, and clients' material."""

    def __init__(self, daemon, root):
        self.daemon, self.root = daemon, root
        self.authority = Authority(root / "ca")
        server = self.authority.issue(root / "server", "server", "localhost")
        self.server = server
        self.client = self.issue("client", "alice", organization="Acme")
        self.keys_path = root / "keys.psk"
        self.keys = psk_file(self.keys_path, "alice")
        daemon.serve("disk", SIZE, {0: b"\x11" * SIZE}, sharing="shared")
        daemon.call("tls.add", name="plain-x509", kind="x509", dir=str(server))
        daemon.call("tls.add", name="x509", kind="x509", dir=str(server), verify_client=True)
        daemon.call("tls.add", name="psk", kind="psk", keys=str(root / "keys.psk"))
        self.address = {}
        for name, credential, mode in (
            ("require", "x509", "require"),
            ("allow", "x509", "allow"),
            ("unverified", "plain-x509", "require"),
            ("psk", "psk", "require"),
        ):
            self.add(name, credential, mode)

    def add(self, name, credential, mode):
        answer = self.daemon.call(
            "listener.add", name=name, address="tcp:127.0.0.1:0", tls=credential, tls_mode=mode
        )
        self.address[name] = answer["address"]

    def issue(self, folder, name, **kwargs):
        authority = kwargs.pop("authority", self.authority)
        folder = authority.issue(self.root / folder, "client", name, **kwargs)
        (folder / "ca-cert.pem").write_text(self.authority.cert.read_text())
        return folder

    def port(self, listener):
        return int(self.address[listener].rsplit(":", 1)[1])

    def uri(self, listener, scheme="nbds", user="", query=""):
        return f"{scheme}://{user}127.0.0.1:{self.port(listener)}/disk{query}"

    def context(self, folder=None, minimum=None):
        context = ssl.create_default_context(cafile=str(self.authority.cert))
        if minimum:
            context.maximum_version = minimum
        if folder:
            context.load_cert_chain(folder / "client-cert.pem", folder / "client-key.pem")
        return context

    def start_tls(self, listener, folder=None, context=None):
        """A wire behind STARTTLS. TLS 1.3 refuses a client after its side is done: read to see."""
        wire = open_wire(self.address[listener])
        assert wire.answer(Opt.STARTTLS) == Rep.ACK
        sock = (context or self.context(folder)).wrap_socket(wire.sock, server_hostname="localhost")
        wire.sock = sock
        return wire


@pytest.fixture(scope="module")
def site(server, tmp_path_factory):
    return Site(server, tmp_path_factory.mktemp("site"))


def refused_tls(site, listener, folder=None, context=None):
    with pytest.raises((ssl.SSLError, ConnectionError, Closed, OSError)):
        wire = site.start_tls(listener, folder, context)
        wire.info("disk")
    wait_for(lambda: not any(c["listener"] == listener for c in site.daemon.clients_of()))


# --- real clients ---


@need("nbdinfo")
def test_nbdinfo_x509(site):
    out = run("nbdinfo", "--size", site.uri("require", query=f"?tls-certificates={site.client}"))
    assert int(out) == SIZE


@need("nbdinfo")
@pytest.mark.parametrize("listener", ["require", "allow"])
def test_nbdinfo_without_a_certificate(site, listener, tmp_path):
    (tmp_path / "ca-cert.pem").write_text(site.authority.cert.read_text())
    uri = site.uri(listener, query=f"?tls-certificates={tmp_path}")
    assert run("nbdinfo", "--size", uri, check=False)[0] != 0


@need("nbdinfo")
def test_nbdinfo_when_clients_are_not_verified(site, tmp_path):
    (tmp_path / "ca-cert.pem").write_text(site.authority.cert.read_text())
    out = run("nbdinfo", "--size", site.uri("unverified", query=f"?tls-certificates={tmp_path}"))
    assert int(out) == SIZE


@need("nbdinfo")
def test_plain_client(site):
    assert run("nbdinfo", "--size", site.uri("require", "nbd"), check=False)[0] != 0
    assert int(run("nbdinfo", "--size", site.uri("allow", "nbd"))) == SIZE


@need("nbdinfo")
def test_tls_client_on_a_plain_listener(site):
    uri = f"nbds+unix:///disk?socket={site.daemon.nbd_path}&tls-certificates={site.client}"
    assert run("nbdinfo", "--size", uri, check=False)[0] != 0


@need("nbdinfo")
def test_nbdinfo_psk(site):
    uri = site.uri("psk", user="alice@", query=f"?tls-psk-file={site.root}/keys.psk")
    assert int(run("nbdinfo", "--size", uri)) == SIZE


@need("nbdinfo")
def test_nbdinfo_psk_with_a_wrong_key(site, tmp_path):
    psk_file(tmp_path / "wrong.psk", "alice", "mallory")
    for user in ("alice", "mallory"):
        uri = site.uri("psk", user=f"{user}@", query=f"?tls-psk-file={tmp_path}/wrong.psk")
        assert run("nbdinfo", "--size", uri, check=False)[0] != 0


@need("nbdcopy")
def test_nbdcopy_over_tls_on_a_unix_socket(site, tmp_path):
    path = site.root / "tls.sock"
    site.daemon.call("listener.add", name="unix", address=f"unix:{path}", tls="x509")
    try:
        uri = f"nbds+unix://localhost/disk?socket={path}&tls-certificates={site.client}"
        run("nbdcopy", "--connections=4", uri, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == b"\x11" * SIZE
        run("nbdcopy", tmp_path / "copy", uri)
    finally:
        site.daemon.call("listener.remove", name="unix")


@need("qemu-img")
def test_qemu_img_x509(site):
    secret = f"tls-creds-x509,id=t,endpoint=client,dir={site.client}"
    image = f"driver=nbd,host=127.0.0.1,port={site.port('require')},export=disk,tls-creds=t"
    out = run("qemu-img", "info", "--object", secret, "--image-opts", image)
    assert "1 MiB" in out


@need("qemu-img")
def test_qemu_img_psk(site):
    secret = f"tls-creds-psk,id=t,endpoint=client,dir={site.root},username=alice"
    image = f"driver=nbd,host=127.0.0.1,port={site.port('psk')},export=disk,tls-creds=t"
    run("qemu-img", "info", "--object", secret, "--image-opts", image)


# --- certificates that must not get in ---


def test_the_right_certificate_on_the_wire(site):
    site.daemon.no_clients()
    with site.start_tls("require", site.client) as wire:
        assert wire.info("disk").ok
        assert wire.go("disk").ok
        assert wire.read(0, 4096).data == b"\x11" * 4096
        (client,) = [c for c in site.daemon.clients_of("disk") if c["listener"] == "require"]
        assert client["tls"] and "tls" in client["features"]
        assert "x509:CN=alice,O=Acme" in client["identity"] or (
            "x509:O=Acme,CN=alice" in client["identity"]
        )
        assert "ip:127.0.0.1" in client["identity"]
        wire.disconnect()


def test_other_authority(site):
    other = Authority(site.root / "otherca", "other")
    refused_tls(site, "require", site.issue("stranger", "alice", authority=other))


def test_self_signed(site):
    refused_tls(site, "require", site.issue("selfmade", "alice", self_signed=True))


def test_expired(site):
    refused_tls(site, "require", site.issue("expired", "alice", first=-10, last=-1))


def test_not_yet_valid(site):
    refused_tls(site, "require", site.issue("early", "alice", first=5, last=10))


def test_a_servers_certificate_is_not_a_clients(site):
    refused_tls(site, "require", site.issue("wrong-usage", "alice", usage="server"))


def test_no_certificate(site):
    refused_tls(site, "require")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions(site, version):
    context = site.context(site.client)
    context.minimum_version = context.maximum_version = version
    with site.start_tls("require", context=context) as wire:
        assert wire.sock.version() == version.name.replace("_", ".")
        assert wire.info("disk").ok


def test_old_versions_are_refused(site):
    context = site.context(site.client)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    refused_tls(site, "require", context=context)


def test_server_name(site):
    """The client checks: the server has shown a certificate for localhost."""
    wire = open_wire(site.address["require"])
    assert wire.answer(Opt.STARTTLS) == Rep.ACK
    with pytest.raises(ssl.SSLCertVerificationError):
        site.context(site.client).wrap_socket(wire.sock, server_hostname="elsewhere.example")
    wire.close()


def test_revoked_at_the_next_handshake(site):
    victim = site.issue("victim", "victim")
    connected = site.start_tls("require", victim)
    assert connected.go("disk").ok
    site.authority.revoke(site.server / "ca-crl.pem", victim / "client-cert.pem")
    shown = site.daemon.call("tls.reload", name="x509")
    assert shown["revoked"] == 1
    try:
        refused = site.issue("other", "other")
        with site.start_tls("require", refused) as wire:
            assert wire.info("disk").ok  # not on the list
        with pytest.raises((ssl.SSLError, ConnectionError, Closed, OSError)):
            site.start_tls("require", victim).info("disk")
        assert connected.read(0, 512).data == b"\x11" * 512  # nobody who is connected notices
        site.daemon.call("client.disconnect", identity="x509:CN=victim")
        assert wait_for(
            lambda: not any(
                "x509:CN=victim" in c["identity"] for c in site.daemon.clients_of("disk")
            )
        )
    finally:
        connected.close()
        (site.server / "ca-crl.pem").unlink()
        site.daemon.call("tls.reload", name="x509")


# --- STARTTLS itself ---


def test_starttls_twice(site):
    with site.start_tls("require", site.client) as wire:
        assert wire.answer(Opt.STARTTLS) == Rep.ERR_INVALID
        assert wire.info("disk").ok


def test_starttls_with_a_payload(site):
    with open_wire(site.address["require"]) as wire:
        assert wire.answer(Opt.STARTTLS, b"x") == Rep.ERR_INVALID
        wire.expect_close()


def test_starttls_without_tls(site):
    with site.daemon.wire() as wire:
        assert wire.answer(Opt.STARTTLS) == Rep.ERR_POLICY
        assert wire.info("disk").ok


@pytest.mark.parametrize("option", [o for o in Opt if o not in (Opt.STARTTLS, Opt.ABORT, Opt.EXPORT_NAME)])
def test_options_before_tls(site, option):
    with open_wire(site.address["require"]) as wire:
        assert wire.answer(option) == Rep.ERR_TLS_REQD
        assert wire.answer(Opt.ABORT) == Rep.ACK


def test_export_name_before_tls(site):
    with open_wire(site.address["require"]) as wire:
        wire.send_option(Opt.EXPORT_NAME, b"disk")
        wire.expect_close()


def test_what_was_negotiated_before_is_forgotten(site):
    wire = open_wire(site.address["allow"])
    wire.negotiate(STRUCTURED)
    assert wire.set_meta("disk", ["base:allocation"])
    assert wire.answer(Opt.STARTTLS) == Rep.ACK
    wire.sock = site.context(site.client).wrap_socket(wire.sock, server_hostname="localhost")
    wire.mode = SIMPLE
    # SET needs structured replies: they have to be asked for again
    name = b"disk"
    data = struct.pack(">I", len(name)) + name + struct.pack(">I", 0)
    assert wire.answer(Opt.SET_META_CONTEXT, data) == Rep.ERR_INVALID
    assert wire.answer(Opt.STRUCTURED_REPLY) == Rep.ACK
    wire.close()


def test_plaintext_behind_starttls(site):
    """CVE-2021-3716: bytes that came with STARTTLS never count as if they had been encrypted."""
    wire = open_wire(site.address["allow"])
    inject = struct.pack(">QII", 0x49484156454F5054, Opt.LIST, 0)
    wire.send_option(Opt.STARTTLS)
    wire.send(inject)
    try:
        wire.recv_option()
        sock = site.context(site.client).wrap_socket(wire.sock, server_hostname="localhost")
        reply = sock.recv(65536)
    except (ssl.SSLError, Closed, ConnectionError, socket.timeout):
        reply = b""
    assert reply == b""
    wire.close()


# --- exports that want TLS ---


@pytest.fixture
def secret(site):
    site.daemon.serve("secret", SIZE, tls="require", sharing="shared")
    yield "secret"
    site.daemon.drop("secret")


def test_export_that_requires_tls(site, secret):
    with open_wire(site.address["allow"]) as wire:
        assert secret not in wire.list_exports()
        assert wire.info(secret).type == Rep.ERR_TLS_REQD
        wire.negotiate(STRUCTURED)
        assert wire.meta(Opt.LIST_META_CONTEXT, secret)[0] == Rep.ERR_UNKNOWN
    with site.daemon.wire() as wire:
        assert wire.info(secret).type == Rep.ERR_UNKNOWN
    with site.start_tls("allow", site.client) as wire:
        assert secret in wire.list_exports()
        assert wire.info(secret).ok
