"""Runs the console blocks of a Markdown file, all in one shell, and compares what they answer.

In a ```console block a line "$ COMMAND" is a command ("> ..." continues it), and the lines below it
are its whole output. In those, "..." stands for any text within the line, and a line that is only
"..." for any number of lines. A command that ends in "&" stays running; what it says is its own."""

import dataclasses
import re
import subprocess
from pathlib import Path

BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclasses.dataclass
class Step:
    command: str
    expected: list
    line: int

    @property
    def background(self):
        return self.command.rstrip().endswith("&")


def steps(text):
    found = []
    for block in BLOCK.finditer(text):
        start = text.count("\n", 0, block.start(1)) + 1
        for number, line in enumerate(block.group(1).splitlines(), start):
            if line.startswith("$ "):
                found.append(Step(line[2:], [], number))
            elif line.startswith("> ") and not found[-1].expected:
                found[-1].command += "\n" + line[2:]
            else:
                found[-1].expected.append(line)
    return found


def matches(expected, got):
    if not expected:
        return not got
    if expected[0] == "...":
        return any(matches(expected[1:], got[skip:]) for skip in range(len(got) + 1))
    pattern = ".*".join(re.escape(part) for part in expected[0].split("..."))
    return bool(got) and re.fullmatch(pattern, got[0]) is not None and matches(expected[1:], got[1:])


def run(found, folder, ready, env, timeout):
    """Runs the steps in folder; `ready` is a command that succeeds once what was started in the
    background serves. The text of what went otherwise than written, or ''."""
    for old in Path(folder).glob("st*.[0-9]*"):
        old.unlink()
    script = ["trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT"]
    for index, step in enumerate(found):
        script.append(f"{{ {step.command}\n}} >step.{index} 2>&1 </dev/null; echo $? >status.{index}")
        if step.background:
            script.append(f"for i in $(seq 600); do {ready} >/dev/null 2>&1 && break; sleep 0.1; done")
    subprocess.run(["bash", "-c", "\n".join(script)], cwd=folder, env=env, timeout=timeout,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    for index, step in enumerate(found):
        output, status = Path(folder, f"step.{index}"), Path(folder, f"status.{index}")
        if not status.exists():
            return f"line {step.line}: the shell ended before $ {step.command}"
        got = output.read_text(errors="replace").splitlines()
        if status.read_text().strip() != "0" or not (step.background or matches(step.expected, got)):
            return "\n".join([f"line {step.line}: $ {step.command}", "answered:", *got,
                              f"(status {status.read_text().strip()}), should be:", *step.expected])
    return ""
