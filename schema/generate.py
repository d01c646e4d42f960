#!/usr/bin/env python3
"""Generates everything that follows from the schema files beside this script.

    generate.py --check          check the schema files; say what is wrong; exit 1 if anything is
    generate.py --format         give every schema file the one layout
    generate.py [--depfile FILE] OUTPUT FILE...
                                 write one kind of output (meson.build names them)

To add a method: a file in methods/ (its name is the method's), a handler in daemon/methods/, a
test. To add a kind of output: a module in generator/ with a row in OUTPUTS. See README.md.
Standard library only.
"""

import glob
import json
import os
import sys

ROOT = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, ROOT)
sys.dont_write_bytecode = True

from generator import (emit_c, emit_cli, emit_completion, emit_dispatch, emit_json,  # noqa: E402
                       emit_man, model, reader)
from generator.layout import file_text  # noqa: E402

# name -> function(schema) that answers the text of each output file, in order
OUTPUTS = {
    "api": emit_c.api,
    "dispatch": emit_dispatch.dispatch,
    "cli": emit_cli.cli,
    "openrpc": emit_json.openrpc,
    "completion": emit_completion.completion,
    "man": emit_man.pages,
    "schema": emit_json.api_schema,
}


def schema_files():
    return sorted(glob.glob(os.path.join(ROOT, "*", "*.json")) + glob.glob(os.path.join(ROOT, "*.json")))


def format_files():
    for path in schema_files():
        with open(path, encoding="utf-8") as file:
            old = file.read()
        new = file_text(json.loads(old, object_pairs_hook=reader.unique_pairs))
        if new != old:
            with open(path, "w", encoding="utf-8") as file:
                file.write(new)
            print("formatted", os.path.relpath(path, ROOT))


def write_depfile(path, output):
    """For ninja: files that outputs depend on, and folders, so that a new file is noticed."""
    folders = [f for f in glob.glob(os.path.join(ROOT, "*")) if os.path.isdir(f)]
    modules = glob.glob(os.path.join(ROOT, "generator", "*.py"))
    modules += glob.glob(os.path.join(ROOT, "man", "*.in"))
    names = sorted(schema_files() + modules + [f for f in folders if "__" not in f])
    with open(path, "w", encoding="utf-8") as file:
        file.write("%s: %s\n" % (output, " ".join(name.replace(" ", "\\ ") for name in names)))


def main(arguments):
    if arguments == ["--format"]:
        format_files()
        return 0
    depfile = None
    if arguments[:1] == ["--depfile"]:
        depfile, arguments = arguments[1], arguments[2:]
    try:
        schema = model.load(ROOT)
    except reader.SchemaError as error:
        print("schema: %s" % error, file=sys.stderr)
        return 1
    if arguments == ["--check"]:
        return 0
    if len(arguments) < 2 or arguments[0] not in OUTPUTS:
        print(__doc__, file=sys.stderr)
        return 2
    texts = OUTPUTS[arguments[0]](schema)
    if len(texts) != len(arguments) - 1:
        print("%s makes %d files" % (arguments[0], len(texts)), file=sys.stderr)
        return 2
    for path, text in zip(arguments[1:], texts):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    if depfile:
        write_depfile(depfile, arguments[1])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
