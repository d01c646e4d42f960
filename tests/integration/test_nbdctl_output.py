"""What nbdctl prints for people and for scripts, held against the letter; the daemon is a fake."""

import datetime
import json
import re

import pytest

from ctl_runner import nbdctl, on_terminal
from fake_control import FakeControl, Raw

GENERATION = "6f1c3a52-6b0e-4d56-9b3c-0a3c5c2f8f11"


def disk(name, **changes):
    return {
        "name": name, "path": f"/var/lib/images/{name}.img", "state": "ready", "problem": None,
        "size": 64 << 20, "read_only": False, "cache": "writeback", "backend": "file",
        "minimum_block": 1, "preferred_block": 4096, "rotational": False, "can_trim": True,
        "can_fast_zero": False, "implicit": False, "exports": [name], "bitmaps": ["b0", "b1"],
        **changes,
    }  # fmt: skip


def export(name, **changes):
    return {
        "name": name, "disk": "vm1", "state": "ready", "size": 64 << 20, "read_only": False,
        "sharing": "exclusive", "max_clients": None, "description": None, "bitmaps": None,
        "allow": None, "tls": "none", "clients": 1, **changes,
    }  # fmt: skip


def bitmap(name, **changes):
    return {
        "disk": "vm1", "name": name, "generation": GENERATION, "granularity": 65536,
        "state": "recording", "reason": None, "recording": True, "missed_writes": False,
        "dirty_bytes": 13107200, "over_reported_bytes": 0, "durability": "power", "busy": False,
        **changes,
    }  # fmt: skip


def listener(name, **changes):
    return {
        "name": name, "address": "tcp:127.0.0.1:10809", "tls": None, "tls_mode": None,
        "max_clients": None, "state": "listening", "problem": None, "clients": 3,
        "persistent": True, **changes,
    }  # fmt: skip


def client(number, **changes):
    def counters(requests, count):
        return {"requests": requests, "bytes": count, "errors": 0}

    since = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=3, seconds=5)
    return {
        "id": number, "state": "connected", "export": "vm1", "listener": "lan",
        "address": "tcp:192.0.2.7:50000", "identity": ["ip:192.0.2.7"], "tls": False,
        "read_only": True, "features": ["structured-replies"],
        "connected_at": since.isoformat().replace("+00:00", "Z"), "in_flight": 2,
        "counters": {"read": counters(3, 40960), "write": counters(0, 0), "zero": counters(0, 0),
                     "trim": counters(0, 0), "flush": counters(1, 0), "status": counters(0, 0),
                     "cache": counters(0, 0)},
        **changes,
    }  # fmt: skip


@pytest.fixture
def fake(tmp_path):
    with FakeControl(tmp_path) as control:
        yield control


def page(noun, *objects):
    return {noun: list(objects), "next_cursor": None}


def lines(result):
    assert result.status == 0 and result.err == "", result
    return result.out.splitlines()


# --- lists ---


def test_disks(fake):
    missing = disk("old", state="missing", size=0, problem="open: No such file", exports=[], bitmaps=[])
    fake.answers["disk.list"] = page("disks", disk("vm1"), missing)
    assert lines(nbdctl("disk", "list", socket=fake.path)) == [
        "NAME  STATE      SIZE  MODE  CACHE      EXPORTS  BITMAPS  PATH",
        "vm1   ready    64 MiB  rw    writeback  vm1      b0, b1   /var/lib/images/vm1.img",
        "old   missing       0  rw    writeback  -        -        /var/lib/images/old.img",
        "",
        "old: open: No such file",
    ]


def test_exports(fake):
    shared = export("iso", sharing="shared", read_only=True, max_clients=8, allow=["unix:0"], bitmaps=[])
    fake.answers["export.list"] = page("exports", export("vm1"), shared)
    assert lines(nbdctl("export", "list", socket=fake.path)) == [
        "NAME  DISK  STATE    SIZE  MODE  SHARING    CLIENTS       MAX  TLS   ALLOW     BITMAPS",
        "vm1   vm1   ready  64 MiB  rw    exclusive        1  no bound  none  everyone  all",
        "iso   vm1   ready  64 MiB  ro    shared           1         8  none  unix:0    none",
    ]


def test_bitmaps(fake):
    fake.answers["bitmap.list"] = page(
        "bitmaps", bitmap("b0"), bitmap("b1", state="disabled", missed_writes=True),
        bitmap("b2", state="invalid", reason="somebody else wrote", dirty_bytes=0),
    )  # fmt: skip
    assert lines(nbdctl("bitmap", "list", socket=fake.path)) == [
        f"DISK  NAME  STATE         DIRTY  MISSED  GRANULARITY  SURVIVES  GENERATION{26 * ' '}".rstrip(),
        f"vm1   b0    recording  12.5 MiB  no           64 KiB  power     {GENERATION}",
        f"vm1   b1    disabled   12.5 MiB  yes          64 KiB  power     {GENERATION}",
        f"vm1   b2    invalid     unknown  no           64 KiB  power     {GENERATION}",
        "",
        "vm1 b2: somebody else wrote",
    ]


def test_listeners_and_clients(fake):
    fake.answers["listener.list"] = page("listeners", listener("lan"))
    fake.answers["client.list"] = page("clients", client(7))
    assert lines(nbdctl("listener", "list", socket=fake.path)) == [
        "NAME  STATE      ADDRESS              TLS   CLIENTS  AFTER RESTART",
        "lan   listening  tcp:127.0.0.1:10809  none        3  yes",
    ]
    header, row = lines(nbdctl("client", "list", socket=fake.path))
    assert header.split() == ["ID", "EXPORT", "STATE", "MODE", "ADDRESS", "IDENTITY", "TLS", "SINCE",
                              "READ", "WRITTEN", "IN", "FLIGHT"]  # fmt: skip
    assert re.fullmatch(
        r" 7  vm1     connected  ro    tcp:192.0.2.7:50000  ip:192.0.2.7  no   3 min \d+ s  40 KiB        0 +2",
        row,
    ), row


def test_empty_lists_are_a_sentence(fake):
    for noun in ("disk", "export", "bitmap", "listener", "client"):
        fake.answers[f"{noun}.list"] = page(f"{noun}s")
        assert lines(nbdctl(noun, "list", socket=fake.path)) == [f"There are no {noun}s."]


def test_pages_are_followed(fake):
    pages = {None: (["a", "b"], "n1"), "n1": (["c"], "n2"), "n2": (["d"], None)}

    def answer(params):
        names, following = pages[params.get("cursor")]
        return {"disks": [disk(name) for name in names], "next_cursor": following}

    fake.answers["disk.list"] = answer
    out = lines(nbdctl("disk", "list", socket=fake.path))
    assert [line.split()[0] for line in out] == ["NAME", "a", "b", "c", "d"]
    # Who asks for one page gets one page.
    out = lines(nbdctl("disk", "list", "--limit", "2", socket=fake.path))
    assert [line.split()[0] for line in out] == ["NAME", "a", "b", "There"]
    assert out[-1] == "There is more: --cursor n1"
    result = nbdctl("disk", "list", "--json", socket=fake.path)
    assert json.loads(result.out)["next_cursor"] == "n1"


def test_extents_are_exact_and_paged(fake):
    def answer(params):
        if params.get("offset", 0) == 0:
            return {"extents": [{"offset": 0, "length": 65536}], "next_offset": 131072}
        return {"extents": [{"offset": 131072, "length": (1 << 40) + 1}], "next_offset": None}

    fake.answers["bitmap.extents"] = answer
    assert lines(nbdctl("bitmap", "extents", "vm1", "b0", socket=fake.path)) == [
        "          OFFSET            LENGTH               END        SIZE",
        "               0             65536             65536      64 KiB",
        "          131072     1099511627777     1099511758849     1.0 TiB",
    ]
    one = lines(nbdctl("bitmap", "extents", "vm1", "b0", "--limit", "1", socket=fake.path))
    assert one[-1] == "There is more: --offset 131072"
    fake.answers["bitmap.extents"] = {"extents": [], "next_offset": None}
    assert lines(nbdctl("bitmap", "extents", "v", "b", socket=fake.path)) == ["Nothing is dirty."]


def test_pages_that_do_not_come_to_an_end(fake):
    fake.answers["bitmap.extents"] = {"extents": [], "next_offset": 0}
    fake.answers["disk.list"] = {"disks": [], "next_cursor": "again"}
    for words in (["bitmap", "extents", "vm1", "b0"], ["disk", "list"]):
        result = nbdctl(*words, socket=fake.path)
        assert result.status == 2 and "its pages do not come to an end" in result.err


# --- objects ---


def test_a_disk(fake):
    fake.answers["disk.show"] = disk("vm1", size=(1 << 30) + 512)
    assert lines(nbdctl("disk", "show", "vm1", socket=fake.path)) == [
        "name             vm1",
        "path             /var/lib/images/vm1.img",
        "state            ready",
        "size             1.0 GiB (1073742336 bytes)",
        "read only        no",
        "cache            writeback",
        "backend          file",
        "minimum block    1 B",
        "preferred block  4 KiB (4096 bytes)",
        "rotational       no",
        "can trim         yes",
        "can fast zero    no",
        "implicit         no",
        "exports          vm1",
        "bitmaps          b0, b1",
    ]


def test_an_export(fake):
    fake.answers["export.show"] = export("vm1", allow=[])
    assert lines(nbdctl("export", "show", "vm1", socket=fake.path)) == [
        "name         vm1",
        "disk         vm1",
        "state        ready",
        "size         64 MiB (67108864 bytes)",
        "read only    no",
        "sharing      exclusive",
        "max clients  no bound",
        "description  none",
        "bitmaps      all",
        "allow        nobody",
        "tls          none",
        "clients      1",
    ]


def test_an_invalid_bitmap_does_not_look_clean(fake):
    fake.answers["bitmap.show"] = bitmap("b0", state="invalid", reason="why", dirty_bytes=0)
    out = "\n".join(lines(nbdctl("bitmap", "show", "vm1", "b0", socket=fake.path)))
    assert re.search(r"^state +invalid$", out, re.M)
    assert re.search(r"^reason +why$", out, re.M)
    assert re.search(r"^dirty +unknown$", out, re.M)


def test_the_daemon(fake):
    fake.answers["daemon.info"] = {
        "name": "nbdd", "started_at": "2025-05-01T08:00:00.5Z", "uptime_seconds": 7805,
        "engine": "threads",
        "limits": [{"name": "max-clients", "value": 10000, "description": "NBD clients at once."}],
    }  # fmt: skip
    out = lines(nbdctl("daemon", "info", socket=fake.path))
    assert out[0] == "name        nbdd"
    assert re.fullmatch(r"started at  2025-05-01 08:00:00 UTC \(\d+ d \d+ h ago\)", out[1])
    assert out[2:] == [
        "uptime      2 h 10 min",
        "engine      threads",
        "limits",
        "  NAME         VALUE  MEANING",
        "  max-clients  10000  NBD clients at once.",
    ]


def test_stats(fake):
    fake.answers["stats"] = {
        "daemon": {"clients_accepted": 7, "clients_refused": 1, "in_flight": 2,
                   "tracking": {"commits": 9, "syncs": 10, "intents_added": 5,
                                "intents_retired": 4, "failures": 0}, "operations": [
            {"operation": "read", "requests": 1000, "bytes": 4096000, "errors": 0,
             "latency": [0, 10, 500, 400, 80, 9, 1]}]},
        "exports": [{"name": "vm1", "clients": 1, "operations": [
            {"operation": "flush", "requests": 1, "bytes": 0, "errors": 1, "latency": [1]}]}],
        "clients": [{"id": 3, "export": "vm1", "in_flight": 0, "operations": [
            {"operation": "trim", "requests": 0, "bytes": 0, "errors": 0, "latency": []}]}],
        "next_cursor": None,
    }  # fmt: skip
    assert lines(nbdctl("stats", socket=fake.path)) == [
        "7 clients accepted, 1 refused, 2 requests in flight",
        "9 commits of the state, 10 syncs, 5 regions put on record, 4 retired",
        "",
        "                 OPERATION  REQUESTS    BYTES  ERRORS  HALF BELOW  99 % BELOW  ALL BELOW",
        "all              read           1000  3.9 MiB       0        8 µs       32 µs     128 µs",
        "export vm1       flush             1        0       1        2 µs        2 µs       2 µs",
        "client 3 on vm1  trim              0        0       0           -           -          -",
    ]


# --- sentences ---

SENTENCES = [
    (["disk", "add", "vm1", "/i/vm1.img"], disk("vm1", path="/i/vm1.img"),
     "Disk vm1 added: /i/vm1.img, 64 MiB, read-write."),
    (["disk", "add", "vm1", "/i/vm1.img", "--dry-run"], disk("vm1", path="/i/vm1.img"),
     "Nothing was changed; this would be: Disk vm1 added: /i/vm1.img, 64 MiB, read-write."),
    (["disk", "add", "vm1", "/i/vm1.img", "--if-exists", "same"], disk("vm1", path="/i/vm1.img"),
     "Disk vm1 is there: /i/vm1.img, 64 MiB, read-write."),
    (["disk", "remove", "vm1"], {"name": "vm1", "removed": True}, "Disk vm1 removed."),
    (["disk", "remove", "vm1", "--missing-ok"], {"name": "vm1", "removed": False},
     "There was no disk vm1."),
    (["disk", "refresh", "vm1"], disk("vm1"),
     "Disk vm1 refreshed: /var/lib/images/vm1.img, 64 MiB, read-write."),
    (["export", "add", "e", "--disk", "vm1"], export("e", read_only=True),
     "Export e added: disk vm1, 64 MiB, read-only, exclusive, for everyone."),
    (["export", "set", "e", "--allow", ""], export("e", allow=[]),
     "Export e changed: disk vm1, 64 MiB, read-write, exclusive, for nobody."),
    (["export", "remove", "e"], {"name": "e", "removed": True}, "Export e removed."),
    (["bitmap", "add", "vm1", "b0"], bitmap("b0", dirty_bytes=0),
     "Bitmap b0 of disk vm1 added: recording, dirty 0, granularity 64 KiB, generation "
     f"{GENERATION}."),
    (["bitmap", "merge", "vm1", "b0", "b1"], bitmap("b0"),
     "Bitmap b0 of disk vm1 took in the dirty blocks of its sources: recording, dirty 12.5 MiB, "
     f"granularity 64 KiB, generation {GENERATION}."),
    (["bitmap", "disable", "vm1", "b0"], bitmap("b0", state="disabled"),
     "Bitmap b0 of disk vm1 disabled: dirty 12.5 MiB, granularity 64 KiB, generation "
     f"{GENERATION}."),
    (["bitmap", "remove", "vm1", "b0", "--missing-ok"],
     {"disk": "vm1", "name": "b0", "removed": False}, "There was no bitmap b0 of disk vm1."),
    (["listener", "add", "lan", "tcp:127.0.0.1:0"], listener("lan"),
     "Listener lan added: listening, connect to tcp:127.0.0.1:10809."),
    (["client", "disconnect", "7"], {"id": 7, "disconnected": True, "clients": [7]},
     "Client 7 disconnected."),
    (["client", "disconnect", "--identity", "psk:a"],
     {"id": None, "disconnected": True, "clients": [7, 18446744073709551615]},
     "Clients 7, 18446744073709551615 disconnected."),
    (["client", "disconnect", "--identity", "psk:a"],
     {"id": None, "disconnected": False, "clients": []}, "There is no such client."),
]  # fmt: skip


@pytest.mark.parametrize("words, result, sentence", SENTENCES, ids=[" ".join(r[0]) for r in SENTENCES])
def test_sentences(fake, words, result, sentence):
    fake.answers[".".join(words[:2])] = result
    assert lines(nbdctl(*words, socket=fake.path)) == [sentence]


def test_a_transaction(fake):
    fake.answers["transaction"] = {"results": [bitmap("b1", dirty_bytes=0), export("e")]}
    actions = ["bitmap add vm1 b1 --granularity 64k", "nbdctl export add e --disk vm1 --bitmaps b1"]
    words = ["transaction"] + [word for action in actions for word in ("--actions", action)]
    expected = [
        f"Bitmap b1 of disk vm1 added: recording, dirty 0, granularity 64 KiB, generation {GENERATION}.",
        "Export e added: disk vm1, 64 MiB, read-write, exclusive, for everyone.",
        "2 actions done at one instant.",
    ]
    assert lines(nbdctl(*words, socket=fake.path)) == expected
    assert fake.calls.pop() == ("transaction", {"actions": [
        {"method": "bitmap.add", "params": {"disk": "vm1", "name": "b1", "granularity": 65536}},
        {"method": "export.add", "params": {"name": "e", "disk": "vm1", "bitmaps": ["b1"]}}]})  # fmt: skip
    # The same from standard input and from a file, as commands and as JSON.
    text = "# two things\n\n" + "\n".join(actions) + "\n"
    asked = nbdctl("transaction", "--actions", "-", socket=fake.path, stdin=text)
    assert lines(asked) == expected
    as_json = json.dumps(fake.calls[-1][1]["actions"], indent=2)
    assert lines(nbdctl("transaction", "--actions", "-", socket=fake.path, stdin=as_json)) == expected
    dry = lines(nbdctl(*words, "--dry-run", socket=fake.path))
    assert dry[0] == "Nothing was changed; this would be:" and dry[1:] == expected[:2]


def test_a_transaction_from_a_file(fake, tmp_path):
    fake.answers["transaction"] = {"results": []}
    path = tmp_path / "actions"
    path.write_text("disk remove a\nbitmap add d\n")
    bad = nbdctl("transaction", "--actions", path, socket=fake.path)
    assert bad.status == 3 and f'{path}, line 2: in "bitmap add d": NAME is missing' in bad.err
    path.write_text('[{"method": "disk.remove", "params": {"name": "a"}}]')
    for word in (str(path), f"@{path}"):
        assert nbdctl("transaction", "--actions", word, socket=fake.path).status == 0
        assert fake.calls.pop()[1]["actions"] == [{"method": "disk.remove", "params": {"name": "a"}}]


# --- JSON ---


def test_json_is_printed_as_it_came(fake):
    result = '{ "z" : 18446744073709551615,"a":[1.50, 1e3 ,"\\u00e4\\/"] , "size":9007199254740993}'
    fake.answers["disk.show"] = Raw(b'{"id":1, "result":' + result.encode() + b', "jsonrpc":"2.0"}\n')
    done = nbdctl("disk", "show", "x", "--json", socket=fake.path)
    assert (done.status, done.out, done.err) == (0, result + "\n", "")
    done = nbdctl("--json", "call", "disk.show", "name=x", socket=fake.path)
    assert (done.status, done.out, done.err) == (0, result + "\n", "")
    done = on_terminal("disk", "show", "x", "--json", socket=fake.path)
    assert done.out == result + "\n"


def test_call_indents(fake):
    fake.answers["x.y"] = {"a": {"b": [1, "x"]}, "c": [{"d": 18446744073709551615}], "e": {}}
    assert nbdctl("call", "x.y", "k=1", "l=x y", socket=fake.path).out == (
        '{\n  "a": {\n    "b": [1, "x"]\n  },\n  "c": [\n    {\n      "d": 18446744073709551615\n'
        '    }\n  ],\n  "e": {}\n}\n'
    )
    assert fake.calls == [("x.y", {"k": 1, "l": "x y"})]


# --- terminals ---


def test_colour_is_for_terminals(fake):
    fake.answers["disk.list"] = page("disks", disk("vm1"), disk("old", state="missing", problem="gone"))
    coloured = on_terminal("disk", "list", socket=fake.path)
    assert "\x1b[1mNAME\x1b[0m" in coloured.out
    assert "\x1b[36mvm1\x1b[0m" in coloured.out
    assert "\x1b[32mready\x1b[0m" in coloured.out and "\x1b[1;31mmissing\x1b[0m" in coloured.out
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b" not in on_terminal("disk", "list", socket=fake.path, env=env).out
    assert "\x1b[" in on_terminal("disk", "list", socket=fake.path, env={"NO_COLOR": ""}).out
    assert "\x1b" not in nbdctl("disk", "list", socket=fake.path).out


def test_tables_fit_the_terminal(fake):
    long = disk("vm1", path="/srv/some/very/long/path/of/many/folders/and/then/the/image/vm1.img")
    fake.answers["disk.list"] = page("disks", long)
    env = {"NO_COLOR": "1"}
    for columns in (60, 80, 100, 120, 200):
        out = on_terminal("disk", "list", socket=fake.path, columns=columns, env=env).out.splitlines()
        assert all(len(line) <= columns for line in out), out
        assert out[1].endswith("vm1.img") or "…" in out[1]
    full = nbdctl("disk", "list", socket=fake.path, env={"COLUMNS": "40"}).out
    assert long["path"] in full and "…" not in full  # a pipe gets all of it


def test_ascii_where_the_locale_has_no_more(fake):
    long = disk("vm1", path="/srv/some/very/long/path/of/many/folders/and/then/the/image/vm1.img")
    fake.answers["disk.list"] = page("disks", long)
    out = on_terminal("disk", "list", socket=fake.path, env={"LC_ALL": "C", "NO_COLOR": "1"}).out
    assert out.isascii() and ".." in out


@pytest.mark.parametrize("words", [("disk", "list"), ("disk", "show", "x")])
def test_texts_cannot_command_the_terminal(fake, words):
    nasty = disk("vm1", path="/a\x1b[2Jb\nc\x9bd")
    fake.answers.update({"disk.list": page("disks", nasty), "disk.show": nasty})
    for result in (nbdctl(*words, socket=fake.path),
                   on_terminal(*words, socket=fake.path, env={"NO_COLOR": "1"}, columns=200)):  # fmt: skip
        assert r"/a\x1b[2Jb\x0ac\x9bd" in result.out and "\x1b" not in result.out
