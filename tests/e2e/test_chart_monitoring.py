# SPDX-License-Identifier: Apache-2.0
"""What the chart makes for the Prometheus operator and for Grafana, where it is asked for it."""

import json
import subprocess

import pytest
import yaml

from support.chart import CHART, HELM, call, rendered
from support.programs import ROOT

EVERYTHING = [f"monitoring.{part}.enabled=true" for part in ("podMonitor", "rules", "dashboards")]
DASHBOARDS = ("mesh", "node", "reasons")


@pytest.fixture(autouse=True)
def helm():
    if not HELM:
        pytest.skip("helm is not here: BRUMA_HELM names a program, or it is on PATH")


def made(*settings):
    """What there is more than without these."""
    before = rendered()
    return {name: o for name, o in rendered(*settings).items() if name not in before}


def test_only_where_it_is_asked_for():
    assert set(made("monitoring.podMonitor.enabled=true")) == {
        ("PodMonitor", "bruma-proxy"),
        ("PodMonitor", "bruma-agent"),
    }
    assert set(made("monitoring.rules.enabled=true")) == {("PrometheusRule", "bruma")}
    assert set(made("monitoring.dashboards.enabled=true")) == {
        ("ConfigMap", f"bruma-dashboard-{name}") for name in DASHBOARDS
    }


def test_monitors_find_the_pods_and_their_ports():
    objects = rendered("monitoring.podMonitor.enabled=true")
    for monitor, daemonset in (("bruma-proxy", "ztunnel"), ("bruma-agent", "istio-cni-node")):
        spec = objects["PodMonitor", monitor]["spec"]
        pod = objects["DaemonSet", daemonset]["spec"]["template"]
        labels = pod["metadata"]["labels"]
        assert spec["selector"]["matchLabels"].items() <= labels.items()
        assert set(spec["podTargetLabels"]) <= set(labels)
        (endpoint,) = spec["podMetricsEndpoints"]
        ports = {p["name"]: p["containerPort"] for p in pod["spec"]["containers"][0]["ports"]}
        annotations = pod["metadata"]["annotations"]
        assert str(ports[endpoint["port"]]) == annotations["prometheus.io/port"]
        assert endpoint["path"] == annotations.get("prometheus.io/path", "/metrics")
        assert endpoint["honorLabels"] is True and "interval" not in endpoint
        assert endpoint["relabelings"] == [
            {"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}
        ]


def test_names_of_their_own_are_followed():
    objects = rendered("monitoring.podMonitor.enabled=true", "cni.resourceName=bruma", "cni.metricsPort=9000")
    spec = objects["PodMonitor", "bruma-agent"]["spec"]
    pod = objects["DaemonSet", "bruma-node"]["spec"]["template"]
    assert spec["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


def test_a_stock_ztunnel_has_its_own_monitor():
    objects = rendered("monitoring.podMonitor.enabled=true", "ztunnel.enabled=false")
    assert [name for kind, name in objects if kind == "PodMonitor"] == ["bruma-agent"]


def test_rules_are_the_files(tmp_path):
    groups = rendered("monitoring.rules.enabled=true")["PrometheusRule", "bruma"]["spec"]["groups"]
    expected = []
    for name in ("recording", "alerts"):
        with open(f"{ROOT}/packaging/prometheus/{name}.yaml") as f:
            expected += yaml.safe_load(f)["groups"]
    assert groups == expected
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": groups}))
    r = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True, timeout=60)
    assert r.returncode == 0, r.stdout + r.stderr


def test_dashboards_are_the_files():
    objects = rendered("monitoring.dashboards.enabled=true")
    for name in DASHBOARDS:
        o = objects["ConfigMap", f"bruma-dashboard-{name}"]
        assert o["metadata"]["labels"]["grafana_dashboard"] == "1"
        with open(f"{ROOT}/packaging/grafana/{name}.json") as f:
            assert json.loads(o["data"][f"bruma-{name}.json"]) == json.load(f)


def test_labels_and_the_rest_are_told():
    objects = rendered(
        *EVERYTHING,
        "monitoring.podMonitor.labels.release=prom",
        "monitoring.podMonitor.interval=15s",
        "monitoring.rules.labels.release=prom",
        "monitoring.dashboards.labels.grafana_dashboard=null",
        "monitoring.dashboards.labels.dashboards=yes",
        "monitoring.dashboards.annotations.folder=Mesh",
    )
    for name in (("PodMonitor", "bruma-proxy"), ("PodMonitor", "bruma-agent"), ("PrometheusRule", "bruma")):
        assert objects[name]["metadata"]["labels"]["release"] == "prom"
    endpoint = objects["PodMonitor", "bruma-agent"]["spec"]["podMetricsEndpoints"][0]
    assert endpoint["interval"] == "15s"
    meta = objects["ConfigMap", "bruma-dashboard-mesh"]["metadata"]
    assert meta["labels"]["dashboards"] == "yes" and "grafana_dashboard" not in meta["labels"]
    assert meta["annotations"] == {"folder": "Mesh"}


def test_they_belong_to_the_namespace():
    cluster = rendered(*EVERYTHING, "global.resourceScope=cluster")
    assert {kind for kind, _ in cluster} == {"ClusterRole", "ClusterRoleBinding"}


@pytest.mark.parametrize(
    "setting",
    [
        "monitoring.podMonitor.interval=often",
        "monitoring.podMonitor.enabled=maybe",
        "monitoring.rules.more=1",
        "monitoring.dashboards.labels=x",
        "monitoring.more=1",
    ],
)
def test_wrong_values_are_refused(setting):
    r = call("template", "bruma", CHART, "--set", setting)
    assert r.returncode != 0 and "schema" in r.stderr
