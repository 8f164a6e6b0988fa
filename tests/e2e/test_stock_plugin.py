# SPDX-License-Identifier: Apache-2.0
"""The stock istio-cni plugin stays in the chain for pods with sidecars (pilot.cni.enabled, as on OpenShift),
before Bruma's or behind it: it redirects the pods that are injected, and Bruma the pods of the mesh, and
neither touches the other's. BRUMA_ISTIO_CNI names a directory with the program istio-cni."""

import os

import pytest

from support.kube.world import AMBIENT
from support.system import run

PROGRAMS = os.environ.get("BRUMA_ISTIO_CNI", "")
INJECTED = {
    "annotations": {"sidecar.istio.io/status": "{}"},
    "spec": {
        "containers": [
            {"name": "app", "image": "none"},
            {"name": "istio-proxy", "image": "none", "args": ["proxy", "sidecar"]},
        ]
    },
}
KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{{name: local, cluster: {{server: "{url}", certificate-authority: {ca}}}}}]
users: [{{name: istio-cni, user: {{token: "{token}"}}}}]
contexts: [{{name: istio-cni-context, context: {{cluster: local, user: istio-cni}}}}]
current-context: istio-cni-context
"""


@pytest.fixture(params=["before", "behind"])
def chain(small, request):
    """A node with both plugins in its list, and a namespace of the mesh."""
    if not PROGRAMS:
        pytest.skip("BRUMA_ISTIO_CNI names a directory with the stock program istio-cni")
    directory = small.work.path("istio-cni")
    os.makedirs(directory)
    with open(small.server.token_file) as f:
        token = f.read().strip()
    with open(f"{directory}/istio-cni-kubeconfig", "w") as f:
        f.write(KUBECONFIG.format(url=small.server.url, ca=small.server.ca, token=token))
    stock = {
        "type": "istio-cni",
        "name": "istio-cni",
        "plugin_log_level": "debug",
        "cni_agent_run_dir": directory,
        "ambient_enabled": False,
        "exclude_namespaces": ["kube-system"],
        "pod_namespace": "istio-system",
    }
    runtime = small.node.runtime
    plugins = runtime.conflist["plugins"]
    plugins.insert(len(plugins) - (request.param == "before"), stock)
    runtime.path += f":{PROGRAMS}"
    small.server.make_namespace("shop", AMBIENT)
    small.start().ready()
    return small


def stock_rules(pod):
    """Names of the stock plugin's chains in the pod."""
    out = "".join(
        run([tool, "-t", "nat"], netns=pod.netns, check=False).stdout
        for tool in ("iptables-nft-save", "iptables-legacy-save")
    )
    return sorted({line.split()[0].lstrip(":") for line in out.splitlines() if line.startswith(":ISTIO")})


def brumas(pod):
    """What Bruma's capture has in the pod: rules of routing by its mark."""
    rules = run(["ip", "-n", pod.netns, "rule"]).stdout
    return [line for line in rules.splitlines() if "fwmark" in line]


def add(world, name, host, **more):
    pod = world.sandbox("shop", name, host, plain=False, **more)
    world.node.add(pod)
    return pod


def test_each_plugin_has_its_own_pods(chain):
    injected = add(chain, "injected", 10, **INJECTED)
    assert {"ISTIO_REDIRECT", "ISTIO_OUTPUT", "ISTIO_IN_REDIRECT"} <= set(stock_rules(injected))
    assert chain.state("shop/injected") in (None, "outside") and not brumas(injected)
    ambient = add(chain, "ambient", 11)
    chain.wait_state("shop/ambient", "enrolled")
    assert stock_rules(ambient) == [] and brumas(ambient)
    chain.wait_redirection("shop", "ambient", "enabled")
    assert chain.server.redirection("shop", "injected") is None
    plain = add(chain, "plain", 12, labels={"istio.io/dataplane-mode": "none"})
    assert stock_rules(plain) == [] and not brumas(plain)


def test_a_pod_leaves_its_sidecar_and_joins_the_mesh(chain):
    """Its successor is of the mesh, under the same name and address."""
    pod = add(chain, "web", 20, **INJECTED)
    assert stock_rules(pod) and not brumas(pod)
    chain.node.delete_pod(pod)
    chain.server.delete_pod("shop", "web")
    pod = add(chain, "web", 20)
    chain.wait_state("shop/web", "enrolled")
    assert stock_rules(pod) == [] and brumas(pod)
