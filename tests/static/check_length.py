"""A file is one idea, and an idea has 100 to 400 lines."""
NOTED, REFUSED = 400, 700
# Tables of cases grow with what they cover; code does not.
EXEMPT = ("LICENSE",)


def check(tree):
    for name in tree.files:
        if name.endswith((".json", ".sql")) or name in EXEMPT:
            continue
        count = sum(1 for _ in tree.lines(name))
        if count > REFUSED:
            yield f"{name}: {count} lines; more than {REFUSED} are several ideas"
        elif count > NOTED:
            yield f"note: {name} has {count} lines"


GOOD = {"a.c": "int a;\n" * NOTED}
BAD = {"a.c": "int a;\n" * (REFUSED + 1)}
