# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus visits agents and proxies of a mesh with traffic of every kind, a refusal and an upgrade; then each query of
each of Grafana's dashboards is asked, and each rule is judged by it."""

import glob
import json
import os
import re
import subprocess
import sys
import urllib.parse

import pytest

from support.nodes.hand_over import MIRROR, Talkers, serving
from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, ask
from support.programs import ROOT
from support.prometheus import Prometheus
from support.system import Failed, wait_for

DASHBOARDS = sorted(glob.glob(f"{ROOT}/packaging/grafana/*.json"))
RULES = sorted(glob.glob(f"{ROOT}/packaging/prometheus/*.yaml"))
NEXT_METRICS = 15030  # of the proxy that takes over, while the one before has the usual port
# What only trouble brings that this scene has none of. Their names are those of the programs.
RARE = {
    "bruma_access_log_dropped_lines_total",
    "bruma_client_addresses_hidden_total",
    "bruma_direct_broken_records_total",
    "bruma_direct_ends_lost_total",
    "bruma_direct_lost_events_total",
    "bruma_direct_lost_total",
    "bruma_direct_mesh_failures_total",
    "bruma_direct_pod_failures_total",
    "bruma_direct_socket_failures_total",
    "bruma_direct_verdicts_full_total",
    "bruma_dry_run_connections_total",
    "bruma_log_dropped_lines_total",
    "bruma_mends_total",
    "bruma_pod_failed",
    "bruma_otlp_dropped_total",
    "bruma_outbound_retries_total",
    "bruma_crl_unusable",
    "bruma_relay_pipes_missed_total",
    "bruma_same_node_tunnelled_connections_total",
    "bruma_steering_failures_total",
    "bruma_telemetry_overflow_connections_total",
    "istio_dns_requests_total",
    "istio_dns_upstream_failures_total",
    "istio_dns_upstream_requests_total",
    "istio_xds_connection_terminations_total",
}


def scrapes(mesh):
    def job(name, targets):
        return {
            "job_name": name,
            "honor_labels": True,
            "static_configs": [
                {"targets": [f"{node.gateway}:{port}"], "labels": {"node": node.name}}
                for node, port in targets
            ],
        }

    first, second = mesh.nodes
    proxies = [(first, 15020), (second, 15020), (first, NEXT_METRICS)]
    return [job("bruma-proxy", proxies), job("bruma-agent", [(n, 15014) for n in mesh.nodes])]


@pytest.fixture(scope="module")
def mesh():
    options = {"agent_options": ("--metrics-port", "15014"), "proxy_env": {"BRUMA_SAME_NODE": "relay"}}
    with Mesh(nodes=2, **options) as m:
        m.web, m.near, m.shop = m.pod("web"), m.pod("near"), m.pod("shop", node=1)
        m.thief = m.pod("thief", namespace="other")
        m.outside = m.pod("outside", node=1, namespace="outside")
        m.outside.outside = True
        for i, name in enumerate(("shop", "gone"), 1):
            m.services.append(
                {
                    "name": name,
                    "namespace": "demo",
                    "hostname": f"{name}.demo.svc.cluster.local",
                    "vips": [f"/10.200.0.{i}"],
                    "ports": {80: 8080},
                }
            )
        m.shop.services = {"demo/shop.demo.svc.cluster.local": {80: 8080}}
        m.deny(m.thief.rule())
        m.deny(
            [[{"destinationPorts": [9]}]], name="not-9"
        )  # what depends on the port is for the proxy to decide
        m.start()
        for pod in (m.shop, m.near, m.outside):
            pod.server(ECHO, "8080")
        m.shop.server(MIRROR, "8081")
        yield m


def traffic(mesh):
    for pod, address, port in (
        (mesh.web, "10.200.0.1", "80"),  # a service
        (mesh.web, mesh.near.ip, "8080"),  # a pod of its own node
        (mesh.thief, mesh.shop.ip, "8080"),  # one that a policy refuses
        (mesh.thief, "10.200.0.2", "80"),  # a service without endpoints
        (mesh.web, mesh.outside.ip, "8080"),  # out of the mesh
        (mesh.outside, mesh.shop.ip, "8080"),  # into it
    ):
        ask(pod, address, port=port)


@pytest.fixture(scope="module")
def prometheus(mesh):
    """Once everything has happened."""
    p = Prometheus(mesh.nodes[0], f"{mesh.dir}/prometheus", scrapes(mesh), RULES)
    try:
        wait_for(lambda: p.up() == 4, "proxies and agents to be visited")
        talkers = Talkers(mesh.web, mesh.shop.ip, count=3, kinds="p", port=8081)
        talkers.goes_on(1)
        node, ports = (
            mesh.nodes[0],
            {"BRUMA_METRICS_PORT": NEXT_METRICS, "BRUMA_READY_PORT": 0, "BRUMA_ADMIN_PORT": 0},
        )
        node.start_proxy(wait=False, **ports)
        wait_for(lambda: serving(node), "the next proxy to serve", log=node.proxy_log)
        talkers.goes_on(1)
        talkers.end()
        wait_for(
            lambda: p.query('bruma_handed_over_connections_total{direction="in",result="moved"} > 0'),
            "a visit",
        )
        yield p
    finally:
        p.stop()


def of_dashboard(path):
    with open(path) as f:
        return json.load(f)


def queries(dashboard):
    """[(panel, query)]"""
    return [(p["title"], t["expr"]) for p in dashboard["panels"] for t in p.get("targets", ())]


EVERY_QUERY = [(os.path.basename(d)[:-5], *q) for d in DASHBOARDS for q in queries(of_dashboard(d))]


def as_grafana(query):
    for name, value in {
        "__rate_interval": "10m",
        "__range": "10m",
        "node": ".*",
        "namespace": ".*",
    }.items():
        query = query.replace(f"${name}", value)
    assert "$" not in query, query
    return query


def test_every_query_of_every_dashboard_returns_something(mesh, prometheus):
    missing = dict.fromkeys(EVERY_QUERY)

    def all_have():
        traffic(mesh)
        for q in list(missing):
            if prometheus.query(as_grafana(q[2])):
                del missing[q]
        return not missing

    try:
        wait_for(all_have, "an answer to each", 60)
    except Failed as e:
        raise AssertionError("\n".join(map(str, missing))) from e


def test_every_query_is_of_the_nodes_that_were_chosen():
    assert [q for q in EVERY_QUERY if "$node" not in q[2]] == []


def test_what_they_say_is_what_has_happened(mesh, prometheus):
    """Some of them, by the panels' names. What comes with its first count shows from the second on."""

    def ask(panel, *labels):
        (query,) = (as_grafana(e) for _, title, e in EVERY_QUERY if title == panel)
        return [
            tuple(r[n] for n in labels) if labels else r["value"]
            for r in prometheus.query(query)
            if r["value"]
        ]

    def seen():
        traffic(mesh)
        return {
            "nodes": ask("Nodes"),
            "pods": ask("Pods in the mesh"),
            "pairs": sorted(ask("Pairs", "source_workload", "destination_workload")),
            "refused": ask("Refused by policy", "source_workload", "destination_workload"),
            "plaintext": ask("Plaintext from outside the mesh, by destination", "destination_workload"),
            "outside": ask("To outside the mesh, by source", "source_workload"),
            "reasons": sorted(ask("Reasons", "reason", "node")),
        }

    expected = {
        "nodes": [2],
        "pods": [len([p for p in mesh.pods if not getattr(p, "outside", False)])],
        "pairs": [("thief", "shop"), ("web", "near"), ("web", "shop"), ("web", "unknown")],
        "refused": [("thief", "shop")],
        "plaintext": [("shop",)],
        "outside": [("web",)],
        "reasons": [
            ("connect_rejected", "node1"),
            ("no_healthy_upstream", "node1"),
            ("policy_denied", "node2"),
        ],
    }
    try:
        wait_for(lambda: seen() == expected, "what has happened", 60)
    except Failed:
        assert seen() == expected


def test_every_variable_has_values(prometheus):
    for path in DASHBOARDS:
        source, *others = of_dashboard(path)["templating"]["list"]
        assert (source["type"], source["query"]) == ("datasource", "prometheus")
        for variable in others:
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()
            values = prometheus.api(f"label/{label}/values?{urllib.parse.urlencode({'match[]': metric})}")
            assert values, (path, variable["name"])


def test_every_metric_in_them_exists(prometheus):
    """Also what has an answer without it. The rare ones: in the sources."""
    seen = set(prometheus.api("label/__name__/values"))
    named = {name for *_, e in EVERY_QUERY for name in names(e)}
    for path in RULES:
        with open(path) as f:
            named |= set(names(re.sub(r"(?m)^\s*#.*", "", f.read())))
    assert {n for n in named if n not in seen and n not in RARE and ":" not in n} == set()
    sources = "".join(
        open(path).read()
        for folder in ("agent", "proxy")
        for path in glob.glob(f"{ROOT}/{folder}/**/*.c", recursive=True)
    )
    for name in RARE:
        assert f'"{name}"' in sources or f'"{name.removesuffix("_total")}"' in sources, name
    assert not RARE - named


def test_the_page_lists_them(prometheus):
    """Bruma's own metrics; those that the kernel counts for each pod have a table in maps.md."""
    with open(f"{ROOT}/docs/monitoring.md") as f:
        page = f.read()
    with open(f"{ROOT}/docs/direct-telemetry.md") as f:
        page += f.read()
    seen = {
        re.sub("_(bucket|sum|count)$", "", n)
        for n in prometheus.api("label/__name__/values")
        if n.startswith("bruma_")
    }
    assert {n for n in seen | RARE if n.startswith("bruma_") and f"`{n}`" not in page} == {
        n
        for n in seen
        if re.match("bruma_pod_(direct|excluded|inbound|outbound|dropped|probes)_", n) and "long_way" not in n
    }
    with open(RULES[0]) as f:
        alerts = set(re.findall(r"alert: (\w+)", f.read()))
    assert set(re.findall(r"(?m)^\| `(Bruma\w+)` \|", page)) == alerts


def test_the_configuration_for_machines(tmp_path):
    """Of the page."""
    with open(f"{ROOT}/docs/monitoring.md") as f:
        text = re.search(r"```yaml\n(.*?)```", f.read(), re.S)[1]
    path = tmp_path / "prometheus.yml"
    path.write_text(text.replace("/etc/prometheus/bruma", f"{ROOT}/packaging/prometheus"))
    r = subprocess.run(["promtool", "check", "config", str(path)], capture_output=True, text=True, timeout=60)
    assert r.returncode == 0 and "2 rule files" in r.stdout, r.stdout + r.stderr


def names(text):
    return re.findall(
        r"\b((?:bruma|istio|workload_manager|process)_\w+)\b(?!:)", re.sub(r"\w+:\w+:\w+", "", text)
    )


def test_every_rule_is_judged_without_an_error(prometheus):
    def judged():
        rules = [r for g in prometheus.api("rules")["groups"] for r in g["rules"]]
        return rules and all(r["health"] != "unknown" for r in rules) and rules

    rules = wait_for(judged, "every rule to be judged")
    assert {r["name"]: r.get("lastError") for r in rules if r["health"] != "ok"} == {}


def test_every_recording_has_recorded(mesh, prometheus):
    recorded = [
        r["name"] for g in prometheus.api("rules")["groups"] for r in g["rules"] if r["type"] == "recording"
    ]

    def all_have():
        traffic(mesh)
        return all(prometheus.query(name) for name in recorded)

    assert recorded
    wait_for(all_have, "each of them to have a value", 60)


def test_a_proxy_that_is_gone_is_noticed(mesh, prometheus):
    """The rule waits for two minutes; that it sees it is told at once. The last of all, as nothing is served any more."""

    def pending(alert):
        return {
            a["labels"]["node"]: a["annotations"]
            for a in prometheus.api("alerts")["alerts"]
            if a["labels"]["alertname"] == alert
        }

    assert not pending("BrumaProxyAway")
    second = mesh.nodes[1]
    second.proxy.stop()
    found = wait_for(lambda: pending("BrumaProxyAway"), "the alert")
    assert list(found) == [second.name] and second.name in found[second.name]["summary"]
    second.agent.stop()
    wait_for(
        lambda: not prometheus.query(f'bruma_agent_ready{{node="{second.name}"}}'), "the agent to be missed"
    )
    second.start_proxy(wait=False)


def test_the_files_are_what_is_made_of_the_lists(tmp_path):
    kept = {os.path.basename(path): open(path).read() for path in DASHBOARDS}
    script = "import dashboards, json; print(json.dumps(dashboards.dashboards()))"
    r = subprocess.run(
        [sys.executable, "-B", "-c", script],
        env={**os.environ, "PYTHONPATH": f"{ROOT}/packaging"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert r.returncode == 0, r.stderr
    assert {f"{name}.json": text for name, text in json.loads(r.stdout).items()} == kept, (
        "/usr/bin/python3 packaging/dashboards.py"
    )


@pytest.mark.parametrize("path", DASHBOARDS, ids=os.path.basename)
def test_a_dashboard_needs_nothing_else(path):
    """No data source of its own, no address of somewhere else, no plugin; panels do not overlap."""
    with open(path) as f:
        text = f.read()
    assert "://" not in text
    dashboard = json.loads(text)
    taken = set()
    for panel in dashboard["panels"]:
        assert panel["type"] in ("row", "stat", "timeseries", "table"), panel["title"]
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}" and panel["description"], panel["title"]
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
    ids = [p["id"] for p in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
