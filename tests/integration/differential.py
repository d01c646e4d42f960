#!/usr/bin/python3
"""The seeded random differential test: one sequence of requests and commands against nbdd and
against a model (model.py), over several connections at once; in the end both must agree.

By hand: tests/integration/differential.py [--operations N] [--seed N] [--cache direct]

Requests go out in batches that overlap in flight. Within a batch no two touch the same bytes if one
of them writes (their order would be undefined), but they may share blocks. Between batches, and
sometimes while one is in flight, come commands: bitmaps are added, cleared, merged..., connections
are made anew, the daemon restarts."""

import argparse
import dataclasses
import itertools
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import harness  # noqa: E402
import model  # noqa: E402
import rpc  # noqa: E402
from nbdproto import MODES, SIMPLE, Cmd, CmdFlag, Err  # noqa: E402

SIZE = (8 << 20) + 777  # no multiple of anything
CONNECTIONS = 4
BITMAPS = 6
MUTATING = (Cmd.WRITE, Cmd.WRITE_ZEROES, Cmd.TRIM)


@dataclasses.dataclass
class Link:
    """A connection and the export it is on."""

    wire: object
    export: str
    names: dict  # context id -> bitmap name, or None for base:allocation


@dataclasses.dataclass
class Operation:
    link: Link
    kind: int
    offset: int
    length: int
    flags: int = 0
    data: bytes = None
    expected: int = 0
    cookie: int = 0

    @property
    def mutates(self):
        return self.kind in MUTATING and not self.expected

    def meets(self, other):
        return (self.mutates or other.mutates) and (
            self.offset < other.offset + other.length and other.offset < self.offset + self.length)

    def __str__(self):
        return (f"{Cmd(self.kind).name} {self.offset}+{self.length} flags {self.flags} "
                f"on {self.link.export} ({self.link.wire.mode})")


class Run:
    def __init__(self, daemon, seed, cache="writeback", size=SIZE):
        self.daemon = daemon
        self.seed = seed
        self.random = random.Random(seed)
        self.disk = model.Disk(size)
        self.done = self.commands = self.restarts = 0
        self.names = itertools.count()
        self.image = daemon.image("diff.img", size)
        daemon.call("disk.add", name="diff", path=str(self.image), cache=cache)
        daemon.call("export.add", name="diff", disk="diff", sharing="shared")
        daemon.call("export.add", name="diff-ro", disk="diff", sharing="shared", read_only=True)
        self.links = []

    # --- the whole ---

    def operations(self, count):
        try:
            for _ in range(3):
                self.add_bitmap()
            self.connect_all()
            while self.done < count:
                self.batch(count - self.done)
                self.between()
            self.verify()
            self.restart()
            self.verify()
            return (f"seed {self.seed}: {self.done} operations, {self.commands} commands, "
                    f"{self.restarts} restarts, {len(self.disk.bitmaps)} bitmaps left")
        except Exception as error:
            raise AssertionError(
                f"seed {self.seed}, after {self.done} operations and {self.commands} commands: "
                f"{type(error).__name__}: {error}") from error

    def between(self):
        dice = self.random.random()
        if dice < 0.15:
            self.command(())
        elif dice < 0.17:
            self.reconnect(self.random.randrange(len(self.links)))
        elif dice < 0.174:
            self.restart()
        elif dice < 0.18:
            self.verify()

    # --- connections ---

    def connect(self):
        mode = self.random.choice(MODES)
        export = self.random.choice(("diff", "diff", "diff", "diff-ro"))
        contexts = {}
        if mode != SIMPLE:
            contexts = {"base:allocation": None}
            contexts.update({f"qemu:dirty-bitmap:{name}": name for name in self.disk.bitmaps})
        wire = self.daemon.open(export, mode, sorted(contexts))
        assert wire.size == self.disk.size
        return Link(wire, export, {wire.contexts[name]: bitmap for name, bitmap in contexts.items()})

    def connect_all(self):
        self.links = [self.connect() for _ in range(CONNECTIONS)]
        self.links[0].wire.close()
        self.links[0] = self.connect_to("diff")

    def connect_to(self, export):
        """One on the writable export there always is."""
        while True:
            link = self.connect()
            if link.export == export:
                return link
            link.wire.close()

    def reconnect(self, index):
        self.links[index].wire.close()
        self.links[index] = self.connect_to("diff") if index == 0 else self.connect()

    def restart(self):
        for link in self.links:
            link.wire.close()
        self.daemon.restart()
        self.restarts += 1
        self.connect_all()

    # --- requests ---

    def place(self):
        """An offset and a length; now and then large, aligned, or at the very end."""
        rand = self.random
        length = rand.choice((1, 511, 512, 4096, 65536, rand.randint(1, 8192),
                              rand.randint(1, 100000)))
        if rand.random() < 0.03:
            length = rand.randint(1, self.disk.size // 2)
        offset = rand.randrange(self.disk.size - length + 1)
        if rand.random() < 0.5:
            offset -= offset % rand.choice((512, 4096, 65536))
        if rand.random() < 0.03:
            offset = self.disk.size - length
        return offset, length

    def pick(self):
        rand = self.random
        link = rand.choice(self.links)
        kinds = [Cmd.READ] * 5 + [Cmd.WRITE] * 6 + [Cmd.WRITE_ZEROES] * 3 + [Cmd.TRIM] * 2 + [
            Cmd.FLUSH, Cmd.CACHE]
        if link.names:
            kinds += [Cmd.BLOCK_STATUS] * 3
        kind = rand.choice(kinds)
        offset, length = (0, 0) if kind == Cmd.FLUSH else self.place()
        operation = Operation(link, kind, offset, length)
        if kind == Cmd.WRITE:
            operation.data = rand.randbytes(length)
        if kind in MUTATING and rand.random() < 0.1:
            operation.flags |= CmdFlag.FUA
        if kind == Cmd.WRITE_ZEROES:
            operation.flags |= rand.choice((0, CmdFlag.NO_HOLE, CmdFlag.FAST_ZERO,
                                            CmdFlag.NO_HOLE | CmdFlag.FAST_ZERO))
        if kind == Cmd.BLOCK_STATUS:
            operation.flags |= rand.choice((0, CmdFlag.REQ_ONE))
        if kind == Cmd.READ and link.wire.mode != SIMPLE:
            operation.flags |= rand.choice((0, CmdFlag.DF))
        if kind in MUTATING and link.export == "diff-ro":
            # Its flags do not offer FAST_ZERO, so that would be one mistake more.
            operation.flags &= ~CmdFlag.FAST_ZERO
            operation.expected = Err.EPERM
        elif length and rand.random() < 0.02:
            operation.offset = self.disk.size - rand.randrange(length)
            operation.expected = (Err.ENOSPC if kind in (Cmd.WRITE, Cmd.WRITE_ZEROES)
                                  else Err.EINVAL)
        return operation

    def batch(self, most):
        chosen = []
        for _ in range(min(most, self.random.choice((1, 2, 8, 16, 32)))):
            operation = self.pick()
            if not any(operation.meets(other) for other in chosen):
                chosen.append(operation)
        before = {name: bytes(bitmap.must) for name, bitmap in self.disk.bitmaps.items()}
        self.submit(chosen)
        unsure = self.command(chosen) if self.random.random() < 0.08 else set()
        replies = [(operation, operation.link.wire.wait(operation.cookie)) for operation in chosen]
        statuses = []
        for operation, reply in replies:
            self.done += 1
            if operation.kind == Cmd.BLOCK_STATUS and not operation.expected:
                statuses.append((operation, reply))
            else:
                self.settle(operation, reply, unsure)
        for operation, reply in statuses:
            self.check_status(operation, reply, before, unsure)

    def submit(self, chosen):
        """Each connection gets its share in one piece. Where much is read, what carries data goes
        first: a client that sends and does not read might wait for a server that does the same."""
        for link in self.links:
            own = [operation for operation in chosen if operation.link is link]
            if sum(o.length for o in own if o.kind == Cmd.READ) > 65536:
                own.sort(key=lambda o: o.data is None)
            parts = []
            for operation in own:
                operation.cookie, data = link.wire.prepare(
                    operation.kind, operation.offset, operation.length, operation.flags,
                    payload=operation.data)
                parts.append(data)
            if parts:
                link.wire.send(b"".join(parts))

    def settle(self, operation, reply, unsure):
        """Holds a reply against the model, and brings the model up to date."""
        disk, offset, length = self.disk, operation.offset, operation.length
        if operation.expected:
            assert reply.error == operation.expected, f"{operation}: answered {reply.error}"
            return
        if operation.flags & CmdFlag.FAST_ZERO and reply.error == Err.ENOTSUP:
            disk.touched(offset, length, certain=False)
            return
        assert reply.error == 0, f"{operation}: answered {reply.error} {reply.message}"
        if operation.kind == Cmd.READ:
            self.same(reply.data, disk.data[offset:offset + length], offset, operation)
        elif operation.kind == Cmd.WRITE:
            disk.write(offset, operation.data)
            disk.touched(offset, length, but=unsure)
        elif operation.kind == Cmd.WRITE_ZEROES:
            disk.zero(offset, length)
            disk.touched(offset, length, but=unsure)
        elif operation.kind == Cmd.TRIM:
            reply = self.links[0].wire.read(offset, length)
            assert reply.error == 0, f"reading after {operation}: {reply.error}"
            for changed in list(disk.settle_trim(offset, bytearray(reply.data))):
                disk.touched(*changed, but=unsure)
            disk.touched(offset, length, certain=False)

    @staticmethod
    def same(found, expected, offset, where):
        if found != expected:
            index = next(i for i, (a, b) in enumerate(zip(found, expected)) if a != b)
            raise AssertionError(f"{where}: byte {offset + index} is {found[index]}, "
                                 f"should be {expected[index]}")

    def check_status(self, operation, reply, before, unsure):
        if operation.link not in self.links:
            return
        assert reply.error == 0, f"{operation}: answered {reply.error} {reply.message}"
        for number, extents in reply.status.items():
            name, position = operation.link.names[number], operation.offset
            found = []
            for size, flags in extents:
                if name is None and flags & 2:
                    self.same(self.disk.data[position:position + size], bytes(size), position,
                              f"{operation} reports zeroes")
                if name is not None and flags & 1:
                    found.append((position, size))
                position += size
            if name is not None and name not in unsure:
                self.check_status_bits(operation, name, found, position, before[name])

    def check_status_bits(self, operation, name, found, end, before):
        """Status begins and ends anywhere inside a block; blocks count as a whole."""
        bitmap = self.disk.bitmaps[name]
        dirty = bytearray(bitmap.count)
        for offset, length in found:
            first, last = model.blocks(offset, length, bitmap.granularity)
            dirty[first:last] = b"\1" * (last - first)
        first, last = model.blocks(operation.offset, end - operation.offset, bitmap.granularity)
        bitmap.check(dirty, f"{name} by {operation}", low=before, first=first, end=last)

    # --- commands ---

    def command(self, flying):
        """One command about bitmaps; flying: requests that are in flight meanwhile. Answers the
        names of the bitmaps about which those leave it open whether they are in."""
        names = sorted(self.disk.bitmaps)
        kinds = ["clear", "clear", "disable", "enable", "merge", "merge", "transaction"] if names else []
        if len(names) < BITMAPS:
            kinds += ["add", "add"]
        if len(names) > 1 and not flying:
            kinds.append("remove")
        mutating = [operation for operation in flying if operation.mutates]
        for operation in mutating:  # they may have landed before the command, or may not
            self.disk.touched(operation.offset, operation.length, certain=False)
        kind = self.random.choice(kinds)
        self.commands += 1
        if kind == "add":
            changed = {self.add_bitmap()}
        elif kind == "remove":
            changed = {self.remove_bitmap(self.random.choice(names))}
        else:
            count = 3 if kind == "transaction" else 1
            kinds = ("clear", "disable", "enable", "merge")
            actions = [self.action(self.random.choice(kinds) if count > 1 else kind)
                       for _ in range(count)]
            changed = {action["params"].get("name") or action["params"]["target"]
                       for action in actions}
            if count > 1:
                self.daemon.call("transaction", actions=actions)
            else:
                self.daemon.call(actions[0]["method"], **actions[0]["params"])
            for action in actions:
                self.apply(action)
        self.look_at(changed & set(self.disk.bitmaps), exact=not mutating)
        return changed if flying else set()

    def action(self, kind):
        names = sorted(self.disk.bitmaps)
        name = self.random.choice(names)
        if kind == "merge":
            sources = [self.random.choice(names) for _ in range(self.random.randrange(4))]
            return {"method": "bitmap.merge",
                    "params": {"disk": "diff", "target": name, "sources": sorted(set(sources))}}
        return {"method": f"bitmap.{kind}", "params": {"disk": "diff", "name": name}}

    def apply(self, action):
        kind, params = action["method"], action["params"]
        bitmap = self.disk.bitmaps[params.get("name") or params["target"]]
        if kind == "bitmap.clear":
            bitmap.clear()
            bitmap.generation = None
        elif kind in ("bitmap.enable", "bitmap.disable"):
            bitmap.recording = kind == "bitmap.enable"
        else:
            for source in params["sources"]:
                bitmap.merge(self.disk.bitmaps[source])

    def add_bitmap(self):
        name = f"b{next(self.names)}"
        granularity = 512 << self.random.randrange(14)
        recording = self.random.random() < 0.85
        self.daemon.call("bitmap.add", disk="diff", name=name, granularity=granularity,
                         recording=recording)
        self.disk.bitmaps[name] = model.Bitmap(self.disk.size, granularity, recording)
        return name

    def remove_bitmap(self, name):
        """Those who have it selected go first: what they would read of it then is not its past."""
        for index, link in enumerate(self.links):
            if name in link.names.values():
                link.wire.close()
        self.daemon.call("bitmap.remove", disk="diff", name=name)
        del self.disk.bitmaps[name]
        for index, link in enumerate(self.links):
            if name in link.names.values():
                self.reconnect(index)
        return name

    # --- comparing ---

    def look_at(self, names, exact):
        for name in names:
            bitmap = self.disk.bitmaps[name]
            shown = self.daemon.call("bitmap.show", disk="diff", name=name)
            assert shown["recording"] == bitmap.recording, shown
            assert shown["state"] == ("recording" if bitmap.recording else "disabled"), shown
            if bitmap.missed is not None and exact:
                assert shown["missed_writes"] == bitmap.missed, (shown, bitmap.missed)
            if bitmap.exact and exact:
                assert shown["dirty_bytes"] == bitmap.dirty_bytes(), (shown, bitmap.dirty_bytes())
            if bitmap.generation is None:
                bitmap.generation = shown["generation"]
            assert shown["generation"] == bitmap.generation, "the generation changed by itself"

    def reported(self, name):
        """The dirty extents by way of the control socket, a page at a time."""
        extents, offset, limit = [], 0, self.random.choice((1, 7, 65536))
        if self.disk.bitmaps[name].granularity < 16384:
            limit = 65536
        while offset is not None:
            page = self.daemon.call("bitmap.extents", disk="diff", name=name, offset=offset,
                                    limit=limit)
            assert len(page["extents"]) <= limit
            extents += [(extent["offset"], extent["length"]) for extent in page["extents"]]
            offset = page["next_offset"]
        return extents

    def verify(self):
        """Everything: data over NBD and in the file, every bitmap by every way."""
        link = self.links[0]
        for offset in range(0, self.disk.size, 1 << 20):
            length = min(1 << 20, self.disk.size - offset)
            reply = link.wire.read(offset, length)
            assert reply.error == 0, f"reading {offset}: {reply.error}"
            self.same(reply.data, self.disk.data[offset:offset + length], offset, "at the end")
        assert link.wire.flush().error == 0
        self.same(self.image.read_bytes(), self.disk.data, 0, "in the image")
        for name, bitmap in sorted(self.disk.bitmaps.items()):
            bitmap.check(bitmap.bits(self.reported(name)), f"bitmap.extents of {name}")
        self.look_at(sorted(self.disk.bitmaps), exact=True)
        with self.daemon.open("diff-ro", "extended",
                              [f"qemu:dirty-bitmap:{name}" for name in self.disk.bitmaps]) as wire:
            for name, bitmap in sorted(self.disk.bitmaps.items()):
                found = wire.extents(f"qemu:dirty-bitmap:{name}")
                dirty = [(offset, length) for offset, length, flags in found if flags]
                bitmap.check(bitmap.bits(dirty), f"block status of {name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--operations", type=int, default=100000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--cache", default="writeback", choices=("writeback", "direct"))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with harness.Daemon() as daemon:
        print(Run(daemon, options.seed, options.cache).operations(options.operations))


if __name__ == "__main__":
    try:
        main()
    except rpc.Disconnected:
        sys.exit("nbdd closed the control connection")
