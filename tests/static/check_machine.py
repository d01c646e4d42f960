"""Nothing in here belongs to the machine it was written on, and nothing was left for later."""
import re

FOREIGN = re.compile(r"(?<![\w.])/(work|root|home/\w+|Users)/|/opt/[a-z]")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


def check(tree):
    for name in tree.files:
        if name.endswith("static/check_machine.py"):
            continue
        for number, line in tree.lines(name):
            if FOREIGN.search(line):
                yield f"{name}:{number}: a path of one machine"
            if UNFINISHED.search(line):
                yield f"{name}:{number}: unfinished"


GOOD = {"a.sh": "cd /var/lib/nbdd; cp network/root/x .\n"}
BAD = [{"a.sh": "cd /home/me/nbdd\n"}, {"a.c": "int a; /* TODO */\n"}]
