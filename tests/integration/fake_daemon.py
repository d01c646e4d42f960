"""A stand-in for nbdd in memory, right or with one fault: shows that the differential test finds it.

It has of harness.Daemon and nbdwire.Wire what differential.py uses, and does everything at once and
in order. Bits are sets of block numbers, unlike in model.py, so that both are not wrong alike."""

from pathlib import Path

from nbdproto import Cmd, CmdFlag, Err
from nbdwire import Reply

FAULTS = (
    "trim is not recorded",
    "zeroes are not recorded",
    "the last block is not recorded",
    "a second bitmap is forgotten",
    "a disabled bitmap records",
    "a clear keeps a bit",
    "a merge shifts by a block",
    "a restart loses bits",
    "a refused write is recorded",
    "a write is torn",
    "zeroes are left out of a block",
    "block status ends early",
    "missed writes are not told",
)


class FakeBitmap:
    def __init__(self, disk, name, granularity, recording):
        self.disk, self.name, self.granularity = disk, name, granularity
        self.recording, self.missed, self.generation = recording, False, object()
        self.dirty = set()

    def touch(self, offset, length):
        if self.recording or self.disk.fault == "a disabled bitmap records":
            self.dirty.update(range(offset // self.granularity,
                                    (offset + length - 1) // self.granularity + 1))
        else:
            self.missed = self.disk.fault != "missed writes are not told"

    def extents(self):
        found = []
        for block in sorted(self.dirty):
            start = block * self.granularity
            end = min(start + self.granularity, len(self.disk.data))
            if found and found[-1][1] == start:
                found[-1][1] = end
            elif start < end:
                found.append([start, end])
        return [(start, end - start) for start, end in found]

    def show(self):
        return {"name": self.name, "recording": self.recording, "missed_writes": self.missed,
                "state": "recording" if self.recording else "disabled",
                "generation": self.generation, "granularity": self.granularity,
                "dirty_bytes": sum(length for _, length in self.extents())}


class FakeDaemon:
    def __init__(self, folder, fault=None):
        self.folder, self.fault = Path(folder), fault
        self.data, self.bitmaps = bytearray(), {}
        self.path = None

    def image(self, name, size):
        self.path, self.data = self.folder / name, bytearray(size)
        self.store()
        return self.path

    def store(self):
        self.path.write_bytes(self.data)

    def restart(self):
        if self.fault == "a restart loses bits":
            for bitmap in self.bitmaps.values():
                bitmap.dirty.discard(max(bitmap.dirty, default=0))

    def open(self, export, mode, contexts=()):
        return FakeWire(self, export, mode, contexts)

    def touch(self, offset, length):
        bitmaps = list(self.bitmaps.values())
        if self.fault == "a second bitmap is forgotten":
            bitmaps = bitmaps[:1]
        for bitmap in bitmaps:
            bitmap.touch(offset, length)
            if self.fault == "the last block is not recorded":
                bitmap.dirty.discard((len(self.data) - 1) // bitmap.granularity)

    # --- the control socket ---

    def call(self, method, **params):
        if method in ("disk.add", "export.add"):
            return None
        if method == "transaction":
            for action in params["actions"]:
                self.call(action["method"], **action["params"])
            return None
        if method == "bitmap.add":
            self.bitmaps[params["name"]] = FakeBitmap(self, params["name"], params["granularity"],
                                                      params["recording"])
            return None
        bitmap = self.bitmaps[params.get("name") or params.get("target")]
        if method == "bitmap.show":
            return bitmap.show()
        if method == "bitmap.extents":
            found = [(offset, length) for offset, length in bitmap.extents()
                     if offset >= params["offset"]]
            page = found[:params["limit"]]
            return {"extents": [{"offset": offset, "length": length} for offset, length in page],
                    "next_offset": found[len(page)][0] if len(page) < len(found) else None}
        if method == "bitmap.remove":
            del self.bitmaps[bitmap.name]
        elif method == "bitmap.clear":
            kept = min(bitmap.dirty, default=0) if self.fault == "a clear keeps a bit" else None
            bitmap.dirty, bitmap.missed, bitmap.generation = set(), False, object()
            if kept is not None:
                bitmap.dirty.add(kept)
        elif method in ("bitmap.enable", "bitmap.disable"):
            bitmap.recording = method == "bitmap.enable"
        else:
            self.merge(bitmap, [self.bitmaps[name] for name in params["sources"]])
        return None

    def merge(self, target, sources):
        shift = target.granularity if self.fault == "a merge shifts by a block" else 0
        recording, missed = target.recording, target.missed
        for source in sources:
            for offset, length in source.extents():
                target.recording = True
                target.touch(max(0, offset - shift), length)
            missed |= source.missed
        target.recording, target.missed = recording, missed


class FakeWire:
    def __init__(self, daemon, export, mode, contexts):
        self.daemon, self.export, self.mode, self.size = daemon, export, mode, len(daemon.data)
        self.contexts = {name: number for number, name in enumerate(contexts)}
        self.cookie, self.replies = 0, {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def close(self):
        pass

    def send(self, _data):
        pass

    def prepare(self, kind, offset=0, length=0, flags=0, payload=None):
        self.cookie += 1
        self.replies[self.cookie] = self.answer(kind, offset, length, flags, payload)
        return self.cookie, b""

    def wait(self, cookie):
        return self.replies.pop(cookie)

    def read(self, offset, length):
        return self.answer(Cmd.READ, offset, length, 0, None)

    def write(self, offset, data):
        return self.answer(Cmd.WRITE, offset, len(data), 0, data)

    def flush(self):
        return self.answer(Cmd.FLUSH, 0, 0, 0, None)

    def answer(self, kind, offset, length, flags, payload):
        daemon, fault = self.daemon, self.daemon.fault
        changes = kind in (Cmd.WRITE, Cmd.WRITE_ZEROES, Cmd.TRIM)
        if changes and self.export == "diff-ro":
            return Reply(error=Err.EPERM)
        if offset + length > self.size:
            if changes and fault == "a refused write is recorded":
                daemon.touch(offset, self.size - offset)
            return Reply(error=Err.ENOSPC if kind in (Cmd.WRITE, Cmd.WRITE_ZEROES) else Err.EINVAL)
        if flags & CmdFlag.FAST_ZERO and flags & CmdFlag.NO_HOLE:
            return Reply(error=Err.ENOTSUP)
        if (changes and not (fault == "trim is not recorded" and kind == Cmd.TRIM)
                and not (fault == "zeroes are not recorded" and kind == Cmd.WRITE_ZEROES)):
            daemon.touch(offset, length)
        if kind == Cmd.WRITE:
            kept = 1 if fault == "a write is torn" and length > 50000 else 0
            daemon.data[offset:offset + length - kept] = payload[:length - kept]
        elif kind == Cmd.WRITE_ZEROES:
            end = offset + length
            if fault == "zeroes are left out of a block":
                end -= end % 512 if end % 512 < length else 0
            daemon.data[offset:end] = bytes(end - offset)
        elif kind == Cmd.TRIM:
            daemon.data[offset:offset + length] = bytes(length)
        elif kind == Cmd.READ:
            return Reply(data=bytes(daemon.data[offset:offset + length]))
        elif kind == Cmd.FLUSH:
            daemon.store()
        elif kind == Cmd.BLOCK_STATUS:
            return Reply(status={number: self.status(name, offset, offset + length)
                                 for name, number in self.contexts.items()})
        return Reply()

    def status(self, name, offset, end):
        if name == "base:allocation":
            return [(end - offset, 0)]
        bitmap = self.daemon.bitmaps[name.removeprefix("qemu:dirty-bitmap:")]
        found = []
        for start, length in bitmap.extents():
            stop = min(start + length, end)
            if self.daemon.fault == "block status ends early" and length > bitmap.granularity:
                stop = min(stop, start + length - bitmap.granularity)
            if start > offset:
                found.append((min(start, end) - offset, 0))
                offset = min(start, end)
            if stop > offset:
                found.append((stop - offset, 1))
                offset = stop
        return found + ([(end - offset, 0)] if end > offset else [])

    def extents(self, name):
        found, offset = [], 0
        for length, flags in self.status(name, 0, self.size):
            found.append((offset, length, flags))
            offset += length
        return found
