"""Keys are in the daemon's memory only while they are needed: its memory is searched for them."""

import base64
import re
import subprocess

import pytest

import harness
from peers import need
from pki import Authority, certtool, psk_file
from test_tls_rotation import tls_wire

SIZE = 1 << 20
pytestmark = pytest.mark.skipif(harness.FLAVOUR != "plain", reason="a sanitizer keeps what was freed")


def memory_of(daemon):
    """(where, bytes) of everything that the process could have written."""
    pid = daemon.process.pid
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps, open(f"/proc/{pid}/mem", "rb") as mem:
        for line in maps:
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+\s*(.*)", line)
            if "rw" not in match[3]:
                continue
            begin, end = int(match[1], 16), int(match[2], 16)
            try:
                mem.seek(begin)
                yield match[4] or "anonymous", mem.read(end - begin)
            except (OSError, OverflowError):
                pass  # the kernel's own


def places_of(daemon, secrets):
    """Names of the secrets that are somewhere, and where."""
    found = []
    for where, content in memory_of(daemon):
        found += [(name, where) for name, secret in secrets.items() if secret in content]
    return sorted(set(found))


def key_forms(pem):
    """A private key as it may lie in memory: text, DER, numbers as they are written and as they are
    computed with (limbs, the lowest first)."""
    text = pem.read_text()
    lines = [line for line in text.splitlines() if len(line) == 64 and " " not in line]
    body = re.search(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\n(.*?)-----END", text, re.S)[1]
    der = base64.b64decode(body)
    dump = certtool("--key-info", "--infile", pem)
    number = re.search(r"private key:\s*\n((?:\s+[0-9a-f:]+\n)+)", dump)[1]
    secret = bytes.fromhex(re.sub(r"[\s:]", "", number)).lstrip(b"\0")
    assert secret in der
    return {
        "a line of the file": lines[0].encode(),
        "DER": der[der.index(secret) - 4 :][:len(secret) + 4],
        "the number": secret,
        "the number in limbs": secret[::-1],
    }


@pytest.fixture
def used(daemon, tmp_path):
    """A credential of each kind that has served a client, and the forms of its keys."""
    need("nbdinfo")
    authority = Authority(tmp_path / "ca")
    material = authority.issue(tmp_path / "server", "server", "localhost")
    client = authority.issue(tmp_path / "client", "client", "alice")
    keys = psk_file(tmp_path / "keys.psk", "bob")
    forms = {f"x509: {name}": form for name, form in key_forms(material / "server-key.pem").items()}
    forms["psk: the text"] = keys["bob"].encode()
    forms["psk: the key"] = bytes.fromhex(keys["bob"])
    daemon.serve("a", SIZE, sharing="shared")
    daemon.rpc.plain("tls.add", name="x", kind="x509", dir=str(material), verify_client=True)
    daemon.rpc.plain("tls.add", name="p", kind="psk", keys=str(tmp_path / "keys.psk"))
    tls = daemon.rpc.plain("listener.add", name="x", address="tcp:127.0.0.1:0", tls="x")["address"]
    psk = daemon.rpc.plain("listener.add", name="p", address="tcp:127.0.0.1:0", tls="p")["address"]
    for _ in range(3):
        with tls_wire(tls, authority, client) as wire:
            assert wire.go("a").ok
            wire.disconnect()
    (tmp_path / "client.psk").write_text(f"bob:{keys['bob']}\n")
    port = psk.rpartition(":")[2]
    uri = f"nbds://bob@127.0.0.1:{port}/a?tls-psk-file={tmp_path / 'client.psk'}"
    done = subprocess.run(["nbdinfo", "--size", uri], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    daemon.no_clients()
    yield forms, material, tmp_path / "keys.psk"


def test_keys_are_wiped_when_they_are_let_go(daemon, used):
    forms, _, _ = used
    held = {name for name, _ in places_of(daemon, forms)}
    assert {name.partition(":")[0] for name in held} == {"x509", "psk"}, "the search finds them"
    assert not [name for name in held if re.search("file|text|DER", name)], held
    for name in ("x", "p"):
        daemon.rpc.plain("listener.remove", name=name)
        daemon.rpc.plain("tls.remove", name=name)
    assert harness.wait_for(lambda: not places_of(daemon, forms)), places_of(daemon, forms)


def test_keys_are_wiped_when_others_take_their_place(daemon, used, tmp_path):
    forms, material, keys = used
    other = Authority(tmp_path / "other").issue(tmp_path / "others", "server", "localhost")
    daemon.rpc.plain("tls.set", name="x", dir=str(other))
    keys.unlink()
    psk_file(keys, "bob")
    daemon.rpc.plain("tls.reload", name="p")
    assert harness.wait_for(lambda: not places_of(daemon, forms)), places_of(daemon, forms)


def test_keys_of_a_failed_attempt_are_wiped(daemon, used, tmp_path):
    """Everything was read before the fault was found."""
    authority = Authority(tmp_path / "third")
    folder = authority.issue(tmp_path / "broken", "server", "localhost")
    forms = key_forms(folder / "server-key.pem")
    (folder / "ca-crl.pem").write_text("garbage\n")
    daemon.refused("tls.add", "tls", name="bad", kind="x509", dir=str(folder))
    keys = psk_file(tmp_path / "bad.psk", "eve")
    with open(tmp_path / "bad.psk", "a", encoding="utf-8") as file:
        file.write("mallory:nonsense\n")
    daemon.refused("tls.add", "tls", name="bad", kind="psk", keys=str(tmp_path / "bad.psk"))
    forms |= {"psk text": keys["eve"].encode(), "psk": bytes.fromhex(keys["eve"])}
    assert harness.wait_for(lambda: not places_of(daemon, forms)), places_of(daemon, forms)
