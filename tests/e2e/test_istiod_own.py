# SPDX-License-Identifier: Apache-2.0
"""Proxies that serve what they run in themselves, against a stock istiod where one is given (test_istiod.py says how): the own
listener of a node's proxy, and a machine with a WorkloadEntry. Certificates of both are the token's own."""

import os
import shutil
import socket

import pytest

from support import network
from support.kube.istiod import NAME, SYSTEM, XDS_PORT, missing
from support.kube.istiod_world import AMBIENT, CP, Cluster
from support.network import inside
from support.pages import get
from support.programs import program
from support.proxies import hbone
from support.system import Process, wait_for
from support.workspace import Workspace

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")

NETWORKING = "networking.istio.io/v1"


class World:
    def __init__(self, work):
        self.work = work
        self.cluster = cluster = Cluster(work, nodes=1)
        self.node = cluster.nodes[0]
        cluster.server.make_namespace("shop", AMBIENT)
        for account in ("web", "machine"):
            cluster.server.create("v1", "ServiceAccount", account, "shop")
        cluster.start_node(self.node, SERVICE_ACCOUNT="ztunnel")
        self.web = cluster.pod(self.node, "shop", "web-1", 10, account="web", labels={"app": "web"})
        cluster.hbone(self.web)
        self.proxy_ip = CP.format(1)[:-1] + "2"


@pytest.fixture(scope="module")
def world(request):
    w = Workspace(os.path.abspath(os.environ["BRUMA_BUILD"]))
    try:
        yield World(w)
    finally:
        errors = w.close()
        if not request.session.testsfailed:
            shutil.rmtree(w.directory, ignore_errors=True)
    assert not errors, errors


GET = """
import sys, urllib.request
print(urllib.request.urlopen("http://" + sys.argv[1] + "/metrics", timeout=20).read().decode(), end="")
"""


def test_istiod_announces_the_proxys_own_listener_and_gives_it_a_certificate(world):
    """By the label of the chart, and by the impersonation of itself."""
    name = world.cluster.proxy_pod(world.node)
    wait_for(
        lambda: (world.cluster.workload(world.node, name) or {}).get("protocol") == "HBONE",
        "istiod to announce HBONE",
    )
    identity = f"spiffe://cluster.local/ns/{SYSTEM}/sa/ztunnel"

    def there():
        certificates = world.cluster.dump(world.node)["certificates"]
        return {c["identity"]: c["state"] for c in certificates}.get(identity) == "Available"

    wait_for(there, "the proxy's own certificate")
    assert "istio_build" in world.web.python(GET, f"{world.proxy_ip}:15020")
    line = wait_for(
        lambda: world.cluster.access(world.node, "connection complete", 'direction="inbound"', name),
        "the proxy's side in the log",
    )
    assert line["src.identity"] == "spiffe://cluster.local/ns/shop/sa/web"
    assert line["dst.identity"] == identity


def test_a_machine_with_a_workload_entry(world):
    """PROXY_MODE=dedicated: xDS and certificates with a token of the machine's own account."""
    cluster, machine = world.cluster, world.work.netns("machine")
    network.veth(cluster.cp, "machine", machine, "eth0")
    network.address(cluster.cp, "machine", "10.79.200.1/24")
    network.address(machine, "eth0", "10.79.200.2/24")
    network.route(machine, "default", "10.79.200.1")
    network.sysctl(cluster.cp, {"net.ipv4.ip_forward": 1})
    network.route(world.node.netns, "10.79.200.0/24", CP.format(1))
    cluster.server.create(
        NETWORKING,
        "WorkloadEntry",
        "machine-1",
        "shop",
        metadata={"labels": {"app": "machine", "networking.istio.io/tunnel": "http"}},
        spec={
            "address": "10.79.200.2",
            "labels": {"app": "machine", "networking.istio.io/tunnel": "http"},
            "serviceAccount": "machine",
        },
    )
    token = world.work.path("machine-token")
    with open(token, "w") as f:
        f.write(cluster.server.token("shop", "machine", "istio-ca"))
    address = f"https://10.79.200.1:{XDS_PORT}"
    proxy = Process(
        [program("bruma-proxy")],
        world.work.path("machine-proxy.log"),
        netns=machine,
        env={
            "PROXY_MODE": "dedicated",
            "PROXY_WORKLOAD_INFO": "shop/machine-1/machine",
            "POD_NAME": "machine-1",
            "POD_NAMESPACE": "shop",
            "INSTANCE_IP": "10.79.200.2",
            "XDS_ADDRESS": address,
            "CA_ADDRESS": address,
            "ALT_XDS_HOSTNAME": NAME,
            "ALT_CA_HOSTNAME": NAME,
            "XDS_ROOT_CA": cluster.root_file,
            "CA_ROOT_CA": cluster.root_file,
            "AUTH_TOKEN": token,
            "BRUMA_RUN_DIR": "/nonexistent",
        },
    )
    world.work.defer(proxy.kill)

    def ready():
        with inside(machine):
            s = socket.create_connection(("127.0.0.1", 15021), timeout=5)
        return get(s, "/healthz/ready")[0] == 200

    wait_for(ready, "the machine's proxy to be ready", log=proxy.log)
    wait_for(
        lambda: (
            "spiffe://cluster.local/ns/shop/sa/machine" in proxy.text()
            or (cluster.workload(world.node, "machine-1") or {}).get("protocol") == "HBONE"
        ),
        "the machine in the mesh",
    )
    wait_for(
        lambda: (cluster.workload(world.node, "machine-1") or {}).get("protocol") == "HBONE",
        "istiod to announce the machine",
    )
    cluster.certificate("shop", "web", "web-1", world.work.path("web"))
    files = [world.work.path("web") + f"/{n}.pem" for n in ("cert", "key", "root")]

    def asked():
        with inside(cluster.cp):
            client = hbone.Client(("10.79.200.2", 15008), *files)
        sid = client.connect("10.79.200.2:15020")
        status = client.status(sid)
        peer = client.tls.getpeercert()
        client.close()
        return status == 200 and peer

    peer = wait_for(asked, "a tunnel to the machine", 40, log=proxy.log)
    assert ("URI", "spiffe://cluster.local/ns/shop/sa/machine") in peer["subjectAltName"]
