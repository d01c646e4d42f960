"""codespell knows no mistake of those that are in here. A name that it takes for one goes into the
list below."""
import subprocess

NAMES = []


def check(tree):
    command = ["codespell", "--check-filenames", *(["-L", ",".join(NAMES)] if NAMES else [])]
    run = subprocess.run([*command, *tree.files], cwd=tree.root, capture_output=True, text=True)
    yield from run.stdout.splitlines()
    if run.returncode and not run.stdout:
        yield f"codespell: {run.stderr.strip()}"


GOOD = {"a.c": "/* the receiver */\n"}
BAD = {"a.c": "/* the " + "rec" + "iever */\n"}
