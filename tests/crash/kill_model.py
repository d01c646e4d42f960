"""What the kill loop knows: what every byte of its disks should be, what each bitmap has to report,
and what is left open by requests and by a command that nobody answered any more.

All of it changes under one lock. A request is begun before its first byte goes out and ended after
its reply has come in, and so is a command: what began after something had ended certainly came
after it. About the rest nothing is assumed, except that it happened wholly or not at all (a
command), or byte by byte (a request)."""

import array
import collections
import copy
import itertools
import threading

import model
from nbdproto import Cmd

UNIT = 16  # bytes that carry the sequence number and the offset
PIECE = 512


class Violation(AssertionError):
    """nbdd broke the promise."""


def require(condition, text):
    if not condition:
        raise Violation(text)


def pattern(sequence, offset, length):
    """Bytes that say which request wrote them, and where."""
    first, end = offset // UNIT, -(-(offset + length) // UNIT)
    words = array.array("Q", bytes(UNIT * (end - first)))
    words[0::2] = array.array("Q", [sequence]) * (end - first)
    words[1::2] = array.array("Q", range(first * UNIT, end * UNIT, UNIT))
    return words.tobytes()[offset - first * UNIT:][:length]


def pieces(offset, old, found):
    """(offset, length) of the parts, of one sector each at most, in which the two differ."""
    for start in range(offset - offset % PIECE, offset + len(old), PIECE):
        first, end = max(start, offset), min(start + PIECE, offset + len(old))
        if old[first - offset:end - offset] != found[first - offset:end - offset]:
            yield first, end - first


def worse(one, other):
    """Of two answers to whether writes were missed: yes, perhaps (None), no."""
    return True if one or other else False if one is False and other is False else None


class Request:
    """One that may change the disk, or (a read) must not meet one that does."""

    def __init__(self, kind, offset, length, flags=0, data=None):
        self.kind, self.offset, self.length, self.flags = kind, offset, length, flags
        self.data = data  # what will be there; of a trim: if anything changes
        self.seen = {}  # bitmap -> its epoch
        self.answered = False
        self.changed = []  # what certainly changed, once it is answered

    @property
    def mutates(self):
        return self.kind != Cmd.READ

    def meets(self, offset, length):
        return self.offset < offset + length and offset < self.offset + self.length

    def __str__(self):
        return f"{Cmd(self.kind).name} {self.offset}+{self.length} flags {int(self.flags)}"


class Bitmap(model.Bitmap):
    epochs = itertools.count()

    def __init__(self, size, granularity, recording, durability="power"):
        super().__init__(size, granularity, recording)
        self.durability = durability
        self.epoch = next(self.epochs)
        self.bound = 0  # of over-reported bytes
        self.merged = False

    def copy(self):
        other = copy.copy(self)
        other.must, other.may = bytearray(self.must), bytearray(self.may)
        return other

    def clear(self):
        super().clear()
        self.generation, self.bound, self.merged = None, 0, False

    def merge(self, source):
        super().merge(source)
        self.bound, self.merged = self.bound + source.bound, True

    def unite(self, other):
        for name in ("must", "may"):
            own, more = getattr(self, name), getattr(other, name)
            both = int.from_bytes(own, "little") | int.from_bytes(more, "little")
            setattr(self, name, bytearray(both.to_bytes(len(own), "little")))

    def perhaps(self, request):
        """It may have met this one or not."""
        self.mark(request.offset, request.length, certain=False)
        if self.recording is not True and self.missed is not True:
            self.missed = None

    def certainly(self, request):
        for offset, length in request.changed:
            self.touched(offset, length)


class Disk(model.Disk):
    def __init__(self, name, path, size, cache):
        super().__init__(size)
        self.name, self.path, self.cache = name, path, cache
        self.flying = []


class Command:
    """Changes in flight: [(method, params)] that happen together."""

    def __init__(self, actions):
        self.actions = actions
        self.before, self.after, self.touched = {}, {}, []
        self.generations = {}

    def bitmaps(self):
        for method, params in self.actions:
            if method.startswith("bitmap."):
                yield method.partition(".")[2], params, params.get("name") or params["target"]

    def begin(self, disks):
        merged = set()
        for verb, params, name in self.bitmaps():
            disk, key = disks[params["disk"]], (params["disk"], name)
            if key not in self.after:
                self.before[key] = disk.bitmaps.get(name)
                self.after[key] = self.before[key] and self.before[key].copy()
                merged.add(key)
            if verb != "merge":
                merged.discard(key)
            self.apply(verb, params, key, disk)
            self.touched += [request for request in disk.flying if request.mutates]
        for key, old in self.before.items():
            new = self.after[key]
            if old is None or key in merged:
                continue
            old.was_epoch, old.epoch = old.epoch, next(Bitmap.epochs)
            if new is not None:
                new.epoch = next(Bitmap.epochs)
                if new.recording != old.recording:
                    old.was, old.recording = old.recording, None
        self.merged = merged  # what only merges concern
        self.began = len(self.touched)  # the others began while it was under way

    def apply(self, verb, params, key, disk):
        bitmap = self.after[key]
        if verb == "add":
            self.after[key] = Bitmap(disk.size, params["granularity"], params["recording"],
                                     params.get("durability", "power"))
        elif verb == "remove":
            self.after[key] = None
        elif verb == "clear":
            bitmap.clear()
        elif verb in ("enable", "disable"):
            bitmap.recording = verb == "enable"
        else:
            for name in params["sources"]:
                source = self.after.get((params["disk"], name)) or disk.bitmaps[name]
                bitmap.merge(source)

    def succeed(self, disks):
        for (disk, name), new in self.after.items():
            old = self.before[(disk, name)]
            if new is None:
                del disks[disk].bitmaps[name]
                continue
            met = [request for request in self.touched if request.disk == disk]
            if (disk, name) in self.merged:
                new.unite(old)
                new.missed = worse(new.missed, old.missed)
            if met and new.missed is False and (
                    old is None or old.recording is not True or (disk, name) in self.merged):
                new.missed = None
            for request in met:
                new.perhaps(request)
            new.generation = self.generations.get((disk, name), new.generation)
            disks[disk].bitmaps[name] = new
        self.spread(disks)

    def spread(self, disks):
        """What its sources met in the meantime may have come to a target in whole blocks of theirs."""
        for verb, params, name in self.bitmaps():
            bitmaps = disks[params["disk"]].bitmaps
            for source in params["sources"] if verb == "merge" else ():
                for offset, length in model.ranges(bitmaps[source].may,
                                                   bitmaps[source].granularity,
                                                   bitmaps[source].size):
                    bitmaps[name].mark(offset, length, certain=False)

    def fail(self, disks):
        """Nothing of it happened: what was in doubt is certain now."""
        for (disk, name), old in self.before.items():
            if old is None:
                continue
            if old.recording is None:
                old.recording = old.was
            if (disk, name) in self.merged:
                continue
            old.epoch = old.was_epoch
            for index, request in enumerate(self.touched):
                if request.disk != disk:
                    continue
                if index >= self.began:
                    request.seen[name] = old.epoch
                if request.answered and request.seen.get(name) == old.epoch:
                    old.certainly(request)

    def perhaps(self, disks):
        """Merges alone, or what changes nothing: it may have happened."""
        self.fail(disks)
        for key, old in self.before.items():
            if old is not None and self.after[key] is not None:
                old.bound, old.merged = self.after[key].bound, True
                must = old.must
                old.unite(self.after[key])
                old.must = must
                if self.after[key].missed != old.missed and old.missed is False:
                    old.missed = None
        self.spread(disks)

    def happened(self, shown):
        """From what nbdd shows after a restart: True, False, or None where nothing tells."""
        answers = {}
        for method, params in self.actions:
            answers[f"{method} {params}"] = self.look(method, params, shown)
        known = {answer for answer in answers.values() if answer is not None}
        require(len(known) < 2, f"a transaction happened in part: {answers}")
        return known.pop() if known else None

    def look(self, method, params, shown):
        noun, verb = method.split(".")
        if noun != "bitmap":
            there = shown[noun].get(params["name"])
            if verb == "set":
                return there is not None and there["description"] == params["description"]
            return (there is not None) == (verb == "add")
        name = params.get("name") or params["target"]
        there = shown["bitmap"].get((params["disk"], name))
        if verb in ("add", "remove"):
            return (there is not None) == (verb == "add")
        old, new = self.before[(params["disk"], name)], self.after[(params["disk"], name)]
        require(there is not None, f"bitmap {name} of {params['disk']} is gone")
        if verb == "clear":
            return there["generation"] != old.generation
        was = old.was if old.recording is None else old.recording
        if verb == "merge" or was == new.recording:
            return None
        return there["recording"] == new.recording


class World:
    """Disks, what flies, and the command that is under way."""

    def __init__(self):
        self.lock = threading.Lock()
        self.disks = {}
        self.exports = {}  # name -> {disk, description, read_only}
        self.guests = {}  # disks that nobody writes to: name -> path
        self.sequence = itertools.count(1)
        self.pending = None
        self.journal = collections.deque(maxlen=20000)  # what happened last, for whoever looks

    # --- requests ---

    def begin(self, disk, request):
        """False: something else is in flight there."""
        with self.lock:
            if any(other.meets(request.offset, request.length) and
                   (other.mutates or request.mutates) for other in disk.flying):
                return False
            request.disk = disk.name
            disk.flying.append(request)
            self.journal.append(f"begin {id(request):x} {disk.name} {request}")
            if not request.mutates:
                return True
            for name, bitmap in disk.bitmaps.items():
                if bitmap.recording is not None:
                    request.seen[name] = bitmap.epoch
                if bitmap.recording is not False:
                    bitmap.mark(request.offset, request.length, certain=False)
                if bitmap.recording is not True and bitmap.missed is not True:
                    bitmap.missed = None
            if self.pending:
                self.pending.touched.append(request)
            return True

    def end(self, disk, request, found=None):
        """Answered, and done; found: what a trim has left."""
        with self.lock:
            disk.flying.remove(request)
            self.journal.append(f"end {id(request):x} {disk.name} {request}")
            request.answered = True
            if not request.mutates:
                return
            start, end = request.offset, request.offset + request.length
            if request.kind == Cmd.TRIM:
                request.changed = list(disk.settle_trim(start, bytearray(found)))
            elif request.data is not None:
                disk.data[start:end] = request.data
                request.changed = [(start, request.length)]
            self.record(disk, request)

    @staticmethod
    def record(disk, request):
        for name, epoch in request.seen.items():
            bitmap = disk.bitmaps.get(name)
            if bitmap is not None and bitmap.epoch == epoch:
                bitmap.certainly(request)

    def settle_data(self, disk, found):
        """After a restart: what is on the disk against what should be, or might."""
        require(len(found) == disk.size, f"{disk.name} has {len(found)} bytes, had {disk.size}")
        for request in disk.flying:
            if not request.mutates:
                continue
            start, end = request.offset, request.offset + request.length
            old, now = disk.data[start:end], found[start:end]
            if now not in (old, request.data):
                for index, byte in enumerate(now):
                    require(byte in (old[index], request.data[index]),
                            f"{disk.name} {start + index}: {byte} after an unanswered {request} "
                            f"of {request.data[index]}, was {old[index]}")
            request.changed = list(pieces(start, old, now))
            disk.data[start:end] = now
            self.record(disk, request)
        disk.flying = []
        if found != disk.data:
            offset, _ = next(pieces(0, disk.data, found))
            unit = offset - offset % UNIT
            raise Violation(f"{disk.name}: sector {offset} lost what was acknowledged: is "
                            f"{found[unit:unit + 32].hex()}, was {disk.data[unit:unit + 32].hex()}")

    # --- commands ---

    def begin_command(self, command):
        with self.lock:
            command.begin(self.disks)
            self.journal.append(f"begin {command.actions}")
            self.pending = command

    def end_command(self, results):
        """Acknowledged; results: what each action answered."""
        with self.lock:
            self.journal.append(f"end {self.pending.actions}")
            for (method, params), result in zip(self.pending.actions, results):
                if method.startswith("bitmap.") and method != "bitmap.remove":
                    key = (params["disk"], params.get("name") or params["target"])
                    self.pending.generations[key] = result["generation"]
            self.pending.succeed(self.disks)
            self.configure(self.pending)
            self.pending = None

    def configure(self, command):
        for method, params in command.actions:
            noun, verb = method.split(".")
            if noun == "bitmap":
                continue
            table = self.exports if noun == "export" else self.guests
            if verb == "remove":
                del table[params["name"]]
            else:
                table.setdefault(params["name"], {}).update(params)

    def settle_command(self, shown):
        command, self.pending = self.pending, None
        if command is None:
            return
        happened = command.happened(shown)
        self.journal.append(f"happened: {happened}")
        if happened is None:
            command.perhaps(self.disks)
        elif happened:
            command.generations = {
                key: shown["bitmap"][key]["generation"]
                for key, new in command.after.items() if new is not None}
            command.succeed(self.disks)
            self.configure(command)
        else:
            command.fail(self.disks)
