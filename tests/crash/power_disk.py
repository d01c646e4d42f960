"""The model: what a power cut can leave of a recorded run.

The disk is a journaling POSIX file system on a device whose sectors of 512 bytes are written whole
or not at all. A cut comes at any place of the log. Then:

- whatever a sync covers that had returned is there: of a file, what had ended before its fsync or
  fdatasync began (fdatasync: contents and size; fsync: times and extended attributes, too), and a
  write with O_DSYNC or RWF_DSYNC itself; of names (create, rename, unlink), what had ended before
  an fsync of the folder began. A new file's fsync does not make its name durable.
- of everything else that had begun, and of calls that had not returned, any subset: each write,
  zeroing and punch as a whole, not at all, or any of its sectors (a prefix, a suffix, some); the
  file grows as far as what is there. Where two overlap the later one counts if both are there.
- a file's times and attributes are as they were at some moment between the last fsync and the cut;
  its truncations are there in order, up to one of them.
- changes of names are there up to one of them (the journal's order) or any subset; a rename is
  there for both of its names or for none.
- sectors that nobody wrote to stay as they were; no sector has half of old and new; what reads as
  never written is zeroes. A disk that lies about its cache is not in this model, nor are bits that
  flip.
- what is in memory alone goes: the runtime directory is empty, the boot id another one.
"""

import dataclasses
import os
import shutil

import power_log
from power_log import ALLOCATE, IMAGE, NEVER, TRUNCATE, WRITE, XATTR

SECTOR = 512
STYLES = ("none", "all", "image", "state", "prefix", "but-one", "only-one", "some", "torn")


@dataclasses.dataclass
class State:
    """What is on the disk: names and contents, the image's times and attribute."""

    files: dict
    image: bytes
    times: tuple
    xattr: bytes

    def digest(self):
        """The same for the same disk (within one run of Python)."""
        return hash((self.image, tuple(sorted(self.files.items())), self.times, self.xattr))


def apply(content, operation, sectors=None):
    """Does it to a bytearray; sectors: which of those that it touches, None for all."""
    kind, offset = operation.kind, operation.offset
    if kind == XATTR:
        return
    if kind == TRUNCATE:
        size = operation.length
        if size < len(content):
            del content[size:]
        else:
            content.extend(bytes(size - len(content)))
        return
    end = offset + operation.length
    if kind == ALLOCATE:
        zeroes = operation.flags & (power_log.PUNCH_HOLE | power_log.ZERO_RANGE)
        if operation.flags & power_log.KEEP_SIZE:
            end = min(end, len(content))
        if not zeroes:
            content.extend(bytes(max(0, end - len(content))))
            return
    if sectors is None:
        put(content, operation, offset, end)
        return
    first = offset // SECTOR
    for index in sectors:
        start = max(offset, (first + index) * SECTOR)
        put(content, operation, start, min(end, (first + index + 1) * SECTOR))


def put(content, operation, start, end):
    if start >= end:
        return
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    if operation.data is None:
        content[start:end] = bytes(end - start)
    else:
        content[start:end] = operation.data[start - operation.offset : end - operation.offset]


def sector_count(operation):
    if not operation.length:
        return 0
    return (operation.offset + operation.length - 1) // SECTOR - operation.offset // SECTOR + 1


class Cut:
    """The cut at one place: what is sure, and what may be."""

    def __init__(self, log, place):
        self.log = log
        self.place = place
        self.files = {}  # File -> its operations that had begun, in order
        self.open = []  # those that may be or not
        for file in log.files:
            begun = [o for o in file.operations if o.begin < place]
            self.files[file] = begun
            self.open += [o for o in begun if o.settled >= place and o.kind in (WRITE, ALLOCATE)]
        self.names = [o for o in log.names if o.begin < place]
        self.open_names = [o for o in self.names if o.settled >= place]

    def volatile(self):
        """What a process saw that looked at this moment."""
        return self.state(Choice({o: None for o in self.open if o.end < self.place}, self.names))

    def choose(self, random, style):
        """One of the states that may be left, as a Choice."""
        image = self.log.base_names[IMAGE]
        few = self.open[:]
        pick = random.choice(few) if few else None
        chosen, names = {}, self.open_names
        if style == "all":
            chosen = dict.fromkeys(few)
        elif style in ("image", "state"):
            chosen = {o: None for o in few if (o.file is image) == (style == "image")}
            names = self.open_names if style == "state" else []
        elif style == "prefix":
            few.sort(key=lambda o: o.begin)
            chosen = dict.fromkeys(few[: random.randrange(len(few) + 1)])
        elif style == "but-one":
            chosen = {o: None for o in few if o is not pick}
        elif style == "only-one":
            chosen = {pick: None} if pick else {}
        elif style == "some":
            chosen = {o: None for o in few if random.random() < 0.5}
        elif style == "torn":
            for o in few:
                tear(random, o, chosen)
        if style not in ("all", "image", "state"):
            names = self.choose_names(random, style)
        return Choice(chosen, names, *self.choose_metadata(random, style))

    def choose_names(self, random, style):
        if style == "none":
            return []
        if random.random() < 0.7:
            return self.open_names[: random.randrange(len(self.open_names) + 1)]
        return [o for o in self.open_names if random.random() < 0.5]

    def choose_metadata(self, random, style):
        """({File: how many of its open truncations}, the place that the image's metadata is of)"""
        truncations = {}
        for file, begun in self.files.items():
            count = sum(o.kind == TRUNCATE and o.settled >= self.place for o in begun)
            if count:
                least = {"none": 0, "all": count}.get(style)
                truncations[file] = random.randrange(count + 1) if least is None else least
        image = self.log.base_names[IMAGE]
        settled = max(
            (s.begin for s in image.syncs if s.kind == power_log.SYNC and s.end < self.place),
            default=0,
        )
        moment = {"none": settled, "all": self.place, "state": settled}.get(style)
        if moment is None:
            moment = random.choice((settled, self.place, random.randint(settled, self.place)))
        return truncations, moment

    def state(self, choice):
        names = dict(self.log.base_names)
        for operation in self.names:
            if operation.settled < self.place or operation in choice.names:
                for name, file in operation.names.items():
                    names.pop(name, None)
                    if file is not None:
                        names[name] = file
        contents = {name: self.content(file, choice) for name, file in names.items()}
        image = contents.pop(IMAGE)
        return State(contents, image, *self.metadata(choice.moment))

    def content(self, file, choice):
        content = bytearray(file.base)
        truncations = choice.truncations.get(file, NEVER)
        for operation in self.files[file]:
            if operation.kind == TRUNCATE and operation.settled >= self.place:
                truncations -= 1
                if truncations >= 0 and operation.end < NEVER:
                    apply(content, operation)
            elif operation.settled < self.place or operation in choice.chosen:
                apply(content, operation, choice.chosen.get(operation))
        return bytes(content)

    def metadata(self, moment):
        times, xattr = self.log.image_times, self.log.image_xattr
        for operation in self.files[self.log.base_names[IMAGE]]:
            if operation.end < min(moment, self.place):
                times = operation.times
                if operation.kind == XATTR:
                    xattr = operation.xattr
        return times, xattr


def tear(random, operation, chosen):
    count = sector_count(operation)
    way = random.choice(("none", "all", "prefix", "suffix", "some"))
    if way == "all":
        chosen[operation] = None
    elif way != "none":
        at = random.randrange(count + 1)
        sectors = {
            "prefix": range(at),
            "suffix": range(at, count),
            "some": [i for i in range(count) if random.random() < 0.5],
        }[way]
        chosen[operation] = sectors


@dataclasses.dataclass
class Choice:
    chosen: dict  # Operation -> None or the sectors of it
    names: list
    truncations: dict = dataclasses.field(default_factory=dict)
    moment: int = NEVER

    def describe(self):
        parts = []
        for operation, sectors in self.chosen.items():
            what = f"{operation.file.label}@{operation.begin}"
            parts.append(what if sectors is None else f"{what}:{list(sectors)}")
        parts += [f"names@{o.begin}:{sorted(o.names)}" for o in self.names]
        return f"{', '.join(parts) or 'nothing unsynced'}; metadata of {self.moment}"


def read_folder(folder):
    """The State that the files are in now."""
    state = os.path.join(folder, "state")
    files = {}
    for name in os.listdir(state):
        with open(os.path.join(state, name), "rb") as file:
            files[name] = file.read()
    image = os.path.join(folder, "disk.img")
    with open(image, "rb") as file:
        content = file.read()
    stat = os.stat(image)
    return State(files, content, (stat.st_mtime_ns, stat.st_ctime_ns), read_mark(image))


def read_mark(image):
    try:
        return os.getxattr(image, "user.nbdd.mark")
    except OSError:
        return None


def write_folder(folder, state):
    """Makes the files what the state says; the image stays the same inode."""
    path = os.path.join(folder, "state")
    for name in os.listdir(path):
        if name not in state.files:
            os.unlink(os.path.join(path, name))
    for name, content in state.files.items():
        with open(os.path.join(path, name), "wb") as file:
            file.write(content)
    run = os.path.join(folder, "run")
    shutil.rmtree(run)
    os.mkdir(run)
    image = os.path.join(folder, "disk.img")
    with open(image, "r+b") as file:
        file.truncate(len(state.image))
        file.write(state.image)
    if state.xattr is not None:
        os.setxattr(image, "user.nbdd.mark", state.xattr)
    elif read_mark(image) is not None:
        os.removexattr(image, "user.nbdd.mark")
