"""Groups in allow lists (`unix:@GROUP`), and those who were connected before a list had one."""

import grp
import os

import pytest

import harness
from nbdproto import Rep

SIZE = 1 << 20
ME = f"unix:{os.getuid()}"
MINE = f"unix:@{grp.getgrgid(os.getgid()).gr_name}"


@pytest.mark.parametrize("allow, stays, comes_back", [
    ([MINE], True, True),
    ([f"!{MINE}", ME], False, False),
    ([f"ro:{MINE}", ME], False, True),
    ([ME, f"!{MINE}"], True, True),
    (["unix:@no-such-group-here", f"ro:{ME}"], False, True),
    (["!unix:@no-such-group-here", ME], True, True),
], ids=str)
def test_evict(daemon, allow, stays, comes_back):
    """Who is connected is held against the list as who comes then is."""
    daemon.serve("a", SIZE, sharing="shared")
    with daemon.open("a") as wire:
        assert wire.write(0, b"x").error == 0
        daemon.rpc.plain("export.set", name="a", allow=allow, evict=True)
        if stays:
            assert wire.write(0, b"y").error == 0
        else:
            wire.expect_close()
    with daemon.wire() as wire:
        assert wire.info("a").ok if comes_back else wire.info("a").type == Rep.ERR_UNKNOWN


def test_evict_without_patience(daemon):
    """Groups are looked up also where the transaction waits for nobody."""
    daemon.serve("a", SIZE, sharing="shared")
    with daemon.open("a") as wire:
        setting = {"name": "a", "allow": [MINE], "evict": True}
        daemon.rpc.plain("transaction", timeout_seconds=0,
                         actions=[{"method": "export.set", "params": setting}])
        assert wire.write(0, b"x").error == 0


def test_a_grant_to_a_group_ends(daemon):
    daemon.serve("a", SIZE, sharing="shared")
    daemon.serve("b", SIZE, sharing="shared")
    goes, stays = daemon.open("a"), daemon.open("b")
    daemon.rpc.plain("export.set", name="a", allow=[f"for:1h:{MINE}", "ip:127.0.0.1"])
    assert goes.write(0, b"x").error == 0
    daemon.rpc.plain("export.set", name="a", allow=[f"for:1s:{MINE}", "ip:127.0.0.1"])
    daemon.rpc.plain("export.set", name="b", allow=[f"for:1s:{ME}", MINE])
    goes.expect_close()
    assert harness.wait_for(lambda: daemon.rpc.plain("export.show", name="b")["expired"])
    assert stays.write(0, b"x").error == 0
    for wire in (goes, stays):
        wire.close()
