"""Every seeded fault is in the list of the crash tests, which shows that it is caught, and
no other."""
import ast
import re

LIST = "tests/crash/faults.py"
SITE = re.compile(r'\bfault\("([^"]*)"\)')


def listed(text):
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "FAULTS":
            return {ast.literal_eval(key) for key in node.value.keys}
    return set()


def check(tree):
    known = listed(tree.text(LIST) or "") if LIST in tree.files else set()
    sown = set()
    for name in tree.having(".c"):
        for number, line in tree.lines(name):
            for fault in SITE.findall(line):
                sown.add(fault)
                if not name.startswith("tests/") and fault not in known:
                    yield f"{name}:{number}: fault {fault} is not in {LIST}"
    for fault in sorted(known - sown):
        yield f"{LIST}: there is no fault {fault}"


GOOD = {"storage/a.c": 'if (fault("a-b"))\n', LIST: 'FAULTS = {"a-b": "x"}\n'}
BAD = [{LIST: "FAULTS = {}\n"},
       {"storage/a.c": "int a;\n"},
       {"storage/b.c": 'int b = fault("b");\n'}]
