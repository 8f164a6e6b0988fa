# SPDX-License-Identifier: Apache-2.0
"""A tunnel with as many streams as --max-streams may allow moves with all of them, and so does what is beside it."""

from support.nodes.hand_over import Talkers, hand_over_mesh, upgrade

STREAMS = 4200


def test_a_tunnel_of_thousands_of_streams():
    limits = {"BRUMA_MAX_STREAMS": "10000", "POOL_MAX_STREAMS_PER_CONNECTION": "10000"}
    with hand_over_mesh(ZTUNNEL_WORKER_THREADS="1", **limits) as m:
        talkers = [Talkers(m.web, m.cart.ip, count=STREAMS, size=100, kinds="q")]
        talkers += [Talkers(m.web, m.outside.ip)]
        talkers[0].goes_on(least=STREAMS * 100 - 1)
        moved, old = upgrade(m.node)
        assert (moved["moved"], moved["left"]) == (19, 0), old.text()[-2000:]
        talkers[0].goes_on(least=STREAMS * 100 - 1)
        for t in talkers[::-1]:
            t.end()
