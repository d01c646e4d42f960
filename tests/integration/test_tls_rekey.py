"""Changes of keys within a TLS 1.3 session (RFC 8446 4.6.3), by OpenSSL's own client: alone, and in
one segment with what comes behind them. tests/unit/test_tls_session.c has the same with GnuTLS."""

import threading

import pytest

from harness import wait_for
from peers import need
from sclient import SClient, with_certificate
from test_tls_matrix import SIZE, Site
from test_tls_rotation import cpu_ticks

pytestmark = need("openssl")


@pytest.fixture(scope="module")
def site(server, tmp_path_factory):
    return Site(server, tmp_path_factory.mktemp("site"))


def haggling(wire):
    return lambda: wire.info("disk").size == SIZE


def served(wire):
    assert wire.go("disk").ok
    return lambda: wire.read(0, 512).data == b"\x11" * 512


@pytest.fixture(params=[haggling, served], ids=lambda one: one.__name__)
def client(request, site, tmp_path):
    words = with_certificate(site.authority, site.client)
    client = SClient(site.address["require"], tmp_path / "messages", "-tls1_3", *words)
    try:
        client.ask = request.param(client.wire)
        assert client.ask()
        yield client
    finally:
        client.close()
    assert wait_for(lambda: not site.daemon.clients_of())


def held_request(client, ask):
    """New keys and a request are held: how long the keys are. A thread waits for the answer."""
    client.hold()
    client.rekey(ask)
    keys = client.wait_held()
    answers = []
    thread = threading.Thread(target=lambda: answers.append(client.ask()))
    thread.start()
    client.wait_held(keys)
    return keys, lambda: (thread.join(), answers == [True])[1]


asking = pytest.mark.parametrize("ask", [False, True], ids=["", "and asks the server to"])


@asking
def test_alone(client, ask):
    for count in range(1, 4):
        client.rekey(ask)
        assert client.ask()
        assert client.told("<<<") == (count if ask else 0)


@asking
def test_with_a_request_in_one_segment(client, ask):
    for count in range(1, 4):
        _, answered = held_request(client, ask)
        client.release()
        assert answered()
        assert client.told("<<<") == (count if ask else 0)


@asking
def test_with_half_a_request(client, site, ask):
    """It waits for the rest, and that costs nothing."""
    keys, answered = held_request(client, ask)
    client.release(keys + 9)
    ticks = cpu_ticks(site.daemon)
    assert not wait_for(lambda: cpu_ticks(site.daemon) - ticks > 5, 0.5), "it burns processor time"
    client.release()
    assert answered()
