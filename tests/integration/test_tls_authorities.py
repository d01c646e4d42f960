"""Authorities and their lists of revocations: several at once, expired ones, somebody else's."""

import ssl

import pytest

from harness import wait_for
from nbdproto import Opt, Rep
from nbdwire import Closed, open_wire
from pki import Authority

NAME = "nbdd test authority"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """The same name, another key."""
    return Authority(tmp_path_factory.mktemp("twin"), NAME)


class Place:
    """A folder of server material, and a listener that uses it once it was added."""

    def __init__(self, server, authority, folder):
        self.server, self.authority = server, authority
        self.folder = authority.issue(folder / "server", "server", "localhost")
        self.params = {"kind": "x509", "dir": str(self.folder), "verify_client": True}
        self.crl = self.folder / "ca-crl.pem"

    def trust(self, *authorities):
        text = "".join(one.cert.read_text() for one in authorities)
        (self.folder / "ca-cert.pem").write_text(text)

    def add(self):
        shown = self.server.call("tls.add", name="c", **self.params)
        self.address = self.server.call(
            "listener.add", name="l", address="tcp:127.0.0.1:0", tls="c"
        )["address"]
        return shown

    def refused(self):
        return self.server.refused("tls.add", "tls", name="c", **self.params).message

    def admits(self, folder):
        """Whether a client with this material gets in."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(folder / "client-cert.pem", folder / "client-key.pem")
        with open_wire(self.address) as wire:
            assert wire.answer(Opt.STARTTLS) == Rep.ACK
            try:
                wire.sock = context.wrap_socket(wire.sock, server_hostname="localhost")
                return not wire.list_exports()
            except (Closed, OSError):
                return False

    def end(self):
        wait_for(lambda: not any(c["listener"] == "l" for c in self.server.clients_of()))
        self.server.call("listener.remove", name="l", missing_ok=True)
        self.server.call("tls.remove", name="c", missing_ok=True)


@pytest.fixture
def place(server, authority, tmp_path):
    place = Place(server, authority, tmp_path)
    yield place
    place.end()


@pytest.fixture(scope="module")
def clients(authority, tmp_path_factory):
    """{name: folder}"""
    root = tmp_path_factory.mktemp("clients")
    return {name: authority.issue(root / name, "client", name) for name in ("alice", "victim")}


# --- lists of revocations ---


def test_a_list_of_another_authority(place, clients, tmp_path):
    Authority(tmp_path / "ca", "another").revoke(place.crl, clients["victim"] / "client-cert.pem")
    message = place.refused()
    assert str(place.crl) in message and "CN=another, which is no authority of" in message, message


def test_a_list_of_an_authority_with_the_same_name(place, clients, twin):
    twin.revoke(place.crl, clients["victim"] / "client-cert.pem")
    message = place.refused()
    assert str(place.crl) in message and "another key" in message, message


def test_a_list_that_was_changed(place, clients, authority):
    """Its bytes are not what was signed."""
    authority.revoke(place.crl, clients["victim"] / "client-cert.pem")
    der = ssl.PEM_cert_to_DER_cert(place.crl.read_text().replace("X509 CRL", "CERTIFICATE"))
    first = der.index(b"\x17\x0d") + 2  # the day it was made
    pem = ssl.DER_cert_to_PEM_cert(der[:first] + b"20" + der[first + 2 :])
    place.crl.write_text(pem.replace("CERTIFICATE", "X509 CRL"))
    assert "another key" in place.refused()


def test_one_of_two_lists_is_somebody_elses(place, clients, authority, twin, tmp_path):
    own = authority.revoke(tmp_path / "own", clients["victim"] / "client-cert.pem")
    others = twin.revoke(tmp_path / "others", clients["victim"] / "client-cert.pem")
    place.crl.write_text(own.read_text() + others.read_text())
    assert "another key" in place.refused()


def test_a_reload_with_a_list_of_somebody_elses(place, clients, authority, twin):
    """What was revoked stays so."""
    authority.revoke(place.crl, clients["victim"] / "client-cert.pem")
    place.add()
    place.crl.unlink()
    twin.revoke(place.crl)
    error = place.server.refused("tls.reload", "tls", name="c")
    shown = place.server.call("tls.show", name="c")
    assert shown["problem"] == error.message and shown["revoked"] == 1
    assert not place.admits(clients["victim"]) and place.admits(clients["alice"])


@pytest.mark.parametrize("order", [1, -1])
def test_lists_of_two_authorities_of_the_same_name(place, clients, authority, twin, order, tmp_path):
    """An authority that has got a new key: each list is held against both."""
    stranger = twin.issue(tmp_path / "stranger", "client", "stranger")
    place.trust(*[authority, twin][::order])
    lists = [authority.revoke(tmp_path / "own", clients["victim"] / "client-cert.pem"),
             twin.revoke(tmp_path / "twin", stranger / "client-cert.pem")]
    place.crl.write_text("".join(one.read_text() for one in lists))
    shown = place.add()
    assert shown["revoked"] == 2 and shown["warnings"] == []
    assert not place.admits(clients["victim"]) and not place.admits(stranger)
    assert place.admits(clients["alice"])


def test_a_list_that_is_out_of_date(place, clients, authority):
    """It still revokes, as for GnuTLS and QEMU, and tls.show tells."""
    authority.revoke(place.crl, clients["victim"] / "client-cert.pem", first=-10, last=-1)
    shown = place.add()
    assert shown["state"] == "ready" and shown["revoked"] == 1
    assert any("ca-crl.pem is out of date" in text for text in shown["warnings"])
    assert not place.admits(clients["victim"]) and place.admits(clients["alice"])


def test_an_authority_whose_key_usage_does_not_mention_lists(place, tmp_path):
    """As libvirt's manual makes them."""
    plain = Authority(tmp_path / "plain", "plain", usages=["cert_signing_key"])
    victim = plain.issue(tmp_path / "victim", "client", "victim")
    plain.issue(place.folder, "server", "localhost")
    plain.revoke(place.crl, victim / "client-cert.pem")
    assert place.add()["revoked"] == 1
    assert not place.admits(victim)
    assert place.admits(plain.issue(tmp_path / "alice", "client", "alice"))


# --- authorities that are being replaced ---

OUTDATED = {"has expired": {"first": -10, "last": -1}, "is not valid yet": {"first": 5, "last": 10}}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("why", OUTDATED)
def test_one_of_two_authorities_is_outdated(place, clients, authority, why, order, tmp_path):
    old = Authority(tmp_path / "old", "old", **OUTDATED[why])
    place.trust(*[authority, old][::order])
    shown = place.add()
    (warning,) = shown["warnings"]
    assert "ca-cert.pem: CN=old" in warning and why in warning
    assert place.admits(clients["alice"])
    assert not place.admits(old.issue(tmp_path / "late", "client", "late"))


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("same_key", [True, False])
def test_an_authority_with_its_expired_self_beside_it(
    place, clients, authority, order, same_key, tmp_path
):
    """Of the same name; the new one has signed the server's certificate."""
    key = authority.key if same_key else None
    old = Authority(tmp_path / "old", NAME, key=key, **OUTDATED["has expired"])
    place.trust(*[authority, old][::order])
    assert place.add()["state"] == "ready"
    assert place.admits(clients["alice"])


@pytest.mark.parametrize("count", [1, 2])
def test_no_authority_is_valid(place, count, tmp_path):
    place.trust(*[Authority(tmp_path / str(number), f"old{number}", **OUTDATED["has expired"])
                  for number in range(count)])
    message = place.refused()
    assert "ca-cert.pem" in message and "expired" in message, message


def test_the_server_hangs_on_the_expired_one(place, authority, tmp_path):
    old = Authority(tmp_path / "old", "old", **OUTDATED["has expired"])
    old.issue(place.folder, "server", "localhost")
    place.trust(authority, old)
    message = place.refused()
    assert "server-cert.pem" in message and "expired" in message, message


def test_a_restart_while_one_of_two_is_expired(daemon, clients, authority, tmp_path):
    place = Place(daemon, authority, tmp_path)
    old = Authority(tmp_path / "old", "old", first=-10, last=1)
    place.trust(old, authority)
    place.add()
    daemon.stop()
    expired = Authority(tmp_path / "expired", "old", key=old.key, **OUTDATED["has expired"])
    place.trust(expired, authority)
    daemon.start()
    shown = daemon.call("tls.show", name="c")
    assert shown["state"] == "ready" and shown["problem"] is None
    assert place.admits(clients["alice"])
