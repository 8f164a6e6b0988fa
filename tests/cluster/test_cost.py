# SPDX-License-Identifier: Apache-2.0
"""What the plugin's ADD costs, beside the plugin that makes the network, and beside a tenth of what the stock
one takes on a machine of two cores (docs/performance.md). Figures for the report; only that it worked is
asserted."""

import statistics

import pytest

from layout import BIN
from support.system import wait_for

COUNT = 12
FIRST = "/opt/cni/first"
GOAL = {"none": 5.9, "ambient": 9.4}  # milliseconds, a tenth of the stock plugin's p50, where ptp took 12
# Stands before the real plugin in the runtime's list of directories.
WRAPPER = """#!/bin/bash
began=${EPOCHREALTIME/./}
BIN/"${0##*/}"
status=$?
ended=${EPOCHREALTIME/./}
echo "$CNI_COMMAND ${0##*/} $((ended - began)) $status" >>/opt/cni/first/times
exit $status
""".replace("BIN", BIN)


@pytest.fixture
def timed(cluster):
    folder = f"{cluster.nodes['n1'].disk}{FIRST}"
    for plugin in ("ptp", "bruma-cni"):
        with open(f"{folder}/{plugin}", "w") as f:
            f.write(WRAPPER)
            f.flush()
        cluster.nodes["n1"].run(["chmod", "755", f"{FIRST}/{plugin}"])
    yield f"{folder}/times"
    cluster.nodes["n1"].run(["sh", "-c", f"rm {FIRST}/*"])


@pytest.mark.parametrize("mode", ["none", "ambient"])
def test_add(cluster, mesh, timed, report, mode):
    cluster.namespace("cost", **{"istio.io/dataplane-mode": mode})
    for i in range(COUNT):
        pod = cluster.pod("cost", f"cost-{i}", "n1")
    if mode == "ambient":
        wait_for(lambda: mesh.in_mesh(pod), "the last pod to be in the mesh")
    with open(timed) as f:
        lines = [line.split() for line in f]
    for plugin in ("bruma-cni", "ptp"):
        times = sorted(
            int(t) / 1000 for verb, name, t, status in lines if (verb, name, status) == ("ADD", plugin, "0")
        )
        assert len(times) >= COUNT
        what = {"none": "pod outside the mesh", "ambient": "pod of the mesh"}[mode]
        goal = f"; goal {GOAL[mode]}" if plugin == "bruma-cni" else ""
        report(
            f"ADD of {plugin}, {what}: p50 {statistics.median(times):.1f} ms, least {times[0]:.1f}, "
            f"most {times[-1]:.1f} (n={len(times)}{goal})"
        )
    cluster.delete_namespace("cost")
