"""Temporary grants: entries of allow lists that end."""

import os
import re
import time
from datetime import datetime, timedelta, timezone

import pytest

import harness
from nbdproto import Flag, Opt, Rep
from peers import need

SIZE = 1 << 20
ME = f"unix:{os.getuid()}"


def until(seconds, entry):
    when = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(seconds=seconds)
    return f"until:{when:%Y-%m-%dT%H:%M:%SZ}:{entry}"


def nbdctl(daemon, *words, check=True):
    return harness.run(harness.NBDCTL, "--socket", daemon.socket, *words, check=check)


def ends_soon(daemon, name, entry, *others):
    """Those who are connected stay so until the entry ends. (A grant that ends soon from the start
    may have ended before anybody was there to use it.)"""
    daemon.rpc.plain("export.set", name=name, allow=[f"for:1s:{entry}", *others])


def test_a_grant_ends(daemon):
    """Whoever it admitted is ended, and from then on the export does not exist for it; what is in
    flight is answered."""
    daemon.serve("a", SIZE, {0: b"data"})
    daemon.rpc.plain("export.set", name="a", allow=[f"for:1h:{ME}"])
    kept = daemon.rpc.plain("export.show", name="a")
    assert re.fullmatch(rf"until:\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ:{ME}", kept["allow"][0])
    assert kept["expired"] == []
    with daemon.open("a") as wire, daemon.wire() as asked:
        assert asked.info("a").ok and "a" in asked.list_exports()
        assert wire.read(0, 4).data == b"data"
        begin = time.monotonic()
        ends_soon(daemon, "a", ME)
        kept = daemon.rpc.plain("export.show", name="a")
        wire.expect_close()
        assert time.monotonic() - begin > 0.9, "not before its time"
        assert asked.go("a").type == Rep.ERR_UNKNOWN, "what INFO promised is over too"
        assert asked.info("a").type == Rep.ERR_UNKNOWN
        assert "a" not in asked.list_exports()
    shown = daemon.rpc.plain("export.show", name="a")
    assert shown["allow"] == shown["expired"] == kept["allow"], "it is shown until it is removed"
    assert daemon.rpc.plain("export.list")["exports"] == [shown]


def test_only_those_go_whom_nothing_else_admits(daemon):
    tcp = daemon.rpc.plain("listener.add", name="tcp", address="tcp:127.0.0.1:0")["address"]
    daemon.serve("a", SIZE, sharing="shared")
    daemon.serve("b", SIZE, sharing="shared")
    goes, stays = daemon.open("a"), daemon.open("b")
    other = harness.nbdwire.open_export(tcp, "a")
    ends_soon(daemon, "a", ME, "ip:127.0.0.1")
    ends_soon(daemon, "b", ME, ME)
    goes.expect_close()
    assert harness.wait_for(lambda: daemon.rpc.plain("export.show", name="b")["expired"])
    for wire in (stays, other):
        assert wire.read(0, 1).error == 0 and wire.write(0, b"x").error == 0
        wire.close()
    goes.close()


def test_a_writer_whose_grant_leaves_only_reading(daemon):
    """Its flags said that it may write, so it is ended, and reads when it comes again."""
    daemon.serve("a", SIZE)
    daemon.rpc.plain("export.set", name="a", allow=[f"for:1h:{ME}", f"ro:{ME}"])
    with daemon.open("a") as wire:
        assert Flag.READ_ONLY not in wire.flags
        ends_soon(daemon, "a", ME, f"ro:{ME}")
        wire.expect_close()
    with daemon.open("a") as wire:
        assert Flag.READ_ONLY in wire.flags


def test_a_ban_ends(daemon):
    daemon.serve("a", SIZE)
    daemon.rpc.plain("export.set", name="a", allow=[f"for:1h:!{ME}", ME])
    with daemon.wire() as wire:
        assert wire.go("a").type == Rep.ERR_UNKNOWN
        ends_soon(daemon, "a", f"!{ME}", ME)
        assert harness.wait_for(lambda: wire.info("a").ok)
        assert wire.go("a").ok


def test_requests_in_flight_are_answered(broken):
    daemon, faults = broken
    with daemon.open("broken") as wire:
        # A flush that is under way takes until after the end (which is on a whole second, one or two
        # from now) and not as long as a client has then to finish.
        before = faults.calls(faults.SYNC)
        faults.set(faults.SYNC, delay=2.2)
        cookie = wire.submit(3)
        assert harness.wait_for(lambda: faults.calls(faults.SYNC) > before)
        ends_soon(daemon, "broken", ME)
        assert wire.wait(cookie).error == 0
        wire.expect_close()


def test_events(daemon):
    daemon.serve("a", SIZE)
    with harness.rpc.Rpc(str(daemon.socket)) as control:
        control.plain("event.subscribe", topics=["export"])
        daemon.rpc.plain("export.set", name="a", allow=[f"for:1s:{ME}"])
        seen = []
        while not seen or seen[-1]["event"] != "expired":
            message = control.receive()
            if message.get("method") == "event":
                seen.append(message["params"])
        assert seen[-1]["object"]["name"] == "a"
        assert seen[-1]["object"]["detail"].endswith(ME)


def test_grants_over_a_restart(daemon):
    """One goes on, and ends then; one that ended meanwhile has ended."""
    daemon.serve("a", SIZE)
    daemon.serve("b", SIZE)
    daemon.rpc.plain("export.set", name="b", allow=[until(1, ME)])
    # How long a restart takes is not ours to say: if one goes on for too short, then for longer.
    for seconds in (4, 16, 64):
        daemon.rpc.plain("export.set", name="a", allow=[until(seconds, ME)])
        allow = daemon.rpc.plain("export.show", name="a")["allow"]
        daemon.stop()
        time.sleep(1)
        daemon.start()
        assert daemon.rpc.plain("export.show", name="a")["allow"] == allow
        assert daemon.rpc.plain("export.show", name="b")["expired"] != []
        with daemon.wire() as wire:
            assert wire.go("b").type == Rep.ERR_UNKNOWN
            if wire.go("a").ok:
                wire.expect_close(2 * seconds + harness.nbdwire.PATIENCE)
                return
        assert daemon.rpc.plain("export.show", name="a")["expired"] != [], "it has not ended"
    raise AssertionError("a restart takes a minute")


def test_a_waiter_whose_grant_ends(daemon):
    from test_on_busy import asker

    daemon.serve("a", SIZE, on_busy="wait", allow=["ip:127.0.0.1", f"for:1h:{ME}"])
    tcp = daemon.rpc.plain("listener.add", name="tcp", address="tcp:127.0.0.1:0")["address"]
    with harness.nbdwire.open_export(tcp, "a") as holder:
        waiter = asker(daemon, "a")
        ends_soon(daemon, "a", ME, "ip:127.0.0.1")
        # Not when the time for its handshake is over: that is longer than this waits.
        assert waiter.answer().type == Rep.ERR_UNKNOWN
        assert waiter.wire.answer(Opt.ABORT) == Rep.ACK
        waiter.close()
        assert holder.read(0, 1).error == 0


def test_what_people_see(daemon):
    daemon.serve("a", SIZE)
    said = nbdctl(daemon, "export", "set", "a", "--allow", "for:2h:ro:ip:192.0.2.0/24",
                  "--allow", "until:2020-01-01T00:00:00Z:psk:bob")
    assert re.search(r"for ro:ip:192\.0\.2\.0/24 until 20\S+ \S+ \S+ \(in (1 h 59 min|2 h 0 min)\), "
                     r"psk:bob until 2020-01-01 \S+ \S+ \(\d+ d \d+ h ago\)", said), said
    shown = nbdctl(daemon, "export", "show", "a")
    assert re.search(r"^allow +ro:ip:192\.0\.2\.0/24 until 20.*, psk:bob until 2020", shown, re.M)
    assert re.search(r"^expired +psk:bob until 2020", shown, re.M), shown
    listed = nbdctl(daemon, "export", "list")
    assert "psk:bob until 2020" in listed and "(in " in listed


@pytest.mark.parametrize("entry", [
    "until:tomorrow:psk:bob", "until:2026-02-30T00:00:00Z:psk:bob", "for:2w:psk:bob",
    "for:0s:psk:bob", "ro:for:2h:psk:bob", "for:2h:bob",
])
def test_times_that_are_none(daemon, entry):
    daemon.serve("a", SIZE)
    answer = daemon.rpc.exchange("export.set", {"name": "a", "allow": ["psk:alice", entry]})
    assert answer["error"]["data"]["kind"] in ("invalid-params", "invalid-argument"), answer
    assert answer["error"]["data"]["path"] == "/params/allow/1"


def test_disconnect_takes_no_times(daemon):
    for entry in (f"for:2h:{ME}", f"until:2030-01-01T00:00:00Z:{ME}"):
        daemon.refused("client.disconnect", "invalid-argument", identity=entry)


@need("nbdinfo")
def test_a_real_client(daemon):
    daemon.serve("a", SIZE)
    nbdctl(daemon, "export", "set", "a", "--allow", f"for:1h:{ME}")
    assert harness.run("nbdinfo", "--size", daemon.uri("a")).strip() == str(SIZE)
    nbdctl(daemon, "export", "set", "a", "--allow", f"for:1s:{ME}")
    assert harness.wait_for(
        lambda: harness.run("nbdinfo", "--size", daemon.uri("a"), check=False)[0] != 0
    )
    nbdctl(daemon, "export", "set", "a", "--allow", ME)
    assert harness.run("nbdinfo", "--size", daemon.uri("a")).strip() == str(SIZE)


def test_no_timer_without_a_grant(daemon):
    """Nothing wakes the daemon up when nothing ends; one that is far away does so rarely."""
    daemon.serve("a", SIZE)
    daemon.rpc.plain("export.set", name="a", allow=[until(3600, ME), "ip:127.0.0.1"])
    status = f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/status"

    def switches():
        return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", open(status).read(), re.M)[1])

    def few_switches():
        before = switches()
        time.sleep(2)
        return switches() - before <= 5

    daemon.drop_rpc()
    # What went before (a connection that ends) may come late.
    assert harness.succeeds(few_switches)
