# SPDX-License-Identifier: Apache-2.0
"""What a stock istiod once sent to a node proxy (tests/data/xds), sent again to the proxies of this
cluster."""

import json
import os

import pytest

from images import ROOT
from release import RUN
from support import agent
from support.system import wait_for

DATA = f"{ROOT}/tests/data/xds"
# In the order in which they came.
STREAM = [
    "stream-workload-1",
    "stream-policy-1",
    *[f"stream-workload-{n}" for n in range(2, 5)],
    "stream-policy-2",
    *[f"stream-workload-{n}" for n in range(5, 10)],
]


def dump(cluster, node):
    return json.loads(agent.proxy_page(cluster.nodes[node].path(RUN), "/config_dump")[1])


def test_recordings_of_a_stock_istiod(cluster, mesh):
    if not mesh.plane.replay:
        pytest.skip("a stock istiod is the control plane, and says what it has to say itself")
    recordings = []
    for name in STREAM:
        with open(os.path.join(DATA, f"{name}.bin"), "rb") as f:
            recordings.append(f.read())
    with open(f"{DATA}/after-all.json") as f:
        wanted = json.load(f)
    expected = {w["uid"]: (w["protocol"], sorted(w["workloadIps"])) for w in wanted["workloads"]}
    policies = {f"{p['namespace']}/{p['name']}" for p in wanted.get("policies", [])}
    mesh.plane.replay(recordings)
    try:
        for node in cluster.nodes:

            def there():
                page = dump(cluster, node)
                known = {w["uid"]: (w["protocol"], sorted(w["workloadIps"])) for w in page["workloads"]}
                return expected.items() <= known.items() and policies <= {
                    f"{p['namespace']}/{p['name']}" for p in page["policies"]
                }

            wait_for(there, f"the proxy of {node} to know all that was recorded", 15)
    finally:
        mesh.plane.replay([])
    for node in cluster.nodes:
        wait_for(
            lambda: not expected.keys() & {w["uid"] for w in dump(cluster, node)["workloads"]},
            "it to be forgotten again",
            15,
        )


def test_nothing_was_refused(mesh):
    """Neither recordings nor what the control plane said of this cluster."""
    assert not mesh.plane.nacked()
