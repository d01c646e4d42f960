"""daemon/quickstart does what it says, wherever it is started, and leaves nothing behind."""

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from harness import BUILD, FLAVOUR, REPO, run, wait_for

pytestmark = pytest.mark.skipif(
    FLAVOUR != "plain" or BUILD != REPO / "build",
    reason="the quickstart makes and uses build/, the plain build")


def demos():
    return set(Path("/tmp").glob("nbdd-demo.*"))


@pytest.mark.long
def test_it_shows_the_whole_road_and_cleans_up(tmp_path):
    before, start = demos(), time.monotonic()
    text = run(REPO / "daemon" / "quickstart", cwd=tmp_path, timeout=180)
    assert time.monotonic() - start < 60, "it should take less than a minute"
    assert demos() == before, "its folder is left"
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
def test_keep_leaves_the_daemon_and_says_how_to_go_on(tmp_path):
    text = run(REPO / "daemon" / "quickstart", "--keep", cwd=tmp_path, timeout=180)
    process = int(re.search(r"The daemon \(process (\d+)\)", text).group(1))
    folder = Path(re.search(r"rm -r (\S+)", text).group(1))
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
def test_it_works_from_a_path_with_spaces(tmp_path):
    """A copy of the sources, built from nothing."""
    copy = tmp_path / "a copy of it"
    names = run("git", "-C", REPO, "ls-files", "-z").split("\0")
    for name in filter(None, names):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, copy / name)
    text = run(copy / "daemon" / "quickstart", cwd="/", timeout=300)
    assert re.search(r"^identical$", text, re.M)
    assert (copy / "build" / "daemon" / "nbdd").exists()


def test_a_wrong_option_is_a_usage_error(tmp_path):
    status, text = run(REPO / "daemon" / "quickstart", "--nonsense", check=False, cwd=tmp_path)
    assert status == 3
    assert "--keep" in text
    status, _ = run(REPO / "daemon" / "quickstart", "--help", check=False, cwd=tmp_path)
    assert status == 0
