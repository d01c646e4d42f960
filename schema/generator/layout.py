"""One layout for schema files, so that a change shows as a change and nothing else."""

import json

WIDTH = 110


def layout(value, indent=0, lead=0):
    """JSON text of value: on one line where it fits, else one member a line. Keys keep their order."""
    flat = json.dumps(value, ensure_ascii=False)
    if indent > 0 and indent + lead + len(flat) <= WIDTH:
        return flat
    pad = " " * (indent + 2)
    if isinstance(value, dict) and value:
        rows = []
        for key, item in value.items():
            head = json.dumps(key, ensure_ascii=False) + ": "
            rows.append(pad + head + layout(item, indent + 2, len(head)))
        return "{\n" + ",\n".join(rows) + "\n" + " " * indent + "}"
    if isinstance(value, list) and value:
        rows = [pad + layout(item, indent + 2) for item in value]
        return "[\n" + ",\n".join(rows) + "\n" + " " * indent + "]"
    return flat


def file_text(value):
    return layout(value) + "\n"
