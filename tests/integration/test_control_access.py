"""Who may do what: the control socket's mode, the peer's credentials, access levels."""

import grp
import os
import pickle
import stat
import traceback

import pytest

import harness
from rpc import Rpc, RpcError

NOBODY, NOGROUP, OTHER = 65534, 65534, 54321

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="changing the user needs root")


def as_user(uid, gid, groups, function, *args):
    """Runs function in a child of that user and groups; what it returns, or raises here."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read_end)
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            try:
                outcome = (True, function(*args))
            except Exception as error:  # the parent raises it
                outcome = (False, f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
            with os.fdopen(write_end, "wb") as file:
                pickle.dump(outcome, file)
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as file:
        good, value = pickle.load(file)
    os.waitpid(child, 0)
    if not good:
        raise AssertionError(value)
    return value


def attempt(path, calls):
    """The kinds of error (or "ok") of each call, or the errno of connecting."""
    try:
        connection = Rpc(path)
    except OSError as error:
        return error.errno
    answers = []
    for method, params in calls:
        try:
            connection.plain(method, **params)
            answers.append("ok")
        except RpcError as error:
            answers.append(error.kind)
    level = connection.plain("daemon.info")["access"]
    connection.close()
    return level, answers


@pytest.fixture(scope="module")
def guarded():
    """A daemon that a group may reach: nobody operates, uid 54321 only reads."""
    daemon = harness.Daemon(
        args=["--socket-group", "nogroup", "--access", "operate=nobody", "--access",
              "admin=@games"])
    os.chmod(daemon.root, 0o755)
    try:
        daemon.start()
        daemon.serve("disk")
        yield daemon
    finally:
        daemon.finish()


# One call of each level; params that would do no harm.
CALLS = [
    ("disk.list", {}),
    ("disk.refresh", {"name": "disk"}),
    ("disk.add", {"name": "x", "path": "/nonexistent"}),
    ("export.remove", {"name": "disk", "dry_run": True}),
]


def test_socket_mode(daemon):
    """0660, owned by the daemon's user."""
    info = os.stat(daemon.socket)
    assert stat.S_ISSOCK(info.st_mode)
    assert stat.S_IMODE(info.st_mode) == 0o660
    assert info.st_uid == os.getuid()


def test_socket_group(guarded):
    info = os.stat(guarded.socket)
    assert stat.S_IMODE(info.st_mode) == 0o660
    assert info.st_gid == NOGROUP


def test_root_is_admin(guarded):
    level, answers = attempt(str(guarded.socket), CALLS)
    assert level == "admin"
    assert answers == ["ok", "ok", "not-found", "ok"]


def test_user_who_operates(guarded):
    level, answers = as_user(NOBODY, NOGROUP, [], attempt, str(guarded.socket), CALLS)
    assert level == "operate"
    assert answers == ["ok", "ok", "denied", "denied"]


def test_user_who_reads(guarded):
    """Whoever else may connect has `read`."""
    level, answers = as_user(OTHER, NOGROUP, [], attempt, str(guarded.socket), CALLS)
    assert level == "read"
    assert answers == ["ok", "denied", "denied", "denied"]


def test_user_who_may_not_connect(guarded):
    assert as_user(OTHER, OTHER, [], attempt, str(guarded.socket), CALLS) == 13  # EACCES


def test_group_as_a_supplementary_group(guarded):
    """@GROUP counts for primary and supplementary groups."""
    games = grp.getgrnam("games").gr_gid
    for gid, groups in ((games, [NOGROUP]), (NOGROUP, [games])):
        level, _ = as_user(OTHER, gid, groups, attempt, str(guarded.socket), [])
        assert level == "admin", (gid, groups)


def test_every_method_needs_its_level(guarded):
    """Every method states which level it needs; below it the answer is `denied`, before anything
    is said about the parameters."""
    schema = harness.schema()
    levels = {"read": 0, "operate": 1, "admin": 2}
    needs = {method: spec["access"] for method, spec in schema.methods.items()}
    calls = [(method, {"no such parameter": 1}) for method in needs]
    for uid, mine in ((OTHER, "read"), (NOBODY, "operate")):
        level, answers = as_user(uid, NOGROUP, [], attempt, str(guarded.socket), calls)
        assert level == mine
        for (method, _), answer in zip(calls, answers):
            refused = levels[needs[method]] > levels[mine]
            assert answer == ("denied" if refused else "invalid-params"), (method, mine)


def test_transaction_needs_what_its_actions_need(guarded):
    calls = [
        ("transaction", {"actions": [{"method": "bitmap.add", "params": {"disk": "disk", "name": "b"}}],
                         "dry_run": True}),
        ("transaction", {"actions": [{"method": "disk.remove", "params": {"name": "disk"}}]}),
        ("transaction", {"actions": [
            {"method": "bitmap.add", "params": {"disk": "disk", "name": "b"}},
            {"method": "export.remove", "params": {"name": "disk"}}]}),
    ]
    _, answers = as_user(NOBODY, NOGROUP, [], attempt, str(guarded.socket), calls)
    assert answers == ["ok", "denied", "denied"]
    assert not guarded.call("bitmap.list", disk="disk")["bitmaps"]


def test_same_user_is_admin():
    """The daemon's own uid is admin, and so is root; nbdd runs as an ordinary user."""
    words = ["setpriv", f"--reuid={OTHER}", f"--regid={NOGROUP}", "--clear-groups"]
    daemon = harness.Daemon(args=["--socket-group", "nogroup"], wrap=words)
    os.chown(daemon.root, OTHER, NOGROUP)
    os.chmod(daemon.root, 0o755)
    try:
        os.chmod(harness.NBDD, os.stat(harness.NBDD).st_mode | 0o555)
        if as_user(OTHER, NOGROUP, [], os.access, str(harness.NBDD), os.X_OK) is False:
            pytest.skip("the build cannot be reached by another user")
        daemon.log_path.touch()
        daemon.start()
        for uid in (OTHER, 0):
            level, _ = as_user(uid, NOGROUP, [], attempt, str(daemon.socket), [])
            assert level == "admin"
        level, _ = as_user(NOBODY, NOGROUP, [], attempt, str(daemon.socket), [])
        assert level == "read"
        image = daemon.image("own.img")
        os.chown(image, OTHER, NOGROUP)
        daemon.call("disk.add", name="own", path=str(image))
        private = daemon.image("private.img")
        os.chmod(private, 0o600)
        assert daemon.refused("disk.add", "io", name="p", path=str(private)).path == "/params/path"
    finally:
        daemon.finish()


@pytest.mark.parametrize("rule", ["boss=nobody", "admin", "admin=", "=nobody", "read=no_such_user_",
                                  "operate=@no_such_group_", ""])
def test_wrong_rules_are_refused_at_the_start(make_daemon, rule):
    daemon = make_daemon("--access", rule, start=False)
    daemon.spawn()
    assert daemon.process.wait(60 * harness.SLOW) not in (0, -6, -11)
    assert "access" in daemon.log()
    daemon.process = None
