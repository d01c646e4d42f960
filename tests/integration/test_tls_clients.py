"""STARTTLS with real clients: nbdinfo, nbdcopy, qemu-img; each with each kind of wrong material.
test_tls_matrix.py has the same on the wire."""

import contextlib
import os
import shutil
import socket
import threading

import pytest

from harness import SLOW, run
from peers import need
from pki import Authority, psk_file
from test_tls_matrix import SIZE, Site

TLS12 = "-VERS-ALL:+VERS-TLS1.2"


@pytest.fixture(scope="module")
def site(server, tmp_path_factory):
    site = Site(server, tmp_path_factory.mktemp("site"))
    for name, base in (("x509", {"verify_client": True, "dir": str(site.server)}),
                       ("psk", {"keys": str(site.keys_path)})):
        kind = {"kind": name, **base}
        exchange = ":-KX-ALL:+ECDHE-PSK" if name == "psk" else ""
        server.call("tls.add", name=f"{name}-1.2", priority=f"NORMAL:{TLS12}{exchange}", **kind)
        site.add(f"{name}-1.2", f"{name}-1.2", "require")
    site.paths = {}
    for name in ("x509", "psk"):
        path = site.root / f"{name}.sock"
        server.call("listener.add", name=f"unix-{name}", address=f"unix:{path}", tls=name)
        site.paths[name] = path
    return site


# --- the clients: each tries to read the export, and answers (exit status, output) ---


class Nbdinfo:
    program = "nbdinfo"

    @staticmethod
    def x509(site, listener, folder):
        uri = site.uri(listener, query=f"?tls-certificates={folder}")
        return run("nbdinfo", "--size", uri, check=False)

    @staticmethod
    def psk(site, listener, user, keys):
        uri = site.uri(listener, user=f"{user}@", query=f"?tls-psk-file={keys}")
        return run("nbdinfo", "--size", uri, check=False)

    @staticmethod
    def plain(site, listener):
        return run("nbdinfo", "--size", site.uri(listener, "nbd"), check=False)


class Nbdcopy(Nbdinfo):
    program = "nbdcopy"

    @staticmethod
    def copy(site, uri):
        target = site.root / "copy"
        target.unlink(missing_ok=True)
        status, out = run("nbdcopy", uri, target, check=False)
        assert status != 0 or target.read_bytes() == b"\x11" * SIZE
        return status, out

    @staticmethod
    def x509(site, listener, folder):
        return Nbdcopy.copy(site, site.uri(listener, query=f"?tls-certificates={folder}"))

    @staticmethod
    def psk(site, listener, user, keys):
        query = f"?tls-psk-file={keys}"
        return Nbdcopy.copy(site, site.uri(listener, user=f"{user}@", query=query))

    @staticmethod
    def plain(site, listener):
        return Nbdcopy.copy(site, site.uri(listener, "nbd"))


class NbdcopyUnix(Nbdcopy):
    """nbds+unix: whichever listener of that kind is meant, it is the one on a Unix socket."""

    @staticmethod
    def x509(site, listener, folder):
        path = site.paths[listener.partition("-")[0]] if listener != "require" else site.paths["x509"]
        return Nbdcopy.copy(
            site, f"nbds+unix://localhost/disk?socket={path}&tls-certificates={folder}"
        )

    @staticmethod
    def psk(site, listener, user, keys):
        path = site.paths["x509" if listener == "require" else "psk"]
        return Nbdcopy.copy(site, f"nbds+unix://{user}@/disk?socket={path}&tls-psk-file={keys}")

    @staticmethod
    def plain(site, listener):
        path = site.paths["psk" if listener.startswith("psk") else "x509"]
        return Nbdcopy.copy(site, f"nbd+unix:///disk?socket={path}")


class Qemu:
    """QEMU looks at its own material first and would not even connect: sanity-check=no."""

    program = "qemu-img"

    @staticmethod
    def convert(site, listener, secret):
        target = site.root / "qemu-copy"
        image = f"driver=nbd,host=127.0.0.1,port={site.port(listener)},export=disk"
        words = ["--object", secret] if secret else []
        image += ",tls-creds=t" if secret else ""
        status, out = run("qemu-img", "convert", *words, "--image-opts", image, "-O", "raw", target,
                          check=False)
        assert status != 0 or target.read_bytes() == b"\x11" * SIZE
        return status, out

    @staticmethod
    def x509(site, listener, folder):
        return Qemu.convert(
            site, listener, f"tls-creds-x509,id=t,endpoint=client,dir={folder},sanity-check=no"
        )

    @staticmethod
    def psk(site, listener, user, keys):
        folder = site.root / f"qemu-{user}-{keys.stem}"
        folder.mkdir(exist_ok=True)
        shutil.copy(keys, folder / "keys.psk")
        return Qemu.convert(
            site, listener, f"tls-creds-psk,id=t,endpoint=client,dir={folder},username={user}"
        )

    @staticmethod
    def plain(site, listener):
        return Qemu.convert(site, listener, None)


CLIENTS = [
    pytest.param(client, marks=need(client.program), id=client.__name__.lower())
    for client in (Nbdinfo, Nbdcopy, NbdcopyUnix, Qemu)
]
every_client = pytest.mark.parametrize("client", CLIENTS)


def good(answer):
    status, out = answer
    assert status == 0, out


def bad(answer):
    status, out = answer
    assert status != 0, out
    return out


# --- X.509 ---


def stranger(site):
    other = Authority(site.root / "otherca", "other")
    return site.issue("stranger", "alice", authority=other)


def same_name(site):
    """An authority that calls itself what the right one does."""
    other = Authority(site.root / "twin", "nbdd test authority")
    return site.issue("twin-client", "alice", authority=other)


WRONG = {
    "other authority": stranger,
    "an authority of the same name": same_name,
    "self-signed": lambda site: site.issue("r-self", "alice", self_signed=True),
    "expired": lambda site: site.issue("r-expired", "alice", first=-10, last=-1),
    "not yet valid": lambda site: site.issue("r-early", "alice", first=5, last=10),
    "a server's": lambda site: site.issue("r-usage", "alice", usage="server"),
}


@every_client
@pytest.mark.parametrize("listener", ["require", "x509-1.2"])
def test_the_right_certificate(site, client, listener):
    good(client.x509(site, listener, site.client))


@every_client
@pytest.mark.parametrize("listener", ["require", "x509-1.2", "allow"])
@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_certificate(site, client, listener, kind):
    if client is NbdcopyUnix and listener != "require":
        pytest.skip("one listener on a Unix socket")
    bad(client.x509(site, listener, WRONG[kind](site)))


@every_client
def test_no_certificate(site, client):
    folder = site.root / "nothing"
    folder.mkdir(exist_ok=True)
    shutil.copy(site.authority.cert, folder / "ca-cert.pem")
    bad(client.x509(site, "require", folder))
    if client is not NbdcopyUnix:
        good(client.x509(site, "unverified", folder))


@every_client
def test_revoked(site, client):
    victim, other = site.issue("r-victim", "victim"), site.issue("r-other", "other")
    good(client.x509(site, "require", victim))
    site.authority.revoke(site.server / "ca-crl.pem", victim / "client-cert.pem")
    site.daemon.call("tls.reload", name="x509")
    try:
        bad(client.x509(site, "require", victim))
        good(client.x509(site, "require", other))
    finally:
        (site.server / "ca-crl.pem").unlink()
        site.daemon.call("tls.reload", name="x509")
    good(client.x509(site, "require", victim))


@every_client
def test_a_server_that_the_client_does_not_trust(site, client):
    folder = site.issue("distrustful", "alice")
    if client is NbdcopyUnix:
        pytest.skip("libnbd does not check who serves a Unix socket")
    other = Authority(site.root / "thirdca", "third")
    shutil.copy(other.cert, folder / "ca-cert.pem")
    bad(client.x509(site, "require", folder))


@need("nbdinfo", "qemu-img")
def test_a_server_of_another_name(site):
    """127.0.0.1 and localhost are in the certificate, 127.0.0.2 is not."""
    site.daemon.call("listener.add", name="elsewhere", address="tcp:127.0.0.2:0", tls="x509")
    try:
        rows = {row["name"]: row for row in site.daemon.call("listener.list")["listeners"]}
        port = rows["elsewhere"]["address"].rpartition(":")[2]
        uri = f"nbds://127.0.0.2:{port}/disk?tls-certificates={site.client}"
        bad(run("nbdinfo", "--size", uri, check=False))
        secret = f"tls-creds-x509,id=t,endpoint=client,dir={site.client}"
        image = f"driver=nbd,host=127.0.0.2,port={port},export=disk,tls-creds=t"
        for more, wanted in (("", bad), (",tls-hostname=localhost", good)):
            answer = run("qemu-img", "info", "--object", secret, "--image-opts", image + more,
                         check=False)
            wanted(answer)
    finally:
        site.daemon.call("listener.remove", name="elsewhere")


# --- pre-shared keys ---


@every_client
@pytest.mark.parametrize("listener", ["psk", "psk-1.2"])
def test_keys(site, client, listener):
    wrong = site.root / "wrong.psk"
    if not wrong.exists():
        psk_file(wrong, "alice", "mallory")
    good(client.psk(site, listener, "alice", site.keys_path))
    bad(client.psk(site, listener, "alice", wrong))
    bad(client.psk(site, listener, "mallory", wrong))


def overheard(port, client):
    """What the server says to one client that connects to the port client() is given."""
    ears = socket.create_server(("127.0.0.1", 0))
    said = bytearray()

    def relay(source, target, copy):
        while part := source.recv(65536):
            copy += part
            target.sendall(part)
        target.shutdown(socket.SHUT_WR)

    def serve():
        near, _ = ears.accept()
        far = socket.create_connection(("127.0.0.1", port))
        with near, far, contextlib.suppress(OSError):
            back = threading.Thread(target=relay, args=(near, far, bytearray()))
            back.start()
            with contextlib.suppress(OSError):
                relay(far, near, said)
            back.join()

    thread = threading.Thread(target=serve)
    thread.start()
    client(ears.getsockname()[1])
    thread.join(60 * SLOW)
    ears.close()
    return bytes(said)


@need("nbdinfo")
@pytest.mark.parametrize("listener", ["psk", "psk-1.2"])
def test_which_users_there_are_is_not_told(site, listener):
    """A user that does not exist fails in the same way as a wrong key: the same alert."""
    wrong = site.root / "guesses.psk"
    psk_file(wrong, "alice", "mallory", "m" * 300)
    alerts = set()
    for user in ("alice", "mallory", "m" * 300):
        said = overheard(site.port(listener), lambda port, user=user: bad(run(
            "nbdinfo", f"nbds://{user}@127.0.0.1:{port}/disk?tls-psk-file={wrong}", check=False)))
        alerts.add(said[-7:])
    assert len(alerts) == 1 and next(iter(alerts))[:3] == b"\x15\x03\x03", alerts


@every_client
def test_the_other_kind_of_credential(site, client):
    bad(client.psk(site, "require", "alice", site.keys_path))
    bad(client.x509(site, "psk", site.client))


# --- plain and TLS ---


@every_client
def test_plain_where_tls_is_required(site, client):
    for listener in ("require", "psk", "x509-1.2"):
        bad(client.plain(site, listener))


@pytest.mark.parametrize("client", [c for c in CLIENTS if "unix" not in c.id])
def test_plain_where_tls_is_allowed(site, client):
    good(client.plain(site, "allow"))
    good(client.x509(site, "allow", site.client))


@need("nbdinfo", "nbdcopy", "qemu-img")
def test_tls_where_there_is_none(site):
    path = site.daemon.nbd_path
    more = f"socket={path}&tls-certificates={site.client}"
    bad(run("nbdinfo", "--size", f"nbds+unix://localhost/disk?{more}", check=False))
    bad(run("nbdcopy", f"nbds+unix://localhost/disk?{more}", os.devnull, check=False))
    secret = f"tls-creds-x509,id=t,endpoint=client,dir={site.client}"
    image = f"driver=nbd,path={path},export=disk,tls-creds=t,tls-hostname=localhost"
    out = bad(run("qemu-img", "info", "--object", secret, "--image-opts", image, check=False))
    assert "TLS" in out


@need("nbdcopy", "qemu-img")
def test_writing_over_tls(site, tmp_path):
    """nbdcopy with several connections, and qemu-img, write; what they wrote is there."""
    data = os.urandom(SIZE)
    (tmp_path / "data").write_bytes(data)
    secret = f"tls-creds-x509,id=t,endpoint=client,dir={site.client}"
    image = f"driver=nbd,host=127.0.0.1,port={site.port('require')},export=disk,tls-creds=t"
    uri = site.uri("require", query=f"?tls-certificates={site.client}")
    try:
        run("nbdcopy", "--connections=4", "--flush", tmp_path / "data", uri)
        run("qemu-img", "compare", "--object", secret, "--image-opts", image,
            f"driver=raw,file.driver=file,file.filename={tmp_path / 'data'}")
        (tmp_path / "back").write_bytes(data[::-1])
        run("qemu-img", "convert", "-n", "--object", secret, "-f", "raw", tmp_path / "back",
            "--target-image-opts", image)
        run("nbdcopy", "--connections=4", uri, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == data[::-1]
    finally:
        (tmp_path / "data").write_bytes(b"\x11" * SIZE)
        run("nbdcopy", tmp_path / "data", uri)
