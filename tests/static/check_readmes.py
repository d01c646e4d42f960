"""Every folder tells what lives in it; one that holds nothing but data leaves that to its parent."""
import pathlib

DATA = (".json", ".sql")


def check(tree):
    for folder in tree.folders():
        if folder.startswith((".git", ".ci")):
            continue
        inside = [name for name in tree.files if name.startswith(folder + "/")]
        if all(name.endswith(DATA) for name in inside):
            folder = pathlib.PurePath(folder).parent
        name = f"{folder}/README.md"
        if name not in tree.files:
            yield f"{name}: missing (what lives here, what it may include, how to add one more)"
        elif len((tree.text(name) or "").split()) < 10:
            yield f"{name}: says too little"


GOOD = {"a/README.md": "# a\nHere lives this and that, and it may include only itself.\n",
        "a/a.c": "int a;\n", "a/data/b.json": "{}\n"}
BAD = [{"b/b.c": "int b;\n"}, {"a/README.md": "# a\n"}]
