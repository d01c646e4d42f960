"""tests/bench/run and its like: the command line, and one run from the builds to the reports."""

import argparse
import datetime
import json
import resource
import shutil
import sys
import time
from pathlib import Path

import build
import images
import machine
import picture
import report
import rounds
import servers
import works


def parser(name, text):
    found = argparse.ArgumentParser(prog=name, description=text)
    found.add_argument("--quick", action="store_true",
                       help="one short round with small disks, to see that the bench works")
    found.add_argument("--rounds", type=int, help="rounds (5)")
    found.add_argument("--seconds", type=float, help="of each sample that runs by time (0.5)")
    found.add_argument("--folder", default="/var/tmp", help="where disks and state lie (/var/tmp)")
    found.add_argument("--peers", choices=("newest", "installed", "all"), default="newest",
                       help="newest: each peer in the newest version that runs here, which "
                            "tests/newer-peers fetches; installed: those of the system")
    found.add_argument("--json", type=Path, help="write every sample there")
    found.add_argument("--svg", type=Path, help="draw the ratios there")
    found.add_argument("--markdown", type=Path, help="write the tables there")
    found.add_argument("--readme", type=Path, metavar="FILE",
                       help="put the short table into this file, between the marks for it")
    return found


def prepare(options):
    """(where images are, nbdd's server object, peers)"""
    build.install()
    newer = build.newer() if options.peers != "installed" and not options.quick else None
    daemon = build.daemon()
    load, counter = build.tools()
    # A thousand clients have a thousand descriptors.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    place = images.Images(options.folder, options.quick)
    # A copy: a build during a long run would change what is measured.
    nbdd = servers.Nbdd(shutil.copy(daemon, place.disk / "nbdd.program"), "nbdd", place.disk / "nbdd")
    return place, nbdd, servers.find_peers(newer, options.peers, place.disk), load, counter


def measure(options, chosen, name):
    place, nbdd, peers, load, _ = prepare(options)
    seconds = options.seconds or (0.2 if options.quick else 0.5)
    context = works.Context(place, load, seconds)
    count = options.rounds or (1 if options.quick else 5)
    runner = rounds.Rounds(context, [nbdd, *peers], count, choose=not options.quick)
    started, start = datetime.datetime.now(datetime.timezone.utc), time.monotonic()
    found = []
    try:
        for number, work in enumerate(chosen, 1):
            rounds.say(f"[{time.monotonic() - start:5.0f} s] {number}/{len(chosen)} {work.title}")
            found.append({"name": work.name, "group": work.group, "title": work.title,
                          "unit": work.unit, "aim": work.aim, "less_is_better": work.less_is_better,
                          "results": runner.run(work)})
        about = machine.describe(place, peers, build.commit())
    finally:
        place.close()
    return {"bench": name, "started": started.isoformat(timespec="seconds"),
            "took_seconds": round(time.monotonic() - start, 1), "rounds": count,
            "seconds": seconds, "quick": options.quick, "machine": about, "works": found}


def publish(options, data):
    print(report.text(data))
    if options.json:
        options.json.write_text(json.dumps(data, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(report.markdown(data))
    if options.readme:
        report.fill(options.readme, data["bench"], report.readme(data))
    if options.svg:
        options.svg.write_text(picture.draw(data))
    empty = [work["title"] for work in data["works"]
             if "median" not in work["results"].get("nbdd", {})]
    for title in empty:
        print(f"not measured: {title}", file=sys.stderr)
    return 1 if empty else 0


def main(words, name="tests/bench/run", groups=()):
    text = "Measures nbdd beside its peers."
    arguments = parser(name, text)
    arguments.add_argument("--only", action="append", metavar="WORK",
                           help="this work (a name, a group, or a pattern with *); may be repeated")
    arguments.add_argument("--list", action="store_true", help="list the works and end")
    arguments.add_argument("--from", dest="source", type=Path, metavar="JSON",
                           help="measure nothing: report what an earlier run wrote")
    options = arguments.parse_args(words)
    chosen = works.choose(options.only or list(groups), options.quick)
    if options.list:
        for work in chosen:
            aim = f"aim {work.aim}" if work.aim else ""
            print(f"{work.name:20} {work.group:10} {work.title:60} {aim}")
        return 0
    if options.source:
        return publish(options, json.loads(options.source.read_text()))
    if not chosen:
        print("no such work; --list tells their names", file=sys.stderr)
        return 2
    return publish(options, measure(options, chosen, name))
