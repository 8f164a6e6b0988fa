# SPDX-License-Identifier: Apache-2.0
"""What the agent tells over HTTP: metrics, and whether it is ready."""

import json
import os
import re
import subprocess
import sys

import pytest

from support import network
from support.nodes.agent_node import AgentNode
from support.system import run, wait_for

LIST = json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]})


class Pages:
    def __init__(self, node):
        self.node = node
        self.options = ["--metrics-port", "15014", "--ready-port", "8000"]

    def get(self, port, path, host="127.0.0.1", method="GET"):
        """(status, body), from inside the node's network namespace."""
        code = (
            "import http.client, json, sys\n"
            f"c = http.client.HTTPConnection({host!r}, {port}, timeout=20)\n"
            f"c.request({method!r}, {path!r})\n"
            "r = c.getresponse()\n"
            "print(json.dumps([r.status, r.read().decode()]))"
        )
        r = subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.node.netns}", sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=60,
        )
        return tuple(json.loads(r.stdout)) if r.returncode == 0 else (0, r.stderr)

    def metrics(self):
        """name{labels} -> number; each line must be one or the other, and each name be introduced once."""
        status, text = self.get(15014, "/metrics")
        assert status == 200, text
        values, introduced = {}, set()
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                assert line.split()[2] not in introduced, line
                introduced.add(line.split()[2])
            elif not line.startswith("# HELP "):
                m = re.fullmatch(
                    r'([a-z_]+)(\{[a-z_]+="(?:[^"\\]|\\.)*"(?:,[a-z_]+="(?:[^"\\]|\\.)*")*\})? (\d+)', line
                )
                assert m and m[1] in introduced, line
                values[m[1] + (m[2] or "")] = int(m[3])
        return values


@pytest.fixture
def node(work):
    return AgentNode(work)


@pytest.fixture
def pages(node):
    run(["ip", "-n", node.netns, "link", "set", "lo", "up"])
    return Pages(node)


def test_ready_when_the_entry_is_in_place_and_only_then(node, pages, work):
    conf = work.path("net.d")
    os.makedirs(conf)
    node.start(*pages.options, "--cni-conf-dir", conf, "--cni-bin-dir", "")
    status, text = pages.get(8000, "/readyz")
    assert status == 503 and "not installed" in text
    assert pages.get(8000, "/healthz")[0] == 200
    assert pages.metrics()["istio_cni_install_ready"] == 0
    with open(f"{conf}/10-pods.conflist", "w") as f:
        f.write(LIST)
    wait_for(lambda: pages.get(8000, "/readyz") == (200, "ready\n"), "the agent to be ready")
    metrics = pages.metrics()
    assert metrics["istio_cni_install_ready"] == metrics["bruma_agent_ready"] == 1
    assert metrics['istio_cni_installs_total{result="SUCCESS"}'] == 1
    assert metrics['istio_cni_installs_total{result="CREATE_CNI_CONFIG_FAILURE"}'] >= 1
    os.unlink(f"{conf}/10-pods.conflist")
    wait_for(lambda: pages.get(8000, "/readyz")[0] == 503, "readiness to be withdrawn")


def test_a_pod_that_has_trouble_does_not_make_the_agent_unready(node, pages):
    node.start(*pages.options)
    pod = node.pod("web")
    assert pod.add() == "enrol"
    assert node.status()["problems"], "no proxy is there"
    assert pages.get(8000, "/readyz") == (200, "ready\n")


def test_pods_in_metrics(node, pages):
    node.start(*pages.options)
    assert pages.metrics()["bruma_proxy_serving"] == 0
    node.proxy().serve()
    pod, other = node.pod("web"), node.pod("other", "outside")
    assert (pod.add(), other.add()) == ("enrol", "pass")
    assert pod.greeting() == "proxy inbound" and pod.dials_out() == "proxy outbound"
    assert pod.ask("cni-check", containerId="unknown")["op"] == "error"
    metrics, labels = pages.metrics(), '{namespace="shop",pod="web"}'
    assert metrics['bruma_pods{state="enrolled"}'] == metrics['bruma_pods{state="outside"}'] == 1
    assert metrics["bruma_pod_captured_since_start" + labels] == 1
    assert metrics["bruma_pod_outbound_captured_connections_total" + labels] == 1
    assert metrics["bruma_pod_inbound_plaintext_lookups_total" + labels] == 1
    counters = pod.item()["counters"]
    # The page has these of pods that exclude something.
    assert counters.pop("inbound_excluded_lookups") == counters.pop("outbound_excluded_connections") == 0
    assert len(counters) >= 9 and {f"bruma_pod_{name}_total{labels}": n for name, n in counters.items()} == {
        name: n
        for name, n in metrics.items()
        if re.match(r"bruma_pod_\w+_(connections|lookups|events)_total", name)
    }
    # a SYN that is sent again is looked up again
    assert counters["outbound_steered_lookups"] >= 1 and counters["outbound_captured_connections"] == 1
    assert metrics["ztunnel_connected"] == metrics["bruma_proxy_serving"] == 1
    assert metrics['istio_cni_plugin_requests_total{response_code="200"}'] == 2  # each ADD counts once
    assert metrics['istio_cni_plugin_requests_total{response_code="500"}'] == 1
    assert not any('namespace="outside"' in name for name in metrics)


def test_what_was_repaired_is_counted(node, pages):
    node.start(*pages.options)
    node.proxy().serve()
    pod = node.pod("web")
    pod.add()
    run(["ip", "-n", pod.netns, "rule", "del", "pref", "32764"])
    wait_for(
        lambda: pages.metrics().get('bruma_mends_total{reason="rule_missing"}'), "the repair to be counted"
    )


def test_odd_requests(node, pages):
    node.start(*pages.options)
    assert pages.get(15014, "/")[0] == 404 and pages.get(8000, "/metrics")[0] == 404
    assert (
        pages.get(15014, "/metrics", method="POST")[0] == 405
        and pages.get(8000, "/readyz", method="DELETE")[0] == 405
    )
    network.address(node.netns, "pods", "10.79.0.2/24")
    assert pages.get(15014, "/metrics", "10.79.0.2")[0] == 200, "for who collects them"
    assert pages.get(8000, "/readyz", "10.79.0.2")[0] == 0, "for this node alone"


def test_a_port_that_is_taken_is_named(node, pages, work):
    busy = node.python(
        "import socket\ns = socket.socket()\ns.bind(('127.0.0.1', 8000))\ns.listen()\nprint('x', flush=True)\n"
        "import time; time.sleep(600)"
    )
    assert busy.stdout.readline() == "x\n"
    try:
        r = subprocess.run(
            ["nsenter", f"--net=/run/netns/{node.netns}", *node.argv(*pages.options)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert r.returncode != 0 and "port=8000" in r.stderr and "Address already in use" in r.stderr
    finally:
        busy.kill()
        busy.wait()


def test_nothing_listens_unasked(node, pages):
    node.start()
    assert pages.get(15014, "/metrics")[0] == 0 and pages.get(8000, "/readyz")[0] == 0
