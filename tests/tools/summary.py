"""Counts what tests/run ran: reads the folder with each step's STEP.status, STEP.log and STEP.xml
(JUnit), prints failures and the reasons of skips, and ends with "N passed, N failed, N skipped"."""
import pathlib
import sys
import xml.etree.ElementTree as ElementTree

LINES = 15  # of a failure's text


class Count:
    def __init__(self):
        self.passed = self.failed = 0
        self.skips = {}  # reason -> names
        self.seconds = {}  # step and file -> seconds

    def fail(self, name, text):
        self.failed += 1
        print(f"\nFAILED {name}")
        for line in text.strip().splitlines()[-LINES:]:
            print(f"    {line[:200]}")


def cases(path):
    """(testcase, failure or None, skipped or None, what its program said)."""
    root = ElementTree.parse(path).getroot()
    for suite in [root] if root.tag == "testsuite" else root.iter("testsuite"):
        output = "\n".join(suite.findtext(tag) or "" for tag in ("system-out", "system-err"))
        for case in suite.iter("testcase"):
            bad = case.find("failure")
            if bad is None:
                bad = case.find("error")
            yield case, bad, case.find("skipped"), said_about(case.get("name"), output)


def said_about(name, output):
    """The TAP comments behind the line of this test: for meson a failure has no text."""
    lines = output.splitlines()
    start = next((i for i, line in enumerate(lines) if line == f"not ok {name}"), None)
    if start is None:
        return output
    said = []
    for line in lines[start + 1:]:
        if not line.startswith("#"):
            break
        said.append(line)
    return "\n".join(said)


def read_step(count, status_file):
    """One step's results. A step that failed without saying which test did counts as a failure."""
    step = status_file.stem
    status = status_file.read_text().strip()
    log = status_file.with_suffix(".log").read_text(errors="replace")
    xml = status_file.with_suffix(".xml")
    before, ran = count.failed, 0
    if xml.exists():
        for case, bad, skipped, output in cases(xml):
            ran += 1
            where = f"{step}: {case.get('classname') or ''}"
            name = f"{where} {case.get('name')}"
            count.seconds[where] = count.seconds.get(where, 0) + float(case.get("time") or 0)
            if bad is not None:
                count.fail(name, bad.text or bad.get("message") or output.strip() or log)
            elif skipped is not None:
                reason = skipped.get("message") or (skipped.text or "").strip() or "no reason given"
                count.skips.setdefault(reason.removeprefix("Skipped: "), []).append(name)
            else:
                count.passed += 1
    if status != "0" and count.failed == before:
        count.fail(f"{step} (exit status {status})", end_of(log))


def end_of(log):
    """What matters of a log: for meson that is what the program said, not meson's summary."""
    said = log.split("Summary of Failures")[0].rpartition("stderr:\n")[2].splitlines()
    return "\n".join(said[:LINES]) if "Summary of Failures" in log else log


def main(folder):
    count = Count()
    for status_file in sorted(folder.glob("*.status")):
        read_step(count, status_file)
    for report in sorted(folder.glob("sanitizer-*/*")):
        count.fail(f"sanitizer report {report.relative_to(folder)}",
                   "\n".join(report.read_text(errors="replace").strip().splitlines()[:LINES]))
    slow = sorted(count.seconds.items(), key=lambda item: -item[1])[:8]
    if slow and slow[0][1] > 30:
        print("\nslowest files:")
        for where, seconds in slow:
            print(f"{seconds:6.0f} s  {where}")
    if count.failed:
        print(f"\nLogs are in {folder}")
    if count.skips:
        print()
    for reason, names in sorted(count.skips.items()):
        example = names[0] if len(names) == 1 else f"{len(names)} tests, e.g. {names[0]}"
        print(f"skipped: {reason} ({example})")
    skipped = sum(len(names) for names in count.skips.values())
    print(f"{count.passed} passed, {count.failed} failed, {skipped} skipped")
    return 1 if count.failed or not count.passed else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
