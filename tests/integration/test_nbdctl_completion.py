"""What is generated beside nbdctl: completion that completes in a real bash, and manual pages."""

import json
import os
import pty
import select
import shlex
import shutil
import subprocess
import time

import pytest

import harness
from ctl_runner import environment

SCRIPT = harness.BUILD / "schema" / "nbdctl.bash"
PAGES = {"nbdctl.1": "NBDCTL(1)", "nbdd.8": "NBDD(8)"}


class Bash:
    """An interactive bash in a terminal; type a line and a Tab and see what becomes of it."""

    def __init__(self, env=None):
        path = f"{harness.NBDCTL.parent}:{os.environ['PATH']}"
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"], stdin=slave, stdout=slave, stderr=slave,
            env=environment({"PATH": path, "PS1": "READY> ", "TERM": "dumb", "INPUTRC": "/dev/null",
                             **(env or {})}),
            start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.until("READY> ")
        self.type("bind 'set enable-bracketed-paste off'; bind 'set completion-query-items 1000'\n")
        self.type("bind 'set page-completions off'\n")
        self.type(f"source {shlex.quote(str(SCRIPT))}; stty -echoctl\n")

    def until(self, text, seconds=20):
        seen, end = "", time.monotonic() + seconds * harness.SLOW
        while text not in seen:
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            assert ready, f"no {text!r} in {seen!r}"
            seen += os.read(self.master, 65536).decode()
        return seen

    def type(self, text):
        os.write(self.master, text.encode())
        return self.until("READY> ")

    def complete(self, line):
        """The line after Tab: `echo` in front makes bash show it as it would be run."""
        os.write(self.master, line.encode() + b"\t\x01echo \"[[\" \x05 \"]]\"\n")
        seen = self.until("READY> ")
        while "]]\r\n" not in seen:
            seen += self.until("READY> ")
        return seen.split("[[ ")[-1].split(" ]]")[0]

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def bash():
    shell = Bash()
    yield shell
    shell.close()


def offered(line, socket=None):
    """What the completion function offers for the end of the line: as bash calls it, without a
    terminal."""
    script = f"""
        source {shlex.quote(str(SCRIPT))}
        compopt() {{ :; }}
        COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _nbdctl
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    env = {"PATH": f"{harness.NBDCTL.parent}:{os.environ['PATH']}"}
    if socket:
        env["NBDD_SOCKET"] = str(socket)
    text = harness.run("bash", "-c", script, env=env)
    return sorted(text.split())


def test_in_a_real_bash(bash):
    assert bash.complete("nbdctl lis") == "nbdctl listener"
    assert bash.complete("nbdctl disk refr") == "nbdctl disk refresh"
    assert bash.complete("nbdctl disk add --read") == "nbdctl disk add --read-only"
    assert bash.complete("nbdctl disk add --cache dir") == "nbdctl disk add --cache direct"
    assert bash.complete("nbdctl disk add --cache=dir") == "nbdctl disk add --cache=direct"


def test_names_in_a_real_bash(daemon):
    daemon.serve("a-long-name")
    shell = Bash({"NBDD_SOCKET": str(daemon.socket)})
    try:
        assert shell.complete("nbdctl disk show a-l") == "nbdctl disk show a-long-name"
    finally:
        shell.close()


def test_nouns_and_verbs():
    nouns = offered("nbdctl ''")
    methods = harness.schema().methods
    assert set(nouns) == {method.split(".")[0] for method in methods} | {"call", "help"}
    for noun in nouns:
        verbs = {method.split(".")[1] for method in methods if method.startswith(noun + ".")}
        if noun == "bitmap":
            verbs.add("map")
        if verbs:
            assert set(offered(f"nbdctl {noun} ''")) == verbs
    assert offered("nbdctl d") == ["daemon", "disk"]
    assert offered("nbdctl help b") == ["bitmap"]
    assert "map" in offered("nbdctl help bitmap m")
    assert offered("nbdctl call disk.a") == ["disk.add"]


def test_flags_and_their_values(tmp_path):
    flags = offered("nbdctl export set e --")
    for flag in ("--read-only", "--no-read-only", "--allow", "--no-allow", "--dry-run", "--json"):
        assert flag in flags
    assert offered("nbdctl export set e --sharing s") == ["shared", "single-writer"]
    assert offered("nbdctl export set e --sharing = s") == ["shared", "single-writer"]
    assert offered("nbdctl export set e --sharing =") == ["exclusive", "shared", "single-writer"]
    assert offered("nbdctl --json export set e --sharing exc") == ["exclusive"]
    assert offered("nbdctl --timeout 5 disk l") == ["list"]
    assert offered("nbdctl bitmap add d b --granularity ''") == []
    (tmp_path / "image.img").touch()
    assert offered(f"nbdctl disk add d {tmp_path}/im") == [f"{tmp_path}/image.img"]
    assert offered(f"nbdctl export add d --path {tmp_path}/im") == [f"{tmp_path}/image.img"]
    assert offered(f"nbdctl --socket {tmp_path}/im") == [f"{tmp_path}/image.img"]


def test_names_come_from_the_daemon(daemon):
    daemon.serve("one")
    daemon.serve("two")
    daemon.call("bitmap.add", disk="two", name="b2")
    socket = daemon.socket
    assert offered("nbdctl disk show ''", socket) == ["one", "two"]
    assert offered("nbdctl export set t", socket) == ["two"]
    assert offered("nbdctl bitmap show two ''", socket) == ["b2"]
    assert offered("nbdctl bitmap map two ''", socket) == ["b2"]
    assert offered("nbdctl bitmap show one ''", socket) == []
    assert offered("nbdctl bitmap list --disk o", socket) == ["one"]
    assert offered(f"nbdctl --socket {socket} disk remove o") == ["one"]
    assert offered("nbdctl disk show ''", "/nonexistent") == []


@pytest.mark.parametrize("page", PAGES)
def test_manual_pages(page):
    if not shutil.which("man"):
        pytest.skip("no man")
    path = harness.BUILD / "schema" / page
    for width in ("60", "80", "120"):
        done = subprocess.run(
            ["man", "--warnings", "-l", str(path)], capture_output=True, text=True,
            env=environment({"MANWIDTH": width, "MANPAGER": "cat"}), timeout=60 * harness.SLOW,
        )  # fmt: skip
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert PAGES[page] in done.stdout
    if page == "nbdctl.1":
        assert "EXIT STATUS" in done.stdout
        for method in harness.schema().methods:
            assert f"   nbdctl {method.replace('.', ' ')}\n" in done.stdout, method


def test_what_is_installed(tmp_path):
    """meson's plan, not an installation."""
    text = harness.run("meson", "introspect", "--installed", harness.BUILD, check=False)[1]
    if not text.startswith("{"):
        pytest.skip("no meson introspection of this build")
    names = {path.split("/")[-1]: path for path in json.loads(text).values()}
    assert names["nbdctl"].endswith("/bin/nbdctl")
    assert names["nbdctl.1"].endswith("/man/man1/nbdctl.1")
    assert names["nbdd.8"].endswith("/man/man8/nbdd.8")
    assert names["nbdctl.bash"].endswith("/bash-completion/completions/nbdctl.bash")
