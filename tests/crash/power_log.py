"""Reads the log of power_record.c: from records to operations on files, in order.

`read_log` answers a Log: its operations, and where in it the driving client's marks are. A place in
the log is the number of a record; a power cut at place N comes before record N."""

import dataclasses
import os
import struct

# PowerKind of power_log.h
START, OPEN, WRITE, ALLOCATE, TRUNCATE, SYNC = range(1, 7)
DATASYNC, RENAME, UNLINK, XATTR, MARK, UNKNOWN = range(7, 13)
BEGIN, END = 1, 2
DURABLE = 1
HEADER = struct.Struct("<IBBHIIIiqQQqq")
IMAGE, FOLDER = "/", "."
NEVER = 1 << 60
# fallocate's
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16


class Unmodelled(Exception):
    """The daemon did what this model does not know, or the recorder did not see all."""


@dataclasses.dataclass(eq=False)
class File:
    """What a name stands for; `base`: what was on the disk at the start."""

    base: bytes = b""
    label: str = ""
    operations: list = dataclasses.field(default_factory=list)  # by when they ended
    # (place, all of it?) of syncs: began and returned
    syncs: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class Operation:
    kind: int
    begin: int
    end: int = NEVER
    file: File = None
    data: bytes = None  # of WRITE; None: zeroes
    offset: int = 0
    length: int = 0
    flags: int = 0
    times: tuple = (0, 0)
    names: dict = None  # of changes of names: {name: File or None}
    xattr: bytes = None
    settled: int = NEVER  # the place from which on a sync has it


@dataclasses.dataclass
class Log:
    places: int = 0
    files: list = dataclasses.field(default_factory=list)
    names: list = dataclasses.field(default_factory=list)  # Operations on names
    base_names: dict = dataclasses.field(default_factory=dict)
    marks: dict = dataclasses.field(default_factory=dict)  # number -> place
    starts: list = dataclasses.field(default_factory=list)
    interrupted: int = 0  # operations that a kill -9 cut off
    image_times: tuple = (0, 0)  # at the start
    image_xattr: bytes = None


def write_mark(fd, number):
    os.write(fd, HEADER.pack(HEADER.size, MARK, END, 0, 0, 0, 0, 0, 0, number, 0, 0, 0))


def write_truncate(fd, mark, size, stat=None):
    """The client itself makes the image longer: the beginning, and with `stat` the end."""
    times = (stat.st_mtime_ns, stat.st_ctime_ns) if stat else (0, 0)
    phase = END if stat else BEGIN
    os.write(fd, HEADER.pack(HEADER.size, TRUNCATE, phase, 0, 0, mark, 0, 0, 0, 0, size, *times))


class Reader:
    def __init__(self, base_names):
        self.log = Log(base_names=dict(base_names))
        self.log.files = list(base_names.values())
        self.now = dict(base_names)  # names as the daemon sees them
        self.folder = File(label="the folder")
        self.handles = {}  # (pid, handle) -> File
        self.running = {}  # (pid, id) -> Operation or record

    def name_change(self, operation, changes):
        """A name that changes; the folder's sync settles it."""
        operation.names = changes
        operation.file = self.folder
        self.log.names.append(operation)
        self.folder.operations.append(operation)

    def finish_open(self, operation, name, flags, key, result):
        if result < 0:
            return
        if name == FOLDER:
            self.handles[key] = self.folder
            return
        file = self.now.get(name)
        if file is None:
            file = File(label=name)
            self.log.files.append(file)
            self.now[name] = file
            self.name_change(operation, {name: file})
        elif flags & os.O_TRUNC:
            operation.kind, operation.length = TRUNCATE, 0
            operation.file = file
            file.operations.append(operation)
        self.handles[key] = file

    def finish_names(self, operation, payload):
        if operation.kind == UNLINK:
            changes = {payload.decode(): None}
        else:
            old, new = payload.decode().split("\0")
            changes = {new: self.now.get(old), old: None}
        self.name_change(operation, changes)
        for name, file in changes.items():
            if file is None:
                self.now.pop(name, None)
            else:
                self.now[name] = file

    def begin(self, place, fields, payload):
        _, kind, _, _, pid, number, handle, flags, _, offset, length, _, _ = fields
        operation = Operation(kind, place, offset=offset, length=length, flags=flags)
        operation.file = self.handles.get((pid, handle)) if handle else None
        if pid == 0:
            operation.file = self.now[IMAGE]
        if kind == WRITE:
            operation.data = payload
            if offset >= 1 << 63:
                raise Unmodelled(f"write() at a file's position: {operation.file.label}")
        self.running[pid, number] = (operation, payload)

    def end(self, place, fields):
        _, kind, _, _, pid, number, handle, _, result, _, _, mtime, ctime = fields
        operation, payload = self.running.pop((pid, number))
        operation.end = place
        operation.times = (mtime, ctime)
        if kind == OPEN:
            self.finish_open(operation, payload.decode(), operation.flags, (pid, handle), result)
        elif result < 0:
            return
        elif kind in (RENAME, UNLINK):
            self.finish_names(operation, payload)
        elif operation.file is None:
            raise Unmodelled(f"an operation of kind {kind} on a file that was not opened")
        elif kind in (SYNC, DATASYNC):
            operation.file.syncs.append(operation)
        else:
            if kind == WRITE:
                operation.length = min(operation.length, result)
            elif kind == XATTR:
                operation.xattr = payload.split(b"\0", 1)[1]
            operation.file.operations.append(operation)

    def start(self, pid):
        """What was not finished when the process before was killed is only known to have begun."""
        self.log.interrupted += len(self.running)
        self.running.clear()

    def read(self, data):
        at, place = 0, 0
        while at < len(data):
            fields = HEADER.unpack_from(data, at)
            payload = data[at + HEADER.size : at + fields[0]]
            kind, phase = fields[1], fields[2]
            if kind == UNKNOWN:
                raise Unmodelled(f"a call that is not modelled: {payload.decode()}")
            if kind == START:
                self.log.starts.append(place)
                self.start(fields[4])
            elif kind == MARK:
                self.log.marks[fields[9]] = place
            elif phase == BEGIN:
                self.begin(place, fields, payload)
            else:
                self.end(place, fields)
            at += fields[0]
            place += 1
        self.log.places = place
        self.start(0)
        self.settle()
        return self.log

    def settle(self):
        """From which place on each operation is surely on the disk."""
        for file in [*self.log.files, self.folder]:
            for sync in file.syncs:
                for operation in file.operations:
                    if operation.end < sync.begin and sync.end < operation.settled and (
                        sync.kind == SYNC or operation.kind != XATTR
                    ):
                        operation.settled = sync.end
            for operation in file.operations:
                if operation.kind == WRITE and operation.flags & DURABLE:
                    operation.settled = min(operation.settled, operation.end)


def read_log(data, base_names):
    """base_names: {name: File} at the start, the image as IMAGE; all of it on the disk."""
    return Reader(base_names).read(data)
