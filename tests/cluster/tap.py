# SPDX-License-Identifier: Apache-2.0
"""What crosses the wire between nodes, from and to pods."""

import itertools
import time

import plan
from support.wire.capture import Capture

_numbers = itertools.count(1)


class Tap(Capture):
    """with Tap(cluster) as wire: ... ; then as Capture. On this wire something always moves, so it is not
    waited for an end of it."""

    what = f"tcp and (net {plan.PODS4} or net {plan.PODS6})"

    def __init__(self, cluster):
        super().__init__(cluster, f"{cluster.directory}/wire-{next(_numbers)}.pcap", "wire")

    def settle(self):
        time.sleep(0.5)
