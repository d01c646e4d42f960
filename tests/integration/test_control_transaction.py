"""`transaction`: all or nothing, in order, at one instant of the write stream; and dry_run."""

import itertools
import struct
import threading

import pytest

import harness
from rpc import configuration

SIZE = 1 << 20


def action(method, **params):
    return {"method": method, "params": params}


def test_actions_see_those_before_them(daemon):
    """A disk, its bitmap and its exports in one go, in order."""
    path = daemon.image("a.img", SIZE)
    result = daemon.call("transaction", actions=[
        action("disk.add", name="a", path=str(path)),
        action("bitmap.add", disk="a", name="b0", granularity=4096),
        action("bitmap.add", disk="a", name="b1", recording=False),
        action("bitmap.merge", disk="a", target="b1", sources=["b0"]),
        action("export.add", name="a", disk="a", sharing="shared"),
        action("export.add", name="view", disk="a", read_only=True, bitmaps=["b0"]),
        action("export.set", name="view", description="a view"),
    ])
    results = [item["result"] if "result" in item else item for item in result["results"]]
    assert len(results) == 7
    assert results[0]["name"] == "a" and results[1]["granularity"] == 4096
    assert daemon.call("disk.show", name="a")["exports"] == ["a", "view"]
    assert daemon.call("export.show", name="view")["description"] == "a view"
    with daemon.open("view", contexts=["qemu:dirty-bitmap:b0"]) as wire:
        assert wire.extents("qemu:dirty-bitmap:b0") == [(0, SIZE, 0)]


GOOD = [
    action("bitmap.add", disk="a", name="new"),
    action("bitmap.clear", disk="a", name="b0"),
    action("bitmap.disable", disk="a", name="b1"),
    action("export.add", name="second", disk="a", read_only=True),
    action("export.set", name="a", description="changed"),
    action("bitmap.remove", disk="a", name="b2"),
    action("export.remove", name="spare"),
    action("disk.remove", name="idle"),
]
BAD = [
    (action("bitmap.add", disk="a", name="b1"), "already-exists"),
    (action("bitmap.clear", disk="a", name="nothing"), "not-found"),
    (action("bitmap.add", disk="nowhere", name="x"), "not-found"),
    (action("bitmap.merge", disk="a", target="b0", sources=["nothing"]), "not-found"),
    (action("export.add", name="a", disk="a", read_only=True), "already-exists"),
    (action("export.add", name="third", disk="a"), "invalid-state"),
    (action("disk.remove", name="a", force=True), "busy"),
    (action("bitmap.clear", disk="a", name="b0",
            if_generation="00000000-0000-4000-8000-000000000000"), "invalid-state"),
]


@pytest.fixture
def prepared(daemon):
    daemon.serve("a", SIZE)
    daemon.rpc.plain("export.add", name="spare", disk="a", read_only=True)
    daemon.rpc.plain("disk.add", name="idle", path=str(daemon.image("idle.img")))
    for name in ("b0", "b1", "b2"):
        daemon.rpc.plain("bitmap.add", disk="a", name=name)
    with daemon.open("a") as wire:
        assert wire.write(0, b"x").error == 0
    daemon.no_clients()
    return daemon


@pytest.mark.parametrize("place", [0, 3, len(GOOD)])
@pytest.mark.parametrize("bad,kind", BAD, ids=[f"{a['method']}-{k}" for a, k in BAD])
def test_all_or_nothing(prepared, bad, kind, place):
    """One action that fails undoes all the others, wherever it stands; the error says which it
    was. Nothing is left of it after a restart either."""
    actions = GOOD[:place] + [bad] + GOOD[place:]
    before = configuration(prepared.rpc, exact=True)
    error = prepared.refused("transaction", kind, actions=actions)
    assert error.path.startswith(f"/params/actions/{place}/"), error.path
    assert configuration(prepared.rpc, exact=True) == before
    with prepared.wire() as wire:
        assert set(wire.list_exports()) == {"a", "spare"}


def test_nothing_is_left_after_a_restart(prepared):
    before = configuration(prepared.rpc, exact=True)
    prepared.refused("transaction", "already-exists", actions=GOOD + [BAD[0][0]])
    prepared.restart()
    assert configuration(prepared.rpc, exact=True) == before


def test_all_of_it(prepared):
    """The same actions without the bad one take effect, and stay after a restart."""
    generation = prepared.call("bitmap.show", disk="a", name="b0")["generation"]
    prepared.call("transaction", actions=GOOD)

    def check():
        shown = {b["name"]: b for b in prepared.call("bitmap.list", disk="a")["bitmaps"]}
        assert set(shown) == {"b0", "b1", "new"}
        assert shown["b0"]["dirty_bytes"] == 0 and shown["b0"]["generation"] != generation
        assert shown["b1"]["state"] == "disabled" and shown["b1"]["dirty_bytes"] == 65536
        assert {e["name"] for e in prepared.call("export.list")["exports"]} == {"a", "second"}
        assert prepared.call("export.show", name="a")["description"] == "changed"
        assert {d["name"] for d in prepared.call("disk.list")["disks"]} == {"a"}

    check()
    prepared.restart()
    check()


def test_a_removal_tells_what_it_did(daemon):
    """Whatever has the name when the transaction is through."""
    first, second = (str(daemon.image(name)) for name in ("first.img", "second.img"))
    daemon.call("export.add", name="a", path=first)

    def removed(*actions):
        results = daemon.call("transaction", actions=list(actions))["results"]
        return [one["removed"] for one in results if "removed" in one]

    assert removed(action("export.remove", name="a"),
                   action("export.add", name="a", path=second)) == [True]
    assert daemon.call("disk.show", name="a")["path"] == second
    assert removed(action("export.remove", name="a"), action("disk.add", name="b", path=first),
                   action("export.add", name="a", disk="b")) == [True]
    assert removed(action("export.remove", name="a"), action("disk.remove", name="b"),
                   action("disk.add", name="b", path=second)) == [True, True]
    assert removed(action("export.remove", name="x", missing_ok=True),
                   action("export.add", name="x", disk="b"),
                   action("export.remove", name="x")) == [False, True]


def test_without_patience(daemon):
    """`timeout_seconds` is for writes in flight and for others; files have to open all the same."""
    path = str(daemon.image("a.img", SIZE))
    daemon.call("transaction", timeout_seconds=0, actions=[
        action("disk.add", name="a", path=path),
        action("bitmap.add", disk="a", name="b"),
        action("export.add", name="a", disk="a"),
    ])


def test_dry_run_of_a_transaction(prepared):
    """rpc.call makes it dry first and compares; here that nothing at all is left of it."""
    before = configuration(prepared.rpc, exact=True)
    result = prepared.call("transaction", actions=GOOD, dry_run=True)
    assert len(result["results"]) == len(GOOD)
    assert configuration(prepared.rpc, exact=True) == before
    assert prepared.call("transaction", actions=GOOD)


def test_not_everything_can_be_part_of_it(prepared):
    """Queries, listeners, drain and hard removal, transactions in transactions: refused."""
    for wrong in (
        action("disk.list"),
        action("no.such.method"),
        action("listener.add", name="l", address="tcp:127.0.0.1:0"),
        action("transaction", actions=[]),
        action("export.remove", name="spare", mode="drain"),
        action("export.remove", name="spare", mode="hard"),
        action("client.disconnect", id=1),
        action("bitmap.add", disk="a", name="x", dry_run=True),
        action("bitmap.add", disk="a", bogus=1),
        action("bitmap.add", disk="a", name=""),
    ):
        answer = prepared.rpc.exchange("transaction", {"actions": [GOOD[0], wrong]})
        assert answer["error"]["code"] in (-32602, -32601, 1004, 1005), (wrong, answer)
        assert answer["error"]["data"]["path"].startswith("/params/actions/1"), answer
        assert not [b for b in prepared.call("bitmap.list")["bitmaps"] if b["name"] == "new"]
    prepared.refused("transaction", "invalid-params", check=False, actions=[])


def test_exports_appear_after_the_commit(daemon):
    """A client cannot see an export of a transaction that fails at its end."""
    path = daemon.image("a.img")
    stop = threading.Event()
    seen = []

    def look():
        while not stop.is_set():
            with daemon.wire() as wire:
                seen.extend(wire.list_exports())

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(20):
        daemon.refused("transaction", "not-found", actions=[
            action("disk.add", name="a", path=str(path)),
            action("export.add", name="a", disk="a"),
            action("bitmap.add", disk="nowhere", name="x"),
        ])
    stop.set()
    thread.join()
    assert not seen


@pytest.mark.threads
def test_one_instant_of_the_write_stream(daemon):
    """Two bitmaps added in one transaction while a client writes are dirty in the same blocks: no
    write falls between them; and what was written later is in both. Two that are added one
    after the other differ, which shows that the comparison can."""
    blocks = 256
    daemon.serve("a", blocks * 4096, sharing="shared")
    stop = threading.Event()
    counters = itertools.count()

    def write():
        with daemon.open("a") as wire:
            while not stop.is_set():
                number = next(counters)
                data = struct.pack(">Q", number) * 512
                assert wire.write((number * 7 % blocks) * 4096, data).error == 0

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    try:
        harness.wait_for(lambda: next(counters) > 100)
        for round_ in range(10):
            x, y = f"x{round_}", f"y{round_}"
            daemon.rpc.plain("transaction", actions=[
                action("bitmap.add", disk="a", name=x, granularity=4096),
                action("bitmap.add", disk="a", name=y, granularity=4096)])
            daemon.rpc.plain("transaction", actions=[
                action("bitmap.disable", disk="a", name=x),
                action("bitmap.disable", disk="a", name=y)])
            assert dirty(daemon, x) == dirty(daemon, y)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    with daemon.open("a") as wire:
        for name in ("early", "late"):
            daemon.rpc.plain("bitmap.add", disk="a", name=name, granularity=4096)
            assert wire.write(8192, b"x").error == 0
            assert wire.write(0 if name == "early" else 4096, b"x").error == 0
    assert dirty(daemon, "early") == [(0, 12288)]
    assert dirty(daemon, "late") == [(4096, 8192)]


def dirty(daemon, name):
    extents = daemon.rpc.plain("bitmap.extents", disk="a", name=name)["extents"]
    return [(extent["offset"], extent["length"]) for extent in extents]


def test_concurrent_transactions(daemon):
    """Several control clients change the same disk at once: each wholly or not at all."""
    daemon.serve("a", SIZE)
    failures = []

    def work(index):
        try:
            with harness.rpc.Rpc(str(daemon.socket)) as control:
                for round_ in range(10):
                    name = f"t{index}-{round_}"
                    control.plain("transaction", actions=[
                        action("bitmap.add", disk="a", name=name),
                        action("bitmap.add", disk="a", name=name + "x")])
                    control.plain("transaction", actions=[
                        action("bitmap.remove", disk="a", name=name),
                        action("bitmap.remove", disk="a", name=name + "x")])
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert daemon.call("bitmap.list", disk="a")["bitmaps"] == []


def test_same_name_by_two_at_once(daemon):
    """Of several that add the same name at once exactly one succeeds."""
    path = daemon.image("a.img")
    outcomes = []

    def work():
        with harness.rpc.Rpc(str(daemon.socket)) as control:
            answer = control.exchange("export.add", {"name": "a", "path": str(path)})
            outcomes.append("result" in answer or answer["error"]["data"]["kind"])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(True) == 1, outcomes
    assert set(outcomes) <= {True, "already-exists", "busy"}


def test_timeout(faulty):
    """A gate that cannot close in time: `timeout`, and nothing has changed."""
    daemon, faults = faulty
    path = daemon.serve("slow", SIZE, {0: b"x" * SIZE})
    faults.target(path)
    try:
        with daemon.open("slow") as wire:
            before = configuration(daemon.rpc, exact=True)
            calls = faults.calls(faults.WRITE)
            faults.set(faults.WRITE, delay=faults.FOREVER)
            cookie = wire.submit(1, 0, 4096, payload=bytes(4096))
            assert harness.wait_for(lambda: faults.calls(faults.WRITE) > calls)
            error = daemon.rpc.exchange("transaction", {
                "timeout_seconds": 1, "actions": [action("bitmap.add", disk="slow", name="b")]})
            assert error["error"]["data"]["kind"] == "timeout", error
            assert configuration(daemon.rpc, exact=True) == before
            faults.clear()
            assert wire.wait(cookie).error == 0
            assert wire.write(0, b"y").error == 0, "the gate is open again"
            daemon.rpc.plain("transaction", actions=[action("bitmap.add", disk="slow", name="b")])
    finally:
        faults.clear()
        daemon.drop("slow")
