"""What a client was told, and what that entitles it to find after the power came back.

A Call is a request or command with its places in the log: a power cut at place p with begin < p <=
end met it in the middle. Of objects (disks, exports, bitmaps) the calls that were answered count,
and the one that was not has happened as a whole or not at all. Of contents: sectors that a client
wrote. Of a bitmap's generation: the points in time that it is about."""

import dataclasses
import threading

SECTOR = 512
NEVER = 1 << 60


@dataclasses.dataclass(eq=False)
class Call:
    number: int
    what: str
    changes: dict = dataclasses.field(default_factory=dict)  # key of an object -> state or None
    begin: int = NEVER
    end: int = NEVER
    # of a write: what each sector becomes; None: zero or as it was (trim)
    offset: int = 0
    length: int = 0
    data: bytes = None
    trim: bool = False
    durable: bool = False  # FUA: its answer says that it is on the disk
    flush: bool = False

    def value(self, sector):
        """The sector's content as this write leaves it, or None when it does not touch it."""
        at = sector * SECTOR - self.offset
        if not 0 <= at < self.length:
            return None
        return bytes(SECTOR) if self.data is None else self.data[at : at + SECTOR]

    def sectors(self):
        return range(self.offset // SECTOR, (self.offset + self.length) // SECTOR)


@dataclasses.dataclass(eq=False)
class Point:
    """A point in time that a generation is about: it began with call (None: before the run)."""

    call: Call
    enable: bool = False  # recording was resumed, so what was missed before does not count
    image: bytes = None  # the contents when the call was answered
    before: bytes = None  # ... and when it was made
    paused: list = dataclasses.field(default_factory=list)  # (call that disabled, that enabled)


@dataclasses.dataclass(eq=False)
class Track:
    """One generation of a bitmap."""

    points: list
    must: list = dataclasses.field(default_factory=list)  # (call of the merge, dirty ranges)


class Ledger:
    def __init__(self, objects, tracks, image):
        self.base = dict(objects)
        self.now = dict(objects)  # as the client believes
        self.tracks = {generation: tracks[generation] for generation in tracks}
        self.image = image  # at the start
        self.calls = []
        self.lock = threading.Lock()
        self.before = Call(0, "before", begin=-1, end=-1)  # what was so at the start

    def call(self, what, **fields):
        with self.lock:  # a command may run beside requests
            call = Call(len(self.calls) + 1, what, **fields)
            self.calls.append(call)
        return call

    # --- what was answered ---

    def changed(self, call, changes):
        call.changes.update(changes)
        for key, state in changes.items():
            old = self.now.get(key)
            if state is None:
                self.now.pop(key, None)
            else:
                self.now[key] = state
            if key[0] == "bitmap" and state:
                self.bitmap_changed(call, old, state)

    def bitmap_changed(self, call, old, new):
        generation, recording = new
        if not old or old[0] != generation:
            # One that does not record says nothing of this moment: it begins when it is enabled.
            self.tracks[generation] = Track([Point(call)] if recording else [])
        elif old[1] != recording:
            points = self.tracks[generation].points
            for point in points:
                if recording:
                    point.paused[-1] = (point.paused[-1][0], call)
                else:
                    point.paused.append((call, None))
            if recording:
                points.append(Point(call, enable=True))  # and what is not durable yet was synced

    def merged(self, call, generation, ranges):
        self.tracks[generation].must.append((call, ranges))

    def settle(self, places):
        """The places in the log, once it has been read: {mark: place}."""
        for call in self.calls:
            call.begin = places.get(2 * call.number, NEVER)
            call.end = places.get(2 * call.number + 1, NEVER)

    # --- what that means at a cut ---

    def objects(self, place):
        """(what must be, or, if a call was in the middle, may also be; else None)"""
        sure, maybe = dict(self.base), None
        for call in self.calls:
            if call.begin >= place or not call.changes:
                continue
            target = sure
            if call.end >= place:
                target = maybe = dict(sure)
            for key, state in call.changes.items():
                target.pop(key, None)
                if state is not None:
                    target[key] = state
        return sure, maybe

    def writes(self):
        return [call for call in self.calls if call.length]

    def allowed(self, place):
        """{sector: contents it may have} of those that were written; others are as at the start."""
        flushes = [call for call in self.calls if call.flush and call.end < place]
        found = {}
        for write in self.writes():
            if write.begin >= place:
                continue
            durable = write.end < place and not write.trim and (
                write.durable or any(flush.begin > write.end for flush in flushes)
            )
            for sector in write.sectors():
                # (begin, end, content), none of which is wholly before one that is durable
                values = found.setdefault(sector, [(-1, -1, self.sector(sector))])
                if durable:
                    values[:] = [value for value in values if value[1] >= write.begin]
                values.append((write.begin, write.end, write.value(sector)))
        return {sector: {value[2] for value in values} for sector, values in found.items()}

    def sector(self, index):
        return self.image[index * SECTOR : (index + 1) * SECTOR]

    def missed(self, point, sector, place):
        """What was written to the sector while the bitmap perhaps did not record."""
        for off, on in point.paused:
            for write in self.writes():
                if write.begin < place and write.end > off.begin and (
                    on is None or write.begin < on.end
                ):
                    value = write.value(sector)
                    if value is not None:
                        yield value
