"""What a disk and its bitmaps should be: the other side of the differential test.

Two bounds are kept for each bitmap, one byte a block: `must` (these blocks changed: they have to be
dirty) and `may` (these were touched: they are allowed to be). Mostly they are the same; they part
where a command met a write in flight, or where a request may or may not have changed anything."""


def blocks(offset, length, granularity):
    """First and last + 1 of the blocks that a range touches."""
    return offset // granularity, -(-(offset + length) // granularity)


def exceeds(bits, bound):
    """The first block that is set in bits and not in bound, or None."""
    beyond = int.from_bytes(bits, "little") & ~int.from_bytes(bound, "little")
    return ((beyond & -beyond).bit_length() - 1) // 8 if beyond else None


class Bitmap:
    def __init__(self, size, granularity, recording):
        self.size = size
        self.granularity = granularity
        self.recording = recording
        self.missed = False  # None: it may have
        self.generation = None
        self.count = -(-size // granularity)
        self.must = bytearray(self.count)
        self.may = bytearray(self.count)

    def mark(self, offset, length, certain=True):
        first, end = blocks(offset, length, self.granularity)
        self.may[first:end] = b"\1" * (end - first)
        if certain:
            self.must[first:end] = self.may[first:end]

    def touched(self, offset, length, certain=True):
        """A request reached the disk."""
        if not length:
            return
        if self.recording:
            self.mark(offset, length, certain)
        elif self.missed is not True:
            self.missed = True if certain else None

    def clear(self):
        self.must = bytearray(self.count)
        self.may = bytearray(self.count)
        self.missed = False

    def merge(self, source):
        for name in ("must", "may"):
            own = getattr(self, name)
            for offset, length in ranges(getattr(source, name), source.granularity, self.size):
                first, end = blocks(offset, length, self.granularity)
                own[first:end] = b"\1" * (end - first)
        if source.missed and self.missed is not True or source.missed is None and not self.missed:
            self.missed = source.missed

    def bits(self, extents):
        """The bytes for dirty extents as the daemon reports them, which must be whole blocks."""
        found = bytearray(self.count)
        for offset, length in extents:
            end = offset + length
            assert offset % self.granularity == 0, f"extent at {offset} begins inside a block"
            assert end % self.granularity == 0 or end == self.size, f"extent ends at {end}"
            first, last = blocks(offset, length, self.granularity)
            found[first:last] = b"\1" * (last - first)
        return found

    def check(self, dirty, where, low=None, high=None, first=0, end=None):
        """dirty (bytes as above) lies between the bounds, in the blocks first to end."""
        part = slice(first, self.count if end is None else end)
        lost = exceeds((self.must if low is None else low)[part], dirty[part])
        assert lost is None, (
            f"{where}: block {first + lost} of {self.granularity} bytes changed and is clean")
        extra = exceeds(dirty[part], (self.may if high is None else high)[part])
        assert extra is None, (
            f"{where}: block {first + extra} of {self.granularity} bytes is dirty, "
            "and nothing touched it")

    @property
    def exact(self):
        return self.must == self.may

    def dirty_bytes(self):
        return sum(length for _, length in ranges(self.may, self.granularity, self.size))


def ranges(bits, granularity, size):
    """(offset, length) of each run of set blocks, cut at the size of the disk."""
    position = bits.find(1)
    while position >= 0:
        end = bits.find(0, position)
        end = len(bits) if end < 0 else end
        start = position * granularity
        yield start, min(end * granularity, size) - start
        position = bits.find(1, end)


class Disk:
    """Contents and bitmaps."""

    def __init__(self, size):
        self.size = size
        self.data = bytearray(size)
        self.bitmaps = {}

    def write(self, offset, data):
        self.data[offset:offset + len(data)] = data

    def zero(self, offset, length):
        self.data[offset:offset + length] = bytes(length)

    def settle_trim(self, offset, found):
        """After a trim each byte is what it was, or zero: takes what was found. Yields the ranges
        that have changed, each within one block of the smallest size that there is."""
        for start in range(offset - offset % 512, offset + len(found), 512):
            first, end = max(start, offset), min(start + 512, offset + len(found))
            old, new = self.data[first:end], found[first - offset:end - offset]
            if old == new:
                continue
            for index, (was, now) in enumerate(zip(old, new)):
                assert now in (0, was), f"byte {first + index} after a trim: {was} became {now}"
            self.data[first:end] = new
            yield first, end - first

    def touched(self, offset, length, certain=True, but=()):
        for name, bitmap in self.bitmaps.items():
            bitmap.touched(offset, length, certain and name not in but)
