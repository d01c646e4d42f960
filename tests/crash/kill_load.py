"""What runs against nbdd until it is killed: connections with requests, and commands."""

import random
import threading
import time

import nbdwire
import rpc
from kill_model import Command, Request, Violation, pattern
from nbdproto import MODES, Cmd, CmdFlag, Err

CONNECTIONS = 2  # to each disk
DEPTH = 8
BITMAPS = 5  # of each disk
GRANULARITIES = (512, 4096, 4096, 16384, 65536, 65536, 65536, 131072, 1 << 20)


class Load:
    """Threads that end when the daemon has gone. It had better go for a reason (`ending`)."""

    def __init__(self, world, daemon, seed, figures):
        self.world, self.daemon, self.figures = world, daemon, figures
        self.ending = False
        self.failed = threading.Event()
        self.commanded = threading.Event()
        self.errors = []
        self.count = 0
        work = [(self.connection, disk) for disk in world.disks.values()] * CONNECTIONS
        work.append((self.commands,))
        self.threads = [threading.Thread(target=self.thread, args=(seed + number, *one))
                        for number, one in enumerate(work)]

    def start(self):
        for thread in self.threads:
            thread.start()

    def join(self):
        for thread in self.threads:
            thread.join()
        if self.errors:
            raise self.errors[0]

    def thread(self, seed, work, *args):
        rand = random.Random(seed)
        try:
            while not self.ending:
                try:
                    work(rand, *args)
                except (nbdwire.Closed, rpc.Disconnected, ConnectionError, FileNotFoundError):
                    if not self.ending and self.daemon.process.poll() is not None:
                        raise Violation(f"nbdd ended: {self.daemon.log()}") from None
                except rpc.RpcError as error:  # what it refused stays as if nobody had answered
                    if not self.ending or "is stopping" not in error.message:
                        raise
        except Exception as error:  # the main thread raises it
            self.errors.append(error if isinstance(error, AssertionError)
                               else Violation(f"{type(error).__name__}: {error}"))
            self.failed.set()

    # --- requests ---

    def connection(self, rand, disk):
        """One connection, until it ends."""
        with self.world.lock:
            names = [name for name, export in self.world.exports.items()
                     if export["disk"] == disk.name and not export.get("read_only")]
        name = rand.choice([disk.name, *names])
        try:
            wire = nbdwire.open_wire(self.daemon.nbd, rand.choice(MODES))
            admitted = wire.go(name).ok
        except nbdwire.ProtocolError:
            if not self.ending:  # else it says that it is shutting down
                raise
            return
        with wire:
            if not admitted:
                if name == disk.name and not self.ending:
                    raise Violation(f"export {name} is refused")
                return
            while True:
                self.batch(rand, wire, disk)
                if rand.random() < 0.002:
                    return

    def batch(self, rand, wire, disk):
        """Fills the pipe, and takes the next answers."""
        parts = []
        for _ in range(rand.randint(1, DEPTH - len(wire.pending))
                       if len(wire.pending) < DEPTH else 0):
            request = self.pick(rand, wire, disk)
            if request is None or (request.length and not self.world.begin(disk, request)):
                continue
            payload = request.data if request.kind == Cmd.WRITE else None
            request.cookie, data = wire.prepare(request.kind, request.offset, request.length,
                                                request.flags, payload=payload)
            wire.pending[request.cookie].own = request
            parts.append(data)
        if parts:
            wire.send(b"".join(parts))
        for _ in range(rand.randint(1, max(1, len(wire.pending)))):
            if not wire.pending:
                break
            request = dict(wire.pending)
            cookie = wire.recv_chunk()
            if wire.replies[cookie].done:
                self.answer(disk, request[cookie].own, wire.replies.pop(cookie))

    def answer(self, disk, request, reply):
        if request.flags & CmdFlag.FAST_ZERO and reply.error == Err.ENOTSUP:
            request.data = None
        elif reply.error:
            raise Violation(f"{request} on {disk.name}: answered {reply.error} {reply.message}")
        if not request.length:
            return
        found = None
        if request.kind == Cmd.READ:
            with self.world.lock:
                same = disk.data[request.offset:request.offset + request.length] == reply.data
            if not same:
                raise Violation(f"{request} on {disk.name} answered what was not written last")
        elif request.kind == Cmd.TRIM:
            with open(disk.path, "rb", buffering=0) as image:
                image.seek(request.offset)
                found = image.read(request.length)
        self.world.end(disk, request, found)
        self.figures.add("requests answered")

    def pick(self, rand, wire, disk):
        kind = rand.choice((Cmd.WRITE,) * 9 + (Cmd.WRITE_ZEROES, Cmd.TRIM) * 2 +
                           (Cmd.READ, Cmd.FLUSH))
        if kind == Cmd.FLUSH:
            return Request(kind, 0, 0)
        length = rand.choice((512, 4096, 4096, 4096, rand.randint(1, 8192), rand.randint(1, 65536)))
        if kind in (Cmd.TRIM, Cmd.WRITE_ZEROES) and rand.random() < 0.02:
            length = rand.randint(1, disk.size // 2)
        elif kind == Cmd.READ:
            length = min(length, 8192)
        # Mostly one part of the disk for a while, which others visit too.
        span = disk.size // 8
        base = span * (int(time.monotonic() * 4) % 8) if rand.random() < 0.5 else 0
        offset = base + rand.randrange(span if base else disk.size)
        offset -= offset % rand.choice((1, 512, 4096, 4096))
        length = min(length, disk.size - offset)
        flags = CmdFlag.FUA if kind != Cmd.READ and rand.random() < 0.05 else 0
        if kind == Cmd.WRITE_ZEROES:
            flags |= rand.choice((0, 0, CmdFlag.NO_HOLE, CmdFlag.FAST_ZERO))
        data = None
        if kind == Cmd.WRITE:
            data = pattern(next(self.world.sequence), offset, length)
        elif kind != Cmd.READ:
            data = bytes(length)
        return Request(kind, offset, length, flags, data)

    # --- commands ---

    def commands(self, rand):
        with rpc.Rpc(str(self.daemon.socket)) as control:
            while not self.ending:
                time.sleep(rand.choice((0, 0.001, 0.005, 0.02)) * rand.random())
                actions, drop = self.actions(rand)
                command = Command(actions)
                self.world.begin_command(command)
                self.commanded.set()
                if len(actions) > 1:
                    results = control.plain("transaction", actions=[
                        {"method": method, "params": params} for method, params in actions])
                    results = [one["result"] if "result" in one else one
                               for one in results["results"]]
                else:
                    (method, params), = actions
                    if method == "export.remove":
                        params = dict(params, mode=drop)
                    results = [control.plain(method, **params)]
                self.world.end_command(results)
                self.figures.add("commands acknowledged")

    def actions(self, rand):
        """[(method, params)], and how to remove an export."""
        world = self.world
        dice = rand.random()
        drop = rand.choice(("drain", "hard"))
        if dice < 0.12:
            extra = sorted(set(world.exports) - set(world.disks))
            verb = rand.choice(("add", "add", "set", "remove")) if extra else "add"
            if verb == "remove":
                return [("export.remove", {"name": rand.choice(extra)})], drop
            if verb == "set":
                return [("export.set", {"name": rand.choice(extra),
                                        "description": f"no. {next(world.sequence)}"})], drop
            disk = rand.choice(sorted(world.disks))
            self.count += 1
            name = f"x{next(world.sequence)}"
            return [("export.add", {"name": name, "disk": disk, "sharing": "shared",
                                    "read_only": rand.random() < 0.3})], drop
        if dice < 0.16:
            return [self.guest(rand)], drop
        actions = []
        for _ in range(rand.randint(2, 4) if rand.random() < 0.3 else 1):
            action = self.bitmap(rand, actions)
            if action:
                actions.append(action)
        return (actions, drop) if actions else self.actions(rand)

    def guest(self, rand):
        """A disk that is there and does nothing."""
        if self.world.guests and rand.random() < 0.6:
            return "disk.remove", {"name": rand.choice(sorted(self.world.guests)), "force": True}
        name = f"g{next(self.world.sequence)}"
        return "disk.add", {"name": name, "path": str(self.daemon.image(name, 65536))}

    def bitmap(self, rand, others):
        """An action on a bitmap that none of the others has as its target."""
        disk = self.world.disks[rand.choice(sorted(self.world.disks))]
        met = {(params["disk"], params.get("name") or params.get("target"))
               for _, params in others if "disk" in params}
        removed = {(params["disk"], params["name"]) for method, params in others
                   if method == "bitmap.remove"}
        names = [name for name in sorted(disk.bitmaps) if (disk.name, name) not in met]
        verb = rand.choice(("clear", "clear", "enable", "enable", "disable", "merge", "merge",
                            "remove", "add", "add"))
        if verb == "add" or len(disk.bitmaps) < 2 or not names:
            if len(disk.bitmaps) >= BITMAPS:
                return None
            return "bitmap.add", {
                "disk": disk.name, "name": f"b{next(self.world.sequence)}",
                "granularity": rand.choice(GRANULARITIES), "recording": rand.random() < 0.85,
                "durability": rand.choice(("power",) * 8 + ("process", "none"))}
        name = rand.choice(names)
        if verb == "merge":
            sources = [one for one in sorted(disk.bitmaps) if (disk.name, one) not in removed]
            chosen = rand.sample(sources, rand.randint(0, min(3, len(sources))))
            return "bitmap.merge", {"disk": disk.name, "target": name, "sources": chosen}
        if verb == "remove" and any(name in params.get("sources", ()) for _, params in others):
            return None
        return f"bitmap.{verb}", {"disk": disk.name, "name": name}
