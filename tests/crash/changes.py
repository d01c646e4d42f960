"""What somebody may do to a disk's file, or to the state, while nbdd does not look: the table of
test_changes.py, and how each is done."""

import dataclasses
import mmap
import os
import shutil
import sqlite3
import subprocess
import time
import typing

import harness

SIZE = 4 << 20
BLOCK = 65536
TICK = 0.012  # a file's times are as coarse as a tick


class Place:
    """A daemon with one disk, its file, and what is needed to play with both."""

    device = None

    def __init__(self, daemon, folder):
        self.daemon, self.folder = daemon, folder
        self.image = folder / "d.img"
        with open(self.image, "wb") as file:
            file.truncate(SIZE)
            file.write(os.urandom(SIZE // 2))
        self.undo = []

    def attach(self):
        self.device = harness.run("losetup", "--find", "--show", self.image).strip()
        self.undo.append(self.detach)

    def detach(self):
        harness.run("losetup", "--detach", self.device)

    def begin(self):
        self.daemon.rpc.plain("disk.add", name="d", path=self.device or str(self.image))
        self.daemon.rpc.plain("export.add", name="d", disk="d", sharing="shared")
        self.daemon.rpc.plain("bitmap.add", disk="d", name="b", granularity=BLOCK)
        self.write(0)

    def write(self, offset):
        """By way of nbdd."""
        with self.daemon.open("d") as wire:
            assert wire.write(offset, os.urandom(4096)).error == 0

    def show(self):
        return self.daemon.rpc.plain("bitmap.show", disk="d", name="b")

    def poke(self, offset=2 * BLOCK + 77):
        """Behind its back."""
        with open(self.device or self.image, "r+b", buffering=0) as file:
            file.seek(offset)
            file.write(b"poked")
            os.fsync(file.fileno())

    def copy(self):
        path = self.folder / "copy.img"
        harness.run("cp", "-p", self.image, path)
        return path

    def other(self, read_only=False):
        """Another nbdd, with a state of its own, that has the same file."""
        other = harness.Daemon()
        other.start()
        other.rpc.plain("disk.add", name="x", path=str(self.image), read_only=read_only)
        other.rpc.plain("export.add", name="x", disk="x", read_only=read_only)
        return other

    def database(self, back):
        """The state to or from a copy."""
        kept = self.folder / "kept"
        kept.mkdir(exist_ok=True)
        here, there = (kept, self.daemon.state) if back else (self.daemon.state, kept)
        for name in ("state.db", "state.db-wal"):
            (there / name).unlink(missing_ok=True)
            if (here / name).exists():
                shutil.copy2(here / name, there / name)

    def end(self):
        for undo in reversed(self.undo):
            undo()


def nothing(place):
    pass


def read(place):
    place.image.read_bytes()


def poke(place):
    place.poke()


def touch(place):
    os.utime(place.image)


def poke_and_set_back(place):
    info = os.stat(place.image)
    place.poke()
    os.utime(place.image, ns=(info.st_atime_ns, info.st_mtime_ns))


def chmod(place):
    os.chmod(place.image, 0o600)


def shrink(place):
    os.truncate(place.image, SIZE // 2)


def grow(place):
    os.truncate(place.image, SIZE * 2)


def shrink_and_grow(place):
    shrink(place)
    os.truncate(place.image, SIZE)


def punch(place):
    harness.run("fallocate", "-p", "-o", "0", "-l", "65536", place.image)


def rename_over(place):
    os.rename(place.copy(), place.image)


def rename_away_and_back(place):
    os.rename(place.image, place.folder / "away")
    os.rename(place.folder / "away", place.image)


def copy_over(place):
    copy = place.copy()
    place.poke()
    harness.run("cp", "-p", copy, place.image)


def delete_and_extract(place):
    """From an archive, with its times: it may even get the same inode."""
    harness.run("tar", "-C", place.folder, "-cf", place.folder / "t.tar", place.image.name)
    place.image.unlink()
    harness.run("tar", "-C", place.folder, "-xf", place.folder / "t.tar")


def snapshot_and_restore(place):
    """A snapshot (shared blocks where the file system has that), changes, and back to it."""
    snapshot = place.folder / "snapshot"
    harness.run("cp", "--reflink=auto", "-p", place.image, snapshot)
    place.poke()
    harness.run("cp", "--reflink=auto", "-p", snapshot, place.image)


def snapshot_and_rename(place):
    snapshot = place.folder / "snapshot"
    harness.run("cp", "--reflink=auto", "-p", place.image, snapshot)
    os.rename(snapshot, place.image)


def link_elsewhere(place):
    os.rename(place.image, place.folder / "real")
    shutil.copy2(place.folder / "real", place.folder / "fake")
    os.symlink("fake", place.image)


def mapped_write(place):
    with open(place.image, "r+b") as file, mmap.mmap(file.fileno(), SIZE) as memory:
        memory[BLOCK:BLOCK + 4] = b"mmap"
        memory.flush()


def strip_marks(place):
    for name in os.listxattr(place.image):
        os.removexattr(place.image, name)


def qemu_write(place):
    harness.run("qemu-io", "-f", "raw", "-c", "write -P 7 1M 4k", place.image)


def qemu_read(place):
    harness.run("qemu-io", "-f", "raw", "-r", "-c", "read 1M 4k", place.image)


def qemu_convert(place):
    harness.run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", place.copy(), place.image)


def serve_elsewhere(place):
    other = place.other()
    with other.open("x") as wire:
        assert wire.write(BLOCK, b"other").error == 0
    other.finish()


def read_elsewhere(place):
    other = place.other(read_only=True)
    with other.open("x") as wire:
        assert wire.read(0, 512).error == 0
    other.finish()


def loop_write(place):
    """A file system is made on it, mounted, written to, and mounted once more."""
    device = harness.run("losetup", "--find", "--show", place.image).strip()
    try:
        folder = place.folder / "inside"
        folder.mkdir()
        harness.run("mkfs.ext4", "-q", "-F", device)
        for words in (["mount"], ["umount"], ["mount", "-o", "ro"], ["umount"]):
            harness.run(*words, *([device] if words[0] == "mount" else []), folder)
    finally:
        harness.run("losetup", "--detach", device)


def loop_read(place):
    device = harness.run("losetup", "--read-only", "--find", "--show", place.image).strip()
    harness.run("losetup", "--detach", device)


def restore_database(place):
    place.database(back=True)


def restore_backup(place):
    for name in os.listdir(place.daemon.state):
        if name.startswith("state.db"):
            (place.daemon.state / name).unlink()
    shutil.copy2(place.folder / "backup.db", place.daemon.state / "state.db")


def restore_backup_of_another_boot(place):
    with sqlite3.connect(place.folder / "backup.db") as database:
        database.execute("UPDATE watch SET boot = 'another'")
    database.close()
    restore_backup(place)


def read_device(place):
    with open(place.device, "rb", buffering=0) as file:
        assert len(file.read(SIZE)) == SIZE


def attach_again(place):
    """Another one under the same name, with the same contents."""
    place.detach()
    harness.run("losetup", place.device, place.image)


# --- while it runs: what the others say, or see ---


def refused_to_qemu(place):
    status, said = harness.run("qemu-io", "-f", "raw", "-c", "write -P 7 1M 4k", place.image,
                               check=False)
    assert status != 0 and "lock" in said, said


def refused_to_another(place):
    other = harness.Daemon()
    with other:
        error = other.refused("disk.add", "busy", name="x", path=str(place.image))
        assert "in use" in error.message


def noticed_by_the_mark(place):
    """The daemon marks the file some seconds after it wrote, which would hide it. (Where the machine
    has no time for us it may have been marked before.)"""
    def noticed():
        place.write(0)
        time.sleep(TICK)
        place.poke()
        return harness.wait_for(lambda: place.show()["state"] == "invalid")
    assert harness.succeeds(noticed, 3)


def refresh_shrunk(place):
    shrink(place)
    place.daemon.rpc.plain("disk.refresh", name="d")


def refresh_grown(place):
    grow(place)
    place.daemon.rpc.plain("disk.refresh", name="d")


@dataclasses.dataclass
class Change:
    name: str
    act: typing.Callable
    good: bool  # whether the bitmap is as good as before
    since: bool = False  # nbdd wrote after the copy that is put back was made
    needs: str = ""
    backup: str = "running"  # how the daemon has left the disk when the backup is made


GOOD, BAD = True, False
STOPPED = (
    Change("nothing", nothing, GOOD),
    Change("read", read, GOOD),
    Change("write", poke, BAD),
    Change("touch", touch, BAD),
    Change("write, times set back", poke_and_set_back, BAD),
    Change("chmod", chmod, BAD),
    Change("truncate", shrink, BAD),
    Change("extend", grow, BAD),
    Change("truncate and extend", shrink_and_grow, BAD),
    Change("punch a hole", punch, BAD),
    Change("rename over", rename_over, BAD),
    Change("rename away and back", rename_away_and_back, BAD),
    Change("cp -p over", copy_over, BAD),
    Change("delete and extract", delete_and_extract, BAD),
    Change("snapshot restore", snapshot_and_restore, BAD),
    Change("snapshot renamed over", snapshot_and_rename, BAD),
    Change("symbolic link", link_elsewhere, BAD),
    Change("write by mmap", mapped_write, BAD),
    Change("strip the mark", strip_marks, BAD),
    Change("qemu-io write", qemu_write, BAD, needs="qemu-io"),
    Change("qemu-io read", qemu_read, GOOD, needs="qemu-io"),
    Change("qemu-img convert", qemu_convert, BAD, needs="qemu-img"),
    Change("another nbdd writes", serve_elsewhere, BAD),
    Change("another nbdd reads", read_elsewhere, GOOD),
    Change("mkfs, mount, remount", loop_write, BAD, needs="loop"),
    Change("loop device, read", loop_read, GOOD, needs="loop"),
    Change("same database restored", restore_database, GOOD),
    Change("older database restored", restore_database, BAD, since=True),
    Change("older backup restored", restore_backup, BAD, since=True),
)
KILLED = tuple(
    change for change in STOPPED
    if change.name not in ("chmod", "strip the mark", "rename away and back"))
# What is done while it runs, and how it ends then.
RUNNING = (
    (Change("qemu-io write", refused_to_qemu, GOOD, needs="qemu-io"), "stop"),
    (Change("qemu-io write", refused_to_qemu, GOOD, needs="qemu-io"), "kill"),
    (Change("another nbdd", refused_to_another, GOOD), "stop"),
    (Change("another nbdd", refused_to_another, GOOD), "kill"),
    (Change("read", read, GOOD), "kill"),
    (Change("write", poke, BAD), "kill"),
    (Change("mmap", mapped_write, BAD), "kill"),
    (Change("read", read, GOOD), "stop"),
    (Change("write", poke, BAD), "stop"),
    (Change("write, times set back", poke_and_set_back, BAD), "stop"),
    (Change("mmap", mapped_write, BAD), "stop"),
    (Change("punch a hole", punch, BAD), "stop"),
    (Change("write before a mark", noticed_by_the_mark, BAD), "stop"),
    (Change("write before a mark", noticed_by_the_mark, BAD), "kill"),
    (Change("rename over", rename_over, BAD), "stop"),
    (Change("rename over", rename_over, BAD), "kill"),
    (Change("truncate and refresh", refresh_shrunk, BAD), "stop"),
    (Change("truncate and refresh", refresh_shrunk, BAD), "kill"),
    (Change("extend and refresh", refresh_grown, GOOD), "stop"),
    (Change("extend and refresh", refresh_grown, GOOD), "kill"),
)
# Of a block device, and how it ends before; what is not noticed then is said by `watch: boot`.
DEVICE = (
    (Change("nothing", nothing, GOOD, needs="loop"), "stop"),
    (Change("read", read_device, GOOD, needs="loop"), "stop"),
    (Change("write", poke, BAD, needs="loop"), "stop"),
    (Change("another device", attach_again, BAD, needs="loop"), "stop"),
    (Change("older database restored", restore_database, BAD, needs="loop", since=True), "stop"),
    (Change("backup restored", restore_backup, GOOD, needs="loop", backup="stopped"), "stop"),
    (Change("older backup restored", restore_backup, BAD, needs="loop", since=True,
            backup="stopped"), "stop"),
    (Change("backup restored after a reboot", restore_backup_of_another_boot, BAD, needs="loop",
            backup="stopped"), "stop"),
    (Change("nothing", nothing, GOOD, needs="loop"), "kill"),
    (Change("another device", attach_again, BAD, needs="loop"), "kill"),
    (Change("older database restored", restore_database, BAD, needs="loop", since=True), "kill"),
    (Change("backup restored", restore_backup, BAD, needs="loop"), "kill"),
)


def lacking(change):
    """Why it cannot be done here, or None."""
    if change.needs == "loop":
        if os.geteuid() != 0 or not os.path.exists("/dev/loop-control"):
            return "no loop devices here"
        done = subprocess.run(["losetup", "--find"], capture_output=True, check=False)
        return None if done.returncode == 0 else "no loop devices here"
    if change.needs and not shutil.which(change.needs):
        return f"no {change.needs}"
    return None
