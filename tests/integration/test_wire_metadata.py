"""The rows on metadata contexts of what NBD clients see, spoken on the wire. One test for each:

LIST before structured replies; SET then ERR_INVALID     test_list_before_*, test_set_before_*
LIST carries id 0                                        test_list_queries (the client checks it)
queries of LIST                                          test_list_queries
queries of SET: a prefix or nothing selects nothing      test_set_queries, test_set_prefix_*
unknown namespaces ignored, over-long queries skipped    test_unknown_namespaces, test_over_long_*
a new SET replaces the old                               test_set_replaces, test_set_that_fails_clears
GO elsewhere, a repeated SET clear the selection         test_go_elsewhere_clears, test_set_empty_clears
duplicates collapse                                      test_duplicates_collapse
dirty bitmap: bit 0 and no other                         test_dirty_bit
allocation depth: 0 and 1                                test_allocation_depth
a bitmap that turns invalid while selected: EIO          test_bitmap_*_while_selected
"""

import os

import pytest

import harness
from nbdproto import EXTENDED, MODES, SIMPLE, STRUCTURED, Cmd, Err, Opt, Rep, meta_data

SIZE = 1 << 20
B0, B1 = "qemu:dirty-bitmap:b0", "qemu:dirty-bitmap:b1"
BASE, DEPTH = "base:allocation", "qemu:allocation-depth"
ALL = sorted([BASE, DEPTH, B0, B1])
STRUCTURED_MODES = (STRUCTURED, EXTENDED)


@pytest.fixture(scope="module", autouse=True)
def exports(server):
    server.serve("disk", SIZE, {0: b"x" * 65536}, sharing="shared")
    for name in ("b0", "b1"):
        server.rpc.plain("bitmap.add", disk="disk", name=name)
    server.serve("other", SIZE, sharing="shared")
    server.rpc.plain("bitmap.add", disk="other", name="elsewhere")


@pytest.mark.parametrize("mode", MODES)
def test_list_before_structured_replies(server, mode):
    """LIST works before structured replies are negotiated, and after."""
    with server.wire(mode) as wire:
        assert wire.list_meta("disk") == ALL
        assert wire.go("disk").ok


def test_set_before_structured_replies(server):
    """... SET then answers ERR_INVALID."""
    with server.wire(SIMPLE) as wire:
        assert wire.meta(Opt.SET_META_CONTEXT, "disk", [BASE])[0] == Rep.ERR_INVALID
        wire.negotiate(STRUCTURED)
        assert wire.set_meta("disk", [BASE]) == [BASE]


LIST_QUERIES = [
    ([], ALL),
    (["base:"], [BASE]),
    (["qemu:"], sorted([DEPTH, B0, B1])),
    (["qemu:dirty-bitmap:"], [B0, B1]),
    ([BASE], [BASE]),
    ([DEPTH], [DEPTH]),
    ([B1], [B1]),
    (["base:", "qemu:"], ALL),
    (["base:", BASE, BASE], [BASE]),
    (["qemu:dirty-bitmap:", B0], [B0, B1]),
    ([B0, B1], [B0, B1]),
    (["base:allocatio"], []),
    (["base:allocation2"], []),
    (["base:nothing"], []),
    (["qemu:allocation-depth:"], []),
    (["qemu:dirty-bitmap:b"], []),
    (["qemu:dirty-bitmap:b00"], []),
    (["qemu:dirty-bitmap:elsewhere"], []),
    (["qemu:nothing"], []),
    (["qemu:dirty-bitmap"], []),
    (["x-unheard-of:", "nbd:"], []),
    (["BASE:allocation", "Qemu:"], []),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("queries,expected", LIST_QUERIES, ids=[str(q) for q, _ in LIST_QUERIES])
def test_list_queries(server, mode, queries, expected):
    """LIST: none = everything; a prefix = all below it; a full name = that one. Ids are 0."""
    with server.wire(mode) as wire:
        assert wire.list_meta("disk", queries) == expected


SET_QUERIES = [
    ([BASE], [BASE]),
    ([DEPTH], [DEPTH]),
    ([B0], [B0]),
    ([BASE, B1], [BASE, B1]),
    (ALL, ALL),
    ([BASE, "base:nothing", "x-unheard-of:y"], [BASE]),
    (["qemu:dirty-bitmap:elsewhere", B0], [B0]),
]


@pytest.mark.parametrize("mode", STRUCTURED_MODES)
@pytest.mark.parametrize("queries,expected", SET_QUERIES, ids=[str(q) for q, _ in SET_QUERIES])
def test_set_queries(server, mode, queries, expected):
    """SET with full names selects those; each is then reported, and nothing else."""
    with server.wire(mode) as wire:
        assert wire.set_meta("disk", queries) == sorted(expected)
        assert wire.go("disk").ok
        reply = wire.block_status(0, SIZE)
        assert reply.error == Err.OK
        assert set(reply.status) == set(wire.contexts.values())


@pytest.mark.parametrize("mode", STRUCTURED_MODES)
@pytest.mark.parametrize(
    "queries",
    [[], ["base:"], ["qemu:"], ["qemu:dirty-bitmap:"], ["base:", "qemu:", "x:"], ["base:nothing"]],
    ids=str,
)
def test_set_prefix_or_nothing_selects_nothing(server, mode, queries):
    """On SET a prefix or an empty list selects nothing (plain ACK)."""
    with server.wire(mode) as wire:
        assert wire.set_meta("disk", queries) == []
        assert wire.go("disk").ok
        assert wire.block_status(0, 512).error == Err.EINVAL


@pytest.mark.parametrize("option", [Opt.LIST_META_CONTEXT, Opt.SET_META_CONTEXT])
def test_unknown_namespaces_are_ignored(server, option):
    with server.wire(STRUCTURED) as wire:
        queries = ["x-unheard-of:leaf", BASE, "nbd:", "qemux:dirty-bitmap:b0", "\u00fc:y"]
        assert wire.meta(option, "disk", queries)[0] == Rep.ACK
        assert list(wire.meta(option, "disk", queries)[1]) == [BASE]


@pytest.mark.parametrize("option", [Opt.LIST_META_CONTEXT, Opt.SET_META_CONTEXT])
@pytest.mark.parametrize("size", [4096, 4097, 100000])
def test_over_long_queries_are_skipped(server, option, size):
    """Over-long queries are skipped, and what stands behind them is heeded."""
    with server.wire(STRUCTURED) as wire:
        queries = ["qemu:" + "q" * (size - 5), BASE, "base:" + "q" * (size - 5), B0]
        kind, found = wire.meta(option, "disk", queries)
        assert kind == Rep.ACK
        assert sorted(found) == [BASE, B0]


@pytest.mark.parametrize("mode", STRUCTURED_MODES)
def test_set_replaces(server, mode):
    """A new SET replaces the old."""
    with server.wire(mode) as wire:
        assert wire.set_meta("disk", [BASE, B0]) == [BASE, B0]
        assert wire.set_meta("disk", [DEPTH]) == [DEPTH]
        assert wire.go("disk").ok
        assert set(wire.block_status(0, SIZE).status) == set(wire.contexts.values())


@pytest.mark.parametrize("mode", STRUCTURED_MODES)
def test_set_empty_clears(server, mode):
    """a repeated SET clears the selection."""
    with server.wire(mode) as wire:
        wire.set_meta("disk", [BASE])
        wire.set_meta("disk", [])
        assert wire.go("disk").ok
        assert wire.block_status(0, 512).error == Err.EINVAL


@pytest.mark.parametrize("mode", STRUCTURED_MODES)
@pytest.mark.parametrize("how", ["unknown export", "malformed"])
def test_set_that_fails_clears(server, mode, how):
    """A SET that fails replaces the old selection too: with none."""
    with server.wire(mode) as wire:
        wire.set_meta("disk", [BASE])
        if how == "unknown export":
            assert wire.meta(Opt.SET_META_CONTEXT, "nowhere", [BASE])[0] == Rep.ERR_UNKNOWN
        else:
            payload = meta_data("disk", [BASE])[:-1]
            assert wire.answer(Opt.SET_META_CONTEXT, payload) == Rep.ERR_INVALID
        assert wire.go("disk").ok
        wire.contexts = {}
        assert wire.block_status(0, 512).error == Err.EINVAL


@pytest.mark.parametrize("mode", STRUCTURED_MODES)
@pytest.mark.parametrize("option", [Opt.GO, Opt.EXPORT_NAME], ids=lambda o: o.name)
def test_go_elsewhere_clears(server, mode, option):
    """GO on another export than SET named clears the selection."""
    if (mode, option) == (EXTENDED, Opt.EXPORT_NAME):
        return  # that option is forbidden there
    with server.wire(mode) as wire:
        wire.set_meta("disk", [BASE])
        if option == Opt.GO:
            assert wire.go("other").ok
        else:
            wire.export_name("other")
        wire.contexts = {}
        assert wire.block_status(0, 512).error == Err.EINVAL
        assert wire.read(0, 512).error == Err.OK


def test_export_name_keeps_the_selection(server):
    """EXPORT_NAME of the export that SET named is as good as GO."""
    with server.wire(STRUCTURED) as wire:
        wire.set_meta("disk", [BASE])
        wire.export_name("disk")
        assert wire.block_status(0, SIZE).error == Err.OK


@pytest.mark.parametrize("mode", STRUCTURED_MODES)
def test_between_set_and_go(server, mode):
    """LIST, INFO and LIST_META between SET and GO, even about another export, change nothing."""
    with server.wire(mode) as wire:
        wire.set_meta("disk", [BASE, B0])
        chosen = dict(wire.contexts)
        wire.list_exports()
        assert wire.info("other").ok
        assert not wire.info("nowhere").ok
        wire.list_meta("other")
        wire.contexts = chosen
        assert wire.go("disk").ok
        assert wire.block_status(0, SIZE).error == Err.OK


@pytest.mark.parametrize("mode", STRUCTURED_MODES)
def test_failed_go_then_another(server, mode):
    """A GO that was refused does not bring a selection to the export of the next."""
    with server.wire(mode) as wire:
        wire.set_meta("disk", [BASE])
        assert wire.go("nowhere").type == Rep.ERR_UNKNOWN
        assert wire.go("other").ok
        wire.contexts = {}
        assert wire.block_status(0, 512).error == Err.EINVAL


@pytest.mark.parametrize("mode", STRUCTURED_MODES)
def test_duplicates_collapse(server, mode):
    """Duplicates collapse: one answer, one id, one chunk (the client checks all three)."""
    with server.wire(mode) as wire:
        assert wire.set_meta("disk", [BASE, B0, BASE, B0, B0]) == [BASE, B0]
        assert wire.go("disk").ok
        assert len(wire.block_status(0, SIZE).status) == 2


def test_too_many_contexts(server):
    """Contexts of one client are bounded; the connection survives the refusal."""
    server.serve("many", SIZE, sharing="shared")
    names = [f"m{i}" for i in range(100)]
    for name in names:
        server.rpc.plain("bitmap.add", disk="many", name=name, granularity=1 << 20)
    with server.wire(STRUCTURED) as wire:
        assert len(wire.list_meta("many")) == 102
        queries = [f"qemu:dirty-bitmap:{name}" for name in names]
        assert wire.meta(Opt.SET_META_CONTEXT, "many", queries)[0] == Rep.ERR_TOO_BIG
        assert wire.set_meta("many", queries[:20]) == sorted(queries[:20])
        assert wire.go("many").ok
        assert wire.block_status(0, SIZE).error == Err.OK
    server.drop("many")


def test_too_many_queries(server):
    """Thousands of queries are taken (none of them matches) or refused, never fatal."""
    with server.wire(STRUCTURED) as wire:
        queries = [f"x{i}:" for i in range(5000)]
        kind, found = wire.meta(Opt.SET_META_CONTEXT, "disk", queries)
        assert kind in (Rep.ACK, Rep.ERR_TOO_BIG)
        assert not found
        assert wire.set_meta("disk", [BASE]) == [BASE]


# --- what the contexts say ---


@pytest.mark.parametrize("mode", STRUCTURED_MODES)
def test_dirty_bit(daemon, mode):
    """qemu:dirty-bitmap:NAME: bit 0 is NBD_STATE_DIRTY, no other (the client checks)."""
    daemon.serve("disk", SIZE)
    daemon.rpc.plain("bitmap.add", disk="disk", name="b0")
    with daemon.open("disk", mode, [B0]) as wire:
        assert wire.extents(B0) == [(0, SIZE, 0)]
        assert wire.write(65536 * 3 + 5, b"x").error == Err.OK
        assert wire.extents(B0) == [
            (0, 3 * 65536, 0),
            (3 * 65536, 65536, 1),
            (4 * 65536, SIZE - 4 * 65536, 0),
        ]


@pytest.mark.parametrize("mode", STRUCTURED_MODES)
def test_allocation_depth(server, tmpfs, mode):
    """qemu:allocation-depth: 0 unallocated, 1 allocated."""
    server.serve(f"depth-{mode}", SIZE, {262144: b"x" * 65536}, tmpfs)
    with server.open(f"depth-{mode}", mode, [DEPTH, BASE]) as wire:
        assert wire.extents(DEPTH) == [
            (0, 262144, 0),
            (262144, 65536, 1),
            (327680, SIZE - 327680, 0),
        ]
        assert wire.extents(BASE) == [
            (0, 262144, 3),
            (262144, 65536, 0),
            (327680, SIZE - 327680, 3),
        ]
    server.drop(f"depth-{mode}")


@pytest.mark.parametrize("mode", STRUCTURED_MODES)
def test_bitmap_removed_while_selected(daemon, mode):
    """A bitmap that is taken away while selected is never read as "clean": EIO."""
    daemon.serve("disk", SIZE)
    daemon.rpc.plain("bitmap.add", disk="disk", name="b0")
    with daemon.open("disk", mode, [BASE, B0]) as wire:
        assert wire.block_status(0, SIZE).error == Err.OK
        daemon.call("bitmap.remove", disk="disk", name="b0")
        assert wire.block_status(0, SIZE).error == Err.EIO
        daemon.call("bitmap.add", disk="disk", name="b0")
        assert wire.block_status(0, SIZE).error == Err.EIO, "another bitmap of that name"
        assert wire.read(0, 512).error == Err.OK
        if mode == EXTENDED:
            only = wire.call(
                Cmd.BLOCK_STATUS,
                0,
                SIZE,
                payload=status_payload(SIZE, [wire.contexts[BASE]]),
                contexts=[wire.contexts[BASE]],
            )
            assert only.error == Err.OK, "requests that would not report it are answered"


def status_payload(length, ids):
    return length.to_bytes(8, "big") + b"".join(number.to_bytes(4, "big") for number in ids)


@pytest.mark.parametrize("mode", STRUCTURED_MODES)
def test_bitmap_invalid_while_selected(daemon, mode):
    """A bitmap that turns invalid while selected: EIO from then on, never "clean". Here the
    disk shrinks, so that what the bitmap says of its end is about nothing."""
    path = daemon.serve("disk", SIZE)
    daemon.rpc.plain("bitmap.add", disk="disk", name="b0")
    with daemon.open("disk", mode, [B0]) as wire:
        assert wire.write(0, b"x").error == Err.OK
        assert wire.block_status(0, SIZE // 2).error == Err.OK
        os.truncate(path, SIZE // 2)
        daemon.rpc.plain("disk.refresh", name="disk")
        info = daemon.call("bitmap.show", disk="disk", name="b0")
        assert info["state"] == "invalid"
        assert info["reason"]
        assert wire.block_status(0, SIZE // 4).error == Err.EIO
        assert wire.read(0, 512).error == Err.OK
    with daemon.wire(mode) as wire:
        assert B0 not in wire.list_meta("disk"), "an invalid bitmap is not offered"
        assert wire.set_meta("disk", [B0]) == []


@pytest.mark.parametrize("mode", STRUCTURED_MODES)
def test_bitmap_invalid_is_not_offered(daemon, mode):
    """... nor after an unclean stop, while it is invalid; clear makes it good again."""
    daemon.serve("disk", SIZE)
    daemon.rpc.plain("bitmap.add", disk="disk", name="b0")
    with daemon.open("disk") as wire:
        assert wire.write(0, b"x").error == Err.OK
        daemon.kill()
    daemon.start()
    info = daemon.call("bitmap.show", disk="disk", name="b0")
    with daemon.wire(mode) as wire:
        offered = B0 in wire.list_meta("disk")
        assert offered == (info["state"] != "invalid")
        assert wire.set_meta("disk", [B0]) == ([B0] if offered else [])
        if offered:
            assert wire.go("disk").ok
            assert wire.extents(B0, 0, 65536) == [(0, 65536, 1)], "dirty, not clean"
    harness.wait_for(lambda: not daemon.clients_of())
    daemon.call("bitmap.clear", disk="disk", name="b0")
    with daemon.open("disk", mode, [B0]) as wire:
        assert wire.extents(B0) == [(0, SIZE, 0)]
