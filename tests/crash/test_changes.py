"""Changes behind nbdd's back (changes.py): done while it is stopped, after it was killed, and while
it runs. Afterwards the bitmap is as good as before, or `invalid` with a reason and offered to
nobody; a clear is a fresh start."""

import time

import pytest

import changes
import nbdwire
from changes import BLOCK, DEVICE, KILLED, RUNNING, SIZE, STOPPED, TICK


@pytest.fixture
def place(tmp_path, request):
    change = request.getfixturevalue("change")
    reason = changes.lacking(change)
    if reason:
        pytest.skip(reason)
    daemon = changes.harness.Daemon()
    made = changes.Place(daemon.start(), tmp_path)
    if "device" in request.function.__name__:
        made.attach()
    made.begin()
    yield made
    daemon.finish()
    made.end()


def end(place, how, change):
    """Ends it; what is put back later is copied while it is not there, or from the live one."""
    daemon = place.daemon
    if change.backup == "stopped":
        daemon.restart()
    daemon.rpc.plain("state.backup", file=str(place.folder / "backup.db"))
    if change.since:
        daemon.stop()
        place.database(back=False)
        daemon.start()
        place.write(SIZE // 2)
    if how == "stop":
        daemon.stop()
    else:
        daemon.kill()
    if not change.since:
        place.database(back=False)


def check(place, good, killed):
    daemon = place.daemon
    shown = place.show()
    with daemon.wire(nbdwire.STRUCTURED) as wire:
        offered = wire.list_meta("d", ["qemu:dirty-bitmap:"])
    if good:
        assert shown["state"] in (("recovered", "recording") if killed else ("recording",)), shown
        with daemon.open("d", contexts=["qemu:dirty-bitmap:b"]) as wire:
            found = wire.extents("qemu:dirty-bitmap:b")
        assert found[0][2] == 1 and found[0][1] >= BLOCK, found
        return
    assert shown["state"] == "invalid" and shown["reason"], shown
    assert not shown["dirty_bytes"] and not offered
    daemon.refused("bitmap.extents", "invalid-state", disk="d", name="b")
    generation = shown["generation"]
    daemon.rpc.plain("bitmap.clear", disk="d", name="b")
    place.write(0)
    daemon.restart()
    shown = place.show()
    assert shown["state"] == "recording" and shown["dirty_bytes"] == BLOCK, shown
    assert shown["generation"] != generation


def names(table):
    return [change.name for change in table]


@pytest.mark.parametrize("change", STOPPED, ids=names(STOPPED))
def test_while_stopped(place, change):
    end(place, "stop", change)
    time.sleep(TICK)
    change.act(place)
    place.daemon.start()
    check(place, change.good, killed=False)


@pytest.mark.parametrize("change", KILLED, ids=names(KILLED))
def test_after_kill(place, change):
    end(place, "kill", change)
    time.sleep(TICK)
    change.act(place)
    place.daemon.start()
    check(place, change.good, killed=True)


@pytest.mark.parametrize("change, how", RUNNING,
                         ids=[f"{change.name}, {how}" for change, how in RUNNING])
def test_while_it_runs(place, change, how):
    time.sleep(TICK)
    change.act(place)
    if how == "stop":
        place.daemon.restart()
    else:
        place.daemon.kill()
        place.daemon.start()
    check(place, change.good, killed=how == "kill")


@pytest.mark.parametrize("change, how", DEVICE,
                         ids=[f"{change.name}, {how}" for change, how in DEVICE])
def test_a_device(place, change, how):
    assert place.show()["watch"] == "boot"
    end(place, how, change)
    change.act(place)
    place.daemon.start()
    check(place, change.good, killed=how == "kill")
