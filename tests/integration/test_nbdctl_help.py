"""Help, version and suggestions: no daemon is asked."""

import json
import re

import pytest

import harness
from ctl_runner import nbdctl, on_terminal

SOCKET = "/nonexistent/nbdd.sock"


def methods():
    return sorted(harness.schema().methods)


def words_of(method):
    return method.split(".")


def good(*words):
    result = nbdctl(*words, socket=SOCKET)
    assert result.status == 0 and result.err == "", result
    return result.out


def wrong(*words):
    result = nbdctl(*words, socket=SOCKET)
    assert result.status == 3 and result.out == "", result
    return result.err


def test_overview_names_every_command():
    text = good("help")
    for method in methods():
        assert re.search(rf"^  {' '.join(words_of(method))}  ", text, re.M), method
    for own in ("bitmap map", "call", "help"):
        assert re.search(rf"^  {own}  ", text, re.M), own
    assert "__names" not in text
    assert "Exit status" in text
    for words in (["--help"], ["-h"], ["--json", "--help"]):
        assert good(*words) == text


def test_help_and_manual_say_the_same():
    """What is nbdctl's own stands in its C and, for the manual page, in schema/nbdctl.json."""
    own = json.loads((harness.REPO / "schema" / "nbdctl.json").read_text())
    text = " ".join(good("help").split())
    for flag in own["flags"]:
        value = " " + flag["value"] if "value" in flag else ""
        assert f"--{flag['flag']}{value} {flag['description']}" in text
    for command in own["commands"]:
        name = " ".join(filter(None, (command["noun"], command.get("verb"))))
        assert f"{name} {command['summary']}" in text
    for status, meaning in own["exit_status"].items():
        assert f"{status} {meaning}" in text


def test_every_command_has_help():
    document = harness.schema().document["methods"]
    for method in methods():
        text = good(*words_of(method), "--help")
        assert text.startswith(f"usage: nbdctl {' '.join(words_of(method))}")
        assert text == good("help", *words_of(method)) == good(*words_of(method), "-h")
        for name, field in document[method]["params"].get("properties", {}).items():
            flag = "--" + name.replace("_", "-")
            assert flag in text or flag.replace("--", "--no-") in text or name.upper() in text \
                or name.upper().rstrip("S") in text, (method, name)  # fmt: skip


def test_help_needs_no_arguments_and_heeds_none():
    text = good("disk", "add", "--help")
    for words in (["disk", "add", "a", "b", "c", "--help"], ["disk", "--help", "add"],
                  ["--help", "disk", "add"], ["disk", "add", "--read-only", "-h"]):  # fmt: skip
        assert good(*words) == text


def test_nouns():
    text = good("help", "disk")
    assert text == good("disk", "--help")
    for verb in ("add", "list", "show", "refresh", "remove"):
        assert re.search(rf"^  disk {verb} ", text, re.M)
    assert "export" not in text.replace("exports", "")
    assert good("help", "stats") == good("stats", "--help")


def test_wrapped_for_the_terminal():
    for columns in (40, 80, 200):
        text = on_terminal("export", "set", "--help", columns=columns, env={"NO_COLOR": "1"}).out
        longest = max(len(line) for line in text.splitlines() if not line.startswith("      nbdctl"))
        assert longest <= min(columns, 100) or columns == 40, text


def test_version():
    assert re.fullmatch(r"nbdctl \d+\.\d+\.\d+\n", good("--version"))
    assert good("disk", "list", "--version") == good("--version")


def test_no_command_is_a_usage_error():
    assert wrong().startswith("nbdctl: what shall I do?\nusage: nbdctl NOUN VERB")
    assert wrong("disk").startswith("nbdctl: disk what?\nThere are: add, list, refresh, remove, show\n")


@pytest.mark.parametrize(
    "words, near",
    [
        (["dsk", "list"], '"disk"'),
        (["bitmaps"], '"bitmap"'),
        (["disk", "lst"], '"disk list"'),
        (["export", "delete"], None),
        (["help", "disk", "shw"], '"disk show"'),
        (["help", "lisetner"], '"listener"'),
        (["disk", "list", "--jsno"], "--json"),
        (["--sokcet", "x", "disk", "list"], "--socket"),
        (["bitmap", "add", "d", "b", "--granularty", "1"], "--granularity"),
        (["export", "set", "e", "--allows", "x"], "--allow"),
        (["event", "subscribe", "--topics", "clients"], "client"),
    ],
)
def test_suggestions(words, near):
    text = wrong(*words)
    if near is None:
        assert "did you mean" not in text
    else:
        assert f"did you mean {near}?" in text


def test_nothing_was_asked_of_a_daemon_before_the_line_is_right():
    """The socket does not exist: status 3, not 2."""
    for words in (["disk", "add"], ["disk", "add", "a"], ["bitmap", "add", "a", "b", "--granularity", "x"],
                  ["client", "disconnect", "x"], ["export", "add", "e"], ["bitmap", "map", "a"], ["call"],
                  ["transaction"], ["help", "a", "b", "c"], ["call", "x.y", "novalue"]):  # fmt: skip
        wrong(*words)
