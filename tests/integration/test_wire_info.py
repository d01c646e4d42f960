"""What INFO, GO and EXPORT_NAME say of an export, spoken on the wire: one test for each row of what
NBD clients see.

INFO and GO: what they answer                           test_info_*, test_go_*
block sizes                                             test_block_size_*
sizes that are not a multiple of 512                    test_odd_size_is_exact
transmission flags                                      test_flags_*
"""

import subprocess
from pathlib import Path

import pytest

import harness
from nbdproto import EXTENDED, MAX_PAYLOAD, MODES, SIMPLE, STRUCTURED, Err, Flag, InfoType, Opt, Rep
from nbdwire import Closed

SIZE = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def exports(server):
    server.serve("disk", SIZE, sharing="shared", description="a disk for tests")
    server.serve("bare", SIZE, sharing="shared")
    server.serve("odd", 1000001, {1000000: b"Z"}, sharing="shared")


def still_works(wire):
    """The connection is in the handshake and in step."""
    assert "disk" in wire.list_exports()


# --- INFO and GO ---


@pytest.mark.parametrize("option", [Opt.INFO, Opt.GO], ids=lambda o: o.name)
def test_info_name_only_if_asked(server, option):
    with server.wire() as wire:
        assert wire.info("disk", [], Opt.INFO).name is None
        assert wire.info("disk", [InfoType.NAME], option).name == "disk"


@pytest.mark.parametrize("option", [Opt.INFO, Opt.GO], ids=lambda o: o.name)
def test_info_description_if_set(server, option):
    """DESCRIPTION (if set)."""
    with server.wire() as wire:
        assert wire.info("bare", [InfoType.DESCRIPTION]).description is None
        assert wire.info("disk", [InfoType.DESCRIPTION], option).description == "a disk for tests"


def test_info_description_in_list(server):
    with server.wire() as wire:
        found = wire.list_exports()
    assert found["disk"] == "a disk for tests"
    assert found["bare"] == ""


@pytest.mark.parametrize("option", [Opt.INFO, Opt.GO], ids=lambda o: o.name)
@pytest.mark.parametrize("infos", [(), (InfoType.BLOCK_SIZE,), tuple(InfoType), (9, 77, 65535)])
def test_info_block_size_and_export(server, option, infos):
    """BLOCK_SIZE and EXPORT, whatever was asked; unknown kinds of information are ignored."""
    with server.wire() as wire:
        answer = wire.info("disk", infos, option)
        assert answer.ok
        assert answer.size == SIZE
        low, preferred, high = answer.block_size
        assert (low, high) == (1, MAX_PAYLOAD)
        assert preferred >= 4096


def test_info_leaves_the_handshake(server):
    """INFO leaves the connection in the handshake, and takes no slot."""
    server.no_clients()
    with server.wire() as wire:
        for _ in range(5):
            assert wire.info("disk").ok
        still_works(wire)
        assert not server.clients_of("disk")
        assert wire.go("disk").ok
        assert len(server.clients_of("disk")) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("infos", [(), tuple(InfoType)], ids=["none", "all"])
def test_go_after_info_answers_the_same(server, mode, infos):
    """GO after INFO answers the same or fails (in extended mode: with contexts selected)."""
    with server.wire(mode) as wire:
        if mode != SIMPLE:
            wire.set_meta("disk", ["base:allocation"])
        first = wire.info("disk", infos)
        assert wire.go("disk", infos) == first


def test_go_twice_is_no_option_any_more(server):
    """After GO the connection is in the transmission phase: an option is a wrong request magic."""
    with server.wire() as wire:
        assert wire.go("disk").ok
        wire.send_option(Opt.LIST, b"padding so that a whole request header is there")
        wire.expect_close()


def test_go_info_requests_repeated(server):
    """Asking for the same information twice brings it once at most."""
    with server.wire() as wire:
        answer = wire.info("disk", [InfoType.NAME, InfoType.NAME, InfoType.BLOCK_SIZE] * 10)
        assert answer.type in (Rep.ACK, Rep.ERR_INVALID)
        still_works(wire)


# --- block sizes ---


@pytest.fixture(scope="module")
def direct(server):
    path = server.image("direct.img", SIZE, {0: bytes(range(256)) * 4096})
    try:
        server.rpc.plain("disk.add", name="direct", path=str(path), cache="direct")
    except harness.rpc.RpcError as error:
        if error.kind in ("io", "invalid-argument"):
            pytest.skip(f"no O_DIRECT here: {error}")
        raise
    server.rpc.plain("export.add", name="direct", disk="direct", sharing="shared")
    return server


def test_block_size_of_a_direct_disk(direct):
    """minimum: the logical block size under cache=direct, for a client that asked."""
    with direct.wire() as wire:
        answer = wire.go("direct", [InfoType.BLOCK_SIZE])
        assert answer.block_size[0] >= 512
        low = answer.block_size[0]
        assert wire.read(1, low).error == Err.EINVAL
        assert wire.read(0, low).data == (bytes(range(256)) * 64)[:low]


def test_block_size_not_asked_for_on_a_direct_disk(direct):
    """a client that did not ask is still served, through a bounce buffer."""
    for mode in MODES:
        with direct.wire(mode) as wire:
            answer = wire.go("direct")
            assert answer.block_size is None or answer.block_size[0] == 1
            assert wire.read(1, 3).data == b"\x01\x02\x03"
            assert wire.write(4097, b"xyz").error == Err.OK
            assert wire.read(4096, 5).data == b"\x00xyz\x04"
            assert wire.write(4097, b"\x01\x02\x03").error == Err.OK
    with direct.wire() as wire:
        wire.export_name("direct")
        assert wire.read(255, 2).data == b"\xff\x00"


@pytest.mark.parametrize("mode", MODES)
def test_odd_size_is_exact(server, mode):
    """A size that is not a multiple of 512 is served exactly (QEMU rounds it up)."""
    with server.wire(mode) as wire:
        assert wire.go("odd", [InfoType.BLOCK_SIZE]).size == 1000001
        assert wire.read(1000000, 1).data == b"Z"
        assert wire.read(1000000, 2).error == Err.EINVAL
        assert wire.write(1000000, b"Y").error == Err.OK
        assert wire.write(1000001, b"Y").error == Err.ENOSPC
        assert wire.write(1000000, b"Z").error == Err.OK
    with server.wire() as wire:
        wire.export_name("odd")
        assert wire.size == 1000001


# --- transmission flags ---


ALWAYS = Flag.HAS_FLAGS | Flag.SEND_FLUSH | Flag.SEND_FUA | Flag.SEND_CACHE
WRITABLE = Flag.SEND_TRIM | Flag.SEND_WRITE_ZEROES | Flag.SEND_FAST_ZERO
# Depends on the machine the tests run on.
HARDWARE = Flag.ROTATIONAL


@pytest.fixture(scope="module")
def flavours(server):
    """One export of each kind; `view` is the read-only one beside the writer `guest`."""
    path = server.image("flavours.img")
    server.rpc.plain("disk.add", name="flavours", path=str(path))
    for name, settings in (
        ("guest", {"sharing": "single-writer"}),
        ("view", {"sharing": "shared", "read_only": True}),
    ):
        server.rpc.plain("export.add", name=name, disk="flavours", **settings)
    server.serve("rw-shared", sharing="shared")
    server.serve("rw-exclusive", sharing="exclusive")


def flags_of(server, name, mode=SIMPLE, contexts=(), option=Opt.GO):
    with server.wire(mode) as wire:
        if contexts:
            wire.set_meta(name, contexts)
        if option == Opt.EXPORT_NAME:
            wire.export_name(name)
            return wire.flags & ~HARDWARE
        answer = wire.info(name, (), option)
        assert answer.ok, answer
        return answer.flags & ~HARDWARE


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("option", [Opt.GO, Opt.INFO, Opt.EXPORT_NAME], ids=lambda o: o.name)
def test_flags_of_each_kind_of_export(server, flavours, mode, option):
    """always HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_CACHE; SEND_DF once structured; a writable
    export TRIM, WRITE_ZEROES, FAST_ZERO; READ_ONLY where it is; BLOCK_STATUS_PAYLOAD in INFO."""
    if mode == EXTENDED and option == Opt.EXPORT_NAME:
        return  # not allowed: test_export_name_with_extended_headers
    common = ALWAYS
    if mode != SIMPLE:
        common |= Flag.SEND_DF
    if mode == EXTENDED and option == Opt.INFO:
        common |= Flag.BLOCK_STATUS_PAYLOAD
    expected = {
        "guest": common | WRITABLE,
        "rw-exclusive": common | WRITABLE,
        "rw-shared": common | WRITABLE | Flag.CAN_MULTI_CONN,
        "view": common | Flag.READ_ONLY | Flag.CAN_MULTI_CONN,
    }
    for name, flags in expected.items():
        assert harness.wait_for(lambda n=name: not server.clients_of(n))
        assert flags_of(server, name, mode, option=option) == flags, name


def test_flags_multi_conn_single_writer(server, flavours):
    """CAN_MULTI_CONN not for the writer of `single-writer`, but for the views beside it."""
    harness.wait_for(lambda: not server.clients_of("guest"))
    with server.open("guest") as writer:
        assert Flag.CAN_MULTI_CONN not in writer.flags
        assert Flag.READ_ONLY not in writer.flags
        assert Flag.SEND_TRIM in writer.flags
        for _ in range(2):
            with server.open("guest") as view:
                assert Flag.CAN_MULTI_CONN | Flag.READ_ONLY in view.flags
                assert not view.flags & WRITABLE
                assert view.write(0, b"x").error == Err.EPERM
                assert view.read(0, 1).error == Err.OK
        writer.disconnect()
        writer.expect_close()
    harness.wait_for(lambda: not server.clients_of("guest"))
    with server.open("guest") as successor:
        assert Flag.READ_ONLY not in successor.flags, "the next new connection writes"


def test_flags_block_status_payload(server):
    """BLOCK_STATUS_PAYLOAD with extended headers and contexts selected (or in INFO)."""
    bit = Flag.BLOCK_STATUS_PAYLOAD
    context = ["base:allocation"]
    assert bit in flags_of(server, "disk", EXTENDED, context)
    assert bit not in flags_of(server, "disk", EXTENDED)
    assert bit in flags_of(server, "disk", EXTENDED, option=Opt.INFO)
    for mode, contexts in ((SIMPLE, ()), (STRUCTURED, ()), (STRUCTURED, context)):
        assert bit not in flags_of(server, "disk", mode, contexts)
        assert bit not in flags_of(server, "disk", mode, contexts, Opt.INFO)


def test_export_name_with_extended_headers(server):
    """The specification forbids EXPORT_NAME after EXTENDED_HEADERS: close, or serve it extended."""
    with server.wire(EXTENDED) as wire:
        try:
            wire.export_name("disk")
        except Closed as end:
            assert not end.got
        else:
            assert wire.read(0, 512).data == bytes(512)


@pytest.fixture
def loop_device(daemon):
    """(daemon, device): a loop device over 1 MiB."""
    path = daemon.image("loop.img", SIZE)
    done = subprocess.run(["losetup", "-f", "--show", path], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no loop device: {done.stderr.decode().strip()}")
    device = done.stdout.decode().strip()
    yield daemon, device
    daemon.finish()
    subprocess.run(["losetup", "-d", device], check=True)


@pytest.mark.parametrize("rotational", [0, 1])
def test_flags_rotational(loop_device, rotational):
    """ROTATIONAL where the device says so."""
    daemon, device = loop_device
    switch = Path("/sys/block", Path(device).name, "queue", "rotational")
    try:
        switch.write_text(str(rotational))
    except OSError as error:
        pytest.skip(f"cannot set {switch}: {error}")
    daemon.rpc.plain("disk.add", name="loop", path=device)
    daemon.rpc.plain("export.add", name="loop", disk="loop")
    with daemon.wire() as wire:
        answer = wire.go("loop")
        assert answer.size == SIZE
        assert (Flag.ROTATIONAL in answer.flags) == bool(rotational)
