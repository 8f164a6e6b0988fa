# SPDX-License-Identifier: Apache-2.0
"""bruma-agent with the Kubernetes API as its source. What both servers can do is tested against both: the small one of
tests/support/kube_small.py, and the real one where BRUMA_KUBE names a directory with kube-apiserver and etcd."""
import base64
import concurrent.futures
import json
import os
import time
import uuid

import grpc
import pytest
from control_plane import load_messages
from support import agent as agent_client
from support import cni, kernel, network
from support.kube import RealServer
from support.kube_small import SmallServer
from support.node import Node
from support.system import Failed, run, wait_for

AMBIENT = {"istio.io/dataplane-mode": "ambient"}
REAL = os.environ.get("BRUMA_KUBE", "")


class World:
    """A node whose API server lives in its own network namespace."""

    def __init__(self, work, server):
        self.work = work
        self.node = Node("n1", 1, work.prefix, work.path("n1"), work.bpf_root(), work.cgroup(), work.build,
                         work.path("none.yaml"), work.path("none.pem"))
        work.defer(self.node.destroy)
        self.node.create()
        self.server = server(self.node.netns, work.path("kube"))
        work.defer(self.server.stop)
        self.server.start()
        self.cache = work.path("cni")
        os.makedirs(f"{self.cache}/results")
        # The chain of a node on which Bruma was not installed when the pod began.
        self.plain = cni.Runtime({**self.node.conflist(), "plugins": self.node.conflist()["plugins"][:1]},
                                 work.path("plain"), f"{work.build}/cni:/usr/lib/cni", netns=self.node.netns)
        self.settings = {"cni_cache": self.cache, "cri_socket": "", "drain_grace": "50ms",
                         **self.server.agent_settings()}

    def start(self, proxy=True, **settings):
        self.node.start_agent(**{**self.settings, **settings})
        if proxy:
            self.node.start_proxy(wait=False, XDS_ADDRESS="")
            wait_for(lambda: self.status()["proxyConnected"], "the proxy to connect")
        return self

    def status(self):
        return agent_client.status(self.node.run_dir)

    def ready(self):
        return wait_for(lambda: self.status()["sourceReady"], "the API server's word on everything",
                        log=self.node.agent_log)

    def state(self, name):
        return (agent_client.pods(self.node.run_dir).get(name) or {}).get("state")

    def wait_state(self, name, state, timeout=20):
        wait_for(lambda: self.state(name) == state, f"{name} to be {state}", timeout, log=self.node.agent_log)

    def wait_redirection(self, namespace, name, value, timeout=20):
        wait_for(lambda: self.server.redirection(namespace, name) == value,
                 f"the annotation of {name} to be {value}", timeout, log=self.node.agent_log)

    def log(self):
        with open(self.node.agent_log, errors="replace") as f:
            return f.read()

    # ---- pods ----

    def sandbox(self, namespace, name, host, plain=True, uid=None, **more):
        """A pod in the API with a sandbox. plain: without Bruma's plugin, and nobody says where it is."""
        pod = self.node.create_pod(namespace, name, host=host, add=False)
        self.work.defer(self.node.delete_pod, pod)
        pod.uid = self.server.make_pod(namespace, name, "n1", [] if not plain else pod.ips, **more)
        pod.runtime_uid = uid or pod.uid
        if plain:
            self.plain.add(pod.container, f"/run/netns/{pod.netns}", namespace, name, pod.runtime_uid,
                           [f"{pod.ip4}/24", f"{pod.ip6}/64"])
            self.work.defer(self.plain.delete, pod.container)
        return pod

    def write_cache(self, pod, netns=None, old=False, **changes):
        """What libcni writes about a run of the chain; old: before it named the namespace at the top."""
        path = netns or f"/run/netns/{pod.netns}"
        content = {"kind": "cniCacheV1", "containerId": pod.container, "config": base64.b64encode(b"{}").decode(),
                   "ifName": "eth0", "networkName": "pods",
                   "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", pod.namespace],
                               ["K8S_POD_NAME", pod.name], ["K8S_POD_UID", pod.runtime_uid]],
                   "result": {"cniVersion": "1.0.0", "interfaces": [
                       {"name": "veth1"}, {"name": "eth0", "sandbox": path}]}}
        if not old:
            content["netns"] = path
        content.update(changes)
        with open(f"{self.cache}/results/pods-{pod.container}-eth0", "w") as f:
            json.dump(content, f)


@pytest.fixture(params=["small", "real"] if REAL else ["small"])
def world(request, work):
    if request.param == "real":
        return World(work, lambda netns, directory: RealServer(REAL, netns, directory))
    return World(work, SmallServer)


@pytest.fixture
def small(work):
    return World(work, SmallServer)


def test_real_server_is_given():
    if not REAL:
        pytest.skip("BRUMA_KUBE names no directory with kube-apiserver and etcd: the agent was tested with the small "
                    "API server of the tests alone")
    for program in ("kube-apiserver", "etcd"):
        assert os.access(os.path.join(REAL, program), os.X_OK), f"BRUMA_KUBE={REAL} has no {program}"


# ---- labels, annotation ----

def test_namespace_label_enrols_running_pods_and_lets_them_go(world):
    world.server.make_namespace("shop")
    pod = world.sandbox("shop", "web", 10)
    world.write_cache(pod)
    world.start().ready()
    assert world.state("shop/web") is None and world.server.redirection("shop", "web") is None
    world.server.label_namespace("shop", mode="ambient")
    world.wait_state("shop/web", "enrolled")
    world.wait_redirection("shop", "web", "enabled")
    told = agent_client.pods(world.node.run_dir)["shop/web"]
    assert told["uid"] == pod.uid and sorted(told["ips"]) == sorted(pod.ips) and not told["capturedSinceStart"]
    world.server.label_namespace("shop", mode=None)
    world.wait_redirection("shop", "web", None)
    world.wait_state("shop/web", "outside")
    # Now the agent knows where it is.
    world.server.label_pod("shop", "web", mode="ambient")
    world.wait_state("shop/web", "enrolled")
    world.wait_redirection("shop", "web", "enabled")
    world.server.label_pod("shop", "web", mode="none")
    world.wait_redirection("shop", "web", None)
    world.wait_state("shop/web", "outside")


def test_new_pods_are_enrolled_by_the_plugin(world):
    world.server.make_namespace("shop", AMBIENT)
    world.start().ready()
    pod = world.sandbox("shop", "web", 10, plain=False, account="frontend")
    world.node.add(pod)
    told = agent_client.pods(world.node.run_dir)["shop/web"]
    assert told["state"] == "enrolled" and told["capturedSinceStart"]
    assert told["identity"] == "spiffe://cluster.local/ns/shop/sa/frontend"
    world.wait_redirection("shop", "web", "enabled")
    world.node.delete_pod(pod)
    assert world.state("shop/web") is None
    world.wait_redirection("shop", "web", None)


def test_the_agent_is_no_control_plane_then(world):
    world.start().ready()
    listeners = run(["ss", "-lntH"], netns=world.node.netns).stdout
    assert ":15012" not in listeners
    assert not os.path.exists(f"{world.node.run_dir}/control")
    assert "xdsAddress" not in world.status()


def test_annotation_of_somebody_else_is_put_right(world):
    world.server.make_namespace("shop")
    world.sandbox("shop", "web", 10, annotations={"ambient.istio.io/redirection": "enabled"})
    world.start().ready()
    world.wait_redirection("shop", "web", None)
    world.server.annotate_pod("shop", "web", {"ambient.istio.io/redirection": "yes"})
    world.wait_redirection("shop", "web", None)


RULES = [  # name, namespace's mode, labels, spec, annotations, enrolled
    ("ambient", "ambient", {}, {}, {}, True),
    ("own-label", None, {"mode": "ambient"}, {}, {}, True),
    ("opted-out", "ambient", {"mode": "none"}, {}, {}, False),
    ("both", "ambient", {"mode": "ambient"}, {}, {}, True),
    ("neither", None, {}, {}, {}, False),
    ("host-network", "ambient", {"mode": "ambient"}, {"hostNetwork": True}, {}, False),
    ("sidecar", "ambient", {"mode": "ambient"}, {}, {"sidecar.istio.io/status": "{}"}, False),
    ("other-value", None, {"mode": "sidecar"}, {}, {}, False),
    ("inject-says-nothing", "ambient", {"sidecar.istio.io/inject": "true", "istio-injection": "enabled"}, {}, {}, True),
]


def test_rules_of_eligibility(world):
    for mode in ("ambient", None):
        world.server.make_namespace(f"n-{mode}".lower(), {"istio.io/dataplane-mode": mode} if mode else {})
    world.server.make_namespace("istio-system", AMBIENT)
    world.server.make_namespace("kube-system", AMBIENT)
    pods = {}
    for i, (name, mode, labels, spec, annotations, _) in enumerate(RULES):
        labels = {"istio.io/dataplane-mode" if k == "mode" else k: v for k, v in labels.items()}
        pods[name] = world.sandbox(f"n-{mode}".lower(), name, 10 + i, labels=labels, spec=spec, annotations=annotations)
    pods["ztunnel"] = world.sandbox("istio-system", "ztunnel", 30, labels={"app": "ztunnel"})
    pods["dns"] = world.sandbox("kube-system", "dns", 31)
    pods["done"] = world.sandbox("n-ambient", "done", 32, phase="Succeeded")
    for pod in pods.values():
        world.write_cache(pod)
    world.start(exclude_namespaces="kube-public, kube-system").ready()
    wanted = {name for name, _, _, _, _, enrolled in RULES if enrolled}
    wait_for(lambda: {n.split("/")[1] for n, p in agent_client.pods(world.node.run_dir).items()
                      if p["state"] == "enrolled"} == wanted, f"{wanted} to be enrolled", log=world.node.agent_log)
    for name, pod in pods.items():
        world.wait_redirection(pod.namespace, name, "enabled" if name in wanted else None)
    # A job that ends leaves.
    world.server.set_status("n-ambient", "ambient", [], phase="Succeeded")
    world.wait_redirection("n-ambient", "ambient", None)
    world.wait_state("n-ambient/ambient", "outside")


def test_selectors_of_ones_own(small):
    small.server.make_namespace("shop", {"team": "a"})
    small.server.make_namespace("other", AMBIENT)
    for i, (namespace, name, labels) in enumerate([("shop", "in", {"tier": "web"}), ("shop", "out", {"tier": "db"}),
                                                   ("other", "default", {})]):
        small.write_cache(small.sandbox(namespace, name, 10 + i, labels=labels))
    small.start(enablement_selector="- podSelector: {matchExpressions: [{key: tier, operator: In, values: [web]}]}\n"
                                    "  namespaceSelector: {matchLabels: {team: a}}\n").ready()
    small.wait_state("shop/in", "enrolled")
    assert small.state("shop/out") is None and small.state("other/default") is None
    small.server.label_namespace("shop", team="b")
    small.wait_state("shop/in", "outside")


@pytest.mark.parametrize("setting, value, said", [
    ("enablement_selector", "- {podSelector: {matchExpressions: [{key: a, operator: Is}]}}", "must be In, NotIn"),
    ("enablement_selector", "{a: b}", "must be a list"),
    ("kube_server", "http://127.0.0.1:6443", "must be an https URL"),
    ("source", "consul", "neither file nor kubernetes")])
def test_wrong_settings_end_the_start(small, setting, value, said):
    agent = small.node.start_agent(wait=False, **{**small.settings, setting: value})
    assert agent.wait() != 0
    assert said in agent.text()


# ---- annotation and its precondition ----

def test_annotation_waits_for_a_proxy(small):
    small.server.make_namespace("shop", AMBIENT)
    small.write_cache(small.sandbox("shop", "web", 10))
    small.start(proxy=False).ready()
    small.wait_redirection("shop", "web", "pending")
    small.node.start_proxy(wait=False, XDS_ADDRESS="")
    small.wait_redirection("shop", "web", "enabled")
    # A proxy that goes away for a moment changes nothing for its peers.
    small.node.proxy.kill()
    wait_for(lambda: not small.status()["proxyConnected"], "the agent to notice")
    small.server.annotate_pod("shop", "web", {"changed": "yes"})
    wait_for(lambda: len(small.server.asked("PATCH", "/web/status")) == 2, "no patch but the two", 5)
    assert small.server.redirection("shop", "web") == "enabled"


def test_another_pod_of_the_same_name_is_left_alone(small):
    small.server.make_namespace("shop", AMBIENT)
    small.write_cache(small.sandbox("shop", "web", 10))

    def replace(handler):
        """The pod is replaced while the patch is on its way; the agent's watch does not know it yet."""
        with small.server.condition:
            o = small.server.objects["pods"]["shop", "web"]
            o["metadata"]["uid"] = str(uuid.uuid4())
        return False

    small.server.faults["patch"].append(replace)
    small.start().ready()
    small.wait_state("shop/web", "enrolled")
    wait_for(lambda: "UID in precondition does not match" in small.log(), "the refusal to be told")
    assert small.server.redirection("shop", "web") is None


def test_patches_are_tried_again(small):
    small.server.make_namespace("shop", AMBIENT)
    small.write_cache(small.sandbox("shop", "web", 10))
    small.server.faults["patch"] += [lambda h: h.status(500, "etcd is away"), lambda h: h.status(403, "not yours")]
    small.start().ready()
    small.wait_redirection("shop", "web", "enabled")
    assert "reason=annotation_failed status=500" in small.log() and "not yours" in small.log()


def test_peers_are_told_before_a_pod_can_no_longer_be_reached(small):
    small.server.make_namespace("shop", AMBIENT)
    small.write_cache(small.sandbox("shop", "web", 10))
    small.start().ready()
    small.wait_redirection("shop", "web", "enabled")
    small.server.faults["patch"] += [lambda h: h.status(500, "etcd is away")] * 2
    small.server.label_namespace("shop", mode=None)
    small.wait_state("shop/web", "outside")
    log = small.log()
    assert log.count("status=500") == 2
    assert log.index("redirection=none") < log.index("pod has left the mesh")
    assert small.server.redirection("shop", "web") is None


def test_bypass_annotation_is_applied_live(world):
    world.server.make_namespace("shop", AMBIENT)
    pod = world.sandbox("shop", "web", 10, annotations={"ambient.istio.io/bypass-inbound-capture": "true"})
    world.write_cache(pod)
    world.start().ready()
    world.wait_redirection("shop", "web", "enabled")
    app = pod.start(["/usr/bin/python3", "-m", "http.server", "8080", "--bind", "::"], world.work.path("app.log"))
    world.work.defer(app.stop)

    def fetch():
        return run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-m", "5", f"http://{pod.ip4}:8080/"],
                   netns=world.node.netns, check=False).stdout

    def counters():
        return agent_client.pods(world.node.run_dir)["shop/web"]["counters"]

    wait_for(lambda: fetch() == "200", "the application to answer")
    assert counters()["inbound_plaintext_lookups"] == 0
    world.server.annotate_pod("shop", "web", {"ambient.istio.io/bypass-inbound-capture": "F"})
    wait_for(lambda: fetch() and counters()["inbound_plaintext_lookups"], "the proxy to get connections")
    assert world.state("shop/web") == "enrolled" and not world.status()["mends"]
    world.server.annotate_pod("shop", "web", {"ambient.istio.io/bypass-inbound-capture": None})
    world.server.annotate_pod("shop", "web", {"ambient.istio.io/bypass-inbound-capture": "1"})
    wait_for(lambda: "straight to the application now" in world.log(), "the change")
    before = counters()["inbound_plaintext_lookups"]
    assert fetch() == "200" and counters()["inbound_plaintext_lookups"] == before


# ---- following the server ----

def follow_all(small, count=7):
    """Pods without a sandbox, outside the mesh: only what is known counts."""
    small.server.make_namespace("shop")
    for i in range(count):
        small.server.make_pod("shop", f"p{i}", "n1", [f"10.1.0.{i + 1}"])
    small.server.make_pod("shop", "elsewhere", "n2", ["10.1.1.1"])


def knows(small, pods):
    wait_for(lambda: small.status()["podsOfNode"] == pods, f"{pods} pods to be known", log=small.node.agent_log)


def test_lists_come_in_pages(small):
    small.server.page = 3
    follow_all(small)
    small.start(proxy=False).ready()
    knows(small, 7)
    assert len([p for p in small.server.asked("GET", "/api/v1/pods?") if "continue=" in p]) == 2
    assert all("fieldSelector=spec.nodeName%3Dn1" in p for p in small.server.asked("GET", "/api/v1/pods?"))
    assert [p for p in small.server.asked("GET", "watch=1") if "allowWatchBookmarks=true" in p]


def test_pages_that_took_too_long_begin_anew(small):
    small.server.page = 3
    follow_all(small)

    def forget(handler):
        if "continue" not in handler.path:
            with small.server.condition:
                small.server.faults["list"].insert(0, forget)
            return False
        small.server.forget()
        return False

    small.server.faults["list"].append(forget)
    small.start(proxy=False).ready()
    knows(small, 7)


def test_stream_goes_on_where_it_was_cut(small):
    follow_all(small)
    small.start(proxy=False).ready()
    for i in range(3):
        wait_for(lambda: small.server.watching("pods"), "the watch")
        small.server.cut()
        small.server.make_pod("shop", f"more{i}", "n1", [f"10.1.2.{i + 1}"])
        small.server.delete_pod("shop", f"p{i}")
        knows(small, 7)
    assert small.status()["watchPods"]["lists"] == 1
    assert small.status()["sourceReady"]


def test_forgotten_version_is_listed_again(small):
    follow_all(small)
    small.start(proxy=False).ready()
    for lists in (2, 3):
        wait_for(lambda: small.server.watching("pods"), "the watch")
        small.server.stop_api()
        with small.server.condition:
            small.server.objects["pods"].pop(("shop", f"p{lists}"))
        small.server.forget()
        small.server.start_api()
        wait_for(lambda: small.status()["watchPods"]["lists"] == lists, "a new list", log=small.node.agent_log)
        knows(small, 7 - lists + 1)


def test_410_as_status_of_the_watch(small):
    follow_all(small)
    small.server.faults["watch"] += [lambda h: h.status(410, "too old")] * 4
    small.start(proxy=False).ready()
    knows(small, 7)
    wait_for(lambda: small.server.watching("pods") and small.server.watching("namespaces"), "both watches")
    small.server.make_pod("shop", "more", "n1", ["10.1.2.1"])
    knows(small, 8)


@pytest.mark.parametrize("data, said", [
    (b"this is no JSON\n", "is not one JSON object"),
    (b"{}\n", "without a type"),
    (b'{"type":"ADDED"}\n', "without an object"),
    (b'{"type":"UPSERTED","object":{}}\n', "unknown type"),
    (b'{"type":"ERROR","object":{"code":500,"message":"etcd has no leader"}}\n', "etcd has no leader"),
    (b'{"type":"ADDED","object":{"metadata":' + b"[" * 2000 + b"\n", "is not one JSON object"),
    (b'"' + b"x" * (5 * 1024 * 1024), "a line of more than 4 MiB"),
], ids=["no-json", "no-type", "no-object", "unknown-type", "error", "deep", "long"])
def test_garbage_in_the_stream_is_told_and_survived(small, data, said):
    follow_all(small)
    small.start(proxy=False).ready()
    wait_for(lambda: small.server.watching("pods"), "the watch")
    small.server.say("pods", data)
    wait_for(lambda: said in small.log(), f"{said!r} in the log", log=small.node.agent_log)
    small.server.make_pod("shop", "more", "n1", ["10.1.2.1"])
    knows(small, 8)
    assert small.status()["watchPods"]["lists"] == 2


def test_bad_object_hides_no_other(small):
    follow_all(small)
    small.start(proxy=False).ready()
    wait_for(lambda: small.server.watching("pods"), "the watch")
    for o in ({"metadata": {"name": "../x", "namespace": "shop", "uid": "u"}}, {"metadata": 7}, {},
              {"metadata": {"name": "x", "namespace": "shop", "uid": "u"}, "status": {"podIPs": [{"ip": "ten"}]}}):
        small.server.say("pods", json.dumps({"type": "ADDED", "object": o}).encode() + b"\n")
    small.server.make_pod("shop", "more", "n1", ["10.1.2.1"])
    knows(small, 8)
    assert small.log().count("a pod of the API server cannot be used") == 4
    assert small.status()["watchPods"]["lists"] == 1


def test_line_that_comes_byte_by_byte(small):
    small.server.make_namespace("shop")
    small.start(proxy=False).ready()
    wait_for(lambda: small.server.watching("pods"), "the watch")
    line = json.dumps({"type": "ADDED", "object": {
        "metadata": {"name": "slow", "namespace": "shop", "uid": "u-1", "resourceVersion": "1000"}}}) + "\n"
    for c in line.encode():
        small.server.say("pods", bytes([c]))
    knows(small, 1)


def test_quiet_watch_ends_and_goes_on(small):
    follow_all(small)
    small.server.faults["watch"].append(lambda h: h.close_connection or h.send_response(200) or
                                        h.send_header("Content-Length", "0") or h.end_headers() or True)
    small.start(proxy=False).ready()
    small.server.make_pod("shop", "more", "n1", ["10.1.2.1"])
    knows(small, 8)
    assert small.status()["watchPods"]["lists"] == 1


def test_server_away_what_is_known_counts(world):
    world.server.make_namespace("shop", AMBIENT)
    known = world.sandbox("shop", "known", 10, plain=False)
    world.start().ready()
    wait_for(lambda: world.status()["podsOfNode"] == 1, "the pod to be known")
    world.server.stop_api()
    wait_for(lambda: world.status()["sourceError"], "the agent to notice", 60)
    world.node.add(known)
    assert world.state("shop/known") == "enrolled"
    assert [p for p in world.status()["problems"] if p["reason"] == "api_unreachable"]
    unknown = world.node.create_pod("shop", "unknown", host=11, add=False)
    world.work.defer(world.node.delete_pod, unknown)
    with pytest.raises(cni.PluginFailed, match="nothing has told of the pod"):
        world.node.add(unknown)
    world.server.start_api()
    world.wait_redirection("shop", "known", "enabled", 60)
    wait_for(lambda: not world.status()["sourceError"], "the agent to be well again", 60)


def test_before_the_server_has_spoken_nothing_is_decided(small):
    small.server.make_namespace("shop", AMBIENT)
    small.server.stop_api()
    small.start(proxy=False)
    pod = small.node.create_pod("shop", "web", host=10, add=False)
    small.work.defer(small.node.delete_pod, pod)
    with pytest.raises(Failed, match="has not told of all pods"):
        small.node.add(pod)
    assert [p for p in small.status()["problems"] if p["reason"] == "agent_not_ready"]


def test_plugin_waits_for_the_server_to_tell_of_a_pod(small):
    small.server.make_namespace("shop", AMBIENT)
    small.start().ready()
    pod = small.node.create_pod("shop", "web", host=10, add=False)
    small.work.defer(small.node.delete_pod, pod)
    pod.uid = str(uuid.uuid4())
    with concurrent.futures.ThreadPoolExecutor() as pool:
        added = pool.submit(small.node.add, pod)
        time.sleep(0.5)
        assert not added.done()
        with small.server.condition:
            small.server.put("pods", ("shop", "web"), "ADDED", {
                "metadata": {"name": "web", "namespace": "shop", "uid": pod.uid}, "spec": {"nodeName": "n1"}})
        added.result(20)
    assert small.state("shop/web") == "enrolled"


def test_tokens_rotate(small):
    follow_all(small)
    small.start(proxy=False).ready()
    wait_for(lambda: small.server.watching("pods"), "the watch")
    small.server.tokens = {"admin-of-the-test", "fresh-token"}
    small.server.cut()
    wait_for(lambda: "HTTP status 401" in small.log(), "the old token to be refused", log=small.node.agent_log)
    small.server.set_agent_token("fresh-token")
    small.server.make_pod("shop", "more", "n1", ["10.1.2.1"])
    knows(small, 8)
    os.unlink(small.server.token_file)
    wait_for(lambda: small.server.watching("pods"), "the watch")
    small.server.cut()
    wait_for(lambda: "the token cannot be read" in small.log(), "the missing token", log=small.node.agent_log)
    for bad in ("", "two words", "x" * 20000):
        small.server.set_agent_token(bad)
    small.server.set_agent_token("fresh-token")
    small.server.make_pod("shop", "again", "n1", ["10.1.2.2"])
    knows(small, 9)


def test_server_with_another_ca_is_refused(small):
    follow_all(small)
    other = small.work.path("other.crt")
    run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
         "/dev/null", "-subj", "/CN=other", "-days", "1", "-out", other])
    small.start(proxy=False, kube_ca=other)
    wait_for(lambda: "the API server cannot be followed" in small.log() and "certificate" in small.log(),
             "the refusal", log=small.node.agent_log)
    assert not small.server.asked("GET", "/") and not small.status()["sourceReady"]


# ---- network namespaces of running pods ----

def test_cache_files_of_older_libraries(small):
    small.server.make_namespace("shop", AMBIENT)
    small.write_cache(small.sandbox("shop", "web", 10), old=True)
    with open(f"{small.cache}/results/garbage", "w") as f:
        f.write('{"kind": "cniCacheV1", "containerId": 7')
    small.start().ready()
    small.wait_redirection("shop", "web", "enabled")
    assert "by=cni-cache" in small.log()


def test_address_used_again_by_another_sandbox(small):
    """The cache leads to a namespace that is another pod's now."""
    small.server.make_namespace("shop", AMBIENT)
    small.server.make_namespace("plain")
    web, other = small.sandbox("shop", "web", 10), small.sandbox("plain", "other", 11)
    small.write_cache(web, netns=f"/run/netns/{other.netns}")
    small.start().ready()
    wait_for(lambda: "has no address of the pod" in small.log(), "the mistake to be noticed", log=small.node.agent_log)
    assert small.state("shop/web") is None and small.server.redirection("shop", "web") is None
    assert [p for p in small.status()["problems"] if p["reason"] == "netns_not_found"]
    small.write_cache(web)
    small.wait_redirection("shop", "web", "enabled", 30)
    assert not small.status()["podsNotFound"]


def test_event_tells_of_a_pod_that_cannot_be_enrolled(world):
    world.server.make_namespace("shop", AMBIENT)
    pod = world.sandbox("shop", "web", 10, annotations={"ambient.istio.io/redirection": "enabled"})
    world.start().ready()
    event = wait_for(lambda: world.server.events("shop", "web"), "an Event", log=world.node.agent_log)[0]
    assert event["reason"] == "netns_not_found" and event["type"] == "Warning"
    assert event["involvedObject"]["uid"] == pod.uid and "CNI cache directory" in event["message"]
    # Nobody shall dial it either.
    world.wait_redirection("shop", "web", None)
    world.write_cache(pod)
    world.wait_redirection("shop", "web", "enabled", 30)
    assert len(world.server.events("shop", "web")) == 1


def test_processes_tell_where_a_pod_runs(small):
    small.server.make_namespace("shop", AMBIENT)
    pods = []
    for i, style in enumerate(("cgroupfs", "systemd", "static")):
        static = uuid.uuid4().hex if style == "static" else None
        pod = small.sandbox("shop", style, 10 + i, uid=static,
                            annotations={"kubernetes.io/config.mirror": static} if static else {})
        kernel.cgroup_remove(pod.cgroup)
        uid = static or pod.uid
        part = f"kubepods-besteffort-pod{uid.replace('-', '_')}.slice/cri-containerd-{'ab' * 32}.scope" \
            if style == "systemd" else f"kubepods/besteffort/pod{uid}/{'ab' * 32}"
        pod.cgroup = f"{small.node.cgroup}/{part}"
        kernel.cgroup_create(pod.cgroup)
        pause = pod.start(["sleep", "600"], small.work.path(f"{style}.log"))
        small.work.defer(pause.stop)
        pods.append(pod)
    small.start().ready()
    for pod in pods:
        small.wait_redirection("shop", pod.name, "enabled")
    told = agent_client.pods(small.node.run_dir)
    assert small.log().count("by=proc") == 3
    assert {told[p.full_name]["uid"] for p in pods} == {p.runtime_uid for p in pods}
    assert all(told[p.full_name]["containerId"] == "ab" * 32 for p in pods)


def test_group_that_a_container_made_up_is_not_believed(small):
    """Only the outermost "pod<uid>" counts."""
    small.server.make_namespace("shop", AMBIENT)
    small.server.make_namespace("plain")
    web, liar = small.sandbox("shop", "web", 10), small.sandbox("plain", "liar", 11)
    network.address(liar.netns, "lo", f"{web.ip4}/32")
    kernel.cgroup_remove(liar.cgroup)
    liar.cgroup = f"{small.node.cgroup}/kubepods/pod{liar.uid}/{'ab' * 32}/pod{web.uid}/{'cd' * 32}"
    kernel.cgroup_create(liar.cgroup)
    p = liar.start(["sleep", "600"], small.work.path("liar.log"))
    small.work.defer(p.stop)
    small.start().ready()
    wait_for(lambda: "cannot be found" in small.log(), "the search", log=small.node.agent_log)
    assert small.state("shop/web") is None


def test_pod_that_goes_by_another_ones_uid_changes_nothing_there(small):
    """Anybody who may create pods may write the annotation by which static pods are known."""
    small.server.make_namespace("shop", AMBIENT)
    small.server.make_namespace("plain")
    static = uuid.uuid4().hex
    pod = small.sandbox("shop", "web", 10, uid=static, account="good",
                        annotations={"kubernetes.io/config.mirror": static})
    small.write_cache(pod)
    for i, uid in enumerate((static, pod.uid)):
        small.server.make_pod("plain", f"a{i}", "n1", [pod.ip4], account="evil",
                              labels={"istio.io/dataplane-mode": "none"},
                              annotations={"kubernetes.io/config.mirror": uid})
    small.start().ready()
    small.wait_redirection("shop", "web", "enabled")
    small.server.make_pod("shop", "a2", "n1", [pod.ip4], account="evil",
                          annotations={"kubernetes.io/config.mirror": static})
    wait_for(lambda: "another pod" in small.log(), "the other pod not to be placed", log=small.node.agent_log)
    told = agent_client.pods(small.node.run_dir)
    assert list(told) == ["shop/web"] and told["shop/web"]["serviceAccount"] == "good"
    assert [small.server.redirection("plain", "a0"), small.server.redirection("shop", "a2")] == [None, None]


class Runtime:
    """The part of a container runtime's CRI that is asked."""

    def __init__(self, work, sandboxes):
        self.messages, self.calls = load_messages(work.directory), []
        self.sandboxes = sandboxes
        self.path = work.path("cri.sock")
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
        self.server.add_generic_rpc_handlers((self,))
        self.server.add_insecure_port(f"unix:{self.path}")
        self.server.start()
        work.defer(lambda: self.server.stop(None).wait() and None)

    def service(self, details):
        method = details.method.rpartition("/")[2]
        self.calls.append(details.method)
        return grpc.unary_unary_rpc_method_handler(
            getattr(self, method), self.messages[f"runtime.v1.{method}Request"].FromString,
            lambda m: m.SerializeToString())

    def ListPodSandbox(self, request, _):
        answer = self.messages["runtime.v1.ListPodSandboxResponse"]()
        for pod in self.sandboxes:
            answer.items.add(id=pod.container).metadata.uid = pod.runtime_uid
        return answer

    def PodSandboxStatus(self, request, context):
        assert request.verbose
        pod = next(p for p in self.sandboxes if p.container == request.pod_sandbox_id)
        answer = self.messages["runtime.v1.PodSandboxStatusResponse"]()
        answer.info.add(key="info", value=json.dumps({"pid": 1, "runtimeSpec": {"linux": {"namespaces": [
            {"type": "pid"}, {"type": "network", "path": f"/run/netns/{pod.netns}"}]}}}))
        return answer


def test_container_runtime_is_asked(small):
    small.server.make_namespace("shop", AMBIENT)
    pods = [small.sandbox("shop", f"p{i}", 10 + i) for i in range(3)]
    runtime = Runtime(small.work, pods)
    small.start(cri_socket=runtime.path).ready()
    for pod in pods:
        small.wait_redirection("shop", pod.name, "enabled")
    assert small.log().count("by=cri") == 3
    assert runtime.calls.count("/runtime.v1.RuntimeService/ListPodSandbox") == 1


# ---- restarts ----

def test_agent_restart_keeps_what_is_enrolled(world):
    world.server.make_namespace("shop", AMBIENT)
    world.write_cache(world.sandbox("shop", "web", 10))
    world.start().ready()
    world.wait_redirection("shop", "web", "enabled")
    version = world.server.pod("shop", "web")["metadata"]["resourceVersion"]
    world.node.agent.kill()
    world.node.start_agent(**world.settings)
    world.ready()
    world.wait_state("shop/web", "enrolled")
    wait_for(lambda: world.status()["proxyConnected"], "the proxy to come back")
    assert world.server.pod("shop", "web")["metadata"]["resourceVersion"] == version
    assert agent_client.pods(world.node.run_dir)["shop/web"]["generation"] == 1


def test_uninstall_takes_the_annotations_away(world):
    world.server.make_namespace("shop", AMBIENT)
    pods = [world.sandbox("shop", f"p{i}", 10 + i) for i in range(3)]
    for pod in pods:
        world.write_cache(pod)
    world.server.make_pod("shop", "elsewhere", "n2", ["10.1.1.1"],
                          annotations={"ambient.istio.io/redirection": "enabled"})
    world.start().ready()
    for pod in pods:
        world.wait_redirection("shop", pod.name, "enabled")
    world.node.proxy.stop()
    world.node.agent.stop()
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in world.settings.items()]
    arguments = ["--uninstall", "--run-dir", world.node.run_dir, "--pin-dir", world.node.pin_dir, "--cgroup",
                 world.node.cgroup, "--node-name", "n1", *settings]
    run([f"{world.work.build}/agent/bruma-agent", *arguments], netns=world.node.netns)
    assert [world.server.redirection("shop", pod.name) for pod in pods] == [None] * 3
    assert world.server.redirection("shop", "elsewhere") == "enabled"
    assert not os.path.exists(world.node.run_dir) and not os.path.exists(world.node.pin_dir)


def test_uninstall_without_the_server_says_so_and_does_the_rest(small):
    small.server.make_namespace("shop", AMBIENT)
    small.write_cache(small.sandbox("shop", "web", 10))
    small.start().ready()
    small.wait_redirection("shop", "web", "enabled")
    small.node.proxy.stop()
    small.node.agent.stop()
    small.server.stop_api()
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in small.settings.items()]
    r = run([f"{small.work.build}/agent/bruma-agent", "--uninstall", "--run-dir", small.node.run_dir, "--pin-dir",
             small.node.pin_dir, "--cgroup", small.node.cgroup, "--node-name", "n1", *settings],
            netns=small.node.netns, check=False)
    assert r.returncode == 1 and "cannot be listed" in r.stderr
    assert not os.path.exists(small.node.run_dir) and not os.path.exists(small.node.pin_dir)


def test_status_in_words(small):
    follow_all(small)
    small.start(proxy=False).ready()
    said = run([f"{small.work.build}/ctl/brumactl", "--run-dir", small.node.run_dir, "status"], check=False).stdout
    assert "https://127.0.0.1:6443, followed; " in said and "7 pods of this node" in said
    said = run([f"{small.work.build}/ctl/brumactl", "--run-dir", small.node.run_dir, "doctor"], check=False).stdout
    assert "kubernetes" in said and "is followed" in said


def test_pods_that_come_and_go_leave_nothing(small):
    """Half of them by CNI, half found while they run; the API server is cut and forgets meanwhile."""
    small.server.make_namespace("shop", AMBIENT)
    small.start().ready()

    def left():
        kinds = [link.partition(":")[0] for link in links(small.node.agent.pid)]
        return {"descriptors": len(kinds) - kinds.count("socket"), "netns": kinds.count("net"),
                "pins": len(os.listdir(f"{small.node.pin_dir}/pods")),
                "records": len(os.listdir(f"{small.node.run_dir}/pods"))}, kinds.count("socket")

    def links(pid):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                yield os.readlink(f"/proc/{pid}/fd/{fd}")
            except FileNotFoundError:
                pass

    def come_and_go(turn):
        pods = []
        for i in range(8):
            pod = small.sandbox("shop", f"p{turn}-{i}", 10 + i, plain=i % 2 == 1)
            small.node.add(pod) if i % 2 == 0 else small.write_cache(pod)
            pods.append(pod)
        for pod in pods:
            small.wait_redirection("shop", pod.name, "enabled")
        small.server.cut()
        if turn % 2:
            small.server.forget()
        for pod in pods:
            # As the kubelet does: the sandbox goes first, then the object.
            if not pod.added:
                small.plain.delete(pod.container)
            small.node.delete_pod(pod)
            small.server.delete_pod("shop", pod.name)
        knows(small, 0)
        wait_for(lambda: not agent_client.pods(small.node.run_dir), "all pods to be forgotten", log=small.node.agent_log)

    come_and_go(0)
    before, sockets = left()
    assert before["pins"] == before["records"] == before["netns"] == 0
    for turn in range(1, 3):
        come_and_go(turn)
    # Up to eight connections to the API server are kept. Each pod had four sockets.
    wait_for(lambda: left()[0] == before and left()[1] <= sockets + 8,
             f"what was left after the first turn: {before} and {sockets} sockets, now {left()}")
