"""Other clients against nbdd: fio, nbd-client, the kernel's own where there is one."""

import json
import os

import pytest

import harness
import peers
from harness import run

SIZE = 32 << 20


@peers.need("fio")
@pytest.mark.parametrize("cache", ["writeback", "direct"])
def test_fio_verify_with_four_jobs(server, cache):
    """fio writes, reads back and verifies, 4 jobs at depth 16, each on its part of the disk."""
    image = server.image("fio.img", SIZE)
    server.rpc.plain("disk.add", name="fio", path=str(image), cache=cache)
    server.rpc.plain("export.add", name="fio", disk="fio", sharing="shared")
    server.rpc.plain("bitmap.add", disk="fio", name="b0")
    report = server.root / "fio.json"
    try:
        run("fio", "--name=verify", "--ioengine=nbd", f"--uri={server.uri('fio')}",
            "--rw=randrw", "--bsrange=4k-64k", "--blockalign=4k", "--iodepth=16", "--numjobs=4",
            "--size=8m", "--offset_increment=8m", "--verify=crc32c", "--verify_fatal=1",
            "--do_verify=1", "--thread", "--output-format=json", f"--output={report}",
            cwd=server.root)
        text = report.read_text()
        jobs = json.loads(text[text.index("{\n"):])["jobs"]
        assert len(jobs) == 4
        assert all(job["error"] == 0 and job["write"]["total_ios"] for job in jobs)
        info = server.call("bitmap.show", disk="fio", name="b0")
        assert info["dirty_bytes"] > 0
    finally:
        server.no_clients()
        server.drop("fio")
        image.unlink()


@peers.need("fio")
def test_fio_verify_can_fail(server):
    """A byte that changed under it is noticed by fio."""
    image = server.serve("fio", 1 << 20, sharing="shared")
    words = ["fio", "--name=x", "--ioengine=nbd", f"--uri={server.uri('fio')}", "--rw=write",
             "--bs=4k", "--size=1m", "--verify=crc32c", "--verify_fatal=1"]
    try:
        run(*words, "--do_verify=0", cwd=server.root)
        run(*words, "--verify_only", cwd=server.root)
        with server.open("fio") as wire:
            assert wire.write(500000, b"\xff\xfe").error == 0
        assert run(*words, "--verify_only", check=False, cwd=server.root)[0] != 0
    finally:
        server.no_clients()
        server.drop("fio")
        image.unlink()


@peers.need("nbd-client")
def test_nbd_client_list(server):
    """nbd-client -l, over TCP and a Unix socket."""
    server.serve("disk", 1 << 20, sharing="shared")
    listener = server.rpc.plain("listener.add", name="tcp", address="tcp:127.0.0.1:0")
    port = listener["address"].rpartition(":")[2]
    try:
        env = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
        text = run("nbd-client", "-l", "127.0.0.1", port, env=env, check=False)[1]
        assert "disk" in text.split(), text
        text = run("nbd-client", "-l", "-unix", server.nbd_path, env=env, check=False)[1]
        assert "disk" in text.split(), text
    finally:
        server.rpc.plain("listener.remove", name="tcp")
        server.drop("disk")


@peers.need("nbd-client")
@pytest.mark.skipif(not os.path.exists("/dev/nbd0"), reason="no /dev/nbd0 in this kernel")
@pytest.mark.skipif(os.getuid() != 0, reason="attaching a kernel device needs root")
def test_kernel_client(server):
    """The kernel's client: data through a block device."""
    image = server.serve("kernel", SIZE, {0: b"k" * 4096}, sharing="shared")
    run("nbd-client", "-unix", server.nbd_path, "/dev/nbd0", "-N", "kernel")
    try:
        with open("/dev/nbd0", "r+b", buffering=0) as device:
            assert device.read(4096) == b"k" * 4096
            device.seek(8192)
            device.write(b"w" * 4096)
            os.fsync(device.fileno())
        assert image.read_bytes()[8192:12288] == b"w" * 4096
    finally:
        run("nbd-client", "-d", "/dev/nbd0")
        assert harness.wait_for(lambda: not server.clients_of("kernel"))
        server.drop("kernel")
