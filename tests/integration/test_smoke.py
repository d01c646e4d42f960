"""Does it work at all: one walk through everything, for the impatient (`smoke`)."""

import harness
from nbdproto import MODES, SIMPLE

SIZE = 1 << 20
B0 = "qemu:dirty-bitmap:b0"


def test_smoke(daemon):
    path = daemon.image("disk.img", SIZE, {0: b"hello"})
    daemon.call("disk.add", name="disk", path=str(path))
    daemon.call("bitmap.add", disk="disk", name="b0")
    daemon.call("export.add", name="disk", disk="disk", sharing="shared", description="smoke")
    daemon.refused("export.add", "already-exists", name="disk", disk="disk")
    for mode in MODES:
        contexts = ["base:allocation", B0] if mode != SIMPLE else []
        with daemon.open("disk", mode, contexts) as wire:
            assert wire.size == SIZE
            assert wire.read(0, 5).data == b"hello"
            assert wire.write(65536, b"world").error == 0
            assert wire.zero(131072, 65536).error == 0
            assert wire.trim(262144, 65536).error == 0
            assert wire.flush().error == 0
            assert wire.read(65536, 5).data == b"world"
            if contexts:
                dirty = [(o, n) for o, n, flags in wire.extents(B0) if flags]
                assert dirty == [(65536, 131072), (262144, 65536)]
                assert wire.extents("base:allocation")[0][2] == 0
            wire.disconnect()
            wire.expect_close()
    assert harness.wait_for(lambda: not daemon.clients_of())
    before = harness.rpc.configuration(daemon.rpc, exact=True)
    daemon.restart()
    assert harness.rpc.configuration(daemon.rpc, exact=True) == before
    extents = daemon.call("bitmap.extents", disk="disk", name="b0")["extents"]
    assert extents == [{"offset": 65536, "length": 131072}, {"offset": 262144, "length": 65536}]
    daemon.call("export.remove", name="disk")
    daemon.call("disk.remove", name="disk", force=True)
