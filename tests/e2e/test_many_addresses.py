# SPDX-License-Identifier: Apache-2.0
"""The plugin before ours may give a pod any number of addresses (several ranges, IPv4 with a ULA and a global
IPv6 address on two networks). A pod outside the mesh is none of our business, and one inside it is still a
pod: both start. What of them is not kept by name is the pod's all the same, for its kernel has it."""

import json

import pytest

from support.nodes.mesh import Mesh, MeshPod
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.system import sh, wait_for


class Many(MeshPod):
    count = 2
    first_v6 = False  # IPv6 comes behind all the others

    def addresses(self):
        more = [f"10.99.{k}.5" for k in range(self.count - 2)]
        return [self.ip, *more, self.ip6] if not self.first_v6 else [self.ip, self.ip6, *more]

    def create(self):
        super().create()
        for ip in self.addresses():
            if ip.startswith("10.99."):
                sh("ip", "-n", self.netns, "addr", "add", f"{ip}/32", "dev", "eth0")

    def addresses_of_result(self):
        return [f"{ip}/{128 if ':' in ip else 32}" for ip in self.addresses()]


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2) as m:
        m.web = m.pod("web", node=1)
        m.start()
        m.web.server(ECHO, "8080")
        yield m


@pytest.mark.parametrize("first_v6", [True, False], ids=["v6-second", "v6-last"])
@pytest.mark.parametrize("count", [4, 5, 9])
@pytest.mark.parametrize("namespace", ["outside", "demo"])
def test_a_pod_with_many_addresses_starts(mesh, namespace, count, first_v6):
    kind = type("Kind", (Many,), {"count": count, "first_v6": first_v6})
    pod = mesh.pod(f"{namespace[:3]}{count}{first_v6:d}", namespace=namespace, kind=kind)
    pod.outside = namespace == "outside"
    mesh.write()
    r = pod.cni("ADD", check=False)
    assert r.returncode == 0, r.stdout
    if pod.outside:
        return
    pod.server(ECHO, "8080")
    mine = next(
        p for p in json.loads(mesh.nodes[0].ctl("pods", "-o", "json").stdout) if p["name"] == pod.name
    )
    assert len(mine["ips"]) == min(count, 4) and {pod.ip, pod.ip6} <= set(mine["ips"]), (
        "both families are known by name"
    )
    for a, b in ((pod, mesh.web), (mesh.web, pod)):
        for to in (b.ip, b.ip6):
            wait_for(
                lambda a=a, to=to: (
                    a.run("/usr/bin/python3", "-c", ONE_SHOT, to, 8080, "hello", check=False).stdout
                    == "hello"
                ),
                to,
            )
    for ip in pod.addresses():  # what the pod calls its own stays its own
        assert pod.python(ONE_SHOT, ip, 8080, "self") == "self", ip
    r = pod.cni("CHECK", check=False)
    assert r.returncode == 0, r.stdout
    pod.enrolled = True
