"""What is generated from the schema: the generator's own checks, manual pages, completion."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("NBDD_BUILD", ROOT / "build"))
SCHEMA = ROOT / "schema"


# --- the generator refuses what is wrong ---

@pytest.fixture
def copy(tmp_path):
    """A copy of the schema to spoil."""
    target = tmp_path / "schema"
    shutil.copytree(SCHEMA, target, ignore=shutil.ignore_patterns("__pycache__", "sql"))
    return target


def generate(folder, *arguments, **environment):
    return subprocess.run([sys.executable, str(folder / "generate.py"), *arguments],
                          capture_output=True, text=True, check=False,
                          env=dict(os.environ, **environment))


def edit(folder, name, change):
    """Changes one file and gives it its layout, so that only the change can be at fault."""
    path = folder / name
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")
    assert generate(folder, "--format").returncode == 0


def test_schema_is_right(copy):
    done = generate(copy, "--check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def method(change, name="disk.add"):
    return "methods/%s.json" % name, change


def param(name, **keys):
    return method(lambda d: d["params"][name].update(keys))


WRONG = {
    "no description": method(lambda d: d["params"]["name"].pop("description")),
    "empty description": param("name", description=""),
    "no full stop": param("name", description="Name of the disk"),
    "no summary": method(lambda d: d.pop("summary")),
    "no access": method(lambda d: d.pop("access")),
    "unknown access": method(lambda d: d.update(access="root")),
    "read that mutates": method(lambda d: d.update(access="read")),
    "no errors": method(lambda d: d.pop("errors")),
    "unknown error": method(lambda d: d["errors"].append("zz")),
    "errors unsorted": method(lambda d: d["errors"].reverse()),
    "no examples": method(lambda d: d.update(examples=[])),
    "unknown key": method(lambda d: d.update(level="admin")),
    "unknown key of a field": param("name", place=True),
    "unknown type": param("name", type="nothing"),
    "default of the wrong type": param("cache", default=1),
    "default that is no value": param("cache", default="none"),
    "optional with default": param("cache", optional=True),
    "positional behind flags": param("cache", positional=True),
    "name of a field": method(lambda d: d["params"].update({"Name": d["params"]["name"]})),
    "generated parameter": method(lambda d: d["params"].update(
        dry_run={"type": "boolean", "default": False, "description": "Dry."})),
    "number without unit": method(lambda d: d["params"]["limit"].update(description="How far."),
                                  "bitmap.extents"),
    "default out of bounds": method(lambda d: d["params"]["limit"].update(default=0),
                                    "bitmap.extents"),
    "bound of a list of values": method(lambda d: d["params"]["topics"].update(maximum=6),
                                        "event.subscribe"),
    "inline and in transactions": method(lambda d: d.update(inline=True)),
    "no such result": method(lambda d: d.update(result="nothing")),
    "one_of that is required": method(lambda d: d.update(one_of=["name", "path"])),
    "names of no noun": param("name", names="disks"),
    "example that lacks a parameter": method(lambda d: d["examples"][0]["params"].pop("name")),
    "example with an unknown parameter": method(lambda d: d["examples"][0]["params"].update(x=1)),
    "example with a wrong value": method(lambda d: d["examples"][0]["params"].update(cache="no")),
    "example that lacks a member": method(lambda d: d["examples"][0]["result"].pop("size")),
    "example of another error": method(lambda d: d["examples"][1].update(error="tls")),
    "error that goes without saying": method(lambda d: d["errors"].insert(1, "io")),
    "example without result": method(lambda d: d["examples"][0].pop("result")),
    "setup of no method": method(lambda d: d["examples"][2]["setup"][0].update(method="disk.ad")),
    "two errors of one code": ("errors/busy.json", lambda d: d.update(code=1001)),
    "exit status of no meaning": ("errors/busy.json", lambda d: d.update(exit_status=77)),
    "topic without file": ("types/event-topic.json", lambda d: d["values"].update(zz="Z.")),
    "type of no use": ("types/unused.json", None),
}


@pytest.mark.parametrize("what", sorted(WRONG))
def test_refused(copy, what):
    name, change = WRONG[what]
    if change is None:
        (copy / name).write_text('{\n  "description": "It.",\n  "values": {"a": "A."}\n}\n',
                                 encoding="utf-8")
    else:
        edit(copy, name, change)
    done = generate(copy, "--check")
    assert done.returncode == 1
    assert done.stderr.startswith("schema: ") and "Traceback" not in done.stderr
    assert name in done.stderr or what in ("two errors of one code", "exit status of no meaning")


def test_layout_and_duplicates_refused(copy):
    path = copy / "methods" / "disk.add.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"access": "admin"', '"access":  "admin"'), encoding="utf-8")
    assert "--format" in generate(copy, "--check").stderr
    path.write_text(text.replace('"access"', '"access": "read",\n  "access"'), encoding="utf-8")
    assert "there twice" in generate(copy, "--check").stderr
    path.write_text(text[:-3], encoding="utf-8")
    assert generate(copy, "--check").returncode == 1


OUTPUTS = {"api": 2, "dispatch": 2, "cli": 2, "openrpc": 2, "schema": 1, "man": 2, "completion": 1}


@pytest.mark.parametrize("output", sorted(OUTPUTS))
def test_same_input_same_output(tmp_path, output):
    texts = []
    for seed in ("1", "2"):
        files = [tmp_path / ("%s-%s-%d" % (output, seed, i)) for i in range(OUTPUTS[output])]
        done = generate(SCHEMA, output, *map(str, files), PYTHONHASHSEED=seed)
        assert done.returncode == 0, done.stderr
        texts.append([file.read_bytes() for file in files])
    assert texts[0] == texts[1]


def test_method_without_handler_does_not_link():
    """The table of methods refers to a handler of each by name: the linker must find it."""
    objects = subprocess.run(["nm", str(BUILD / "schema" / "libdispatch.a")], capture_output=True,
                             text=True, check=True).stdout
    wanted = set(re.findall(r" U (\w+)", objects))
    for path in (SCHEMA / "methods").glob("*.json"):
        data = json.loads(path.read_text(encoding="utf-8"))
        name = path.stem.replace(".", "_")
        if data.get("transaction"):
            assert {"action_" + name, "describe_" + name} <= wanted
        elif data.get("handler") == "control":
            assert "control_" + name in wanted
        else:
            assert "method_" + name in wanted


# --- manual pages ---

@pytest.mark.parametrize("page", ["nbdctl.1", "nbdd.8"])
def test_manual_page_is_clean_roff(page):
    if not shutil.which("groff"):
        pytest.skip("no groff")
    done = subprocess.run(["groff", "-ww", "-man", "-Tutf8", str(BUILD / "schema" / page)],
                          capture_output=True, text=True, check=True)
    assert done.stderr == ""


def plain_page(page):
    """The page without roff."""
    text = (BUILD / "schema" / page).read_text(encoding="utf-8")
    return re.sub(r"\\f.", "", text).replace("\\-", "-")


def test_manual_page_has_every_option():
    done = subprocess.run([str(BUILD / "daemon" / "nbdd"), "--help"], capture_output=True,
                          text=True, check=True)
    options = set(re.findall(r"--[a-z][a-z-]+", done.stdout))
    assert len(options) > 5
    page = plain_page("nbdd.8")
    assert [option for option in sorted(options) if option not in page] == []


def test_manual_page_has_every_command():
    page = plain_page("nbdctl.1")
    for path in (SCHEMA / "methods").glob("*.json"):
        assert "\n.SS nbdctl %s\n" % path.stem.replace(".", " ") in page


# --- completion ---

FAKE = """#!/bin/sh
[ "$1" = --socket ] && { [ "$2" = /other ] || exit 2; shift 2; set -- "$@" other; }
case "$*" in
"__names disk") echo vm1; echo vm2 ;;
"__names disk other") echo far ;;
"__names export") echo vm1/a ;;
"__names bitmap vm1") echo b0; echo b1 ;;
"__names client") echo 17 ;;
*) exit 2 ;;
esac
"""

CASES = [
    ("", {"disk", "export", "bitmap", "call", "help", "stats"}, {"add"}),
    ("di", {"disk"}, {"export"}),
    ("disk ", {"add", "list", "remove", "show"}, {"disk"}),
    ("disk show ", {"vm1", "vm2"}, {"b0"}),
    ("disk show vm2", {"vm2"}, {"vm1"}),
    ("disk add ", set(), {"vm1"}),
    ("disk add vm3 --", {"--cache", "--read-only", "--dry-run", "--json"}, {"--name", "--path"}),
    ("disk add vm3 --cache ", {"writeback", "direct"}, {"vm1"}),
    ("disk add vm3 --cache d", {"direct"}, {"writeback"}),
    ("disk add --cache direct vm3 --if-exists ", {"fail", "same"}, set()),
    ("bitmap ", {"add", "map", "merge"}, set()),
    ("bitmap show ", {"vm1"}, {"b0"}),
    ("bitmap show vm1 ", {"b0", "b1"}, {"vm1"}),
    ("bitmap merge vm1 b0 b", {"b0", "b1"}, set()),
    ("bitmap merge vm1 b0 b1 b", {"b0", "b1"}, set()),
    ("bitmap list --disk ", {"vm1"}, set()),
    ("bitmap add vm1 b0 --", {"--no-recording", "--granularity"}, {"--recording"}),
    ("bitmap map vm1 ", {"b0"}, set()),
    ("export set ", {"vm1/a"}, {"vm1"}),
    ("export set vm1/a --no-", {"--no-read-only", "--no-allow"}, set()),
    ("client disconnect ", {"17"}, set()),
    ("--json --socket /other disk show ", {"far"}, {"vm1"}),
    ("stats --", {"--export", "--json"}, set()),
    ("call disk.", {"disk.add", "disk.show"}, {"export.add"}),
    ("help disk ", {"add", "show"}, set()),
    ("nonsense ", set(), {"add"}),
]


@pytest.mark.parametrize("line, expected, unexpected", CASES, ids=[case[0] for case in CASES])
def test_completion(tmp_path, line, expected, unexpected):
    fake = tmp_path / "nbdctl"
    fake.write_text(FAKE, encoding="utf-8")
    fake.chmod(0o755)
    script = """
        source "$1"
        shift
        COMP_WORDS=(nbdctl "$@")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _nbdctl
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-uc", script, "bash", str(BUILD / "schema" / "nbdctl.bash"), *line.split(" ")],
        capture_output=True, text=True, check=True,
        env=dict(os.environ, PATH="%s:%s" % (tmp_path, os.environ["PATH"])))
    got = set(done.stdout.split())
    assert done.stderr == ""
    assert expected <= got and not unexpected & got


def test_completion_passes_shellcheck():
    if not shutil.which("shellcheck"):
        pytest.skip("no shellcheck")
    done = subprocess.run(["shellcheck", str(BUILD / "schema" / "nbdctl.bash")],
                          capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
