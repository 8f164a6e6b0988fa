# SPDX-License-Identifier: Apache-2.0
"""The Helm chart. What it renders with its own values is kept in tests/data/chart/default.yaml, so that most
of this works where helm is not; a change of the chart asks for a new one:

    BRUMA_HELM=HELM PYTHONPATH=tests /usr/bin/python3 tests/e2e/test_chart.py
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from support.chart import CHART, HELM, call, objects, pod, rendered, template
from support.programs import ROOT

KEPT = os.path.join(ROOT, "tests", "data", "chart", "default.yaml")


def sources():
    """A hash of the chart's files, by which what is kept is known to be of now."""
    h = hashlib.sha256()
    for folder, _, names in sorted(os.walk(CHART)):
        for name in sorted(names):
            path = os.path.join(folder, name)
            h.update(os.path.relpath(path, CHART).encode() + b"\0")
            with open(path, "rb") as f:
                h.update(f.read() + b"\0")
    return h.hexdigest()


def keep():
    r = template()
    if r.returncode:
        sys.exit(r.stderr)
    os.makedirs(os.path.dirname(KEPT), exist_ok=True)
    with open(KEPT, "w") as f:
        f.write(f"# charts/bruma {sources()}\n{r.stdout}")


@pytest.fixture
def helm():
    if not HELM:
        pytest.skip("helm is not here: BRUMA_HELM names a program, or it is on PATH")


@pytest.fixture(scope="module")
def default():
    """The objects that the chart makes of its own values."""
    with open(KEPT) as f:
        return objects(f.read())


def agent_args(objects):
    return dict(a.lstrip("-").split("=", 1) for a in pod(objects, "istio-cni-node")["containers"][0]["args"])


def host_paths(objects, name="istio-cni-node"):
    return {v["name"]: v["hostPath"]["path"] for v in pod(objects, name)["volumes"] if "hostPath" in v}


# ---- without helm ----


def test_what_is_kept_was_rendered_from_this_chart():
    with open(KEPT) as f:
        assert f.readline() == f"# charts/bruma {sources()}\n", (
            "BRUMA_HELM=HELM PYTHONPATH=tests /usr/bin/python3 tests/e2e/test_chart.py"
        )


def test_values_and_schema_name_the_same_things():
    """Each value that the chart has is known to the schema, which refuses others."""
    with open(f"{CHART}/values.yaml") as f:
        values = yaml.safe_load(f)
    with open(f"{CHART}/values.schema.json") as f:
        schema = json.load(f)

    def compare(values, schema, where):
        if "properties" not in schema:
            return
        assert set(values) == set(schema["properties"]), where
        for name, value in values.items():
            rule = schema["properties"][name]
            if "$ref" in rule:
                rule = definitions[rule["$ref"].rpartition("/")[2]]
            assert rule, f"{where}.{name}"
            if isinstance(value, dict):
                compare(value, rule, f"{where}.{name}")

    definitions = schema["definitions"]
    compare(values, schema, "values")
    assert schema["additionalProperties"] is False


def test_names_that_others_depend_on(default):
    """istiod, istioctl, analyzers, the untaint controller; the names that they look for."""
    agent, proxy = default["DaemonSet", "istio-cni-node"], default["DaemonSet", "ztunnel"]
    assert agent["spec"]["template"]["metadata"]["labels"]["k8s-app"] == "istio-cni-node"
    assert proxy["spec"]["template"]["metadata"]["labels"]["app"] == "ztunnel"
    assert (
        pod(default, "ztunnel")["serviceAccountName"] == "ztunnel"
        and ("ServiceAccount", "ztunnel") in default
    )
    assert pod(default, "ztunnel")["containers"][0]["name"] == "istio-proxy"
    assert agent_args(default)["metrics-port"] == "15014" and agent_args(default)["ready-port"] == "8000"
    for d in (agent, proxy):
        labels = d["spec"]["template"]["metadata"]["labels"]
        assert labels["istio.io/dataplane-mode"] == "none" and labels["sidecar.istio.io/inject"] == "false"
        assert d["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert d["spec"]["template"]["metadata"]["annotations"]["prometheus.io/scrape"] == "true"
        assert d["spec"]["template"]["spec"]["priorityClassName"] == "system-node-critical"


def test_rights_are_the_least(default):
    roles = {
        name: [(r["resources"], r.get("resourceNames"), r["verbs"]) for r in d["rules"]]
        for (kind, name), d in default.items()
        if kind in ("ClusterRole", "Role")
    }
    assert roles == {
        "bruma-agent-istio-system": [
            (["pods", "namespaces"], None, ["list", "watch"]),
            (["pods/status"], None, ["patch"]),
            (["nodes"], None, ["get"]),
            (["events"], None, ["create", "patch"]),
        ],
        "bruma-agent": [(["daemonsets"], ["istio-cni-node"], ["get"])],
        "bruma-agent-mesh-config": [(["configmaps"], ["istio"], ["list", "watch"])],
        "bruma-retire": [(["daemonsets"], ["istio-cni-node"], ["get", "patch", "delete"])],
        "bruma-operator": [(["pods"], None, ["list"]), (["pods/portforward"], None, ["get", "create"])],
    }
    bound = [s["name"] for (kind, _), d in default.items() if kind.endswith("Binding") for s in d["subjects"]]
    assert sorted(bound) == ["bruma-check", "bruma-retire", "istio-cni", "istio-cni", "istio-cni"], (
        "the proxy has none"
    )
    assert pod(default, "ztunnel")["automountServiceAccountToken"] is False
    for name in ("istio-cni-node", "ztunnel"):
        assert all(c["securityContext"]["readOnlyRootFilesystem"] for c in pod(default, name)["containers"])
    assert pod(default, "ztunnel")["containers"][0]["securityContext"]["capabilities"]["drop"] == ["ALL"]


def test_operators_are_whom_the_values_name(helm, default):
    assert ("RoleBinding", "bruma-operator") not in default
    subject = {"kind": "Group", "name": "mesh", "apiGroup": "rbac.authorization.k8s.io"}
    o = rendered(*(f"operators[0].{k}={v}" for k, v in subject.items()))
    binding = o["RoleBinding", "bruma-operator"]
    assert binding["subjects"] == [subject] and binding["roleRef"]["name"] == "bruma-operator"
    r = call("template", "bruma", CHART, "--set", "operators[0].kind=Everybody")
    assert r.returncode != 0 and "operators" in r.stderr


def test_options_of_the_programs_exist(default, build):
    """Every option that the chart gives to the agent is one, and every variable."""
    text = subprocess.run([f"{build}/agent/bruma-agent", "--help"], capture_output=True, text=True).stdout
    retire = default["Job", "bruma-retire"]["spec"]["template"]["spec"]["containers"][0]
    for container in (pod(default, "istio-cni-node")["containers"][0], retire):
        for a in container["args"]:
            assert a.split("=")[0] in text, a
        for e in container.get("env", []):
            assert e["name"] in text, e
    page = subprocess.run([f"{build}/proxy/bruma-proxy", "--help"], capture_output=True, text=True).stdout
    for e in pod(default, "ztunnel")["containers"][0]["env"]:
        assert e["name"] in page, e


def test_an_upgrade_leaves_no_gap(default):
    """The next proxy serves before the one of before ends; what is in the kernel and beside it is the
    node's."""
    strategy = default["DaemonSet", "ztunnel"]["spec"]["updateStrategy"]["rollingUpdate"]
    assert (strategy["maxSurge"], strategy["maxUnavailable"]) == (1, 0)
    for name in ("istio-cni-node", "ztunnel"):
        paths = host_paths(default, name)
        assert paths["run"] == "/run/bruma"
    # The proxy is handed the maps that it writes.
    assert host_paths(default, "istio-cni-node")["bpf"] == "/sys/fs/bpf" and "bpf" not in host_paths(
        default, "ztunnel"
    )
    assert pod(default, "ztunnel")["containers"][0]["securityContext"]["capabilities"]["add"] == [
        "SYS_ADMIN",
        "NET_ADMIN",
        "NET_RAW",
    ]
    probe = pod(default, "istio-cni-node")["containers"][0]["readinessProbe"]["httpGet"]
    assert (probe["host"], probe["path"], str(probe["port"])) == ("127.0.0.1", "/readyz", "8000")
    assert pod(default, "ztunnel")["containers"][0]["readinessProbe"]["httpGet"]["path"] == "/healthz/ready"
    grace = pod(default, "ztunnel")["terminationGracePeriodSeconds"]
    env = {e["name"]: e.get("value") for e in pod(default, "ztunnel")["containers"][0]["env"]}
    assert int(env["CONNECTION_TERMINATION_DEADLINE"].rstrip("s")) < grace


def test_uninstall_begins_with_the_agents(default):
    """A hook before anything is deleted, and nothing of it stays."""
    hooks = {key: d["metadata"]["annotations"] for key, d in default.items() if "bruma-retire" in key[1]}
    assert sorted(kind for kind, _ in hooks) == ["Job", "Role", "RoleBinding", "ServiceAccount"]
    for a in hooks.values():
        assert a["helm.sh/hook"] == "pre-delete" and "hook-succeeded" in a["helm.sh/hook-delete-policy"]
    weights = {kind: int(a.get("helm.sh/hook-weight", "0")) for (kind, _), a in hooks.items()}
    assert all(weights["Job"] > w for kind, w in weights.items() if kind != "Job")
    spec = default["Job", "bruma-retire"]["spec"]
    context = spec["template"]["spec"]["containers"][0]["securityContext"]
    assert (
        context["runAsNonRoot"]
        and not context["allowPrivilegeEscalation"]
        and context["capabilities"]["drop"] == ["ALL"]
    )
    # The agent has time to leave no trace, and the hook to wait for all of them; helm itself waits for five
    # minutes.
    assert pod(default, "istio-cni-node")["terminationGracePeriodSeconds"] >= 40
    assert 180 < spec["activeDeadlineSeconds"] < 300


# ---- with helm ----


def test_helm_renders_what_is_kept(helm):
    with open(KEPT) as f:
        assert f.read().partition("\n")[2] == template().stdout


def test_helm_lint(helm):
    r = call("lint", "--strict", CHART)
    assert r.returncode == 0, r.stdout + r.stderr


# What each platform's nodes have elsewhere than others, as their makers say: conf_dir and bin_dir of its runtime, its socket.
K3S = {"cni-conf": "/var/lib/rancher/k3s/agent/etc/cni/net.d", "cri": "/run/k3s/containerd"}
PLATFORMS = {
    "aks": {},
    "eks": {},
    "gke": {"cni-bin": "/home/kubernetes/bin"},
    "k0s": {"cri": "/run/k0s"},
    "k3d": {**K3S, "cni-bin": "/bin"},
    "k3s": {**K3S, "cni-bin": "/var/lib/rancher/k3s/data/cni"},
    "kind": {},
    "microk8s": {
        "cni-conf": "/var/snap/microk8s/current/args/cni-network",
        "cni-bin": "/var/snap/microk8s/current/opt/cni/bin",
        "cri": "/var/snap/microk8s/common/run",
    },
    "minikube": {"netns": "/var/run/docker/netns", "cri": "/run"},
    "openshift": {"cni-conf": "/etc/kubernetes/cni/net.d", "cni-bin": "/var/lib/cni/bin", "cri": "/run/crio"},
    "rke2": {"cri": "/run/k3s/containerd"},
    "talos": {},
}
SOCKETS = {"minikube": "cri-dockerd.sock", "openshift": "crio.sock"}


@pytest.mark.parametrize("name", ["platform", "global.platform"])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_platforms(helm, default, platform, name):
    o = rendered(f"{name}={platform}")
    assert host_paths(o) == {**host_paths(default), **PLATFORMS[platform]}
    assert agent_args(o)["cri-socket"] == f"/host/cri/{SOCKETS.get(platform, 'containerd.sock')}"
    mounts = {m["name"]: m["mountPath"] for m in pod(o, "istio-cni-node")["containers"][0]["volumeMounts"]}
    assert mounts["cni-conf"] == "/host/etc/cni/net.d" and mounts["cni-bin"] == "/host/opt/cni/bin"
    # Nothing of what another platform asks for.
    assert any(kind == "ResourceQuota" for kind, _ in o) == (platform == "gke")
    assert (("RoleBinding", "bruma-proxy-privileged") in o) == (platform == "openshift")


@pytest.mark.parametrize("name", ["platform", "global.platform"])
def test_an_unknown_platform_is_refused_with_the_list(helm, name):
    r = template(f"{name}=moon")
    assert r.returncode != 0 and '"moon" is not known' in r.stderr
    assert f"known are {', '.join(sorted(PLATFORMS))}." in r.stderr


def test_platforms_are_the_same_everywhere():
    with open(f"{CHART}/files/platforms.yaml") as f:
        known = yaml.safe_load(f)
    assert sorted(known) == sorted(PLATFORMS)
    with open(f"{CHART}/values.yaml") as f:
        values = f.read()
    with open(os.path.join(ROOT, "docs", "install.md")) as f:
        page = f.read()
    for platform in known:
        assert re.search(rf"\b{platform}\b", values) and f"`{platform}`" in page, platform


def test_a_path_that_is_set_wins_over_the_platforms(helm):
    o = rendered("global.platform=k3s", "cni.cniConfDir=/opt/net.d", "cni.criSocket=/run/other/x.sock")
    assert host_paths(o)["cni-conf"] == "/opt/net.d" and host_paths(o)["cri"] == "/run/other"
    assert agent_args(o)["cri-socket"] == "/host/cri/x.sock"


def test_what_gke_and_openshift_ask_for(helm, default):
    assert not any(kind == "ResourceQuota" for kind, _ in default)
    quotas = [
        d["spec"] for (kind, _), d in rendered("global.platform=gke").items() if kind == "ResourceQuota"
    ]
    assert len(quotas) == 2 and quotas[0]["scopeSelector"]["matchExpressions"][0]["values"] == [
        "system-node-critical"
    ]
    o = rendered("global.platform=openshift")
    used = [
        r for d in o.values() for r in d.get("rules", []) if "securitycontextconstraints" in r["resources"]
    ]
    assert len(used) == 2
    assert o["RoleBinding", "bruma-proxy-privileged"]["subjects"][0]["name"] == "ztunnel"
    context = pod(o, "ztunnel")["containers"][0]["securityContext"]
    assert context["seLinuxOptions"] == {"type": "spc_t"}
    assert "seLinuxOptions" not in pod(default, "ztunnel")["containers"][0]["securityContext"]


def test_what_istiod_distributes_is_mounted_by_its_names(helm):
    """Revocation lists and roots, as istiod writes them into each namespace; trust domains as it has them."""
    o = rendered(
        "ztunnel.peerCaCrl.enabled=true",
        "ztunnel.trustBundleName=other-root",
        "meshConfig.trustDomain=new.example",
        "meshConfig.trustDomainAliases={old.example,older.example}",
    )
    env = {e["name"]: e.get("value") for e in pod(o, "ztunnel")["containers"][0]["env"]}
    assert env["CRL_PATH"] == "/var/run/secrets/crl/ca-crl.pem"
    assert env["BRUMA_TRUST_DOMAIN_ALIASES"] == "old.example,older.example,new.example"
    volumes = {v["name"]: v for v in pod(o, "ztunnel")["volumes"]}
    assert volumes["crl"]["configMap"] == {"name": "istio-ca-crl", "optional": True}
    assert volumes["istiod-ca-cert"]["configMap"] == {"name": "other-root"}
    o = rendered("ztunnel.env.ENABLE_CLUSTER_TRUST_BUNDLE_API=true")
    volumes = {v["name"]: v for v in pod(o, "ztunnel")["volumes"]}
    assert volumes["istiod-ca-cert"]["projected"]["sources"] == [
        {"clusterTrustBundle": {"name": "istio.io:istiod-ca:root-cert", "path": "root-cert.pem"}}
    ]


def test_the_resumption_of_sessions_can_be_switched_off(helm):
    for value, setting in (("true", None), ("false", "0")):
        o = rendered(f"ztunnel.sessionResumption={value}")
        env = {e["name"]: e.get("value") for e in pod(o, "ztunnel")["containers"][0]["env"]}
        assert env.get("BRUMA_RESUMABLE_SESSIONS") == setting


def test_the_proxy_is_told_its_processors(helm):
    """It has as many workers as it may use processors, not as many as the node has."""

    def told(*settings):
        env = pod(rendered(*settings), "ztunnel")["containers"][0]["env"]
        return {e["name"]: e["valueFrom"]["resourceFieldRef"] for e in env if "CPU" in e["name"]}

    request = {"resource": "requests.cpu", "divisor": "1"}
    assert told() == {"ZTUNNEL_RESOURCE_CPU_REQUEST": request}
    assert told("ztunnel.resources.limits.cpu=3") == {
        "ZTUNNEL_RESOURCE_CPU_REQUEST": request,
        "ZTUNNEL_RESOURCE_CPU_LIMIT": {"resource": "limits.cpu", "divisor": "1"},
    }
    assert told("ztunnel.resources.requests.cpu=null") == {}


def test_beside_a_stock_agent(helm):
    """Nothing is called as in Istio's chart, so that it can be in the same namespace."""
    o = rendered("cni.resourceName=bruma")
    names = {name for kind, name in o if kind in ("DaemonSet", "ServiceAccount", "Role", "Job")}
    assert "bruma-node" in names and not [n for n in names if n.startswith("istio-cni")]
    agent = o["DaemonSet", "bruma-node"]["spec"]
    assert agent["selector"]["matchLabels"] == {"k8s-app": "bruma-node"}
    assert agent["template"]["metadata"]["labels"]["k8s-app"] == "bruma-node"
    assert agent["template"]["spec"]["serviceAccountName"] == "bruma" and ("ServiceAccount", "bruma") in o
    env = {e["name"]: e.get("value") for e in pod(o, "bruma-node")["containers"][0]["env"]}
    assert env["BRUMA_DAEMONSET"] == "bruma-node"
    for role in ("bruma-agent", "bruma-retire"):
        assert o["Role", role]["rules"][0]["resourceNames"] == ["bruma-node"]
    assert o["RoleBinding", "bruma-agent"]["subjects"][0]["name"] == "bruma"
    args = o["Job", "bruma-retire"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--daemonset=bruma-node" in args
    assert not [
        line for line in template("cni.resourceName=bruma").stdout.splitlines() if "istio-cni" in line
    ]


def test_settings_reach_the_programs(helm):
    o = rendered(
        "revision=canary",
        "global.hub=registry.example/mesh",
        "global.tag=1",
        "global.imagePullPolicy=Never",
        "global.imagePullSecrets={secret}",
        "cni.statusGate=true",
        "cni.env.BRUMA_VERIFY_INTERVAL=1s",
        "cni.metricsPort=9000",
        "cni.probeCgroup=/sys/fs/cgroup/kubelet",
        "ztunnel.env.ZTUNNEL_WORKER_THREADS=2",
        "ztunnel.peerCaCrl.configMapName=crl",
        "cni.excludeNamespaces={a,b}",
        "cni.ambient.enablementSelectors[0].podSelector.matchLabels.mesh=yes",
    )
    env = {e["name"]: e.get("value") for e in pod(o, "ztunnel")["containers"][0]["env"]}
    assert (
        env["XDS_ADDRESS"] == "https://istiod-canary.istio-system.svc:15012"
        and env["ZTUNNEL_WORKER_THREADS"] == "2"
    )
    assert env["CRL_PATH"] == "/var/run/secrets/crl/crl.pem"
    assert {"name": "crl", "configMap": {"name": "crl", "optional": True}} in pod(o, "ztunnel")["volumes"]
    agent = pod(o, "istio-cni-node")
    env = {e["name"]: e.get("value") for e in agent["containers"][0]["env"]}
    assert env["BRUMA_VERIFY_INTERVAL"] == "1s" and env["EXCLUDE_NAMESPACES"] == "a,b"
    assert yaml.safe_load(env["AMBIENT_ENABLEMENT_SELECTOR"]) == [
        {"podSelector": {"matchLabels": {"mesh": "yes"}}}
    ]
    assert agent_args(o)["probe-cgroup"] == "/sys/fs/cgroup/kubelet"
    assert agent_args(o)["cni-status-gate"] == "true" and agent_args(o)["metrics-port"] == "9000"
    for p in (agent, pod(o, "ztunnel"), o["Job", "bruma-retire"]["spec"]["template"]["spec"]):
        assert p["containers"][0]["image"] == "registry.example/mesh/bruma:1"
        assert p["containers"][0]["imagePullPolicy"] == "Never" and p["imagePullSecrets"] == [
            {"name": "secret"}
        ]
    assert ("NetworkPolicy", "ztunnel") in rendered("global.networkPolicy.enabled=true")


def test_room_for_a_stock_ztunnel(helm, default):
    """Nothing that its own chart makes, and the socket where it looks for it."""
    o = rendered("ztunnel.enabled=false")
    assert set(default) - set(o) == {("ServiceAccount", "ztunnel"), ("DaemonSet", "ztunnel")} and set(
        o
    ) < set(default)
    assert not [
        name
        for _, name in rendered(
            "ztunnel.enabled=false",
            "global.platform=openshift",
            "global.networkPolicy.enabled=true",
            "ztunnel.resourceQuotas.enabled=true",
        )
        if "ztunnel" in name or "proxy" in name
    ]
    assert agent_args(o)["zds-socket"] == "/var/run/ztunnel/ztunnel.sock" and "zds-socket" not in agent_args(
        default
    )
    assert host_paths(o)["ztunnel"] == "/var/run/ztunnel" and "ztunnel" not in host_paths(default)
    mounts = {m["name"]: m for m in pod(o, "istio-cni-node")["containers"][0]["volumeMounts"]}
    assert mounts["ztunnel"]["mountPath"] == "/var/run/ztunnel" and not mounts["ztunnel"].get("readOnly")
    assert pod(o, "istio-cni-node")["hostPID"]  # by which it sees ztunnel's process


@pytest.mark.parametrize(
    "setting",
    [
        "ztunnel.terminationGracePeriodSeconds=soon",
        "cni.noSuchThing=1",
        "cni.cniConfDir=relative",
        "cni.probeCgroup=kubelet",
        "cni.readyPort=0",
        "cni.guard.mode=maybe",
        "global.compliancePolicy=fips",
        "global.tls12=yes",
        "cni.guard.limit=soon",
        "cni.istioOwnedCNIConfigFileName=a/b",
        "global.resourceScope=half",
        "cni.resourceQuotas.pods=many",
        "noSuchThing=1",
        "ztunnel.resourceQuotas.more=1",
    ],
)
def test_wrong_values_are_refused(helm, setting):
    r = call("template", "bruma", CHART, "--set", setting)
    assert r.returncode != 0 and "schema" in r.stderr


@pytest.mark.parametrize("wanted", ["true", "false"])
def test_whether_dns_is_captured_reaches_the_agent(helm, wanted):
    out = call("template", "bruma", CHART, "--set", f"cni.ambient.dnsCapture={wanted}").stdout
    assert f'{{name: AMBIENT_DNS_CAPTURE, value: "{wanted}"}}' in out


def notes(tmp_path, setting):
    """What helm says after an installation, which it tells without a cluster only as a part of an object."""
    chart = tmp_path / setting
    shutil.copytree(CHART, chart)
    (chart / "templates" / "NOTES.txt").rename(chart / "notes.txt")
    (chart / "templates" / "notes.yaml").write_text('notes: {{ tpl (.Files.Get "notes.txt") . | quote }}')
    r = call("template", "bruma", str(chart), "--show-only", "templates/notes.yaml", "--set", setting)
    assert r.returncode == 0, r.stderr
    return " ".join(yaml.safe_load(r.stdout)["notes"].split())


def test_who_has_dns_captured_without_effect_is_told(helm, tmp_path):
    said = "DNS queries of pods are not captured for it"
    assert said in notes(tmp_path, "ztunnel.enabled=false")
    assert said not in notes(tmp_path, "ztunnel.enabled=true")
    assert said not in notes(tmp_path, "ztunnel.enabled=false,cni.ambient.dnsCapture=false")


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("cni.chained=false", "always the last plugin"),
        ("cni.provider=multus", "Multus"),
        ("cni.cniConfFileName=10-x.conflist", "istioOwnedCNIConfig"),
        ("cni.repair.enabled=true", "no sidecars"),
        ("cni.ambient.enabled=false", "nothing else"),
        ("cni.ambient.ipv6=false", "a way around the mesh"),
        ("cni.ambient.shareHostNetworkNamespace=false", "node's network"),
        ("cni.ambient.enableAmbientDetectionRetry=false", "tried again"),
        ("global.variant=distroless", "one image"),
        ("global.tls12=true,global.compliancePolicy=pqc", "no group"),
    ],
)
def test_what_has_one_answer_is_refused_with_the_reason(helm, setting, why):
    r = call("template", "bruma", CHART, "--set", setting)
    assert r.returncode != 0 and setting.partition("=")[0] in r.stderr and why in r.stderr


@pytest.mark.parametrize(
    "setting", ["global.nativeNftables=true", "cni.ambient.reconcileIptablesOnStartup=false"]
)
def test_what_has_no_meaning_here_changes_nothing(helm, default, setting):
    assert rendered(setting) == default


def test_scopes_together_are_everything(helm, default):
    cluster, namespace = rendered("global.resourceScope=cluster"), rendered("global.resourceScope=namespace")
    assert {kind for kind, _ in cluster} == {"ClusterRole", "ClusterRoleBinding"}
    assert not set(cluster) & set(namespace) and {**cluster, **namespace} == default


def test_the_guard_and_an_own_list(helm, default):
    args = agent_args(default)
    assert args["guard"] == "bounded" and args["guard-limit"] == "1m" and "cni-owned-conf" not in args
    args = agent_args(
        rendered(
            "cni.guard.mode=strict",
            "cni.guard.limit=5m",
            "cni.istioOwnedCNIConfig=true",
            "cni.istioOwnedCNIConfigFileName=01-mesh.conflist",
        )
    )
    assert (args["guard"], args["guard-limit"], args["cni-owned-conf"], args["cni-owned-conf-name"]) == (
        "strict",
        "5m",
        "true",
        "01-mesh.conflist",
    )


def test_both_names_of_the_directory_of_namespaces_are_seen(helm, default):
    def mounts(objects):
        return [
            m["mountPath"]
            for m in pod(objects, "istio-cni-node")["containers"][0]["volumeMounts"]
            if m["name"] == "netns"
        ]

    assert mounts(default) == ["/var/run/netns", "/run/netns"]
    assert mounts(rendered("cni.cniNetnsDir=/srv/netns")) == ["/srv/netns"]


def test_more_of_the_names_of_istios_charts(helm):
    o = rendered(
        "cni.daemonSetLabels.a=b",
        "ztunnel.labels.c=d",
        "ztunnel.annotations.e=f",
        "ztunnel.dnsPolicy=Default",
        "ztunnel.dnsConfig.nameservers={10.0.0.1}",
        "ztunnel.volumes[0].name=x",
        "ztunnel.volumes[0].emptyDir.medium=Memory",
        "ztunnel.volumeMounts[0].name=x",
        "ztunnel.volumeMounts[0].mountPath=/x",
        "global.logging.level=debug",
        "cni.terminationGracePeriodSeconds=60",
        "cni.seccompProfile.type=Unconfined",
        "meshConfig.defaultConfig.proxyMetadata.A=1",
        "meshConfig.defaultConfig.proxyMetadata.B=1",
        "ztunnel.env.B=2",
    )
    agent, proxy = o["DaemonSet", "istio-cni-node"], o["DaemonSet", "ztunnel"]
    assert agent["metadata"]["labels"]["a"] == "b" and agent_args(o)["log-level"] == "debug"
    assert agent["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 60
    assert pod(o, "istio-cni-node")["containers"][0]["securityContext"]["seccompProfile"] == {
        "type": "Unconfined"
    }
    assert proxy["metadata"]["labels"]["c"] == "d" and proxy["metadata"]["annotations"] == {"e": "f"}
    spec = pod(o, "ztunnel")
    assert spec["dnsPolicy"] == "Default" and spec["dnsConfig"] == {"nameservers": ["10.0.0.1"]}
    assert {"name": "x", "emptyDir": {"medium": "Memory"}} in spec["volumes"]
    assert {"name": "x", "mountPath": "/x"} in spec["containers"][0]["volumeMounts"]
    env = {e["name"]: e.get("value") for e in spec["containers"][0]["env"]}
    assert (env["A"], env["B"]) == ("1", "2")
    assert agent_args(rendered("global.logging.level=debug", "cni.logging.level=warn"))["log-level"] == "warn"


if __name__ == "__main__":
    keep()
