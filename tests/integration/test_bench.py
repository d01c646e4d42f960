"""The bench works: every kind of work runs against nbdd and its peers and is reported. No figure of
it is looked at: a quick run's mean nothing."""

import json
import os
import sys
import tempfile
import xml.etree.ElementTree as xml

import pytest

import harness
from harness import run

BENCH = harness.REPO / "tests" / "bench"
sys.path.insert(0, str(BENCH))
import report  # noqa: E402

pytestmark = [
    pytest.mark.skipif(harness.FLAVOUR != "plain", reason="a bench of a sanitizer means nothing"),
]


def bench(program, tmp_path, *words):
    """What it printed, its JSON, its Markdown."""
    # Its disks want a file system that knows O_DIRECT.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        out = run(BENCH / program, "--quick", "--folder", folder, "--json", tmp_path / "out.json",
                  "--markdown", tmp_path / "out.md", *words,
                  env={"NBDD_BUILD": str(harness.BUILD)})
        assert not os.listdir(folder), "it leaves its disks behind"
    return out, json.loads((tmp_path / "out.json").read_text()), (tmp_path / "out.md").read_text()


def test_peers(tmp_path):
    out, data, markdown = bench("run", tmp_path, "--svg", tmp_path / "out.svg")
    measured = 0
    for work in data["works"]:
        assert len(work["results"]["nbdd"]["samples"]) == 1, work
        assert work["title"] in out and work["title"] in markdown
        measured += sum("median" in found for found in work["results"].values())
    # Not every peer can do everything, but most of it.
    assert measured >= 2.5 * len(data["works"]), out
    picture = xml.parse(tmp_path / "out.svg")
    assert len(picture.findall("{http://www.w3.org/2000/svg}rect")) > len(data["works"]) / 2


def test_tracking(tmp_path):
    _, data, markdown = bench("tracking", tmp_path)
    found = data["found"]
    assert {"off", "warm"} <= set(found["warm"])
    # Tracking that is warm, or off, makes nothing durable; each cold touch waits for a commit.
    assert all(sample["syncs"] == 0 for sample in found["warm"]["off"])
    assert found["cold-1"]["cold"][0]["syncs"] >= found["cold-1"]["cold"][0]["requests"]
    assert "first touches for each fsync" in markdown


def test_ratio_is_to_the_best_peer():
    def results(*medians):
        names = ("nbdd", "a", "b")
        return {name: {"samples": [], "median": value} for name, value in zip(names, medians)}

    rates = {"less_is_better": False, "results": results(300, 100, 150)}
    assert report.best_peer(rates) == "b"
    assert report.speed(rates, "nbdd", "b") == 2
    times = {"less_is_better": True, "results": results(2.0, 3.0, 5.0)}
    assert report.best_peer(times) == "a"
    assert report.speed(times, "nbdd", "a") == 1.5
