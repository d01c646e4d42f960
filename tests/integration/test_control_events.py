"""event.subscribe and stats."""

import json
import math
import random
import re
import time

import pytest

import harness
from rpc import Rpc

SIZE = 1 << 20


class Listener:
    """A control connection that is subscribed."""

    def __init__(self, daemon, **params):
        self.rpc = Rpc(str(daemon.socket), harness.schema(), timeout=30 * harness.SLOW)
        self.answer = self.rpc.call("event.subscribe", **params)
        self.events = []

    def next(self):
        if self.rpc.notifications:
            message = self.rpc.notifications.pop(0)
        else:
            message = self.rpc.receive()
        assert set(message) == {"jsonrpc", "method", "params"}, "a notification has no id"
        assert message["method"] == "event"
        event = message["params"]
        if event["event"] != "lost":
            assert {"seq", "topic", "event", "time"} <= set(event), event
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", event["time"])
        self.events.append(event)
        return event

    def until(self, topic, what, **members):
        """Reads up to the event of that kind; the event."""
        while True:
            event = self.next()
            if (event["topic"], event["event"]) == (topic, what) and all(
                event["object"].get(key) == value for key, value in members.items()
            ):
                return event

    def close(self):
        self.rpc.close()


def test_events_of_a_disk_s_life(daemon):
    listener = Listener(daemon)
    path = daemon.image("a.img")
    plain = daemon.rpc.plain
    plain("disk.add", name="a", path=str(path))
    plain("bitmap.add", disk="a", name="b0")
    plain("export.add", name="e", disk="a")
    plain("export.set", name="e", description="x")
    plain("bitmap.disable", disk="a", name="b0")
    plain("bitmap.clear", disk="a", name="b0")
    plain("listener.add", name="l", address="tcp:127.0.0.1:0")
    wire = daemon.open("e")
    wire.close()
    daemon.no_clients()
    plain("listener.remove", name="l")
    plain("bitmap.remove", disk="a", name="b0")
    plain("export.remove", name="e")
    plain("disk.remove", name="a")
    for topic, what, members in (
        ("disk", "added", {"name": "a"}),
        ("bitmap", "added", {"disk": "a", "name": "b0"}),
        ("export", "added", {"name": "e"}),
        ("export", "changed", {"name": "e"}),
        ("bitmap", "changed", {"name": "b0"}),
        ("bitmap", "cleared", {"name": "b0"}),
        ("listener", "added", {"name": "l"}),
        ("client", "connected", {}),
        ("client", "attached", {"export": "e"}),
        ("client", "disconnected", {}),
        ("listener", "removed", {"name": "l"}),
        ("bitmap", "removed", {"name": "b0"}),
        ("export", "removed", {"name": "e"}),
        ("disk", "removed", {"name": "a"}),
    ):
        listener.until(topic, what, **members)
    numbers = [event["seq"] for event in listener.events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "monotonic, none missing"
    listener.close()


def test_refused_and_dry_calls_make_no_events(daemon):
    listener = Listener(daemon)
    path = daemon.image("a.img")
    daemon.rpc.plain("disk.add", name="x", path=str(path), dry_run=True)
    daemon.refused("disk.add", "not-found", name="y", path="/nonexistent")
    daemon.refused("transaction", "not-found", actions=[
        {"method": "disk.add", "params": {"name": "z", "path": str(path)}},
        {"method": "bitmap.add", "params": {"disk": "nowhere", "name": "b"}}])
    daemon.rpc.plain("disk.add", name="a", path=str(path))
    listener.until("disk", "added")
    assert [event["object"].get("name") for event in listener.events] == ["a"]
    listener.close()


TOPICS = sorted(json.loads((harness.REPO / "schema/types/event-topic.json").read_text())["values"])


def test_all_topics_by_name(daemon):
    listener = Listener(daemon, topics=TOPICS)
    assert sorted(listener.answer["topics"]) == TOPICS
    listener.close()
    with Rpc(str(daemon.socket), harness.schema()) as control:
        for topic in TOPICS:
            assert control.call("event.subscribe", topics=[topic])["topics"] == [topic]
        assert sorted(control.call("event.subscribe")["topics"]) == TOPICS


def test_topics(daemon):
    listener = Listener(daemon, topics=["export"])
    assert listener.answer["topics"] == ["export"]
    for index in range(3):
        daemon.serve(f"d{index}")
    for index in range(3):
        assert listener.next()["object"]["name"] == f"d{index}"
    assert {event["topic"] for event in listener.events} == {"export"}
    answer = listener.rpc.exchange("event.subscribe", {"topics": ["no-such-topic"]})
    assert answer["error"]["code"] == -32602
    listener.close()


def test_a_number_from_the_future(daemon):
    newest = daemon.call("event.subscribe")["seq"]
    error = daemon.refused("event.subscribe", "invalid-argument", since=newest + 1000)
    assert error.path == "/params/since" and str(newest + 1000) in error.message


def test_since(daemon):
    """`since` brings back what is kept of the events after that number."""
    first = Listener(daemon, topics=["disk"])
    for index in range(5):
        daemon.rpc.plain("disk.add", name=f"d{index}", path=str(daemon.image(f"d{index}")))
    seen = [first.next() for _ in range(5)]
    again = Listener(daemon, topics=["disk"], since=seen[1]["seq"])
    assert [again.next() for _ in range(3)] == seen[2:]
    first.close()
    again.close()


def test_lost_events_are_announced(make_daemon):
    """A range that is no longer kept is announced, with its first and last number."""
    daemon = make_daemon("--events", 16)
    start = Listener(daemon).answer["seq"]
    path = daemon.image("a.img")
    for _ in range(40):
        daemon.rpc.plain("disk.add", name="a", path=str(path))
        daemon.rpc.plain("disk.remove", name="a")
    late = Listener(daemon, since=start)
    lost = late.next()
    assert lost["event"] == "lost", lost
    assert lost["first"] == start + 1
    assert late.next()["seq"] == lost["last"] + 1
    late.close()


def test_calls_on_a_subscribed_connection(daemon):
    """Answers and notifications share the connection without getting mixed up."""
    listener = Listener(daemon)
    path = daemon.image("a.img")
    for _ in range(20):
        listener.rpc.plain("disk.add", name="a", path=str(path))
        listener.rpc.plain("disk.remove", name="a")
    for _ in range(20):
        listener.until("disk", "removed")
    listener.close()


def test_subscriber_that_never_reads(daemon):
    """... holds up nobody, and takes no memory without bound."""
    deaf = Listener(daemon)
    path = daemon.image("a.img")
    before = daemon.proc_status("VmRSS")
    for _ in range(300):
        daemon.rpc.plain("disk.add", name="a", path=str(path))
        daemon.rpc.plain("disk.remove", name="a")
    daemon.grew_less_than(before, 16 << 10)
    deaf.close()


def test_stopping_is_announced(daemon):
    listener = Listener(daemon, topics=["daemon"])
    daemon.stop()
    assert listener.next()["event"] == "stopping"
    listener.close()


# --- stats ---


def operations(entry):
    return {op["operation"]: op for op in entry["operations"]}


def test_stats_count_exactly(daemon):
    """Requests, bytes and errors of each kind, for the client, its export and the daemon; those of
    clients that have gone stay in the sums."""
    daemon.serve("a", SIZE, sharing="shared")
    before = operations(daemon.call("stats")["daemon"])
    rng = random.Random(4)
    count = {"read": [0, 0], "write": [0, 0], "zero": [0, 0], "trim": [0, 0]}
    for round_ in range(2):
        with daemon.open("a", contexts=["base:allocation"]) as wire:
            for _ in range(50):
                kind, length = rng.choice(list(count)), rng.randrange(1, 4096)
                if kind == "read":
                    reply = wire.read(0, length)
                elif kind == "write":
                    reply = wire.write(0, bytes(length))
                elif kind == "zero":
                    reply = wire.zero(0, length)
                else:
                    reply = wire.trim(0, length)
                assert reply.error == 0
                count[kind][0] += 1
                count[kind][1] += length
            assert wire.read(SIZE, 512).error
            wire.flush()
            wire.cache(0, 4096)
            wire.block_status(0, SIZE)

            def settled():
                (client,) = daemon.call("stats", export="a")["clients"]
                found = operations(client)
                return "status" in found and found["status"]["requests"] == 1

            assert harness.wait_for(settled)
            if round_ == 0:
                (client,) = daemon.clients_of("a")
                for kind, (requests, size) in count.items():
                    errors = 1 if kind == "read" else 0
                    got = client["counters"][kind]
                    assert (got["requests"], got["errors"]) == (requests + errors, errors)
                    assert got["bytes"] in (size, size + 512 * errors)
        daemon.no_clients()
    stats = daemon.call("stats", export="a")
    assert stats["clients"] == []
    (export,) = stats["exports"]
    for entry, base in ((operations(export), {}), (operations(stats["daemon"]), before)):
        for kind, (requests, size) in count.items():
            errors = 2 if kind == "read" else 0
            old = base.get(kind, {"requests": 0})
            assert entry[kind]["requests"] - old["requests"] == requests + errors, kind
            assert entry[kind]["errors"] == errors
            assert sum(entry[kind]["latency"]) == entry[kind]["requests"]
        assert entry["flush"]["requests"] == 2
        assert entry["status"]["requests"] == 2
        assert entry["cache"]["requests"] == 2


def test_stats_of_one(daemon):
    daemon.serve("a", sharing="shared")
    daemon.serve("b", sharing="shared")
    with daemon.open("a"), daemon.open("b"):
        (client,) = daemon.clients_of("a")
        stats = daemon.call("stats", client=client["id"])
        assert [entry["id"] for entry in stats["clients"]] == [client["id"]]
        stats = daemon.call("stats", export="b")
        assert [entry["name"] for entry in stats["exports"]] == ["b"]
        assert [entry["export"] for entry in stats["clients"]] == ["b"]
        daemon.refused("stats", "not-found", client=999999)
        daemon.refused("stats", "not-found", export="nowhere")


def test_latency_tells_slow_from_fast(broken):
    """Bucket i counts requests of 2^i to 2^(i+1) microseconds."""
    daemon, faults = broken
    with daemon.open("broken") as wire:
        faults.set(faults.SYNC, delay=0.3)
        begin = time.monotonic()
        assert wire.flush().error == 0
        most = time.monotonic() - begin
        (client,) = daemon.call("stats", export="broken")["clients"]
        latency = operations(client)["flush"]["latency"]
        assert sum(latency) == 1
        # From 0.26 s, and for no longer than we have waited for it.
        assert 18 <= latency.index(1) <= math.log2(most * 1e6)


@pytest.mark.parametrize("value", ["x", -1, 0.5])
def test_stats_wrong_client(daemon, value):
    answer = daemon.rpc.exchange("stats", {"client": value})
    assert answer["error"]["code"] == -32602
