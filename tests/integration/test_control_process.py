"""The process: start, stop, signals, the socket and the state directory, a second daemon."""

import os
import signal
import socket
import stat
import subprocess
import time

import pytest

import harness
from rpc import Disconnected, Rpc


def ends(daemon, seconds=15):
    """(exit status, log) of a daemon that should refuse to start."""
    daemon.spawn()
    status = daemon.process.wait(seconds * harness.SLOW)
    daemon.process = None
    assert status > 0, f"ended with {status}: {daemon.log()}"
    return status, daemon.log()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_stop(daemon, sig):
    """SIGTERM and SIGINT stop cleanly: exit 0, the sockets are gone, the state stays."""
    assert daemon.socket.exists() and daemon.nbd_path.exists()
    daemon.stop(sig)
    assert not daemon.socket.exists()
    assert not daemon.nbd_path.exists()
    assert (daemon.state / "state.db").exists()


def test_state_directory(daemon):
    """Private to the daemon's user: one database and its lock."""
    assert stat.S_IMODE(os.stat(daemon.state).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(daemon.state / "state.db").st_mode) & 0o077 == 0


def test_hangup_is_no_end(daemon):
    """SIGHUP reloads credentials; without any nothing happens."""
    daemon.process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert daemon.call("daemon.info")["pid"] == daemon.process.pid


def test_sigpipe_and_sigusr_of_others_do_no_harm(daemon):
    daemon.process.send_signal(signal.SIGPIPE)
    time.sleep(0.1)
    assert daemon.call("daemon.info")["pid"] == daemon.process.pid


def test_info(daemon):
    info = daemon.call("daemon.info")
    assert info["name"] == "nbdd"
    assert info["pid"] == daemon.process.pid
    assert info["state_dir"] == str(daemon.state)
    assert info["socket"] == str(daemon.socket)
    assert info["access"] == "admin"
    assert info["stopping"] is False
    assert info["started_at"].endswith("Z")
    assert 0 <= info["uptime_seconds"] < 60
    assert {"clients", "handshake_seconds"} <= {
        limit["name"].replace("-", "_").removeprefix("max_") for limit in info["limits"]}


def test_discover(daemon):
    """rpc.discover answers an OpenRPC document that names every method."""
    document = daemon.call("rpc.discover")
    assert document["openrpc"].startswith("1.")
    assert {method["name"] for method in document["methods"]} == set(harness.schema().methods)


def test_stale_socket_is_replaced(daemon):
    """After kill -9 the socket file is still there; the next start proves it stale."""
    daemon.serve("disk")
    daemon.kill()
    assert daemon.socket.exists() and daemon.nbd_path.exists()
    daemon.start()
    assert daemon.call("disk.show", name="disk")["state"] == "ready"
    with daemon.open("disk") as wire:
        assert wire.read(0, 512).error == 0


def test_second_daemon_on_the_same_state(daemon, make_daemon):
    """... refuses to start and says who holds it; the first is not disturbed."""
    second = make_daemon(start=False)
    second.state = daemon.state
    _, log = ends(second)
    assert str(daemon.process.pid) in log, log
    assert str(daemon.state) in log
    assert daemon.call("daemon.info")["pid"] == daemon.process.pid
    assert not second.socket.exists()


def test_second_daemon_on_the_same_socket(daemon, make_daemon):
    second = make_daemon(start=False)
    second.socket = daemon.socket
    _, log = ends(second)
    assert str(daemon.socket) in log
    assert str(daemon.process.pid) in log, log
    daemon.drop_rpc()
    assert daemon.call("daemon.info")["pid"] == daemon.process.pid


def test_two_that_start_together(make_daemon):
    """Of several daemons started at once on a stale socket exactly one serves."""
    first = make_daemon()
    first.kill()
    others = [make_daemon(start=False) for _ in range(4)]
    for other in others:
        other.state, other.socket, other.listen = first.state, first.socket, False
        other.spawn()
    assert harness.wait_for(lambda: sum(o.process.poll() is not None for o in others) == 3)
    (alive,) = [other for other in others if other.process.poll() is None]
    assert harness.wait_for(lambda: answers(alive))
    assert alive.call("daemon.info")["pid"] == alive.process.pid
    for other in others:
        if other is not alive:
            assert other.process.returncode > 0
            other.process = None


def answers(daemon):
    try:
        return daemon.rpc.plain("daemon.info")
    except (OSError, Disconnected):
        daemon.drop_rpc()
        return None


def test_socket_path_taken_by_a_file(make_daemon):
    """A file that is no socket is not removed."""
    daemon = make_daemon(start=False)
    daemon.socket.write_text("precious")
    _, log = ends(daemon)
    assert daemon.socket.read_text() == "precious"
    assert str(daemon.socket) in log


def test_socket_path_taken_by_another_server(make_daemon):
    """A socket on which somebody else listens is not stolen."""
    daemon = make_daemon(start=False)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(daemon.socket))
        other.listen()
        ends(daemon)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(daemon.socket))


def test_nbd_socket_path_taken(make_daemon):
    """The same holds for the sockets of listeners; a stale one is replaced."""
    daemon = make_daemon(start=False)
    daemon.nbd_path.write_text("precious")
    ends(daemon)
    assert daemon.nbd_path.read_text() == "precious"
    daemon.nbd_path.unlink()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(daemon.nbd_path))
    daemon.start()
    with daemon.wire() as wire:
        wire.list_exports()


@pytest.mark.parametrize(
    "words",
    [
        ["--no-such-option"],
        ["--listen", "nonsense"],
        ["--listen", "tcp:127.0.0.1"],
        ["--listen", "tcp:127.0.0.1:99999"],
        ["--log-level", "loud"],
        ["--max-clients", "0"],
        ["--max-clients", "many"],
        ["stray"],
    ],
    ids=" ".join,
)
def test_wrong_command_lines(make_daemon, words):
    daemon = make_daemon(*words, start=False)
    _, log = ends(daemon)
    assert words[-1] in log or words[0] in log, log


def test_unwritable_state_directory(make_daemon):
    daemon = make_daemon(start=False)
    daemon.state.write_text("a file, not a directory")
    _, log = ends(daemon)
    assert str(daemon.state) in log


def test_help_and_version():
    text = harness.run(harness.NBDD, "--help")
    for word in ("--state-dir", "--socket", "--listen", "--log-level", "--access"):
        assert word in text
    assert "0." in harness.run(harness.NBDD, "--version")


def test_environment_and_defaults(tmp_path):
    """NBDD_SOCKET names the socket; without it an ordinary user's is in XDG_RUNTIME_DIR."""
    env = {"NBDD_SOCKET": str(tmp_path / "elsewhere"), "PATH": os.environ["PATH"]}
    process = subprocess.Popen(
        [harness.NBDD, "--state-dir", tmp_path / "state"], env=env, stderr=subprocess.DEVNULL)
    try:
        assert harness.wait_for(lambda: answers_at(tmp_path / "elsewhere"))
    finally:
        process.terminate()
        assert process.wait(60 * harness.SLOW) == 0


def answers_at(path):
    """What daemon.info answers there. A socket is there before anybody listens on it, and a process
    that is still starting has no idea of an orderly end."""
    try:
        with Rpc(str(path)) as connection:
            return connection.plain("daemon.info")
    except (OSError, Disconnected):
        return None


@pytest.mark.skipif(os.getuid() != 0, reason="changing the user needs root")
def test_defaults_of_an_ordinary_user():
    daemon = harness.Daemon(wrap=["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"])
    root = daemon.root
    os.chown(root, 54321, 54321)
    for name in ("runtime", "xdg"):
        (root / name).mkdir()
        os.chown(root / name, 54321, 54321)
    env = {"XDG_RUNTIME_DIR": str(root / "runtime"), "XDG_STATE_HOME": str(root / "xdg"),
           "PATH": os.environ["PATH"]}
    words = [*daemon.wrap, str(harness.NBDD)]
    process = subprocess.Popen(words, env=env, stderr=subprocess.PIPE)
    try:
        path = root / "runtime" / "nbdd" / "control.sock"
        assert harness.wait_for(lambda: answers_at(path) or process.poll() is not None)
        if process.poll() == 127:
            pytest.skip("the build cannot be reached by another user")
        assert process.poll() is None, process.stderr.read()
        assert (root / "xdg" / "nbdd" / "state.db").exists()
        assert answers_at(path)["socket"] == str(path)
    finally:
        process.terminate()
        assert process.wait(60 * harness.SLOW) in (0, 127)
        daemon.finish()


def test_log_says_what_it_does(daemon):
    """The log is for people: where it serves, and no more than that while nothing happens."""
    log = daemon.log()
    assert str(daemon.nbd_path) in log
    assert len(log) < 4000


def test_limits_from_the_command_line(make_daemon):
    daemon = make_daemon("--max-disks", 2)
    for name in ("a", "b"):
        daemon.call("disk.add", name=name, path=str(daemon.image(name)))
    daemon.refused("disk.add", "limit", name="c", path=str(daemon.image("c")))
    daemon.call("disk.remove", name="a")
    daemon.call("disk.add", name="c", path=str(daemon.image("c")))


def test_the_log_sends_no_escapes(daemon):
    """Whatever is in a name that others chose: one line, and nothing that a terminal obeys."""
    path = daemon.image("a\x1b[31m\u009b32m\nb.img")
    daemon.call("disk.add", name="a", path=str(path))
    daemon.stop()
    path.unlink()
    daemon.start()
    log = daemon.log_path.read_bytes()
    assert rb"a\x1b[31m\x9b32m\x0ab.img" in log, log
    assert "\u009b".encode() not in log and b"\x1b" not in log
