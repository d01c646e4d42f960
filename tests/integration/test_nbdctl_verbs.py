"""Every verb of nbdctl against a real nbdd: what it prints, what it did, its exit status."""

import json
import os
import re
import shlex

import pytest

import harness
from ctl_runner import nbdctl, nobody
from pki import Authority

UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"

# In order, on one daemon: (words, what is printed as a pattern). IMAGE and KEYS are replaced by paths.
STORY = [
    ("daemon info", r"name +nbdd\nversion +\d.*\n(.*\n)+limits\n(.*\n)+"),
    ("disk list", "There are no disks.\n"),
    ("disk add vm1 IMAGE --dry-run", r"Nothing was changed; this would be: Disk vm1 added: IMAGE, 1 MiB, read-write\.\n"),
    ("disk add vm1 IMAGE", r"Disk vm1 added: IMAGE, 1 MiB, read-write\.\n"),
    ("disk add vm1 IMAGE --if-exists same", r"Disk vm1 is there: IMAGE, 1 MiB, read-write\.\n"),
    ("disk show vm1", r"name +vm1\npath +IMAGE\nstate +ready\nsize +1 MiB \(1048576 bytes\)\n(.*\n)+"),
    ("disk list", r"NAME +STATE +SIZE +MODE .*\nvm1 +ready +1 MiB +rw .*IMAGE\n"),
    ("disk refresh vm1", r"Disk vm1 refreshed: IMAGE, 1 MiB, read-write\.\n"),
    ("bitmap list", "There are no bitmaps.\n"),
    ("bitmap add vm1 b0 --granularity 4k",
     rf"Bitmap b0 of disk vm1 added: recording, dirty 0, granularity 4 KiB, generation {UUID}\.\n"),
    ("bitmap add vm1 b1 --no-recording", rf"Bitmap b1 of disk vm1 added: disabled, .*{UUID}\.\n"),
    ("bitmap enable vm1 b1", rf"Bitmap b1 of disk vm1 enabled: recording, .*{UUID}\.\n"),
    ("bitmap disable vm1 b1", rf"Bitmap b1 of disk vm1 disabled: .*{UUID}\.\n"),
    ("bitmap merge vm1 b0 b1", rf"Bitmap b0 of disk vm1 took in .*{UUID}\.\n"),
    ("bitmap clear vm1 b1", rf"Bitmap b1 of disk vm1 cleared: .*{UUID}\.\n"),
    ("bitmap list --disk vm1", r"DISK +NAME +STATE.*\nvm1 +b0 +recording .*\nvm1 +b1 +disabled .*\n"),
    ("bitmap show vm1 b0", rf"disk +vm1\nname +b0\ngeneration +{UUID}\ngranularity +4 KiB \(4096 bytes\)\n(.*\n)+"),
    ("bitmap extents vm1 b0", "Nothing is dirty.\n"),
    ("bitmap map vm1 b0", r"Bitmap b0 of disk vm1, 1 MiB: recording, granularity 4 KiB\n\n +0  ·{64}\n(.*\n)+"),
    ("export add e --disk vm1 --sharing shared --allow unix:0 --allow ip:::/0",
     r"Export e added: disk vm1, 1 MiB, read-write, shared, for unix:0, ip:::/0\.\n"),
    ("export set e --no-allow --max-clients 4 --description 'a b'",
     r"Export e changed: disk vm1, 1 MiB, read-write, shared, for everyone\.\n"),
    ("export show e", r"(.*\n)+max clients +4\nmax clients per identity +no bound of its own\ndescription +a b\nbitmaps +all\nallow +everyone\n(.*\n)+"),
    ("export set e --max-clients null --no-description --allow ''", r"Export e changed: .* for nobody\.\n"),
    ("export list", r"NAME +DISK +STATE.*\ne +vm1 +ready +1 MiB +rw +shared +0 .*\n"),
    ("listener add lan tcp:127.0.0.1:0", r"Listener lan added: listening, connect to tcp:127\.0\.0\.1:\d+\.\n"),
    ("listener list", r"NAME +STATE.*\nlan +listening +tcp:127\.0\.0\.1:\d+ .* yes\n(listen-1 .* no\n)?"),
    ("listener remove lan", "Listener lan removed.\n"),
    ("tls list", "There are no credentials.\n"),
    ("tls add guests --kind psk --keys KEYS", r"Credential guests added: psk, ready, KEYS\.\n"),
    ("tls list", r"NAME +KIND +STATE +USERS +LISTENERS .*\nguests +psk +ready +1 +- +KEYS\n"),
    ("tls show guests", r"name +guests\nkind +psk\nkeys +KEYS\n(.*\n)+priority +the default\nstate +ready\n(.*\n)+"),
    ("tls reload guests", r"Credential guests reloaded: psk, ready, KEYS\.\n"),
    ("tls set guests --keys KEYS", r"Credential guests changed: psk, ready, KEYS\.\n"),
    ("listener add tls unix:KEYS.sock --tls guests", r"Listener tls added: listening, connect to unix:KEYS\.sock, TLS require\.\n"),
    ("listener remove tls", "Listener tls removed.\n"),
    ("tls remove guests", "Credential guests removed.\n"),
    ("tls remove guests --missing-ok", r"There was no credential guests\.\n"),
    ("client disconnect --identity psk:alice", "There is no such client.\n"),
    ("client list", "There are no clients.\n"),
    ("state backup COPY.db", r"State copied to COPY\.db\.\n"),
    ("stats", r"\d+ clients accepted, \d+ refused, \d+ requests in flight\n(.*\n)*"),
    ("transaction 'bitmap clear vm1 b0' 'export set e --no-allow' 'bitmap remove vm1 b1'",
     rf"Bitmap b0 of disk vm1 cleared: .*{UUID}\.\nExport e changed: .*\nBitmap b1 of disk vm1 removed\.\n"
     r"3 actions done at one instant\.\n"),
    ("call disk.show name=vm1", r"{\n  \"name\": \"vm1\",\n(.*\n)+}\n"),
    ("rpc discover", r"{\n  \"openrpc\": \"1\.(.*\n)+}\n"),
    ("bitmap remove vm1 b0", r"Bitmap b0 of disk vm1 removed\.\n"),
    ("bitmap remove vm1 b0 --missing-ok", r"There was no bitmap b0 of disk vm1\.\n"),
    ("export remove e --mode drain --timeout-seconds 1", r"Export e removed\.\n"),
    ("disk remove vm1", r"Disk vm1 removed\.\n"),
    ("export add e --path IMAGE --read-only", r"Export e added: disk e, 1 MiB, read-only, exclusive, for everyone\.\n"),
    ("export remove e", r"Export e removed\.\n"),
]  # fmt: skip
# Those with a test of their own.
ELSEWHERE = {"event.subscribe"}


@pytest.fixture
def places(daemon):
    """What stands for the words in capitals."""
    keys = daemon.root / "keys.psk"
    keys.write_text("alice:00112233445566778899aabbccddeeff\n")
    keys.chmod(0o600)
    return {"IMAGE": str(daemon.image("story.img")), "KEYS": str(keys), "COPY": str(daemon.root / "copy")}


def replace(text, places, change=str):
    for word, path in places.items():
        text = text.replace(word, change(path))
    return text


def test_a_story_with_every_verb(daemon, places):
    for line, pattern in STORY:
        result = nbdctl(*shlex.split(replace(line, places)), socket=daemon.socket)
        assert (result.status, result.err) == (0, ""), (line, result)
        pattern = replace(pattern, places, re.escape)
        assert re.fullmatch(pattern, result.out), f"{line}: {result.out}\n is not {pattern}"


def test_the_story_is_complete():
    told = {line.split(" -")[0].replace(" ", ".") for line, _ in STORY}
    for method in set(harness.schema().methods) - ELSEWHERE:
        assert any(line == method or line.startswith(method + ".") for line in told), method


def test_json_is_the_result_of_the_method(daemon, places):
    for line, _ in STORY:
        words = shlex.split(replace(line, places))
        if words[:2] == ["bitmap", "map"]:
            continue
        result = nbdctl(*words, "--json", socket=daemon.socket)
        assert (result.status, result.err) == (0, ""), (line, result)
        assert result.out.count("\n") == 1 and result.out.endswith("\n")
        method = words[0] if words[0] in ("stats", "transaction") else ".".join(words[:2])
        if words[0] == "call":
            method = words[1]
        daemon.rpc.schema.check(method, "result", json.loads(result.out))


def test_refusals(daemon):
    daemon.serve("e")
    daemon.call("bitmap.add", disk="e", name="b0")
    with daemon.open("e"):
        for words, status, text in [
            (["disk", "show", "x"], 4, "x"),
            (["bitmap", "show", "e", "x"], 4, "x"),
            (["export", "remove", "x"], 4, "x"),
            (["client", "disconnect", "4711"], 4, "4711"),
            (["disk", "add", "e", daemon.image("other.img")], 5, "already-exists"),
            (["disk", "add", "f", daemon.root / "e.img"], 5, ""),
            (["disk", "remove", "e"], 5, "(busy)"),
            (["export", "remove", "e"], 5, "(busy)"),
            (["bitmap", "clear", "e", "b0", "--if-generation", "0" * 8 + "-0000" * 3 + "-" + "0" * 12], 5,
             "(invalid-state)"),
            (["disk", "add", "g", "/does/not/exist"], 4, "/does/not/exist"),
            (["disk", "add", "g/h", "/x"], 1, "NAME must be"),
            (["export", "set", "e", "--max-clients", "0"], 1, "--max-clients must be"),
            (["export", "set", "e", "--allow", "unix:0", "--allow", "all"], 1, "--allow, number 2"),
            (["bitmap", "add", "e", "b1", "--granularity", "1000"], 1, "--granularity must be"),
            (["call", "no.method"], 1, "(method-not-found)"),
            (["call", "disk.show", "name=e", "nope=1"], 1, "(invalid-params)"),
            (["transaction", "bitmap add e b2", "bitmap clear e b9"], 4, "action 2"),
        ]:  # fmt: skip
            result = nbdctl(*words, socket=daemon.socket)
            assert result.status == status and result.out == "" and text in result.err, (words, result)
    assert [one["name"] for one in daemon.call("bitmap.list")["bitmaps"]] == ["b0"]


def test_denied(make_daemon):
    daemon = make_daemon("--socket-group", "nogroup")
    user = nobody(daemon.root)
    assert nbdctl("disk", "list", socket=daemon.socket, user=user).status == 0
    result = nbdctl("disk", "remove", "d", "--missing-ok", socket=daemon.socket, user=user)
    assert (result.status, result.out) == (6, "") and "admin" in result.err and "(denied)" in result.err


def test_relative_paths(daemon):
    daemon.image("rel.img")
    assert nbdctl("disk", "add", "d", "rel.img", socket=daemon.socket, cwd=daemon.root).status == 0
    assert daemon.call("disk.show", name="d")["path"] == str(daemon.root / "rel.img")
    result = nbdctl("listener", "add", "l", "unix:l.sock", socket=daemon.socket, cwd=daemon.root)
    assert result.status == 0
    assert (daemon.root / "l.sock").is_socket()


def test_clients_are_listed_and_disconnected(daemon):
    daemon.serve("e")
    with daemon.open("e"):
        row = nbdctl("client", "list", "--export", "e", socket=daemon.socket).out.splitlines()[1]
        number, name, state = row.split()[:3]
        assert (name, state) == ("e", "connected")
        result = nbdctl("client", "disconnect", number, socket=daemon.socket)
        assert result.out == f"Client {number} disconnected.\n"
        daemon.no_clients()
    daemon.call("export.set", name="e", sharing="shared")
    with daemon.open("e"), daemon.open("e"):
        mine = f"unix:{os.getuid()}"
        result = nbdctl("client", "disconnect", "--identity", mine, socket=daemon.socket)
        assert re.fullmatch(r"Clients \d+, \d+ disconnected\.\n", result.out), result
        daemon.no_clients()


def test_certificates_are_shown_as_blocks(daemon, tmp_path):
    authority = Authority(tmp_path / "ca")
    folder = authority.issue(tmp_path / "server", "server", "localhost")
    result = nbdctl("tls", "add", "lan", "--kind", "x509", "--dir", folder, "--verify-client",
                    socket=daemon.socket)  # fmt: skip
    assert result.out == f"Credential lan added: x509, ready, {folder}.\n"
    header, row = nbdctl("tls", "list", socket=daemon.socket).out.splitlines()
    assert header.split() == ["NAME", "KIND", "STATE", "EXPIRES", "CLIENTS", "VERIFIED", "LISTENERS", "DIR"]
    assert re.fullmatch(rf"lan +x509 +ready +\d{{4}}-\d\d-\d\d +yes +- +{re.escape(str(folder))}", row)
    shown = nbdctl("tls", "show", "lan", socket=daemon.socket).out
    own = (
        r"certificates\n  file         .*/server-cert\.pem\n  subject      CN=localhost\n"
        r"  issuer       CN=nbdd test authority\n  serial       [0-9a-f]+\n"
        r"  fingerprint  ([0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2}\n  not before   .* ago\)\n"
        r"  not after    .* \(in .*\)\n\n  file         .*/ca-cert\.pem\n"
    )
    assert re.search(own, shown), shown


@pytest.mark.parametrize("count", [300])
def test_long_lists_come_in_pages(daemon, count):
    image = daemon.image("one.img")
    daemon.call("disk.add", name="d", path=str(image), dry=False)
    for i in range(count):
        daemon.rpc.plain("export.add", name=f"e{i:03}", disk="d", read_only=True, sharing="shared")
    result = nbdctl("export", "list", "--limit", "7", socket=daemon.socket)
    assert result.out.splitlines()[-1].startswith("There is more: --cursor ")
    names, cursor = [], []
    while True:
        page = json.loads(nbdctl("export", "list", "--limit", "99", *cursor, "--json",
                                 socket=daemon.socket).out)  # fmt: skip
        names += [one["name"] for one in page["exports"]]
        if page["next_cursor"] is None:
            break
        cursor = ["--cursor", page["next_cursor"]]
    assert names == [f"e{i:03}" for i in range(count)]
    assert len(nbdctl("export", "list", socket=daemon.socket).out.splitlines()) == count + 1


def test_names_for_completion(daemon):
    daemon.serve("e1")
    daemon.serve("e2")
    daemon.call("bitmap.add", disk="e1", name="b0")
    for words, names in [(["disk"], "e1\ne2\n"), (["export"], "e1\ne2\n"), (["bitmap", "e1"], "b0\n"),
                         (["bitmap", "e2"], ""), (["bitmap", "zz"], ""), (["zz"], ""), (["client"], "")]:  # fmt: skip
        result = nbdctl("__names", *words, socket=daemon.socket)
        assert (result.status, result.out, result.err) == (0, names, ""), words
    assert nbdctl("__names", "disk", socket="/nonexistent").status == 0
