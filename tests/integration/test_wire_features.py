"""What QEMU's server learned, version by version; each row of that table stays true here. (STARTTLS
of 2.6 and the pre-shared keys of 3.0 are rows of the tests of TLS.)"""

import pytest

from nbdproto import EXTENDED, SIMPLE, STRUCTURED, Cmd, CmdFlag, Err, Flag, InfoType, Opt, Rep

SIZE = 1 << 20
BASE, DEPTH, B0 = "base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b0"


@pytest.fixture(scope="module", autouse=True)
def exports(server, tmpfs):
    server.serve("disk", SIZE, {0: b"x" * 65536}, tmpfs, sharing="shared")
    server.rpc.plain("bitmap.add", disk="disk", name="b0")
    server.rpc.plain("export.add", name="view", disk="disk", sharing="shared", read_only=True)


def test_2_8_write_zeroes(server, mode):
    """WRITE_ZEROES, offered and done."""
    with server.open("disk", mode) as wire:
        assert Flag.SEND_WRITE_ZEROES in wire.flags
        assert wire.write(131072, b"z" * 4096).error == Err.OK
        assert wire.zero(131072, 4096, CmdFlag.NO_HOLE).error == Err.OK
        assert wire.read(131072, 4096).data == bytes(4096)


def test_2_10_go_info_and_block_size(server):
    """OPT_INFO, OPT_GO, INFO_BLOCK_SIZE."""
    with server.wire() as wire:
        infos = [InfoType.BLOCK_SIZE]
        told = wire.info("disk", infos).block_size
        assert told is not None
        assert wire.go("disk", infos).block_size == told


def test_2_11_structured_replies(server):
    with server.wire() as wire:
        assert wire.answer(Opt.STRUCTURED_REPLY) == Rep.ACK
        wire.mode = STRUCTURED
        assert wire.go("disk").ok
        assert Flag.SEND_DF in wire.flags
        assert wire.read(0, SIZE).holes


def test_2_12_block_status(server):
    """BLOCK_STATUS of base:allocation."""
    with server.open("disk", STRUCTURED, [BASE]) as wire:
        assert wire.extents(BASE)[0] == (0, 65536, 0)


def test_3_0_dirty_bitmaps(server):
    """qemu:dirty-bitmap:NAME."""
    with server.open("disk", STRUCTURED, [B0]) as wire:
        assert wire.write(0, b"x").error == Err.OK
        assert wire.extents(B0)[0] == (0, 65536, 1)


def test_3_0_cache(server, mode):
    """CMD_CACHE."""
    with server.open("disk", mode) as wire:
        assert Flag.SEND_CACHE in wire.flags
        assert wire.cache(0, SIZE).error == Err.OK


def test_4_2_multi_conn_of_shared_read_only_exports(server, mode):
    """CAN_MULTI_CONN on shareable read-only exports: several connections at once."""
    with server.open("view", mode) as one, server.open("view", mode) as two:
        assert Flag.CAN_MULTI_CONN | Flag.READ_ONLY in one.flags
        assert one.flags == two.flags
        assert one.read(0, 512).data == two.read(0, 512).data


def test_4_2_fast_zero(server, mode):
    """FAST_ZERO: offered, and a hole is punched fast."""
    with server.open("disk", mode) as wire:
        assert Flag.SEND_FAST_ZERO in wire.flags
        assert wire.zero(131072, 4096, CmdFlag.FAST_ZERO).error == Err.OK


def test_5_2_allocation_depth(server):
    with server.open("disk", STRUCTURED, [DEPTH]) as wire:
        assert wire.extents(DEPTH)[0] == (0, 65536, 1)


def test_7_1_multi_conn_of_shared_writable_exports(server, mode):
    """CAN_MULTI_CONN on shareable writable exports: what one connection wrote and flushed every
    other one sees."""
    with server.open("disk", mode) as one, server.open("disk", mode) as two:
        assert Flag.CAN_MULTI_CONN in one.flags and Flag.READ_ONLY not in one.flags
        assert one.write(4096, b"seen").error == Err.OK
        assert two.flush().error == Err.OK
        assert two.read(4096, 4).data == b"seen"


def test_8_2_extended_headers(server):
    """EXTENDED_HEADERS, with or without structured replies negotiated before."""
    for first in (SIMPLE, STRUCTURED):
        with server.wire(first) as wire:
            assert wire.answer(Opt.EXTENDED_HEADERS) == Rep.ACK
            assert wire.go("disk").ok
            assert wire.read(0, 512).error == Err.OK


def test_8_2_block_status_payload(server):
    """BLOCK_STATUS_PAYLOAD: the reply is about the contexts the request names."""
    with server.open("disk", EXTENDED, [BASE, DEPTH, B0]) as wire:
        assert Flag.BLOCK_STATUS_PAYLOAD in wire.flags
        number = wire.contexts[DEPTH]
        payload = SIZE.to_bytes(8, "big") + number.to_bytes(4, "big")
        reply = wire.call(Cmd.BLOCK_STATUS, 0, SIZE, payload=payload, contexts=[number])
        assert reply.error == Err.OK
        assert list(reply.status) == [number]
