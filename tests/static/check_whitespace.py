"""No white space at the end of lines, no tabs, Unix line ends, one newline at the end."""


def check(tree):
    for name in tree.files:
        text = tree.text(name)
        if not text:
            continue
        for number, line in enumerate(text.split("\n"), 1):
            if line != line.rstrip():
                yield f"{name}:{number}: white space at the end"
            if "\t" in line:
                yield f"{name}:{number}: a tab"
        if not text.endswith("\n") or text.endswith("\n\n"):
            yield f"{name}: does not end with exactly one newline"


GOOD = {"a.c": "int a;\n\nint b;\n"}
BAD = [{"a.c": "int a; \n"}, {"a.c": "\tint a;\n"}, {"a.c": "int a;"}, {"a.c": "int a;\n\n"},
       {"a.c": "int a;\r\n"}]
