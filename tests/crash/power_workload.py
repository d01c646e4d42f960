"""Workloads: letters, each one request, command or mishap, and the client that runs them on a
recorded nbdd.

Exhaustive ones are all words over LETTERS up to a length, on a disk that has lost its power once
already (intents to recover from, three bitmaps of which one is disabled). Random ones are longer,
with other places and several writes in flight around a command."""

import concurrent.futures
import itertools
import os
import signal
import time

import nbdwire
import power_daemon
import power_disk
import power_log
from nbdproto import CmdFlag
from power_daemon import REGION
from power_ledger import SECTOR

REGIONS = 20
SIZE = REGIONS * REGION
PLACE = 2 * REGION + 8192  # nobody wrote there before
LETTERS = {
    "w": "write", "v": "write elsewhere", "f": "write with FUA", "s": "flush", "t": "trim",
    "z": "write zeroes", "p": "writes to more regions than there may be intents",
    "a": "add a bitmap", "c": "clear one", "d": "disable it", "e": "enable one", "m": "merge two",
    "r": "remove one", "x": "transaction: add, disable, clear", "o": "add an export or remove it",
    "g": "grow the disk", "q": "wait until regions were retired", "R": "stop and start",
    "K": "kill -9 and start",
}
# In random workloads, and in some words of their own.
FURTHER = {
    "L": "commands until the database's log has been copied back",
    "P": "add a bitmap that survives the process alone",
    "B": "requests in flight before, while and after a command runs",
}
FURTHER_WORDS = ("Lw", "LK", "wLfK", "LqcL", "Pw", "PwKR", "PqwKR", "PwKwR", "PtKaR", "PwLKR")
EAGER = "qL"  # letters that want a store that retires regions at once


def words(length):
    for count in range(length + 1):
        for letters in itertools.product(LETTERS, repeat=count):
            yield "".join(letters)


def stamp(number, offset, length):
    """Every sector of every write is unlike any other."""
    return b"".join(
        (b"%08d@%08x " % (number, at)) * 28 + b"%08x" % at
        for at in range(offset // SECTOR, (offset + length) // SECTOR)
    )


class Client:
    """Talks to the daemon, marks the log, keeps the ledger."""

    def __init__(self, folder, stock, ledger, random):
        self.folder, self.stock, self.ledger, self.random = folder, stock, ledger, random
        self.boot = power_daemon.new_boot()
        self.log = os.open(os.path.join(folder, "log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.control = self.wire = None
        self.extra = sum(key[1].startswith("n") for key in ledger.now)

    # --- life ---

    def start(self):
        self.stock.start(self.folder, self.boot, "log")
        self.control = power_daemon.Control(self.folder)

    def connect(self):
        if self.wire is None:
            address = "unix:" + os.path.join(self.folder, power_daemon.EXPORTS)
            self.wire = nbdwire.open_export(address, "d", nbdwire.SIMPLE)
        return self.wire

    def end(self, sig):
        for connection in (self.control, self.wire):
            if connection:
                connection.close()
        self.control = self.wire = None
        status = self.stock.end(sig)
        if status != (0 if sig == signal.SIGTERM else -sig):
            raise power_daemon.Failed(f"nbdd ended with {status}: {self.stock.text()}")

    def close(self):
        if self.stock.pid:
            self.kill()
        os.close(self.log)

    def wait_until_quiet(self, seconds, limit=1.0):
        """Until nothing was recorded for so long."""
        start = since = time.monotonic()
        size = -1
        while (now := time.monotonic()) - since < seconds and now - start < limit:
            time.sleep(seconds / 4)
            last, size = size, os.fstat(self.log).st_size
            since = since if last == size else time.monotonic()

    def kill(self):
        """Whether a call that it meets in the middle was done nobody could say."""
        self.wait_until_quiet(0.003)
        self.end(signal.SIGKILL)

    # --- calls ---

    def begin(self, what, **fields):
        call = self.ledger.call(what, **fields)
        power_log.write_mark(self.log, 2 * call.number)
        return call

    def done(self, call):
        power_log.write_mark(self.log, 2 * call.number + 1)

    def submit(self, what, offset=0, length=0, **fields):
        """Sends a request; (its Call, its cookie)."""
        wire = self.connect()
        call = self.begin(what, offset=offset, length=length, **fields)
        flags = CmdFlag.FUA if call.durable else 0
        if what == "write":
            call.data = stamp(call.number, offset, length)
            return call, wire.submit(nbdwire.Cmd.WRITE, offset, length, flags, payload=call.data)
        command = {"trim": nbdwire.Cmd.TRIM, "zero": nbdwire.Cmd.WRITE_ZEROES}.get(what)
        return call, wire.submit(command or nbdwire.Cmd.FLUSH, offset, length, flags)

    def wait(self, request):
        call, cookie = request
        reply = self.wire.wait(cookie)
        if reply.error:
            raise power_daemon.Failed(f"{call.what} was answered {reply.error}")
        self.done(call)

    def request(self, what, offset=0, length=0, **fields):
        self.wait(self.submit(what, offset, length, **fields))

    def command(self, actions):
        """One command, or several as a transaction; [(method, params)]."""
        call = self.begin(" ".join(method for method, _ in actions))
        if len(actions) == 1:
            results = [self.control.call(actions[0][0], **actions[0][1])]
        else:
            listed = [{"method": method, "params": params} for method, params in actions]
            answer = self.control.call("transaction", actions=listed)
            results = answer["results"]
        changes = {}
        for (method, params), result in zip(actions, results):
            noun, verb = method.split(".")
            state = True
            if noun == "bitmap" and verb != "remove":
                state = (result["generation"], result["recording"])
            changes[noun, params.get("name") or params["target"]] = (
                None if verb == "remove" else state
            )
        self.ledger.changed(call, changes)
        self.done(call)
        return call

    def bitmap(self, verb, name, **params):
        return "bitmap." + verb, dict(params, disk="d", name=name)

    def recording(self, name):
        """Whether it records; None: there is none."""
        state = self.ledger.now.get(("bitmap", name))
        return state and state[1]

    # --- letters ---

    def run(self, word, place=PLACE):
        for letter in word:
            getattr(self, "do_" + letter)(place)

    def do_w(self, place):
        self.request("write", place + 1024, 6144)

    def do_v(self, place):
        self.request("write", (place + 7 * REGION + 512) % (SIZE - 8192) // 512 * 512, 4096)

    def do_f(self, place):
        self.request("write", place, 4096, durable=True)

    def do_s(self, place):
        self.request("flush", flush=True)

    def do_t(self, place):
        self.request("trim", place - 4096, 12288, trim=True)

    def do_z(self, place):
        self.request("zero", place + 2048, 4096)

    def do_p(self, place):
        for region in range(REGIONS - 1):
            self.request("write", (region * REGION + place % REGION) // 512 * 512, 512)

    def do_a(self, place):
        self.extra += 1
        self.command([self.bitmap("add", f"n{self.extra}", granularity=4096)])

    def do_c(self, place):
        self.command([self.bitmap("clear", "b1")])

    def do_d(self, place):
        self.command([self.bitmap("disable", "b1")])

    def do_e(self, place):
        name = "b0" if self.recording("b1") and self.recording("b0") is not None else "b1"
        self.command([self.bitmap("enable", name)])

    def do_m(self, place):
        extents = self.control.call("bitmap.extents", disk="d", name="b1")["extents"]
        params = {"disk": "d", "target": "b2", "sources": ["b1"]}
        call = self.command([("bitmap.merge", params)])
        self.ledger.merged(call, self.ledger.now["bitmap", "b2"][0],
                           [(item["offset"], item["length"]) for item in extents])

    def do_r(self, place):
        if self.recording("b0") is not None:
            self.command([self.bitmap("remove", "b0")])
        else:
            self.command([self.bitmap("add", "b0", granularity=8192, recording=False)])

    def do_x(self, place):
        self.extra += 1
        self.command([self.bitmap("add", f"n{self.extra}", granularity=4096),
                      self.bitmap("disable", "b1"), self.bitmap("clear", "b2")])

    def do_o(self, place):
        if ("export", "other") in self.ledger.now:
            self.command([("export.remove", {"name": "other"})])
        else:
            self.command([("export.add", {"name": "other", "disk": "d", "read_only": True})])

    def do_g(self, place):
        path = os.path.join(self.folder, "disk.img")
        size = os.stat(path).st_size + REGION
        number = 1 << 30 | self.ledger.call("grow").number
        power_log.write_truncate(self.log, number, size)
        os.truncate(path, size)
        power_log.write_truncate(self.log, number, size, os.stat(path))
        self.control.call("disk.refresh", name="d")

    def do_q(self, place):
        """An eager store looks every millisecond: once it has written nothing for a while..."""
        self.wait_until_quiet(0.02)

    def do_L(self, place):
        """The store does that from 200 frames on, when it next looks."""
        path = os.path.join(self.folder, "state", "state.db")
        before, tries = os.stat(path).st_mtime_ns, 0
        while os.stat(path).st_mtime_ns == before and tries < 300:
            self.command([self.bitmap("clear", "b2")])
            tries += 1

    def do_P(self, place):
        self.extra += 1
        self.command([self.bitmap("add", f"n{self.extra}", granularity=4096, durability="process")])

    def do_R(self, place):
        self.end(signal.SIGTERM)
        self.start()

    def do_K(self, place):
        self.kill()
        self.start()

    def some_write(self):
        what = self.random.choice(("write", "write", "write", "zero", "trim"))
        offset = self.random.randrange(0, SIZE // 4096 - 1) * 4096 + self.random.randrange(4) * 512
        return offset, lambda: self.submit(what, offset, 3072, trim=what == "trim",
                                           durable=self.random.random() < 0.3)

    def do_B(self, place):
        """Writes in flight before, while and after a command runs; no two of them overlap."""
        letter = self.random.choice(("", "a", "c", "c", "d", "e", "m", "x"))
        writes = dict(self.some_write() for _ in range(self.random.randint(3, 12)))
        writes = [writes[offset] for offset in sorted(writes, key=lambda _: self.random.random())
                  if not any(abs(offset - other) < 4096 for other in writes if other < offset)]
        early = self.random.randint(0, len(writes))
        self.connect()
        requests = [write() for write in writes[:early]]
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            command = pool.submit(self.run, letter)
            for write in writes[early:]:
                time.sleep(self.random.choice((0, 0.0003, 0.0008)))
                requests.append(write())
            command.result()
        for request in requests:
            self.wait(request)


def random_word(random):
    """Letters, and B for a burst."""
    weights = dict.fromkeys(LETTERS, 2) | {
        "w": 6, "v": 5, "t": 4, "z": 4, "q": 3, "B": 6, "g": 0.3, "L": 0.1, "P": 0.5,
    }
    return "".join(random.choices(list(weights), list(weights.values()), k=random.randint(8, 40)))


def run_random(client, word):
    for letter in word:
        client.run(letter, client.random.randrange(12, SIZE // 1024 - 32) * 1024)


def prepare(client):
    """From nothing to what exhaustive workloads start on."""
    path = os.path.join(client.folder, "disk.img")
    client.command([("disk.add", {"name": "d", "path": path})])
    client.command([("export.add", {"name": "d", "disk": "d"})])
    client.command([client.bitmap("add", "b1", granularity=4096)])
    client.request("write", 5 * REGION, 8192)
    client.command([client.bitmap("add", "b0", granularity=8192), client.bitmap("add", "b2")])
    client.request("write", 9 * REGION + 4096, 4096, durable=True)
    client.request("flush", flush=True)
    client.command([client.bitmap("disable", "b0")])


class Recording:
    """A workload that was run: its log and its ledger."""

    def __init__(self, word, log, ledger):
        self.word, self.log, self.ledger = word, log, ledger


def record(folder, stock, base, ledger, work, random):
    """Runs work(client) on a recorded nbdd that starts on base (a State); a Recording, or None when
    a kill -9 met a call in the middle, so that nobody knows whether it was done."""
    power_disk.write_folder(folder, base)
    path = os.path.join(folder, "log")
    if os.path.exists(path):
        os.unlink(path)
    client = Client(folder, stock, ledger, random)
    try:
        client.start()
        work(client)
    finally:
        client.close()
    with open(path, "rb") as file:
        data = file.read()
    files = {name: power_log.File(content, name) for name, content in base.files.items()}
    files[power_log.IMAGE] = power_log.File(base.image, "image")
    log = power_log.read_log(data, files)
    if log.interrupted:
        return None
    log.image_times, log.image_xattr = base.times, base.xattr
    compare(power_disk.Cut(log, log.places).volatile(), power_disk.read_folder(folder))
    ledger.settle(log.marks)
    return log


def compare(replayed, real):
    """What was recorded is all that happened."""
    names = set(replayed.files) | set(real.files)
    wrong = [name for name in names if replayed.files.get(name) != real.files.get(name)]
    if replayed.image != real.image:
        wrong.append("the image")
    if replayed.xattr != real.xattr:
        wrong.append("the image's attribute")
    if wrong:
        raise power_log.Unmodelled(f"the replay of the log differs from {', '.join(wrong)}")
