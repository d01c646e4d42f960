"""`nbdctl event subscribe`: events as lines, as JSON, until somebody ends it."""

import json
import re
import select
import signal
import subprocess
import time

import pytest

import harness
from ctl_runner import environment
from fake_control import FakeControl, Raw
from test_control_events import TOPICS


class Stream:
    """A running subscription whose lines one can wait for."""

    def __init__(self, socket, *words):
        self.process = subprocess.Popen(
            [harness.NBDCTL, "--socket", str(socket), "event", "subscribe", *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), bufsize=0,
        )  # fmt: skip
        self.buffer = b""

    def line(self, seconds=20):
        end = time.monotonic() + seconds * harness.SLOW
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))
            assert ready, "no event came"
            part = self.process.stdout.read(65536)
            assert part, f"the stream ended: {self.process.stderr.read()!r}"
            self.buffer += part
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode()

    def end(self, sig=signal.SIGINT):
        self.process.send_signal(sig)
        self.process.wait(20 * harness.SLOW)

    def finish(self):
        """Status and what is left of standard error."""
        _, err = self.process.communicate(timeout=20 * harness.SLOW)
        return self.process.returncode, err.decode()


def test_lines_for_people(daemon):
    seq = daemon.call("event.subscribe")["seq"]
    stream = Stream(daemon.socket, "--since", str(seq), "--topics", "disk", "--topics", "bitmap")
    image = daemon.image("one.img")
    daemon.rpc.plain("disk.add", name="d", path=str(image))
    daemon.rpc.plain("export.add", name="e", disk="d")  # not asked for
    daemon.rpc.plain("bitmap.add", disk="d", name="b0")
    daemon.rpc.plain("bitmap.clear", disk="d", name="b0")
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "
    for pattern in (r"added         disk d", r"added         bitmap b0 of disk d",
                    r"cleared       bitmap b0 of disk d"):  # fmt: skip
        assert re.match(stamp + pattern, stream.line())
    stream.end()


def test_json_is_one_object_a_line(daemon):
    stream = Stream(daemon.socket, "--json", "--topics", "disk")
    first = json.loads(stream.line())  # the method's result: from here on nothing is missed
    assert first["topics"] == ["disk"]
    daemon.rpc.plain("disk.add", name="d", path=str(daemon.image("one.img")))
    event = json.loads(stream.line())
    assert (event["topic"], event["event"], event["object"]["name"]) == ("disk", "added", "d")
    assert event["seq"] > first["seq"]
    stream.end(signal.SIGTERM)


def test_all_topics_by_name(daemon):
    stream = Stream(daemon.socket, "--json", *[word for topic in TOPICS for word in ("--topics", topic)])
    assert sorted(json.loads(stream.line())["topics"]) == TOPICS
    stream.end()


def test_the_end_of_the_daemon_is_said(daemon):
    stream = Stream(daemon.socket, "--json", "--topics", "disk")
    stream.line()
    daemon.stop()
    status, err = stream.finish()
    assert status == 2 and err.startswith(f"nbdctl: the daemon closed the connection on {daemon.socket}")


def test_a_reader_that_goes_away_ends_it(daemon):
    """Without an event to write: as in `nbdctl event subscribe --json | head -1`."""
    stream = Stream(daemon.socket, "--json")
    stream.line()
    stream.process.stdout.close()
    assert stream.process.wait(20 * harness.SLOW) == 0


EVENTS = [
    ({"topic": "client", "event": "attached", "object": {"id": 7, "export": "e", "detail": "x"}},
     "attached      client 7 on export e: x"),
    ({"topic": "daemon", "event": "lost", "object": {}, "first": 3, "last": 18446744073709551615},
     "lost          events 3 to 18446744073709551615 were not sent"),
    ({"topic": "bitmap", "event": "invalid", "object": {"name": "b", "disk": "d", "detail": "a\x1b[1m"}},
     r"invalid       bitmap b of disk d: a\x1b[1m"),
    ({"topic": 5, "event": [], "object": None}, "?             ?"),
]  # fmt: skip


@pytest.mark.parametrize("event, text", EVENTS, ids=range(len(EVENTS)))
def test_what_events_look_like(tmp_path, event, text):
    params = {"seq": 1, "time": "2025-05-01T08:00:00.25Z", **event}
    stream = (
        json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"seq": 0, "topics": []}}),
        json.dumps({"jsonrpc": "2.0", "method": "event", "params": params}),
        "nonsense",
        "",
    )
    with FakeControl(tmp_path, {"event.subscribe": Raw("\n".join(stream).encode())}) as fake:
        shown = Stream(fake.path)
        assert shown.line() == "2025-05-01 08:00:00  " + text
        status, err = shown.finish()
        assert status == 2 and "no JSON text" in err
