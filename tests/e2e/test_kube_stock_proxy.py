# SPDX-License-Identifier: Apache-2.0
"""A stock node proxy (stock_proxy.py stands in) on a node whose agent has the Kubernetes API as its
source."""

import os

from support import kernel
from support.kube.world import AMBIENT
from support.proxies import stock_proxy
from support.system import wait_for


def test_the_annotation_follows_the_proxy(small, work):
    """pending while the pod waits for a proxy, as with a stock agent; enabled once it is captured and
    served."""
    small.server.make_namespace("shop", AMBIENT)
    pod = small.sandbox("shop", "web", 10)
    small.write_cache(pod)
    path = work.path("ztunnel.sock")
    small.start(proxy=False, zds_socket=path, verify_interval="300ms").ready()
    small.wait_redirection("shop", "web", "pending")
    assert small.state("shop/web") == "outside"
    events = wait_for(
        lambda: [e for e in small.server.events("shop", "web") if e["reason"] == "proxy_not_connected"],
        "the Event",
    )
    assert "cannot be enrolled" in events[0]["message"]
    cgroup = f"{small.node.cgroup}/ztunnel"
    os.makedirs(cgroup)
    work.defer(kernel.cgroup_remove, cgroup)
    p = work.process(["/usr/bin/python3", "-u", stock_proxy.__file__, path], cgroup=cgroup)
    small.wait_state("shop/web", "enrolled")
    small.wait_redirection("shop", "web", "enabled")
    p.kill()
    wait_for(lambda: "reason=proxy_away" in small.log(), "the proxy's end to be seen")
    assert (
        small.server.redirection("shop", "web") == "enabled"
    )  # peers that know of it would not come back sooner
