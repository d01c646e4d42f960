"""C is formatted as .clang-format says."""
import re
import subprocess


def check(tree):
    names = tree.having(".c", ".h")
    if not names:
        return
    style = tree.path(".clang-format")
    run = subprocess.run(["clang-format", f"--style=file:{style}", "--dry-run", "-Werror", *names],
                         cwd=tree.root, capture_output=True, text=True)
    faulty = set(re.findall(r"^(\S[^:]*):\d+:\d+: error", run.stderr, re.MULTILINE))
    for name in sorted(faulty):
        yield f"{name}: run clang-format -i {name}"
    if run.returncode and not faulty:
        yield f"clang-format: {run.stderr.strip()}"


GOOD = {".clang-format": "BasedOnStyle: LLVM\n", "a.c": "int a;\n"}
BAD = {"a.c": "int   a ;\n"}
