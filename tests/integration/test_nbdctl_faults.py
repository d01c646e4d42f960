"""nbdctl's exit statuses and messages: what the daemon refuses, and what is no daemon at all."""

import json
import os
import re
import socket
import threading

import pytest

from ctl_runner import nbdctl, nobody, on_terminal
from fake_control import Error, FakeControl, Raw


@pytest.fixture
def fake(tmp_path):
    with FakeControl(tmp_path) as control:
        yield control


def check(result, status, *texts):
    assert result.status == status, result
    assert result.out == "", result
    for text in texts:
        assert text in result.err, result
    assert result.err.startswith("nbdctl: ") and result.err.endswith("\n"), result


# --- the daemon refuses ---

STATUSES = [
    (-32700, "parse-error", 1), (-32600, "invalid-request", 1), (-32601, "method-not-found", 1),
    (-32602, "invalid-params", 1), (-32603, "internal", 1), (1001, "not-found", 4),
    (1002, "already-exists", 5), (1003, "busy", 5), (1004, "invalid-state", 5),
    (1005, "invalid-argument", 1), (1006, "denied", 6), (1007, "limit", 1), (1008, "io", 1),
    (1009, "tls", 1), (1010, "timeout", 7), (1011, "cancelled", 1),
]  # fmt: skip


@pytest.mark.parametrize("code, kind, status", STATUSES)
@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_each_kind_has_its_exit_status(fake, code, kind, status, json_flag):
    fake.answers["disk.show"] = Error(code, kind, "the detail")
    check(nbdctl("disk", "show", "x", *json_flag, socket=fake.path), status,
          f"the detail ({kind})")  # fmt: skip


def test_an_unknown_kind_is_a_refusal(fake):
    fake.answers["disk.show"] = Error(4711, "new-kind", "something new")
    check(nbdctl("disk", "show", "x", socket=fake.path), 1, "something new (new-kind)")


def test_an_error_without_data(fake):
    error = Error(1001, "", "")
    error.value = {"code": 1001, "message": "gone"}
    fake.answers["disk.show"] = error
    check(nbdctl("disk", "show", "x", socket=fake.path), 4, "gone (not-found)")


@pytest.mark.parametrize(
    "path, named",
    [
        ("/params/max_clients", "--max-clients: is wrong"),
        ("/params/name", "NAME: is wrong"),
        ("/params/allow/1", "--allow, number 2: is wrong"),
        ("/params", "nbdctl: is wrong"),
        ("/params/other", "nbdctl: is wrong"),
    ],
)
def test_parameters_are_named_as_they_were_typed(fake, path, named):
    fake.answers["export.set"] = Error(-32602, "invalid-params", "is wrong", path)
    check(nbdctl("export", "set", "e", socket=fake.path), 1, named)


def test_a_detail_that_names_the_parameter_itself(fake):
    fake.answers["export.set"] = Error(-32602, "invalid-params", "`max_clients` must be 1 to 9, not 0",
                                       "/params/max_clients")  # fmt: skip
    check(nbdctl("export", "set", "e", socket=fake.path), 1, "nbdctl: --max-clients must be 1 to 9, not 0")


@pytest.mark.parametrize("detail, said", [
    ("`allow[1]` must be one", "--allow, number 2 must be one"),
    ("`allow[1]", "--allow, number 2: `allow[1] ("),
    ("`allow[", "--allow, number 2: `allow[ ("),
    ("`allowed` is another", "--allow, number 2: `allowed` is another"),
])  # fmt: skip
def test_a_detail_that_names_an_item_itself(fake, detail, said):
    fake.answers["export.set"] = Error(-32602, "invalid-params", detail, "/params/allow/1")
    check(nbdctl("export", "set", "e", socket=fake.path), 1, "nbdctl: " + said)


def test_a_refused_action_is_named(fake):
    fake.answers["transaction"] = Error(1001, "not-found", "no disk d", "/params/actions/1/disk")
    result = nbdctl("transaction", "--actions", "disk remove c", "--actions", "disk remove d",
                    socket=fake.path)  # fmt: skip
    check(result, 4, "action 2: no disk d (not-found)")


def test_messages_cannot_command_the_terminal(fake):
    fake.answers["disk.show"] = Error(1001, "not-found", "a\x1b[31mb\x07\x9b")
    check(nbdctl("disk", "show", "x", socket=fake.path), 4, r"a\x1b[31mb\x07\x9b")


# --- no daemon ---


def test_no_socket(tmp_path):
    path = tmp_path / "none.sock"
    check(nbdctl("disk", "list", socket=path), 2, str(path), "No such file or directory (ENOENT)",
          "Is nbdd running?")  # fmt: skip


def test_a_dead_socket(tmp_path):
    path = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    check(nbdctl("disk", "list", socket=path), 2, str(path), "ECONNREFUSED", "Nothing listens")


def test_no_socket_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_text("x")
    check(nbdctl("disk", "list", socket=path), 2, str(path), "ECONNREFUSED")


def test_no_permission(tmp_path, fake):
    os.chmod(fake.path, 0o600)
    user = nobody(tmp_path.parent.parent, tmp_path.parent, tmp_path)
    check(nbdctl("disk", "list", socket=fake.path, user=user), 2, fake.path, "EACCES",
          "Ask for access")  # fmt: skip


def test_a_path_that_is_too_long(tmp_path):
    path = tmp_path / ("x" * 120)
    check(nbdctl("disk", "list", socket=path), 2, str(path), "too long for a socket (107 bytes")


def test_where_the_socket_is_looked_for(tmp_path, fake):
    fake.answers["disk.list"] = {"disks": [], "next_cursor": None}
    env = {"NBDD_SOCKET": fake.path}
    assert nbdctl("disk", "list", env=env).status == 0
    check(nbdctl("disk", "list", env={"NBDD_SOCKET": "/other"}), 2, "/other")
    assert nbdctl("disk", "list", env={"NBDD_SOCKET": "/other"}, socket=fake.path).status == 0
    if os.geteuid() == 0:
        check(nbdctl("disk", "list"), 2, "/run/nbdd/control.sock")


def test_where_an_ordinary_user_looks():
    user = nobody()
    check(nbdctl("disk", "list", user=user, env={"XDG_RUNTIME_DIR": "/run/x"}), 2,
          "/run/x/nbdd/control.sock")  # fmt: skip
    check(nbdctl("disk", "list", user=user, env={"XDG_RUNTIME_DIR": None}), 2,
          f"/run/user/{user}/nbdd/control.sock")  # fmt: skip


# --- what answers is no daemon, or a sick one ---

GARBAGE = [
    (b"hello\n", "no JSON text"),
    (b"\n", "no JSON text"),
    (b"\xff\xfe\n", "no JSON text"),
    (b"[1]\n", "no JSON object"),
    (b"{}\n", "to another request"),
    (b'{"jsonrpc":"2.0","id":2,"result":{}}\n', "to another request"),
    (b'{"jsonrpc":"2.0","id":1,"result":[]}\n', "neither a result object nor an error"),
    (b'{"jsonrpc":"2.0","id":1,"error":"x"}\n', "neither a result object nor an error"),
    (b'{"jsonrpc":"2.0","id":1}\n', "neither a result object nor an error"),
    (b"[" * 100000 + b"\n", "no JSON text"),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no JSON text"),
    (b"", "closed the connection"),
    (b'{"jsonrpc":"2.0","id":1,"resu', "in the middle of a line"),
]


@pytest.mark.parametrize("data, text", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("words", [("disk", "list"), ("event", "subscribe"), ("bitmap", "map", "d", "b"),
                                   ("call", "disk.list")], ids="-".join)  # fmt: skip
def test_garbage(fake, data, text, words):
    for method in ("disk.list", "disk.show", "event.subscribe"):
        fake.answers[method] = Raw(data)
    check(nbdctl(*words, socket=fake.path), 2, fake.path, text)


@pytest.mark.parametrize(
    "result",
    [{}, {"disks": 5}, {"disks": [5, None, {}, []]}, {"disks": [{"name": 5, "size": "x", "exports": {}}]}],
    ids=range(4),
)
def test_results_of_another_shape_do_no_harm(fake, result):
    for method in ("disk.list", "disk.show", "stats", "bitmap.extents", "daemon.info", "disk.remove"):
        fake.answers[method] = result
    for words in (["disk", "list"], ["disk", "show", "a"], ["stats"], ["bitmap", "extents", "a", "b"],
                  ["daemon", "info"], ["disk", "remove", "a"]):  # fmt: skip
        assert nbdctl(*words, socket=fake.path).status == 0


def test_a_silent_daemon_and_a_timeout(fake):
    fake.answers["disk.list"] = Raw(b"", stay=True)
    check(nbdctl("disk", "list", "--timeout", "0.3", socket=fake.path), 7,
          f"no answer on {fake.path} within 0.3 s (--timeout)")  # fmt: skip


def test_half_an_answer_and_a_timeout(fake):
    fake.answers["disk.list"] = Raw(b'{"jsonrpc":', stay=True)
    check(nbdctl("--timeout=0.3", "disk", "list", socket=fake.path), 7, "no answer on")


def test_nobody_accepts(tmp_path):
    path = str(tmp_path / "full.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        waiting = []
        while True:  # fill the queue
            one = socket.socket(socket.AF_UNIX)
            one.setblocking(False)
            waiting.append(one)
            try:
                one.connect(path)
            except BlockingIOError:
                break
        check(nbdctl("disk", "list", "--timeout", "0.3", socket=path), 7,
              "the daemon does not take connections")  # fmt: skip
        for one in waiting:
            one.close()


def test_a_daemon_that_does_not_read(tmp_path):
    path = str(tmp_path / "deaf.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        params = json.dumps({"name": "x" * 900000})
        check(nbdctl("call", "disk.show", "-", "--timeout", "0.3", socket=path, stdin=params), 7,
              "the daemon does not take the request")  # fmt: skip


def test_a_person_is_told_that_we_wait(fake):
    told = threading.Event()

    def answer(_params):
        told.wait(120)
        return {"disks": [], "next_cursor": None}

    def watch(text):
        if b"nbdctl: still waiting for an answer" in text:
            told.set()

    fake.answers["disk.list"] = answer
    result = on_terminal("disk", "list", socket=fake.path, watch=watch)
    assert result.status == 0 and told.is_set(), result


def test_long_answers(fake):
    """One line of many megabytes."""
    result = {"text": ["x" * 1000] * 20000}
    fake.answers["x.y"] = result
    done = nbdctl("call", "x.y", "--json", socket=fake.path)
    assert done.status == 0 and json.loads(done.out) == result


def test_requests_that_are_too_long(fake):
    params = json.dumps({"name": "x" * (1 << 20)})
    check(nbdctl("call", "disk.show", "-", socket=fake.path, stdin=params), 3,
          "the request has", "1048576 at most")  # fmt: skip
    assert fake.calls == []


def test_notifications_before_the_answer_are_passed_over(fake):
    fake.answers["disk.list"] = Raw(
        b'{"jsonrpc":"2.0","method":"event","params":{}}\n'
        b'{"jsonrpc":"2.0","id":1,"result":{"disks":[],"next_cursor":null}}\n'
    )
    assert nbdctl("disk", "list", socket=fake.path).out == "There are no disks.\n"


def test_output_that_cannot_be_written(fake):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    fake.answers["disk.list"] = {"disks": [], "next_cursor": None}
    with open("/dev/full", "w") as full:
        result = nbdctl("disk", "list", socket=fake.path, stdout=full)
    assert result.status == 1
    assert re.search("cannot write to standard output: No space left", result.err)
