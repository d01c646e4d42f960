"""The schema is consistent, and what is generated from it and kept in git is up to date."""
import subprocess
import sys


def check(tree):
    if not tree.path("schema/generate.py").exists():
        yield "schema/generate.py: missing"
        return
    run = subprocess.run([sys.executable, "-B", "schema/generate.py", "--check"], cwd=tree.root,
                         capture_output=True, text=True)
    if run.returncode:
        yield from (run.stdout + run.stderr).strip().splitlines() or ["generate.py --check failed"]


GOOD = {"schema/generate.py": "import sys\nsys.exit(0)\n"}
BAD = {"schema/generate.py": "import sys\nsys.exit('types/disk.json: unknown type')\n"}
