"""Runs nbdctl as a pipe or as a terminal would see it."""

import fcntl
import os
import pty
import pwd
import select
import struct
import subprocess
import termios
import time

import pytest

import harness


class Result:
    def __init__(self, status, out, err=""):
        self.status, self.out, self.err = status, out, err

    def __repr__(self):
        return f"status {self.status}\n{self.out}{self.err}"


def environment(env=None):
    """That of the tests without what would change nbdctl's output; None takes a variable away."""
    base = {key: value for key, value in os.environ.items()
            if key not in ("NBDD_SOCKET", "NO_COLOR", "COLUMNS", "TERM")}
    base.update(LC_ALL="C.UTF-8", TZ="UTC", TERM="xterm-256color")
    for key, value in (env or {}).items():
        if value is None:
            base.pop(key, None)
        else:
            base[key] = value
    return base


def nbdctl(*words, socket=None, env=None, stdin="", cwd=None, timeout=60, user=None,
           stdout=subprocess.PIPE):  # fmt: skip
    """Standard output and error are pipes."""
    command = [str(harness.NBDCTL)] + (["--socket", str(socket)] if socket else [])
    done = subprocess.run(
        command + [str(word) for word in words],
        input=stdin, text=True, stdout=stdout, stderr=subprocess.PIPE, env=environment(env),
        cwd=cwd, user=user, group=user, extra_groups=None if user is None else [], timeout=timeout * harness.SLOW,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)


def nobody(*readable):
    """The uid of an ordinary user who can run nbdctl and reach these folders."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    for folder in readable:
        os.chmod(folder, 0o755)
    uid = pwd.getpwnam("nobody").pw_uid
    try:
        subprocess.run([harness.NBDCTL, "--version"], user=uid, group=uid, extra_groups=[], check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
    except PermissionError:
        pytest.skip("an ordinary user cannot reach this build")
    return uid


def on_terminal(*words, socket=None, env=None, columns=80, lines=24, timeout=60, watch=None):
    """Everything is one terminal of that size; out has both streams, with \\n for \\r\\n. watch is shown
    all there is so far, whenever there is more."""
    command = [str(harness.NBDCTL)] + (["--socket", str(socket)] if socket else [])
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = subprocess.Popen(
        command + [str(word) for word in words],
        stdin=slave, stdout=slave, stderr=slave, env=environment(env), start_new_session=True,
    )
    os.close(slave)
    text, end = b"", time.monotonic() + timeout * harness.SLOW
    while True:
        ready, _, _ = select.select([master], [], [], max(0, end - time.monotonic()))
        assert ready, f"nbdctl does not end: {text!r}"
        try:
            part = os.read(master, 65536)
        except OSError:  # EIO: the other side is closed
            part = b""
        if not part:
            break
        text += part
        if watch:
            watch(text)
    os.close(master)
    return Result(process.wait(timeout * harness.SLOW), text.decode().replace("\r\n", "\n"))
