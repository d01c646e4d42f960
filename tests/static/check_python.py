"""Python compiles, and pyflakes has nothing to say."""
import subprocess
import sys


def check(tree):
    names = tree.having(".py") + [name for name in tree.files
                                  if (tree.text(name) or "").startswith("#!/usr/bin/python3")
                                  and not name.endswith(".py")]
    if names:
        run = subprocess.run([sys.executable, "-m", "pyflakes", *names], cwd=tree.root,
                             capture_output=True, text=True)
        yield from run.stdout.splitlines()
        yield from run.stderr.splitlines()


GOOD = {"a.py": "import os\nprint(os.name)\n"}
BAD = [{"a.py": "import os\n"}, {"a.py": "def f(:\n"}]
