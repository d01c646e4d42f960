"""Who loses its rights in the middle of a TLS handshake: what counts is the material in force when
that ends, and an identity that was disconnected after a reload is gone."""

import contextlib
import os
import ssl
import threading

import pytest

from harness import wait_for
from nbdproto import Opt, Rep
from nbdwire import Closed, open_wire
from peers import need
from pki import Authority, psk_file
from sclient import SClient, with_certificate, with_key
from test_tls_matrix import SIZE, Site

pytestmark = need("openssl")

VERSIONS = {"1.2": "-tls1_2", "1.3": "-tls1_3"}


@pytest.fixture(scope="module")
def site(server, tmp_path_factory):
    site = Site(server, tmp_path_factory.mktemp("site"))
    site.victim = site.issue("victim", "victim")
    site.bystander = site.issue("bystander", "bystander")
    return site


class X509:
    """A credential of its own, whose list of revocations a test may change."""

    identity = "x509:CN=victim"

    def __init__(self, site, folder):
        self.site = site
        self.folder = site.authority.issue(folder / "server", "server", "localhost")
        self.params = {"kind": "x509", "dir": str(self.folder), "verify_client": True}
        self.words = with_certificate(site.authority, site.victim)

    def take_away(self, folder="victim"):
        self.site.authority.revoke(self.folder / "ca-crl.pem",
                                   self.site.root / folder / "client-cert.pem")

    def take_another(self):
        self.take_away("bystander")


class Psk:
    identity = "psk:victim"

    def __init__(self, site, folder):
        self.path = folder / "keys.psk"
        self.keys = psk_file(self.path, "victim", "bystander")
        self.params = {"kind": "psk", "keys": str(self.path)}
        self.words = with_key("victim", self.keys["victim"])

    def leave(self, **keys):
        self.path.write_text("".join(f"{user}:{key}\n" for user, key in keys.items()))

    def take_away(self):
        self.leave(bystander=self.keys["bystander"])

    def take_another(self):
        self.leave(victim=self.keys["victim"])


class Place:
    """A listener, and clients of it that have said hello and no more."""

    def __init__(self, site, folder, kind):
        self.daemon, self.folder = site.daemon, folder
        self.kind = kind(site, folder)
        self.clients = []
        self.daemon.call("tls.add", name="here", **self.kind.params)
        self.address = self.daemon.call(
            "listener.add", name="here", address="tcp:127.0.0.1:0", tls="here"
        )["address"]

    def begin(self, version, words=None):
        messages = self.folder / f"messages-{len(self.clients)}"
        client = SClient(self.address, messages, VERSIONS[version],
                         *(self.kind.words if words is None else words), hold=True)
        self.clients.append(client)
        client.wait_held()
        return client

    def here(self):
        return [row for row in self.daemon.clients_of() if row["listener"] == "here"]

    def refuses(self, client):
        client.release()
        with pytest.raises((Closed, OSError)):
            client.wire.info("disk")
        return wait_for(lambda: not self.here())

    def admits(self, client):
        client.release()
        assert client.wire.info("disk").size == SIZE
        return any(self.kind.identity in row["identity"] for row in self.here())

    def end(self):
        for client in self.clients:
            client.close()
        wait_for(lambda: not self.here())
        self.daemon.call("listener.remove", name="here")
        self.daemon.call("tls.remove", name="here")


@pytest.fixture
def place(request, site, tmp_path):
    place = Place(site, tmp_path, request.param)
    yield place
    place.end()


every_kind = pytest.mark.parametrize("place", [X509, Psk], indirect=True)
every_version = pytest.mark.parametrize("version", VERSIONS)


@every_kind
@every_version
def test_who_loses_its_rights_in_the_handshake(place, version):
    client = place.begin(version)
    place.kind.take_away()
    place.daemon.call("tls.reload", name="here")
    place.daemon.call("client.disconnect", identity=place.kind.identity)
    assert place.refuses(client)


@every_kind
@every_version
def test_who_keeps_them(place, version):
    """However often the material changes meanwhile."""
    client = place.begin(version)
    for _ in range(3):
        place.kind.take_another()
        place.daemon.call("tls.reload", name="here")
    assert place.admits(client)


@every_kind
@every_version
def test_a_reload_that_fails_changes_nothing(place, version):
    client = place.begin(version)
    for name in ("server-cert.pem", "keys.psk"):
        for path in place.folder.rglob(name):
            path.write_text("garbage\n")
    place.daemon.refused("tls.reload", "tls", name="here")
    assert place.admits(client)


@pytest.mark.parametrize("place", [Psk], indirect=True)
@every_version
def test_another_key(place, version):
    client = place.begin(version)
    place.kind.leave(victim="00" * 32)
    place.daemon.call("tls.reload", name="here")
    assert place.refuses(client)


@pytest.mark.parametrize("place", [X509], indirect=True)
@every_version
def test_another_authority(place, version):
    client = place.begin(version)
    other = Authority(place.folder / "ca", "another").issue(place.folder / "other", "server", "x")
    place.daemon.call("tls.set", name="here", dir=str(other))
    assert place.refuses(client)


@pytest.mark.parametrize("place", [X509], indirect=True)
@every_version
def test_certificates_are_asked_for_from_now_on(place, version, site):
    place.daemon.call("tls.set", name="here", verify_client=False)
    words = ["-CAfile", site.authority.cert]
    first, second = place.begin(version, words), place.begin(version, words)
    first.release()
    assert first.wire.info("disk").size == SIZE
    first.wire.close()
    place.daemon.call("tls.set", name="here", verify_client=True)
    assert place.refuses(second)


def write_in_one_go(path, text):
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


@pytest.mark.threads
@pytest.mark.parametrize("place", [X509], indirect=True)
def test_handshakes_that_race_with_a_revocation(place, site):
    """Whichever of them wins, after reload and disconnect none of the revoked is left."""
    context = site.context(site.victim)
    path = place.kind.folder / "ca-crl.pem"
    lists = [site.authority.revoke(place.folder / str(number), cert / "client-cert.pem").read_text()
             for number, cert in enumerate((site.bystander, site.victim))]
    wires, stopping = [], threading.Event()

    def connect():
        while not stopping.is_set():
            with contextlib.suppress(Closed, OSError, ssl.SSLError):
                wire = open_wire(place.address)
                wires.append(wire)
                assert wire.answer(Opt.STARTTLS) == Rep.ACK
                wire.sock = context.wrap_socket(wire.sock, server_hostname="localhost")
                wire.info("disk")

    for _ in range(int(os.environ.get("NBDD_REVOCATIONS", "4"))):
        write_in_one_go(path, lists[0])
        place.daemon.rpc.plain("tls.reload", name="here")
        threads = [threading.Thread(target=connect) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert wait_for(lambda: len(wires) > 8)
        write_in_one_go(path, lists[1])
        place.daemon.rpc.plain("tls.reload", name="here")
        place.daemon.rpc.plain("client.disconnect", identity="x509:CN=victim")
        stopping.set()
        for thread in threads:
            thread.join()
        assert wait_for(lambda: not place.here()), place.here()
        stopping.clear()
        for wire in wires:
            wire.close()
        wires.clear()
