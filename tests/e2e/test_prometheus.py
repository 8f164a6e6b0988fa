# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus scrapes the proxies of two nodes, found by the labels and annotations that the chart gives their pods, in
both of the usual ways (annotations; a PodMonitor). What is then asked is what Kiali's graph asks, and its page of the node
proxies: which series those need, under which labels, is written here as a list of queries."""

import json
import os
import re
import subprocess

import pytest
import yaml

from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, ask
from support.programs import ROOT
from support.prometheus import Prometheus
from support.system import placed, wait_for

# How Istio's sample Prometheus, and the usual charts of Prometheus, find what pods' annotations offer ...
ANNOTATIONS = """
- source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scrape]
  regex: "true"
  action: keep
- source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_path]
  regex: (.+)
  target_label: __metrics_path__
- source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_port, __meta_kubernetes_pod_ip]
  regex: (\\d+);(.+)
  replacement: $2:$1
  target_label: __address__
- regex: __meta_kubernetes_pod_label_(.+)
  action: labelmap
"""
# ... and a PodMonitor for Envoys and ztunnels, which knows them by their container's name and has a path of its own.
POD_MONITOR = """
- source_labels: [__meta_kubernetes_pod_container_name]
  regex: istio-proxy
  action: keep
- source_labels: [__meta_kubernetes_pod_annotationpresent_prometheus_io_scrape]
  regex: "true"
  action: keep
- source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_port, __meta_kubernetes_pod_ip]
  regex: (\\d+);(.+)
  replacement: $2:$1
  target_label: __address__
"""
BOTH = """
- source_labels: [__meta_kubernetes_namespace]
  target_label: namespace
- source_labels: [__meta_kubernetes_pod_name]
  target_label: pod
"""

WORKLOADS = [
    f"{side}_{what}"
    for side in ("source", "destination")
    for what in ("cluster", "workload_namespace", "workload", "canonical_service", "canonical_revision")
]
SERVICE = ["destination_service_namespace", "destination_service", "destination_service_name"]
EDGE = ["app", *WORKLOADS, *SERVICE, "response_flags"]
SECURITY = [*WORKLOADS, *SERVICE, "source_principal", "destination_principal", "connection_security_policy"]
METRICS = ["istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"]


def of_graph(metric, namespace):
    """The queries of a namespace's graph: what comes in, by who receives it; what goes out, by who sends it; what goes to a
    service of the namespace and reaches no workload."""
    nobody = 'destination_workload="unknown",destination_workload_namespace="unknown"'
    lost = f'{nobody},destination_service=~"^.+\\\\.{namespace}\\\\..+$"'
    return {
        "incoming": f'reporter="destination",destination_workload_namespace="{namespace}"',
        "outgoing": f'reporter="source",source_workload_namespace="{namespace}"',
        "lost": f'reporter="source",source_workload_namespace!="{namespace}",{lost}',
    }, f"sum(rate({metric}{{%s}}[10m])) by ({','.join(EDGE)}) > 0"


def start_prometheus(mesh):
    directory = f"{mesh.dir}/prometheus"
    os.makedirs(directory)
    with open(f"{directory}/pods.json", "w") as f:
        json.dump(targets(mesh), f)
    scrapes = [
        {
            "job_name": job,
            "honor_labels": True,
            "file_sd_configs": [{"files": [f"{directory}/pods.json"]}],
            "relabel_configs": yaml.safe_load(relabel + BOTH),
            **more,
        }
        for job, relabel, more in (
            ("annotations", ANNOTATIONS, {}),
            ("pod-monitor", POD_MONITOR, {"metrics_path": "/stats/prometheus"}),
        )
    ]
    return Prometheus(mesh.nodes[0], directory, scrapes)


def targets(mesh):
    """The proxies' pods as the API server has them: labels and annotations are the chart's."""
    with open(f"{ROOT}/tests/data/chart/default.yaml") as f:
        chart = [d for d in yaml.safe_load_all(f) if d]
    template = next(
        d["spec"]["template"]
        for d in chart
        if d["kind"] == "DaemonSet" and d["metadata"]["name"] == "ztunnel"
    )
    found = []
    for node in mesh.nodes:
        labels = {
            "__meta_kubernetes_namespace": "istio-system",
            "__meta_kubernetes_pod_name": f"ztunnel-{node.name}",
            "__meta_kubernetes_pod_ip": node.gateway,
            "__meta_kubernetes_pod_container_name": template["spec"]["containers"][0]["name"],
        }
        for kind in ("label", "annotation"):
            for name, value in template["metadata"][f"{kind}s"].items():
                name = re.sub(r"[^a-zA-Z0-9_]", "_", name)
                labels[f"__meta_kubernetes_pod_{kind}_{name}"] = value
                labels[f"__meta_kubernetes_pod_{kind}present_{name}"] = "true"
        found.append({"targets": [f"{node.gateway}:1"], "labels": labels})
    return found


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2) as m:
        m.web, m.near, m.shop = m.pod("web"), m.pod("near"), m.pod("shop", node=1)
        m.thief = m.pod("thief", namespace="other")
        m.outside = m.pod("outside", node=1, namespace="outside")
        m.outside.outside = True
        hostname = "shop.demo.svc.cluster.local"
        m.services += [
            {
                "name": "shop",
                "namespace": "demo",
                "hostname": hostname,
                "vips": ["/10.200.0.1"],
                "ports": {80: 8080},
            },
            # Nobody serves it.
            {
                "name": "gone",
                "namespace": "demo",
                "hostname": "gone.demo.svc.cluster.local",
                "vips": ["/10.200.0.2"],
                "ports": {80: 8080},
            },
        ]
        m.shop.services = {f"demo/{hostname}": {80: 8080}}
        m.deny(m.thief.rule())
        m.start()
        for pod in (m.shop, m.near, m.outside):
            pod.server(ECHO, "8080")
        yield m


@pytest.fixture(scope="module")
def prometheus(mesh):
    p = start_prometheus(mesh)
    wait_for(lambda: p.up() == 4, "both nodes to be scraped in both ways")
    yield p
    p.stop()


@pytest.fixture(scope="module")
def traffic(mesh, prometheus):
    """Each kind of connection goes on until the rates show it."""
    calls = [
        (mesh.web, "10.200.0.1", "80"),  # a service
        (mesh.web, mesh.near.ip, "8080"),  # a pod of its own node
        (mesh.thief, mesh.shop.ip, "8080"),  # one that a policy refuses
        (mesh.thief, "10.200.0.2", "80"),  # a service without endpoints
        (mesh.web, mesh.outside.ip, "8080"),  # out of the mesh
        (mesh.outside, mesh.shop.ip, "8080"),  # into it
    ]

    def seen():
        for pod, address, port in calls:
            ask(pod, address, port=port)
        # Each job has a pace of its own, and shows a rate only of what went on between two of its visits.
        return all(
            len(prometheus.query(f'rate({metric}{{job="{job}"}}[10m]) > 0')) >= series
            for job in ("annotations", "pod-monitor")
            for metric, series in (("istio_tcp_connections_opened_total", 8), *((m, 6) for m in METRICS))
        )

    wait_for(seen, "rates of every kind of connection", 60)


def name_of(series):
    """Of both ends, as the graph shows them."""
    return (
        f"{series['source_workload_namespace']}/{series['source_workload']}",
        series["destination_service"],
        f"{series['destination_workload_namespace']}/{series['destination_workload']}",
    )


NOBODY = "unknown/unknown"
SHOP = "shop.demo.svc.cluster.local"
EDGES = {
    ("demo", "incoming"): {
        ("demo/web", SHOP, "demo/shop"),
        ("demo/web", "unknown", "demo/near"),
        (NOBODY, "unknown", "demo/shop"),
    },
    ("demo", "outgoing"): {
        ("demo/web", SHOP, "demo/shop"),
        ("demo/web", "unknown", "demo/near"),
        ("demo/web", "unknown", NOBODY),
    },
    ("demo", "lost"): set(),
    ("other", "incoming"): set(),
    ("other", "outgoing"): set(),  # refused: no byte was carried
    ("other", "lost"): set(),
}


@pytest.mark.parametrize("app", ['app="ztunnel",', ""])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("namespace", "query"), EDGES)
def test_the_graph_has_each_edge(traffic, prometheus, namespace, query, metric, app):
    selectors, text = of_graph(metric, namespace)
    found = prometheus.query(text % f'job="annotations",{app}{selectors[query]}')
    assert {name_of(s) for s in found} == EDGES[namespace, query]
    for series in found:
        # A label that is missing, or empty, drops the edge there.
        assert set(EDGE) <= set(series) and all(series[name] for name in EDGE), series
        assert series["app"] == "ztunnel"
        assert series["source_cluster"] in ("Kubernetes", "unknown")
        if series["destination_service"] == SHOP:
            assert (series["destination_service_name"], series["destination_service_namespace"]) == (
                "shop",
                "demo",
            )
            assert series["destination_canonical_service"] == "shop"


def test_both_ends_tell_the_same_bytes(traffic, prometheus):
    """Of an edge; the graph takes either."""
    for metric in METRICS:
        selector = f'job="annotations",source_workload="web",destination_service="{SHOP}"'
        for reporter in ("source", "destination"):
            (series,) = prometheus.query(
                f'sum(rate({metric}{{{selector},reporter="{reporter}"}}[10m])) by (reporter) > 0'
            )
            assert series["reporter"] == reporter


def test_edges_are_locked_where_they_are_encrypted(traffic, prometheus):
    """The padlock, and both principals."""
    text = f"sum(rate({METRICS[0]}{{%s}}[10m])) by ({','.join(SECURITY)}) > 0"
    found = prometheus.query(
        text % 'job="annotations",reporter="destination",destination_service_namespace="demo"'
    )
    assert {name_of(s) for s in found} == {("demo/web", SHOP, "demo/shop")}
    outgoing = prometheus.query(
        text % 'job="annotations",app="ztunnel",reporter="source",source_workload_namespace="demo"'
    )
    for series in [*found, *outgoing]:
        assert set(SECURITY) <= set(series), series
        ours = series["destination_workload"] != "unknown"
        assert series["connection_security_policy"] == ("mutual_tls" if ours else "unknown")
        if ours:
            assert series["source_principal"] == "spiffe://cluster.local/ns/demo/sa/web"
            assert series["destination_principal"].startswith("spiffe://cluster.local/ns/demo/sa/")


def test_a_refused_connection_is_red(traffic, prometheus):
    """It is none of the graph's edges, but the tables of a workload have it, with the reason."""
    found = prometheus.query(
        'sum(rate(istio_tcp_connections_failed_total{job="annotations"}[10m])) by '
        "(reporter,source_workload,destination_workload,response_flags) > 0"
    )
    refused = {
        (s["reporter"], s["source_workload"], s["destination_workload"], s["response_flags"]) for s in found
    }
    assert ("destination", "thief", "shop", "DENY") in refused and (
        "source",
        "thief",
        "shop",
        "CONNECT",
    ) in refused


def test_the_page_of_the_node_proxies(mesh, traffic, prometheus):
    """By the names of their pods, which begin with the DaemonSet's."""
    pods = {f"ztunnel-{n.name}" for n in mesh.nodes}
    for metric in ("istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total", *METRICS):
        found = prometheus.query(
            f'sum(rate({metric}{{job="annotations",pod=~"ztunnel-.*"}}[10m])) by (pod) > 0'
        )
        assert {s["pod"] for s in found} == pods, metric
    served = prometheus.query(
        'sum(workload_manager_active_proxy_count{job="annotations",pod=~"ztunnel-.*"}) by (pod)'
    )
    assert {s["pod"]: s["value"] for s in served} == {"ztunnel-node1": 3, "ztunnel-node2": 1}
    (build,) = prometheus.query('sum(istio_build{job="annotations",component="ztunnel"}) by (tag)')
    assert build["tag"] and build["value"] == 2
    for metric in ("process_resident_memory_bytes", "process_cpu_seconds_total"):
        assert {s["pod"] for s in prometheus.query(f'{metric}{{job="annotations"}}')} == pods


def test_a_pod_monitor_gets_the_same(traffic, prometheus):
    """The other path, without the pods' labels."""
    selectors, text = of_graph(METRICS[0], "demo")
    found = prometheus.query(text % f'job="pod-monitor",{selectors["incoming"]}')
    assert {name_of(s) for s in found} == EDGES["demo", "incoming"]
    assert {s["namespace"] for s in prometheus.query('istio_build{job="pod-monitor"}')} == {"istio-system"}


def test_promtool_takes_the_page(mesh, traffic):
    """Each line is well formed. What it has against names is known: they are those of other node proxies, whose families have
    no "_total"."""
    for node in mesh.nodes:
        r = subprocess.run(
            placed(["promtool", "check", "metrics"], node.netns),
            input=node.metrics(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "error while linting" not in r.stderr and r.returncode in (0, 3), r.stderr
        lines = (r.stdout + r.stderr).splitlines()
        assert not [
            line for line in lines if not re.search(r'no help text|should not have "_count" suffix', line)
        ]
