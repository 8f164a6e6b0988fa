#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What very many workloads cost a node's proxy: to learn them, and when the control plane's stream ends and
begins anew. By itself, as root:

    BRUMA_BUILD=build tests/bench/xds_streams.py [COUNT]...
"""

import os
import re
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests"))

from support.system import wait_for
from support.xds.control_plane import ADDRESS
from support.xds.site import Site, add, crowd, end_stream, metric

SETTLE = 4


class Meter:
    """Of the proxy: wall and CPU seconds since the last look, resident and largest MiB."""

    def __init__(self, site):
        self.pid = site.node.proxy.pid
        self.wall, self.cpu = time.monotonic(), self._cpu()

    def _cpu(self):
        with open(f"/proc/{self.pid}/stat") as f:
            fields = f.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def row(self, count, what, remark=""):
        with open(f"/proc/{self.pid}/status") as f:
            status = f.read()
        resident, most = (int(re.search(rf"{k}:\s+(\d+)", status)[1]) // 1024 for k in ("VmRSS", "VmHWM"))
        wall, cpu = time.monotonic(), self._cpu()
        print(
            f"| {count} | {what} | {wall - self.wall:.1f} | {cpu - self.cpu:.2f} | {resident} | {most} | {remark} |",
            flush=True,
        )
        self.wall, self.cpu = time.monotonic(), cpu


def responses(site):
    return metric(site, r'istio_xds_message_total\{url="type.googleapis.com/istio.workload.Address"\}')


def measure(count):
    site = Site()
    site.mesh.proxy_env["BRUMA_XDS_SETTLE"] = f"{SETTLE}s"
    try:
        site.start()
        items, before = crowd(site.plane, count), responses(site)
        meter = Meter(site)
        add(site, items)
        wait_for(lambda: responses(site) > before, "all of them", 120)
        meter.row(count, "all are learnt")
        gone = [name for i, name in enumerate(items) if i % 100 == 0]
        with site.plane.lock:
            for name in gone:
                del site.plane.resources[ADDRESS][name]
        first = end_stream(site, 120)
        meter.row(
            count,
            "a new stream's first request",
            f"{first.ByteSize()} bytes, {len(first.initial_resource_versions)} named",
        )
        wait_for(lambda: responses(site) > before + 1, "the answer", 120)
        if len(first.initial_resource_versions) < count:
            wait_for(lambda: metric(site, "bruma_xds_let_go_total"), "what has gone to be let go", 120)
        meter.row(
            count,
            "its answer",
            f"{len(gone)} have gone; it settles within {SETTLE} s"
            if count > 40000
            else f"{len(gone)} have gone",
        )
    finally:
        site.plane.stop()
        site.mesh.stop()


print("| workloads | what | wall s | CPU s | resident MiB | most MiB | |\n|---|---|---|---|---|---|---|")
for n in [int(a) for a in sys.argv[1:]] or [1000, 20000, 100000]:
    measure(n)
