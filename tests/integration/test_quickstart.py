"""daemon/quickstart does what it says, wherever it is started, and leaves nothing behind."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from harness import BUILD, FLAVOUR, REPO, run, wait_for

pytestmark = pytest.mark.skipif(
    FLAVOUR != "plain" or BUILD != REPO / "build",
    reason="the quickstart makes and uses build/, the plain build")


SCRIPT = REPO / "daemon" / "quickstart"


def quickstart(folder, *options, script=SCRIPT, cwd, env=()):
    return run(script, *options, cwd=cwd, timeout=300, env={"TMPDIR": str(folder), **dict(env)})


@pytest.fixture
def folder():
    """Where its temporary folder goes: a short path, as it has sockets in it."""
    with tempfile.TemporaryDirectory(prefix="nbdd-") as name:
        yield Path(name)


@pytest.mark.long
def test_it_shows_the_whole_road_and_cleans_up(folder, tmp_path):
    text = quickstart(folder, cwd=tmp_path)
    assert not list(folder.iterdir()), "something is left"
    assert "Images are identical." in text
    assert re.search(r"^identical$", text, re.M)
    dirty = re.search(r"^([\d.]+) MiB of 256 MiB copied$", text, re.M)
    assert dirty, text
    # 1 MiB, 300 KiB, 2 MiB and 4 MiB in blocks of 64 KiB
    assert 7.3 <= float(dirty.group(1)) <= 7.5
    for command in ("$ nbdd --state-dir", "$ nbdctl export add", "$ qemu-io", "$ nbdcopy",
                    "$ nbdinfo --map=qemu:dirty-bitmap:", "$ qemu-img map", "$ qemu-img compare"):
        assert command in text, command
    assert text.count("$ nbdd --state-dir") == 2, "the daemon was restarted"


@pytest.mark.long
def test_keep_leaves_the_daemon_and_says_how_to_go_on(folder, tmp_path):
    text = quickstart(folder, "--keep", cwd=tmp_path)
    process = int(re.search(r"The daemon \(process (\d+)\)", text).group(1))
    (folder,) = folder.iterdir()
    assert f"kill {process}; rm -r {folder}" in text
    try:
        assert (folder / "control.sock").is_socket() and (folder / "nbd.sock").is_socket()
        answer = run(BUILD / "ctl" / "nbdctl", "export", "list",
                     env={"NBDD_SOCKET": str(folder / "control.sock")})
        assert "demo" in answer
        run("nbdinfo", f"nbd+unix:///demo?socket={folder}/nbd.sock")
    finally:
        os.kill(process, signal.SIGTERM)
        assert wait_for(lambda: not Path(f"/proc/{process}").exists())
        shutil.rmtree(folder)


@pytest.mark.long
def test_it_works_from_a_path_with_spaces(folder, tmp_path):
    """A copy of the sources, built from nothing."""
    copy = tmp_path / "a copy of it"
    names = run("git", "-C", REPO, "ls-files", "-z").split("\0")
    for name in filter(None, names):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, copy / name)
    # (Compilers take a good part of what all tests take.)
    text = quickstart(folder, script=copy / "daemon" / "quickstart", cwd="/", env={"CFLAGS": "-O0 -g0"})
    assert re.search(r"^identical$", text, re.M)
    assert (copy / "build" / "daemon" / "nbdd").exists()


def test_a_wrong_option_is_a_usage_error(tmp_path):
    status, text = run(SCRIPT, "--nonsense", check=False, cwd=tmp_path)
    assert status == 3
    assert "--keep" in text
    status, _ = run(SCRIPT, "--help", check=False, cwd=tmp_path)
    assert status == 0


@pytest.mark.long
def test_it_cleans_up_when_its_reader_goes(folder):
    pipe = subprocess.Popen([SCRIPT], env=dict(os.environ, TMPDIR=str(folder)),
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert wait_for(lambda: list(folder.glob("*/nbd.sock")), 120)
    pipe.stdout.close()
    pipe.wait(120)
    assert not list(folder.iterdir()), "something is left"
