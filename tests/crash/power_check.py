"""The judgement: nbdd is started on what a power cut left, asked, and held to its promise."""

import collections
import glob
import os
import signal
import sqlite3

import power_daemon
import power_disk
from power_ledger import SECTOR, Point, Track


class Found:
    """What nbdd says of a state; None where it did not come up."""

    def __init__(self):
        self.problem = None
        self.objects = {}
        self.bitmaps = {}  # name -> the bitmap object
        self.dirty = {}  # name -> [(offset, length)]


def ask(folder):
    """Disks, exports and bitmaps; then the extents of each bitmap that has any."""
    control = power_daemon.Control(folder)
    found = Found()
    try:
        answers = control.ask([("disk.list", {}), ("export.list", {}), ("bitmap.list", {})])
        disks, exports, bitmaps = [answer["result"] for answer in answers]
        for disk in disks["disks"]:
            found.objects["disk", disk["name"]] = True
            if disk["state"] != "ready":
                found.problem = f"disk {disk['name']} is {disk['state']}: {disk['problem']}"
        for export in exports["exports"]:
            found.objects["export", export["name"]] = True
        for bitmap in bitmaps["bitmaps"]:
            found.objects["bitmap", bitmap["name"]] = (bitmap["generation"], bitmap["recording"])
            found.bitmaps[bitmap["name"]] = bitmap
        names = list(found.bitmaps)
        questions = [("bitmap.extents", {"disk": "d", "name": name}) for name in names]
        for name, answer in zip(names, control.ask(questions) if questions else ()):
            invalid = found.bitmaps[name]["state"] == "invalid"
            if ("error" in answer) != invalid:
                found.problem = f"bitmap {name} is {found.bitmaps[name]['state']}, and: {answer}"
            elif not invalid:
                extents = answer["result"]["extents"]
                found.dirty[name] = [(item["offset"], item["length"]) for item in extents]
    finally:
        control.close()
    return found


def check_database(folder):
    """None, or what is wrong with the database as it is left now."""
    damaged = glob.glob(os.path.join(folder, "state", "*damaged*"))
    if damaged:
        return f"the database was taken for damaged: {damaged}"
    database = sqlite3.connect(os.path.join(folder, "state", "state.db"))
    try:
        database.execute("PRAGMA synchronous=OFF")  # it is thrown away afterwards
        verdict = database.execute("PRAGMA integrity_check").fetchall()
        broken = database.execute("PRAGMA foreign_key_check").fetchall()
        return None if verdict == [("ok",)] and not broken else f"{verdict} {broken}"
    except sqlite3.Error as error:
        return f"the database: {error}"
    finally:
        database.close()


def is_clean(folder):
    """Whether the database says that the disk was closed as it should be."""
    database = sqlite3.connect(os.path.join(folder, "state", "state.db"))
    try:
        return bool(database.execute("SELECT 1 FROM watch WHERE clean = 1").fetchall())
    finally:
        database.close()


def look(folder, stock, state):
    """Starts nbdd on a state and kills it: Found."""
    power_disk.write_folder(folder, state)
    try:
        stock.start(folder, power_daemon.new_boot(), times=state.times)
        found = ask(folder)
    except (power_daemon.Failed, OSError) as error:
        found = Found()
        found.problem = str(error)
    if stock.pid:
        status = stock.end(signal.SIGKILL)
        if status != -signal.SIGKILL:
            found.problem = f"nbdd ended with {status}: {stock.text()}"
    with open(os.path.join(folder, "disk.img"), "rb") as file:
        if file.read() != state.image:
            found.problem = found.problem or "the start changed the image"
    found.problem = found.problem or check_database(folder)
    return found


def snapshots(log, ledger):
    """Gives every point of the ledger the image as it was when its call was answered and made."""
    points = [p for track in ledger.tracks.values() for p in track.points if p.image is None]
    wanted = sorted({place for p in points for place in (p.call.begin, p.call.end)})
    image = log.base_names[power_disk.IMAGE]
    operations = sorted(image.operations, key=lambda operation: operation.end)
    content, at, images = bytearray(image.base), 0, {}
    for place in wanted:
        while at < len(operations) and operations[at].end < place:
            power_disk.apply(content, operations[at])
            at += 1
        images[place] = bytes(content)
    for point in points:
        point.before, point.image = images[point.call.begin], images[point.call.end]


class Judge:
    """Of the states of one recording."""

    def __init__(self, log, ledger, totals):
        self.ledger, self.totals = ledger, totals
        snapshots(log, ledger)
        self.touched = {s for write in ledger.writes() for s in write.sectors()}
        images = [p.image for track in ledger.tracks.values() for p in track.points]
        for image in images:
            self.touched.update(differing(image, ledger.image))

    def violations(self, place, state, found):
        """Everything that is wrong at that place of the log, as sentences."""
        if found.problem:
            return [found.problem]
        return [
            *self.check_objects(place, found),
            *self.check_data(place, state.image),
            *(line for name in found.bitmaps
              for line in self.check_bitmap(place, state, found, name)),
        ]

    def check_objects(self, place, found):
        sure, maybe = self.ledger.objects(place)
        wrong = differences(sure, found)
        if wrong and maybe is not None:
            wrong = differences(maybe, found) and [
                f"neither what was before the command nor what it makes: {wrong}; "
                f"{differences(maybe, found)}"
            ]
        return wrong

    def check_data(self, place, image):
        initial = self.ledger.image
        allowed = self.ledger.allowed(place)
        for sector, values in allowed.items():
            content = image[sector * SECTOR : (sector + 1) * SECTOR]
            if content not in values:
                wanted = sorted(value[:20] for value in values)
                yield f"sector {sector} holds {content[:20]!r}, allowed: {wanted}"
        patched = bytearray(initial)
        for sector in allowed:
            patched[sector * SECTOR : (sector + 1) * SECTOR] = image[
                sector * SECTOR : (sector + 1) * SECTOR
            ]
        if patched != image[: len(initial)] or any(image[len(patched) :]):
            yield "sectors changed that nobody wrote"

    def check_bitmap(self, place, state, found, name):
        bitmap = found.bitmaps[name]
        self.totals[f"bitmaps {bitmap['state']}"] += 1
        if bitmap["state"] == "invalid":
            self.totals[f"invalid: {bitmap['reason']}"] += 1
            if bitmap["durability"] == "power" and not any(
                call.what == "grow" for call in self.ledger.calls
            ):
                yield f"bitmap {name} is invalid for no reason: {bitmap['reason']}"
            return
        track = self.ledger.tracks.get(bitmap["generation"])
        if track is None:
            return  # check_objects has told
        dirty = bytearray(len(state.image) // SECTOR)
        for offset, length in found.dirty[name]:
            dirty[offset // SECTOR : (offset + length) // SECTOR] = b"\1" * (length // SECTOR)
        for call, ranges in track.must:
            for offset, length in ranges if call.end < place else ():
                if not all(dirty[offset // SECTOR : (offset + length) // SECTOR]):
                    yield f"bitmap {name} has lost what was merged into it at {offset}"
        for point in track.points:
            yield from self.check_point(place, state.image, bitmap, dirty, point)

    def check_point(self, place, image, bitmap, dirty, point):
        """Whatever differs from what it was then is dirty."""
        answered = point.call is None or point.call.end < place
        if point.enable and not answered:
            return
        sectors = [*self.touched, *range(len(self.ledger.image) // SECTOR, len(dirty))]
        for sector in sectors:
            if sector >= len(dirty):
                continue
            content = image[sector * SECTOR : (sector + 1) * SECTOR]
            same = content == point.image[sector * SECTOR : (sector + 1) * SECTOR]
            if dirty[sector]:
                self.totals["sectors changed and dirty"] += not same
                continue
            if same:
                self.totals["sectors clean and the same"] += 1
            elif not answered and self.was(point, sector, content, place):
                continue
            elif bitmap["missed_writes"] and content in self.ledger.missed(point, sector, place):
                self.totals["sectors that a mark of missed writes stands for"] += 1
            else:
                since = "the start"
                if point.call:
                    since = f"{point.call.what} at {point.call.end}"
                yield (
                    f"UNDER-REPORTED: bitmap {bitmap['name']} ({bitmap['state']}, missed_writes "
                    f"{bitmap['missed_writes']}) says that sector {sector} is clean since {since}; "
                    f"it holds {content[:20]!r}, and held "
                    f"{point.image[sector * SECTOR :][:20]!r}"
                )

    def was(self, point, sector, content, place):
        """Whether the sector may have been so at some moment of a call that was not answered."""
        return content == point.before[sector * SECTOR : (sector + 1) * SECTOR] or any(
            content == write.value(sector)
            for write in self.ledger.writes()
            if write.begin < place and write.end > point.call.begin
        )


def carried(ledger, place, found):
    """(objects, {generation: Track}) with which a run begins that goes on from a judged state."""
    tracks = {}
    for name, bitmap in found.bitmaps.items():
        track = ledger.tracks[bitmap["generation"]]
        points = [
            Point(None, point.enable, point.image, point.image)
            for point in track.points
            if (point.call is None or point.call.end < place)
            and not (bitmap["missed_writes"] and any(o.begin < place for o, _ in point.paused))
        ]
        must = [(ledger.before, ranges) for call, ranges in track.must if call.end < place]
        tracks[bitmap["generation"]] = Track(points, must)
    return dict(found.objects), tracks


def differences(expected, found):
    """Objects that should be there and are not, or differ; an invalid bitmap may say anything of
    whether it records."""
    wrong = []
    for key in expected.keys() | found.objects.keys():
        want, have = expected.get(key), found.objects.get(key)
        invalid = key[0] == "bitmap" and have and found.bitmaps[key[1]]["state"] == "invalid"
        if want != have and not (invalid and want and want[0] == have[0]):
            wrong.append(f"{key[0]} {key[1]} is {have}, should be {want}")
    return wrong


def differing(one, other):
    """Sectors of two images that are not the same."""
    size = max(len(one), len(other))
    step = 64 * SECTOR
    for offset in range(0, size, step):
        if one[offset : offset + step] != other[offset : offset + step]:
            for at in range(offset, min(offset + step, size), SECTOR):
                if one[at : at + SECTOR] != other[at : at + SECTOR]:
                    yield at // SECTOR


def new_totals():
    return collections.Counter()
