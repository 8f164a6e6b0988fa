# SPDX-License-Identifier: Apache-2.0
"""Thirty pods come and go for five minutes, beside the scenes before this one (churn.py). Nothing of them is
left on the nodes."""

from churn import ALIVE, held
from support.system import wait_for


def test_nothing_of_thirty_pods_is_left(cluster, mesh, churn, report):
    churn.end()
    report(f"{churn.made} pods came and went")
    assert not churn.trouble
    assert churn.made > ALIVE
    for name, before in churn.before.items():
        # A proxy keeps some tunnels for a while, whose sockets belong to other namespaces.
        grown = {}

        def same():
            now = held(cluster, mesh, name)
            grown.clear()
            grown.update(
                {
                    k: f"{before[k]} -> {v}"
                    for k, v in now.items()
                    if v > before[k] + (4 if "descriptors" in k else 0)
                }
            )
            return not grown

        try:
            wait_for(same, f"{name} to be as before", 60, 0.5)
        finally:
            print(grown)
