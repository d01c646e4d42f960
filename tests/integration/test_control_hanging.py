"""A backing file whose file system does not answer holds up only those who ask for it."""

import os
import subprocess
import time
from pathlib import Path

import pytest

import harness

SIZE = 1 << 20

pytestmark = pytest.mark.skipif(harness.FLAVOUR != "plain", reason="a sanitizer has its own open()")


class Hang:
    """The switch of hang.c."""

    def __init__(self, folder):
        self.path, self.held = Path(folder) / "hanging", Path(folder) / "held"
        self.library = Path(folder) / "hang.so"
        compiler = os.environ.get("CC", "cc").split()
        source = Path(__file__).parent / "hang.c"
        subprocess.run([*compiler, "-shared", "-fPIC", "-O1", "-o", self.library, source], check=True)

    def on(self):
        self.path.touch()

    def wait(self):
        """Until somebody hangs."""
        assert harness.wait_for(self.held.exists), "it does not hang"

    def off(self):
        self.path.unlink(missing_ok=True)
        self.held.unlink(missing_ok=True)


@pytest.fixture
def hanging(tmp_path):
    """(daemon, hang): an nbdd with a disk and export "good", and an image "hang-a.img"."""
    hang = Hang(tmp_path)
    daemon = harness.Daemon(env={"LD_PRELOAD": str(hang.library), "NBDD_HANG": str(hang.path),
                                 "NBDD_HELD": str(hang.held)})
    try:
        daemon.start()
        daemon.serve("good", SIZE)
        daemon.image("hang-a.img", SIZE)
        yield daemon, hang
    finally:
        hang.off()
        daemon.finish()


def state_of(daemon, name):
    return daemon.rpc.plain("disk.show", name=name)["state"]


def ctl(daemon, *words):
    return subprocess.Popen([harness.NBDCTL, "--socket", daemon.socket, *words],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_others_are_answered_while_an_add_hangs(hanging):
    daemon, hang = hanging
    path = str(daemon.root / "hang-a.img")
    other = daemon.rpc

    def answered_meanwhile():
        """False: it was given up before the others were answered, as it is after ten seconds."""
        hang.on()
        waiting = subprocess.Popen(
            [harness.NBDCTL, "--socket", str(daemon.socket), "disk", "add", "a", path],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert harness.wait_for(hang.held.exists), "it does not hang"
        assert len(other.plain("client.list")["clients"]) == 1
        other.plain("export.set", name="good", description="changed meanwhile")
        assert wire.read(0, 512).error == 0
        meanwhile = waiting.poll() is None
        text = waiting.communicate(timeout=120 * harness.SLOW)[0].decode()
        assert waiting.returncode == 7 and "does not answer" in text, text
        hang.off()
        added = {"name": "a", "path": path}
        assert harness.wait_for(lambda: "error" not in other.exchange("disk.add", added))
        assert state_of(daemon, "a") == "ready"
        other.plain("disk.remove", name="a")
        return meanwhile

    with daemon.open("good") as wire:
        assert harness.succeeds(answered_meanwhile, 5), "the hanging file held up others"


def test_a_start_and_a_stop_with_a_hanging_file(hanging):
    daemon, hang = hanging
    daemon.call("export.add", name="a", path=str(daemon.root / "hang-a.img"))
    daemon.stop()
    hang.on()
    daemon.start(30)
    assert state_of(daemon, "a") == "opening" and state_of(daemon, "good") == "ready"
    assert daemon.rpc.plain("export.show", name="a")["state"] == "unavailable"
    with daemon.wire() as wire:
        assert list(wire.list_exports()) == ["good"]
    daemon.refused("disk.refresh", "invalid-state", name="a")
    daemon.stop()
    daemon.start(30)
    hang.off()
    assert harness.wait_for(lambda: state_of(daemon, "a") == "ready")
    with daemon.open("a") as wire:
        assert wire.read(0, 512).error == 0


def test_a_name_is_used_again_while_its_first_file_hangs(hanging):
    """The file that answers at last is not taken for that of the new disk: nothing is looked up,
    and nothing recovered, under a name that is another disk's by now."""
    daemon, hang = hanging
    daemon.call("disk.add", name="a", path=str(daemon.root / "hang-a.img"))
    daemon.call("bitmap.add", disk="a", name="old")
    daemon.stop()
    hang.on()
    daemon.start(30)
    assert state_of(daemon, "a") == "opening"
    daemon.call("disk.remove", name="a", force=True)
    daemon.serve("a", SIZE)
    daemon.call("bitmap.add", disk="a", name="new")
    with daemon.open("a") as wire:
        assert wire.write(0, bytes(512)).error == 0
        threads = daemon.proc_status("Threads")
        hang.off()
        assert harness.wait_for(lambda: daemon.proc_status("Threads") < threads)
        assert wire.write(0, bytes(512)).error == 0
    daemon.no_clients()
    for end in (daemon.kill, daemon.stop):
        end()
        daemon.start()
        assert state_of(daemon, "a") == "ready"
        (bitmap,) = daemon.call("bitmap.list", disk="a")["bitmaps"]
        assert bitmap["name"] == "new" and bitmap["state"] in ("recording", "recovered"), bitmap
        assert bitmap["dirty_bytes"] >= 512


def test_changes_of_a_credential_that_meet_are_both_made(hanging):
    """The second one waits for the first, whose files hang, and goes on from what that has made."""
    daemon, hang = hanging
    for name in ("one.psk", "hang-two.psk"):
        (daemon.root / name).write_text("bob:00112233445566778899aabbccddeeff\n")
    priority = "NORMAL:-VERS-ALL:+VERS-TLS1.3:-KX-ALL:+ECDHE-PSK"
    daemon.call("tls.add", name="c", kind="psk", keys=str(daemon.root / "one.psk"))
    hang.on()
    keys = ctl(daemon, "tls", "set", "c", "--keys", daemon.root / "hang-two.psk")
    hang.wait()
    other = ctl(daemon, "tls", "set", "c", "--priority", priority)
    time.sleep(0.3)  # it has begun, most likely; if not, it finds what is to be found anyway
    hang.off()
    assert keys.wait(30) == 0 and other.wait(30) == 0
    shown = daemon.call("tls.show", name="c")
    assert shown["keys"].endswith("hang-two.psk") and shown["priority"] == priority


def test_a_request_that_runs_at_a_stop_is_answered(hanging):
    daemon, hang = hanging
    hang.on()
    adding = ctl(daemon, "disk", "add", "a", daemon.root / "hang-a.img")
    hang.wait()
    daemon.process.terminate()
    assert harness.wait_for(lambda: "stopping" in daemon.log())
    hang.off()
    text = adding.communicate(timeout=30)[0]
    assert adding.returncode == 5 and "the daemon is stopping" in text, text
    daemon.stop()


def test_a_stop_does_not_wait_for_a_request_that_hangs(hanging):
    """It ends all the same, and with disks that are marked clean."""
    daemon, hang = hanging
    (daemon.root / "hang-keys.psk").write_text("bob:00112233445566778899aabbccddeeff\n")
    daemon.call("bitmap.add", disk="good", name="b")
    with daemon.open("good") as wire:
        assert wire.write(0, bytes(512)).error == 0
    hang.on()
    adding = ctl(daemon, "tls", "add", "c", "--kind", "psk", "--keys", daemon.root / "hang-keys.psk")
    hang.wait()
    daemon.stop()
    assert adding.wait(30) == 2
    hang.off()
    daemon.start()
    bitmap = daemon.call("bitmap.show", disk="good", name="b")
    assert bitmap["state"] == "recording" and bitmap["over_reported_bytes"] == 0


def test_a_start_with_keys_that_hang(hanging):
    """Everything else is served, and the credential when its files answer at last."""
    daemon, hang = hanging
    keys = daemon.root / "hang-keys.psk"
    keys.write_text("bob:00112233445566778899aabbccddeeff\n")
    daemon.call("tls.add", name="c", kind="psk", keys=str(keys))
    daemon.call("listener.add", name="lan", address=f"unix:{daemon.root}/lan.sock", tls="c")
    daemon.stop()
    hang.on()
    daemon.start(15)
    with daemon.open("good") as wire:
        assert wire.read(0, 512).error == 0
    shown = daemon.call("tls.show", name="c")
    assert shown["state"] == "failed" and "answered" in shown["problem"]
    heard = daemon.call("event.subscribe", topics=["tls"])["seq"]
    hang.off()
    assert harness.wait_for(lambda: daemon.rpc.plain("tls.show", name="c")["state"] == "ready" and
                            daemon.rpc.notifications), "the event comes some time after the change"
    (event,) = [one["params"] for one in daemon.rpc.notifications]
    assert event["event"] == "changed" and event["object"]["name"] == "c" and event["seq"] > heard
    assert daemon.call("tls.show", name="c")["users"] == 1
