"""What the README files name exists: programs and files by path, links, and nbdctl's verbs."""
import pathlib
import re

BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)")
PATH = re.compile(r"(?<![\w./:-])(?:\./)?((?:daemon|ctl|schema|storage|tests|\.ci)/[\w./-]*\w/?)")
VERB = re.compile(r"\bnbdctl (?:--\S+ (?:/\S+ )?)*([a-z]+) ([a-z]+)\b")
# What only a build has.
BUILT = re.compile(r"^(daemon/nbdd|ctl/nbdctl|schema/\w+\.(h|json))$")
# Verbs that nbdctl has beside those of the schema's methods.
OWN_VERBS = {("bitmap", "map")}


def verbs(tree):
    return {tuple(pathlib.PurePath(name).stem.split(".")[:2])
            for name in tree.files if name.startswith("schema/methods/") and "." in name}


def check(tree):
    known = verbs(tree) | OWN_VERBS
    for name in tree.having("README.md"):
        text = tree.text(name) or ""
        here = pathlib.PurePath(name).parent
        code = BLOCK.findall(text)
        prose = BLOCK.sub("", text)
        for link in LINK.findall(prose):
            if "://" not in link and not tree.path(here / link).exists():
                yield f"{name}: links to {link}, which does not exist"
        for piece in code + INLINE.findall(prose):
            for path in PATH.findall(piece):
                if not any(tree.path(base / path).exists() for base in (pathlib.Path("."), here)) \
                        and not BUILT.match(path):
                    yield f"{name}: names {path}, which does not exist"
            for verb in VERB.findall(piece):
                if verb[0] not in ("call", "help", "the") and verb not in known:
                    yield f"{name}: uses nbdctl {' '.join(verb)}, which is no method"


GOOD = {"README.md": "See [tests](tests/README.md), run `tests/run`, `nbdctl disk add a b`.\n",
        "tests/README.md": "x\n", "tests/run": "x\n", "schema/methods/disk.add.json": "{}\n"}
BAD = [{"README.md": "`tests/sprint`\n"}, {"README.md": "[a](b.md)\n"},
       {"README.md": "```\nnbdctl disk shred a\n```\n"}]
