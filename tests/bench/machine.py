"""What the figures were taken on."""

import os
import platform
import re
import shutil
from pathlib import Path

from servers import version_of


def first(path, pattern):
    try:
        found = re.search(pattern, Path(path).read_text(errors="replace"), re.M)
    except OSError:
        return None
    return found.group(1).strip() if found else None


def filesystem(path):
    """The type of the file system that a path is on."""
    best = ("", None)
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind = line.split()[:3]
        inside = str(path).startswith(where.rstrip("/") + "/")
        if inside and len(where) >= len(best[0]):
            best = (where, kind)
    return best[1]


def describe(images, peers, daemon):
    memory = first("/proc/meminfo", r"^MemTotal:\s+(\d+)")
    clients = {name: version_of(shutil.which(name) or name) for name in ("fio", "nbdcopy", "nbdinfo")}
    return {
        "processor": first("/proc/cpuinfo", r"^model name\s*:\s*(.+)$") or platform.machine(),
        "processors": os.cpu_count(),
        "memory": int(memory) * 1024 if memory else None,
        "kernel": platform.release(),
        "system": first("/etc/os-release", r'^PRETTY_NAME="?([^"\n]+)'),
        "images": filesystem(images.memory),
        "disk": filesystem(images.disk),
        "nbdd": daemon,
        "peers": [peer.name for peer in peers],
        "clients": clients,
    }


def sentence(machine):
    memory = f"{machine['memory'] / (1 << 30):.0f} GiB" if machine["memory"] else "?"
    programs = ", ".join(f"{name} {version}" for name, version in machine["clients"].items())
    return (f"{machine['processor']}, {machine['processors']} processors, {memory}; "
            f"{machine['system']}, Linux {machine['kernel']}; images on {machine['images']}, "
            f"disks and state on {machine['disk']}; clients {programs}")
