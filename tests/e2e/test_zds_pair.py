# SPDX-License-Identifier: Apache-2.0
"""Both sides of ZDS in this tree against each other: bruma-proxy as the node proxy that bruma-agent's
--zds-socket is for. Nobody needs the pair, but each side must do with any good partner. Its connections are
not redirected by rules, so conntrack knows nothing of them, and the proxy must take the local address for the
destination."""

import pytest

from support.programs import program
from support.proxies import stock_world as stock
from support.system import wait_for

FAMILIES = pytest.mark.parametrize("six", [False, True], ids=["v4", "v6"])


@pytest.fixture(scope="module")
def pair():
    with stock.ztunnel_mesh(program("bruma-proxy")) as (mesh, proxies):
        yield mesh, proxies


def ip(pod, six):
    return pod.ip6 if six else pod.ip


@FAMILIES
def test_tunnels_with_another_node_and_within_one(pair, six):
    m, proxies = pair
    for client, server in ((m.web, m.shop), (m.shop, m.web), (m.other, m.shop), (m.web, m.other)):
        before = len(proxies.access(client.identity, server.identity))
        assert stock.ask(client, ip(server, six))[0] == ip(client, six), (client.name, server.name)
        wait_for(
            lambda c=client, s=server, n=before: len(proxies.access(c.identity, s.identity)) > n,
            "the access log",
        )


@FAMILIES
def test_plaintext_with_outside(pair, six):
    m, _ = pair
    for client, server in ((m.far, m.web), (m.web, m.far)):
        assert stock.ask(client, ip(server, six))[0] == ip(client, six), (client.name, server.name)


@FAMILIES
def test_a_closed_port_is_refused_quickly(pair, six):
    m, _ = pair
    for client in (m.far, m.shop, m.other):
        word, seconds = stock.ask(client, ip(m.web, six), port=stock.PORT + 1)
        assert word in ("ConnectionResetError", "ConnectionRefusedError") or word.startswith("cut off"), word
        assert seconds < 3, (client.name, seconds)
