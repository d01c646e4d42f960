"""The top level is fixed: these, and dot files."""
ALLOWED = {"daemon", "ctl", "schema", "storage", "tests", "meson.build", "README.md", "LICENSE"}


def check(tree):
    for entry in sorted({name.split("/")[0] for name in tree.files}):
        if entry not in ALLOWED and not entry.startswith("."):
            yield f"{entry}: does not belong at the top level"


GOOD = {"README.md": "x\n", "daemon/a.c": "int a;\n", ".gitignore": "x\n"}
BAD = {"tools/a.c": "int a;\n"}
