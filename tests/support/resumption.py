# SPDX-License-Identifier: Apache-2.0
"""Tunnels one after the other, and whether their handshakes were full ones."""

import re

from support.nodes.pod_programs import ONE_SHOT
from support.system import wait_for

# A tunnel that nobody uses is closed at once, so that the next connection has a handshake.
CLOSED_AT_ONCE = {"POOL_UNUSED_RELEASE_TIMEOUT": "100ms", "BRUMA_PING_INTERVAL": "100ms"}


def handshakes(node, reporter, **page):
    """How many were full, and how many resumed."""
    text = node.metrics(**page)
    return tuple(
        int(
            re.search(
                rf'^bruma_tls_handshakes_total{{reporter="{reporter}",handshake="{kind}"}} (\d+)$', text, re.M
            )[1]
        )
        for kind in ("full", "resumed")
    )


def refused(node, reporter, reason, **page):
    """How many sessions were not resumed for that reason."""
    found = re.search(
        rf'bruma_tls_resumptions_refused_total{{reporter="{reporter}",reason="{reason}"}} (\d+)',
        node.metrics(**page),
    )
    return int(found[1]) if found else 0


def sessions(node, reporter, **page):
    """How many are kept."""
    return int(re.search(rf'bruma_tls_sessions{{reporter="{reporter}"}} (\d+)', node.metrics(**page))[1])


def no_tunnel(pod):
    return not pod.run("ss", "-Htn", "state", "established", "dport = :15008").stdout.strip()


def connect(client, server):
    """One connection, in a tunnel of its own: "full" or "resumed", as both sides say, and what was answered."""
    wait_for(lambda: no_tunnel(client), "the last tunnel to be closed")
    sides = ((client.node, "source"), (server.node, "destination"))
    before = [handshakes(*side) for side in sides]
    answer = client.run(
        "/usr/bin/python3", "-c", ONE_SHOT, server.ip, "8080", "hello", check=False
    ).stdout.strip()
    # The page may be of a moment ago.
    wait_for(lambda: all(handshakes(*s) != b for s, b in zip(sides, before, strict=True)), "the count")
    more = [
        tuple(n - o for n, o in zip(handshakes(*s), b, strict=True))
        for s, b in zip(sides, before, strict=True)
    ]
    assert more[0] == more[1] and sum(more[0]) == 1, more
    return ("full" if more[0][0] else "resumed"), answer
