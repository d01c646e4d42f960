"""tls.add, set, reload, remove, list, show: what is checked, what is told, what is kept."""

import os
import re
import stat

import pytest

from pki import Authority, fingerprint, psk_file
from rpc import Rpc, RpcError


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def good(authority, tmp_path):
    return authority.issue(tmp_path / "good", "server", "localhost")


@pytest.fixture
def credential(server):
    """Adds credentials; they go with the test."""
    names = []

    def add(name, **params):
        answer = server.call("tls.add", name=name, **params)
        names.append(name)
        return answer

    yield add
    for name in names:
        server.call("tls.remove", name=name, missing_ok=True)


def x509(folder, **more):
    return {"kind": "x509", "dir": str(folder), **more}


def test_add_and_show_x509(server, credential, authority, good):
    shown = credential("lan", **x509(good, verify_client=True))
    assert shown == server.call("tls.show", name="lan")
    assert shown["kind"] == "x509" and shown["dir"] == str(good) and shown["verify_client"]
    assert shown["state"] == "ready" and shown["problem"] is None and shown["warnings"] == []
    assert shown["users"] == 0 and shown["listeners"] == []
    own, ca = shown["certificates"]
    assert own["subject"] == "CN=localhost" and own["issuer"] == "CN=nbdd test authority"
    assert own["fingerprint"] == fingerprint(good / "server-cert.pem")
    assert ca["fingerprint"] == fingerprint(authority.cert)
    assert own["not_before"] < own["not_after"] and own["not_after"].endswith("Z")
    assert server.call("tls.list")["credentials"] == [shown]


def test_add_and_show_psk(credential, tmp_path):
    keys = psk_file(tmp_path / "keys.psk", "alice", "bob")
    shown = credential("guests", kind="psk", keys=str(tmp_path / "keys.psk"))
    assert shown["users"] == 2 and shown["certificates"] == [] and shown["kind"] == "psk"
    for key in keys.values():
        assert key not in str(shown)


def test_key_material_is_never_told(server, credential, good, tmp_path):
    keys = psk_file(tmp_path / "keys.psk", "alice")
    credential("lan", **x509(good))
    credential("guests", kind="psk", keys=str(tmp_path / "keys.psk"))
    (tmp_path / "bad.psk").write_text(f"alice:{keys['alice']}zz\n")
    error = server.refused("tls.add", "tls", name="bad", kind="psk", keys=str(tmp_path / "bad.psk"))
    said = str(server.call("tls.list")) + str(vars(error)) + server.log()
    private = (good / "server-key.pem").read_text().split("\n")
    secret = [line for line in private if len(line) > 40 and re.fullmatch(r"[A-Za-z0-9+/=]+", line)]
    assert secret
    for line in [*secret, keys["alice"]]:
        assert line not in said


def rewrite(path, text):
    path.unlink()
    path.write_text(text)


def break_missing(folder, authority):
    (folder / "server-key.pem").unlink()
    return "server-key.pem", "No such file"


def break_garbage(folder, authority):
    rewrite(folder / "server-cert.pem", "garbage\n")
    return "server-cert.pem", "PEM"


def break_key_garbage(folder, authority):
    rewrite(folder / "server-key.pem", "garbage\n")
    return "server-key.pem", "private key"


def break_empty(folder, authority):
    rewrite(folder / "ca-cert.pem", "")
    return "ca-cert.pem", "0 bytes"


def break_pair(folder, authority):
    other = authority.issue(folder / "other", "server", "other")
    rewrite(folder / "server-key.pem", (other / "server-key.pem").read_text())
    return "server-key.pem", "not the key"


def break_expired(folder, authority):
    authority.issue(folder, "server", "localhost", first=-10, last=-1)
    return "server-cert.pem", "expired"


def break_future(folder, authority):
    authority.issue(folder, "server", "localhost", first=5, last=10)
    return "server-cert.pem", "not valid before"


def break_other_authority(folder, authority):
    other = Authority(folder / "otherca", "another")
    rewrite(folder / "ca-cert.pem", other.cert.read_text())
    return "server-cert.pem", "not trusted"


def break_self_signed(folder, authority):
    authority.issue(folder, "server", "localhost", self_signed=True)
    return "server-cert.pem", "not trusted"


def break_usage(folder, authority):
    authority.issue(folder, "server", "localhost", usage="client")
    return "server-cert.pem", "key usage"


def break_not_an_authority(folder, authority):
    rewrite(folder / "ca-cert.pem", (folder / "server-cert.pem").read_text())
    return "ca-cert.pem", "authority"


def break_writable(folder, authority):
    (folder / "server-key.pem").chmod(0o666)
    return "server-key.pem", "written by everybody"


def break_fifo(folder, authority):
    (folder / "server-key.pem").unlink()
    os.mkfifo(folder / "server-key.pem")
    return "server-key.pem", "regular file"


def break_directory(folder, authority):
    (folder / "server-key.pem").unlink()
    (folder / "server-key.pem").mkdir()
    return "server-key.pem", "regular file"


def break_crl(folder, authority):
    (folder / "ca-crl.pem").write_text("garbage\n")
    return "ca-crl.pem", "revocations"


BREAKS = [value for name, value in sorted(globals().items()) if name.startswith("break_")]


@pytest.mark.parametrize("how", BREAKS, ids=lambda how: how.__name__[6:])
def test_material_that_cannot_be_used(server, authority, good, how):
    file, why = how(good, authority)
    error = server.refused("tls.add", "tls", name="bad", **x509(good))
    assert file in error.message and why in error.message, error.message
    assert server.call("tls.list")["credentials"] == []


@pytest.mark.parametrize(
    "text, why",
    [
        ("", "0 bytes"),
        ("# nothing\n", "no line"),
        ("alice\n", "line 1"),
        (":00\n", "line 1"),
        ("alice:00\nalice:01\n", "twice"),
        ("alice:xyz0\n", "hexadecimal"),
        ("alice:0\n", "hexadecimal"),
        ("alice:\n", "hexadecimal"),
        ("a" * 256 + ":00\n", "line 1"),
        ("ok:00\n\nalice:zz\n", "line 3"),
    ],
)
def test_psk_file_that_cannot_be_used(server, tmp_path, text, why):
    path = tmp_path / "keys.psk"
    path.write_text(text)
    error = server.refused("tls.add", "tls", name="bad", kind="psk", keys=str(path))
    assert str(path) in error.message and why in error.message, error.message


@pytest.mark.parametrize(
    "params, path",
    [
        ({"kind": "x509"}, "/params/dir"),
        ({"kind": "psk"}, "/params/keys"),
        ({"kind": "x509", "dir": "/a", "keys": "/b"}, "/params/keys"),
        ({"kind": "psk", "dir": "/a", "keys": "/b"}, "/params/dir"),
        ({"kind": "psk", "keys": "/b", "verify_client": True}, "/params/verify_client"),
    ],
)
def test_settings_of_the_other_kind(server, params, path):
    error = server.refused("tls.add", "invalid-argument", name="bad", **params)
    assert error.path == path


def test_an_addition_that_meets_a_removal(daemon):
    """Who has added it is told so, also when it is gone by then."""
    keys = daemon.root / "keys.psk"
    keys.write_text("bob:00112233445566778899aabbccddeeff\n")
    adding, removing = (Rpc(str(daemon.socket)) for _ in range(2))
    end = {"jsonrpc": "2.0", "id": 1, "method": "tls.remove", "params": {"name": "c", "missing_ok": True}}
    begin = {"jsonrpc": "2.0", "id": 1, "method": "tls.add",
             "params": {"name": "c", "kind": "psk", "keys": str(keys), "if_exists": "same"}}
    for _ in range(400):
        adding.send(begin)
        for _ in range(3):
            removing.send(end)
        answer = adding.receive()
        assert answer.get("result", {}).get("users") == 1, answer
        for _ in range(3):
            assert "result" in removing.receive()
    adding.close()
    removing.close()


@pytest.mark.parametrize(
    "priority", ["NONSENSE", "NORMAL:+VERS-TLS1.1", "NORMAL:-VERS-ALL:+VERS-TLS1.0", "NORMAL:+NOPE"]
)
def test_priority_that_is_not_admitted(server, good, priority):
    error = server.refused("tls.add", "invalid-argument", name="bad", **x509(good, priority=priority))
    assert error.path == "/params/priority" and priority in error.message


def test_priority_of_ones_own(credential, good):
    text = "NORMAL:-VERS-ALL:+VERS-TLS1.3"
    assert credential("lan", **x509(good, priority=text))["priority"] == text


def test_warnings(server, credential, authority, tmp_path):
    folder = authority.issue(tmp_path / "soon", "server", "localhost", last=5)
    (folder / "server-key.pem").chmod(0o644)
    folder.chmod(0o777)
    warnings = "\n".join(credential("lan", **x509(folder))["warnings"])
    assert "expires soon" in warnings and "read by everybody" in warnings
    assert f"{folder} may be written by everybody" in warnings


def test_add_twice_and_if_exists(server, credential, good):
    credential("lan", **x509(good))
    server.refused("tls.add", "already-exists", name="lan", **x509(good))
    server.call("tls.add", name="lan", if_exists="same", **x509(good))
    server.refused(
        "tls.add", "already-exists", name="lan", if_exists="same", **x509(good, verify_client=True)
    )


def test_reload_takes_new_files(server, credential, authority, good):
    before = credential("lan", **x509(good))
    authority.issue(good, "server", "localhost")
    after = server.call("tls.reload", name="lan")
    assert after["certificates"][0]["fingerprint"] == fingerprint(good / "server-cert.pem")
    assert after["certificates"][0] != before["certificates"][0]


def test_reload_that_fails_keeps_the_old(server, credential, good):
    before = credential("lan", **x509(good))
    rewrite(good / "server-cert.pem", "garbage\n")
    error = server.refused("tls.reload", "tls", name="lan")
    after = server.call("tls.show", name="lan")
    assert after["certificates"] == before["certificates"] and after["state"] == "ready"
    assert after["problem"] == error.message


def test_set_other_paths(server, credential, authority, good, tmp_path):
    credential("lan", **x509(good))
    other = authority.issue(tmp_path / "other", "server", "other")
    shown = server.call("tls.set", name="lan", dir=str(other), verify_client=True)
    assert shown["dir"] == str(other) and shown["verify_client"]
    assert shown["certificates"][0]["subject"] == "CN=other"
    server.refused("tls.set", "tls", name="lan", dir=str(tmp_path / "nope"))
    assert server.call("tls.show", name="lan")["dir"] == str(other)


def test_unknown(server):
    for method in ("tls.show", "tls.reload", "tls.remove", "tls.set"):
        server.refused(method, "not-found", name="nope")
    assert server.call("tls.remove", name="nope", missing_ok=True)["removed"] is False


def test_a_credential_in_use_is_busy(server, credential, good):
    credential("lan", **x509(good))
    server.call("listener.add", name="secure", address="tcp:127.0.0.1:0", tls="lan")
    assert server.call("tls.show", name="lan")["listeners"] == ["secure"]
    error = server.refused("tls.remove", "busy", name="lan")
    assert "secure" in error.message
    server.call("listener.remove", name="secure")
    assert server.call("tls.remove", name="lan")["removed"] is True


def test_listener_with_an_unknown_credential(server):
    error = server.refused(
        "listener.add", "not-found", name="x", address="tcp:127.0.0.1:0", tls="nope"
    )
    assert error.path == "/params/tls"
    server.refused(
        "listener.add", "invalid-argument", name="x", address="tcp:127.0.0.1:0", tls_mode="allow"
    )


def test_restart_brings_credentials_back(daemon, authority, good, tmp_path):
    psk_file(tmp_path / "keys.psk", "alice")
    daemon.call("tls.add", name="lan", **x509(good, verify_client=True))
    daemon.call("tls.add", name="guests", kind="psk", keys=str(tmp_path / "keys.psk"))
    daemon.call("listener.add", name="secure", address="tcp:127.0.0.1:0", tls="lan", tls_mode="allow")
    before = daemon.call("tls.list")["credentials"]
    daemon.restart()
    after = daemon.call("tls.list")["credentials"]
    for one in before + after:
        one.pop("loaded_at")
    assert before == after
    listeners = {row["name"]: row for row in daemon.call("listener.list")["listeners"]}
    assert listeners["secure"]["tls"] == "lan" and listeners["secure"]["tls_mode"] == "allow"


def test_start_with_material_that_is_gone(daemon, good):
    daemon.call("tls.add", name="lan", **x509(good))
    daemon.call("listener.add", name="secure", address="tcp:127.0.0.1:0", tls="lan")
    daemon.stop()
    key = good / "server-key.pem"
    text = key.read_text()
    key.unlink()
    daemon.start()
    shown = daemon.call("tls.show", name="lan")
    assert shown["state"] == "failed" and "server-key.pem" in shown["problem"]
    key.write_text(text)
    assert daemon.call("tls.reload", name="lan")["state"] == "ready"


def test_sighup_reloads(daemon, authority, good):
    import signal

    from harness import wait_for

    daemon.call("tls.add", name="lan", **x509(good))
    authority.issue(good, "server", "localhost")
    wanted = fingerprint(good / "server-cert.pem")
    daemon.process.send_signal(signal.SIGHUP)
    assert wait_for(
        lambda: daemon.call("tls.show", name="lan")["certificates"][0]["fingerprint"] == wanted
    )


def test_dry_run_adds_nothing(server, good):
    server.call("tls.add", name="lan", dry_run=True, **x509(good))
    with pytest.raises(RpcError):
        server.call("tls.show", name="lan")


def test_modes_of_made_keys(good):
    """The tests' own material is as private as certtool makes it."""
    assert stat.S_IMODE((good / "server-key.pem").stat().st_mode) == 0o600
