"""shellcheck has nothing to say about the shell scripts, and they can be run."""
import os
import subprocess


def check(tree):
    scripts = tree.scripts()
    for name in scripts:
        if not os.access(tree.path(name), os.X_OK):
            yield f"{name}: not executable"
    if scripts:
        run = subprocess.run(["shellcheck", "--format=gcc", *scripts], cwd=tree.root,
                             capture_output=True, text=True)
        yield from run.stdout.splitlines()
        if run.returncode > 1:
            yield f"shellcheck: {run.stderr.strip()}"


GOOD = {"run": '#!/bin/bash\necho "$1"\n'}
BAD = {"run": "#!/bin/bash\nrm $1\n"}
