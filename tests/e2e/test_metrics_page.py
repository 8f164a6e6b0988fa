# SPDX-License-Identifier: Apache-2.0
"""Metrics under peers that say anything of themselves, and under any number of readers."""

import os
import re
import subprocess
import time

import pytest

from support.network import inside
from support.nodes.mesh import Mesh, leaf
from support.proxies import hbone
from support.system import Process, seconds_in_queue, wait_for

READERS = r"""
import os, socket, sys, threading, time
os.setuid(65534)
count = [0]
def read():
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 20) as s:
                s.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                while s.recv(1 << 20):
                    pass
                count[0] += 1
        except OSError:
            time.sleep(0.01)
threads = [threading.Thread(target=read, daemon=True) for _ in range(int(sys.argv[2]))]
[t.start() for t in threads]
print("READY", flush=True)
while True:
    time.sleep(0.2)
    print(count[0], flush=True)
"""


def describe(mesh, certificate, texts):
    """Asks for a connection with each of these baggages; nobody listens at that port."""
    with inside(mesh.nodes[0].netns):
        c = hbone.Client((mesh.shop.ip, 15008), *certificate)
    for first in range(0, len(texts), 100):
        asked = [c.connect(f"{mesh.shop.ip}:8099", [("baggage", t)]) for t in texts[first : first + 100]]
        assert (
            c.pump(
                lambda asked=asked: (
                    c.closed
                    or all(
                        c.of(s, (hbone.h2.events.ResponseReceived, hbone.h2.events.StreamReset))
                        for s in asked
                    )
                ),
                60,
            )
            and not c.closed
        )
    c.close()


def said_of(node):
    """The source_workload of what was opened from outside."""
    return set(
        re.findall(
            r'^istio_tcp_connections_opened_total{reporter="destination",source_workload="([^"]*)"',
            node.metrics(),
            re.M,
        )
    )


@pytest.fixture
def mesh():
    with Mesh(nodes=1) as m:
        m.shop = m.pod("shop")
        m.start()
        yield m


def test_a_peer_that_invents_descriptions(mesh):
    """Of a peer that the control plane does not know by its address, baggage tells workload and namespace:
    its own namespace's, and only so many."""
    node = mesh.nodes[0]
    mine = leaf(mesh, "spiffe://cluster.local/ns/far/sa/gateway")
    describe(
        mesh,
        mine,
        [
            "k8s.namespace.name=kube-system,k8s.deployment.name=liar,service.name=liar",
            "k8s.deployment.name=liar",
        ],
    )
    assert said_of(node) == {"unknown"} and "kube-system" not in node.metrics()
    describe(mesh, mine, [f"k8s.namespace.name=far,k8s.deployment.name=w{i}" for i in range(3000)])
    page = node.metrics()
    assert said_of(node) == {"unknown", *(f"w{i}" for i in range(16))}
    assert "bruma_telemetry_undescribed_connections_total 2984\n" in page
    assert int(re.search(r"^bruma_telemetry_series (\d+)", page, re.M)[1]) < 30
    # Nobody is lost from the sum.
    opened = re.findall(r'^istio_tcp_connections_opened_total{reporter="destination".*} (\d+)$', page, re.M)
    assert sum(map(int, opened)) == 3002
    # Another one has labels of its own.
    describe(
        mesh,
        leaf(mesh, "spiffe://cluster.local/ns/near/sa/gateway"),
        ["k8s.namespace.name=near,k8s.deployment.name=other"],
    )
    assert "other" in said_of(node)
    log = node.proxy.text()
    assert "liar" not in log and "kube-system" not in log


def test_readiness_while_everybody_reads_a_large_page():
    """9,000 label sets, all believed, and 48 readers of an ordinary user: a probe is answered within the
    second that a kubelet gives it."""
    with Mesh(nodes=1, proxy_env={"BRUMA_PEER_DESCRIPTIONS": "1000"}) as mesh:
        mesh.shop = mesh.pod("shop")
        mesh.start()
        node = mesh.nodes[0]
        for n in range(9):
            describe(
                mesh,
                leaf(mesh, f"spiffe://cluster.local/ns/far/sa/g{n}"),
                [f"k8s.namespace.name=far,k8s.deployment.name=w{n}-{i}" for i in range(1000)],
            )
        page = node.metrics()
        assert int(re.search(r"^bruma_telemetry_series (\d+)", page, re.M)[1]) >= 9000 and page.endswith(
            "# EOF\n"
        )
        readers = Process(
            ["/usr/bin/python3", "-c", READERS, "15020", "48"], f"{mesh.dir}/readers.log", netns=node.netns
        )
        try:
            wait_for(lambda: "READY" in readers.text(), "the readers")
            wait_for(lambda: int(readers.text().split()[-1]) >= 48, "each reader to have had a page", 60)
            late = 0
            for _ in range(20):
                began, queued = (
                    time.monotonic(),
                    seconds_in_queue(os.getpid()) + seconds_in_queue(node.proxy.pid),
                )
                assert node.http(15021, "/healthz/ready")[0] == 200
                # What this machine did for others meanwhile is not the proxy's.
                queued = seconds_in_queue(os.getpid()) + seconds_in_queue(node.proxy.pid) - queued
                late += time.monotonic() - began - queued > 1
                time.sleep(0.1)
            assert late == 0, f"{late} of 20 probes"
            assert int(readers.text().split()[-1]) > 0, "they are served, too"
            # And somebody with a better right still gets his page.
            assert node.metrics().endswith("# EOF\n")
        finally:
            readers.kill()


def test_many_readers_share_a_page(mesh):
    """Compressed or not, whole in any case."""
    node = mesh.nodes[0]
    jobs = [
        subprocess.Popen(
            [
                "nsenter",
                f"--net=/run/netns/{node.netns}",
                "curl",
                "-sS",
                "-m",
                "20",
                *(["--compressed"] if i % 2 else []),
                "http://127.0.0.1:15020/metrics",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(12)
    ]
    pages = [j.communicate(timeout=30)[0] for j in jobs]
    assert all(p.endswith("# EOF\n") and "istio_build" in p for p in pages)
