# SPDX-License-Identifier: Apache-2.0
"""A node dies, or a job's pod is left in the API: its workload is still there when its address is given to a
new pod. Until the control plane takes the old one away (minutes, while a node is not known to be dead), both
name one address. The one that was told of last has it: that is what a stock ztunnel goes by, and what is
behind the address."""

import pytest

from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO
from support.system import wait_for
from support.xds.plane import Plane

ASK = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], 8080), timeout=12) as s:
        s.sendall(b"hello")
        print(s.recv(100).decode() or "closed")
except OSError as e:
    print(type(e).__name__)
"""
OTHERS = 40  # addresses of the mesh are in a table whose slots are used again


@pytest.fixture(scope="module")
def site():
    with Mesh(nodes=1) as m:
        m.node = m.nodes[0]
        m.plane = Plane(f"{m.dir}/plane", m.node.netns)
        m.proxy_env.update(m.plane.env())
        try:
            m.web, m.shop = m.pod("web"), m.pod("shop")
            m.plane.set(of(m, m.web), *(m.plane.workload(f"other{i}", f"10.9.8.{i}") for i in range(OTHERS)))
            m.start()
            m.shop.server(ECHO, "8080")
            yield m
        finally:
            m.plane.stop()


def of(m, pod):
    return m.plane.workload(
        pod.name, pod.ip, pod.ip6, tunnel_protocol=1, node=m.node.name, service_account=pod.account
    )


def job(m, **fields):
    return m.plane.workload(
        "finished-job",
        m.shop.ip,
        m.shop.ip6,
        **{"tunnel_protocol": 1, "node": "dead-node", "service_account": "job", **fields},
    )


def known(m, *names):
    wait_for(lambda: set(names) <= {w["name"] for w in m.node.config_dump()["workloads"]}, "both")


def ask(m, family):
    return m.web.python(ASK, getattr(m.shop, family)).strip()


@pytest.fixture
def both(site):
    yield site
    site.plane.remove("Kubernetes//Pod/demo/finished-job", "Kubernetes//Pod/demo/shop")
    wait_for(
        lambda: not {"finished-job", "shop"} & {w["name"] for w in site.node.config_dump()["workloads"]},
        "them to be gone",
    )


@pytest.mark.parametrize("meanwhile", ["nothing", "others change", "others go"])
@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_the_younger_of_two_pods_with_one_address(both, family, meanwhile):
    m, plane = both, both.plane
    if meanwhile == "others go":  # the younger may come into a slot before the older one's
        plane.set(*(plane.workload(f"brief{i}", f"10.9.7.{i}") for i in range(OTHERS)))
    plane.set(job(m))
    if meanwhile == "others go":
        plane.remove(*(f"Kubernetes//Pod/demo/brief{i}" for i in range(OTHERS)))
    plane.set(of(m, m.shop))  # its address was the job's
    known(m, "shop", "finished-job")
    if meanwhile == "others change":
        plane.set(*(plane.workload(f"other{i}", f"10.9.8.{i}", tunnel_protocol=1) for i in range(OTHERS)))
    assert ask(m, family) == "hello"


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_the_younger_one_holds_it_when_the_older_goes_and_gives_it_back_when_it_goes_itself(site, family):
    m, plane = site, site.plane
    plane.set(job(m))
    plane.set(of(m, m.shop))
    known(m, "shop", "finished-job")
    assert ask(m, family) == "hello"
    plane.remove("Kubernetes//Pod/demo/finished-job")
    wait_for(
        lambda: "finished-job" not in {w["name"] for w in m.node.config_dump()["workloads"]},
        "the old one to be gone",
    )
    assert ask(m, family) == "hello"
    plane.set(job(m))
    known(m, "finished-job")
    assert ask(m, family) != "hello", "told of last: whoever is there now is not whom the mesh says"
    plane.set(of(m, m.shop))  # told of again
    wait_for(lambda: ask(m, family) == "hello", "the pod that was told of last")
    plane.remove("Kubernetes//Pod/demo/finished-job", "Kubernetes//Pod/demo/shop")
    wait_for(
        lambda: not {"finished-job", "shop"} & {w["name"] for w in m.node.config_dump()["workloads"]},
        "them to be gone",
    )
