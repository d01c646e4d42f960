"""The README's console blocks are true: run as they stand, they answer what it says."""

import os
import shutil
import tempfile

import pytest

import console
from harness import BUILD, FLAVOUR, REPO


@pytest.fixture
def folder():
    """Short, as sockets have short paths."""
    name = tempfile.mkdtemp(prefix="nbdd-")
    yield name
    shutil.rmtree(name)


def follow(text, folder):
    env = dict(os.environ, LC_ALL="C.UTF-8", NO_COLOR="1", COLUMNS="100",
               PATH=f"{BUILD}/daemon:{BUILD}/ctl:{os.environ['PATH']}")
    env.pop("NBDD_SOCKET", None)
    return console.run(console.steps(text), folder, "nbdctl daemon info", env, timeout=300)


@pytest.mark.skipif(FLAVOUR != "plain", reason="the README shows the plain build")
def test_the_readme_answers_as_it_says(folder):
    text = (REPO / "README.md").read_text()
    assert len(console.steps(text)) > 10
    wrong = follow(text, folder)
    assert not wrong, wrong


def test_a_false_claim_is_noticed(folder):
    assert not follow("```console\n$ echo a; echo b\na\n...\n```\n", folder)
    assert not follow("```console\n$ printf '%s\\n' one-two x y three\none-...\n...\nthree\n```\n", folder)
    assert "should be" in follow("```console\n$ echo a\nb\n```\n", folder)
    assert "should be" in follow("```console\n$ echo a\n```\n", folder)
    assert "status 1" in follow("```console\n$ false\n```\n", folder)
    assert "ended before" in follow("```console\n$ exit 0\n$ echo a\na\n```\n", folder)
