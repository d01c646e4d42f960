"""Tables of a run: for people at a terminal, and as Markdown."""

import statistics

from machine import sentence

NBDD = "nbdd"
NONE = "no server"  # the same work straight on the file
LIMIT = 0.9  # a client's thread that is busier than this is what limits


def number(value, unit):
    if value is None:
        return "-"
    if unit in ("us", "KiB"):
        return f"{value:.0f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def median_of(found, key):
    values = [sample.get(key) for sample in found.get("samples", [])]
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def per(found, what):
    """Server processor time: microseconds for each request, or seconds for each GiB."""
    values = []
    for sample in found.get("samples", []):
        if what == "request" and sample["requests"]:
            values.append(sample["server_cpu"] * 1e6 / sample["requests"])
        elif what == "gib" and sample["bytes"]:
            values.append(sample["server_cpu"] * (1 << 30) / sample["bytes"])
    return statistics.median(values) if values else None


def peers(work):
    return [name for name in work["results"] if name not in (NBDD, NONE)]


def best_peer(work):
    """The name of the fastest peer, or None."""
    found = {name: work["results"][name]["median"] for name in peers(work)
             if "median" in work["results"][name]}
    if not found:
        return None
    return (min if work["less_is_better"] else max)(found, key=found.get)


def speed(work, name, against):
    """How many times as good as another one."""
    mine, theirs = (work["results"].get(one, {}).get("median") for one in (name, against))
    if not mine or not theirs:
        return None
    return theirs / mine if work["less_is_better"] else mine / theirs


def cpu_kind(work):
    return "gib" if work["unit"] in ("s", "GB/s") and work["group"] != "status" else "request"


def cpu_ratio(work):
    """nbdd's server time to that of the most thrifty peer: less than 1 is thriftier."""
    kind = cpu_kind(work)
    mine = per(work["results"].get(NBDD, {}), kind)
    theirs = [per(work["results"][name], kind) for name in peers(work)]
    theirs = [value for value in theirs if value]
    return mine / min(theirs) if mine and theirs else None


def limited(work):
    busy = median_of(work["results"].get(NBDD, {}), "busy")
    return busy is not None and busy >= LIMIT


def names_of(data):
    found = []
    for work in data["works"]:
        found += [name for name in work["results"] if name not in found]
    return found


def times(value, digits=2):
    return "-" if value is None else f"{value:.{digits}f}"


def main_rows(data):
    names = names_of(data)
    yield ["work", "unit", *names, "ratio", "aim", "client"]
    for work in data["works"]:
        results = work["results"]
        values = [number(results.get(name, {}).get("median"), work["unit"]) for name in names]
        ratio = speed(work, NBDD, best_peer(work))
        aim = work["aim"]
        shown = "" if aim is None else f"{aim:g}"
        if aim is not None and ratio is not None and ratio < aim:
            shown += " missed"
        busy = median_of(results.get(NBDD, {}), "busy")
        client = "" if busy is None else f"{busy * 100:.0f} %"
        yield [work["title"], work["unit"], *values, times(ratio), shown, client]


def cpu_rows(data):
    names = [name for name in names_of(data) if name != NONE]
    yield ["server's processor time", "unit", *names, "ratio"]
    for work in data["works"]:
        if work["group"] == "idle":
            continue
        kind = cpu_kind(work)
        values = [times(per(work["results"].get(name, {}), kind)) for name in names]
        yield [work["title"], "s/GiB" if kind == "gib" else "us/request", *values,
               times(cpu_ratio(work))]


def latency_rows(data):
    rows = [work for work in data["works"] if work["group"] == "latency"]
    if rows:
        yield ["latency in us: p50, p99, p99.9", *[name for name in names_of(data) if name != NONE]]
    for work in rows:
        cells = []
        for name in names_of(data):
            if name != NONE:
                levels = [median_of(work["results"].get(name, {}), key)
                          for key in ("p50_us", "p99_us", "p999_us")]
                cells.append(", ".join(number(level, "us") for level in levels))
        yield [work["title"], *cells]


def aligned(rows):
    rows = list(rows)
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def marked(rows):
    rows = list(rows)
    if not rows:
        return ""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" + "|---:" * (len(rows[0]) - 1) + "|")
    return "\n".join(lines) + "\n"


def wins(data):
    """Where a peer is ahead: lines."""
    for work in data["works"]:
        best = best_peer(work)
        ratio = speed(work, NBDD, best)
        if ratio is not None and ratio < 0.97:
            yield f"{work['title']}: {best} is {1 / ratio:.2f} times as good"


def reasons(data):
    for work in data["works"]:
        for name, found in work["results"].items():
            if found.get("why"):
                yield f"{work['title']}: {name}: {found['why']}"


def about(data):
    return f"{sentence(data['machine'])}; medians of {data['rounds']} rounds, nbdd {data['machine']['nbdd']}"


def short_rows(data):
    """For the README: no aims, and processor time as a ratio."""
    names = [name for name in names_of(data) if name != NONE]
    yield ["work", "", *names, "ratio", "CPU"]
    for work in data["works"]:
        results = work["results"]
        values = [number(results.get(name, {}).get("median"), work["unit"]) for name in names]
        cpu = "" if work["group"] == "idle" else times(cpu_ratio(work))
        yield [work["title"], work["unit"], *values, times(speed(work, NBDD, best_peer(work))), cpu]


def readme(data):
    ahead = list(wins(data))
    direct = [f"{work['title']}: {number(work['results'][NONE]['median'], work['unit'])} {work['unit']}"
              for work in data["works"] if "median" in work["results"].get(NONE, {})]
    parts = [marked(short_rows(data)),
             "A peer is ahead: " + ("; ".join(ahead) if ahead else "nowhere in this run") + "."]
    if direct:
        parts.append("fio straight on the file: " + "; ".join(direct) + ".")
    return "\n".join(parts) + "\n\n" + about(data) + ".\n"


def fill(path, name, body):
    """Puts a body between the marks that bear that name."""
    begin, end = f"<!-- from {name} -->\n", f"<!-- end of {name} -->\n"
    old = path.read_text()
    if old.count(begin) != 1 or old.count(end) != 1:
        raise SystemExit(f"{path} has no place for {name}: {begin.strip()} ... {end.strip()}")
    head, _, rest = old.partition(begin)
    path.write_text(head + begin + body + end + rest.partition(end)[2])


def text(data):
    parts = [aligned(main_rows(data)), aligned(cpu_rows(data)), aligned(latency_rows(data))]
    ahead = list(wins(data))
    if ahead:
        parts.append("A peer is ahead:\n" + "\n".join(f"  {line}" for line in ahead) + "\n")
    missing = list(reasons(data))
    if missing:
        parts.append("Not measured:\n" + "\n".join(f"  {line}" for line in missing) + "\n")
    parts.append(about(data))
    return "\n".join(part for part in parts if part)


def markdown(data):
    parts = [f"# Figures of {data['bench']}\n", about(data) + ".\n", marked(main_rows(data)), marked(cpu_rows(data)),
             marked(latency_rows(data))]
    ahead = list(wins(data))
    parts.append("Where a peer is ahead: " + ("; ".join(ahead) if ahead else "nowhere") + ".\n")
    return "\n".join(part for part in parts if part)
