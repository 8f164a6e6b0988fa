# SPDX-License-Identifier: Apache-2.0
"""bruma-agent with the Kubernetes API as its source: labels and selectors, the annotation, where running pods
are found. What both servers can do is tested against both (support/kube/world.py)."""

import os
import re
import socket
import uuid

import pytest

from support import agent as agent_client
from support import kernel, network
from support.kube.world import AMBIENT, REAL
from support.system import run, wait_for


def test_real_server_is_given():
    if not REAL:
        pytest.skip(
            "BRUMA_KUBE names no directory with kube-apiserver and etcd: the agent was tested with the small "
            "API server of the tests alone"
        )
    for program in ("kube-apiserver", "etcd"):
        assert os.access(os.path.join(REAL, program), os.X_OK), f"BRUMA_KUBE={REAL} has no {program}"


# ---- labels, annotation ----


def test_namespace_label_enrolls_running_pods_and_lets_them_go(world):
    world.server.make_namespace("shop")
    pod = world.sandbox("shop", "web", 10)
    world.write_cache(pod)
    world.start().ready()
    assert world.state("shop/web") is None and world.server.redirection("shop", "web") is None
    world.server.label_namespace("shop", mode="ambient")
    world.wait_state("shop/web", "enrolled")
    world.wait_redirection("shop", "web", "enabled")
    told = agent_client.pods(world.node.run_dir)["shop/web"]
    assert (
        told["uid"] == pod.uid and sorted(told["ips"]) == sorted(pod.ips) and not told["capturedSinceStart"]
    )
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
    (
        "inject-says-nothing",
        "ambient",
        {"sidecar.istio.io/inject": "true", "istio-injection": "enabled"},
        {},
        {},
        True,
    ),
]


def test_rules_of_eligibility(world):
    for mode in ("ambient", None):
        world.server.make_namespace(f"n-{mode}".lower(), {"istio.io/dataplane-mode": mode} if mode else {})
    world.server.make_namespace("istio-system", AMBIENT)
    world.server.make_namespace("kube-system", AMBIENT)
    pods = {}
    for i, (name, mode, labels, spec, annotations, _) in enumerate(RULES):
        labels = {"istio.io/dataplane-mode" if k == "mode" else k: v for k, v in labels.items()}
        pods[name] = world.sandbox(
            f"n-{mode}".lower(), name, 10 + i, labels=labels, spec=spec, annotations=annotations
        )
    pods["ztunnel"] = world.sandbox("istio-system", "ztunnel", 30, labels={"app": "ztunnel"})
    pods["dns"] = world.sandbox("kube-system", "dns", 31)
    pods["done"] = world.sandbox("n-ambient", "done", 32, phase="Succeeded")
    for pod in pods.values():
        world.write_cache(pod)
    world.start(exclude_namespaces="kube-public, kube-system").ready()
    wanted = {name for name, _, _, _, _, enrolled in RULES if enrolled}
    wait_for(
        lambda: (
            {
                n.split("/")[1]
                for n, p in agent_client.pods(world.node.run_dir).items()
                if p["state"] == "enrolled"
            }
            == wanted
        ),
        f"{wanted} to be enrolled",
        log=world.node.agent_log,
    )
    for name, pod in pods.items():
        world.wait_redirection(pod.namespace, name, "enabled" if name in wanted else None)
    # A job that ends leaves.
    world.server.set_status("n-ambient", "ambient", [], phase="Succeeded")
    world.wait_redirection("n-ambient", "ambient", None)
    world.wait_state("n-ambient/ambient", "outside")


def test_selectors_of_ones_own(small):
    small.server.make_namespace("shop", {"team": "a"})
    small.server.make_namespace("other", AMBIENT)
    for i, (namespace, name, labels) in enumerate(
        [("shop", "in", {"tier": "web"}), ("shop", "out", {"tier": "db"}), ("other", "default", {})]
    ):
        small.write_cache(small.sandbox(namespace, name, 10 + i, labels=labels))
    small.start(
        enablement_selector="- podSelector: {matchExpressions: [{key: tier, operator: In, values: [web]}]}\n"
        "  namespaceSelector: {matchLabels: {team: a}}\n"
    ).ready()
    small.wait_state("shop/in", "enrolled")
    assert small.state("shop/out") is None and small.state("other/default") is None
    small.server.label_namespace("shop", team="b")
    small.wait_state("shop/in", "outside")


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        (
            "enablement_selector",
            "- {podSelector: {matchExpressions: [{key: a, operator: Is}]}}",
            "must be In, NotIn",
        ),
        ("enablement_selector", "{a: b}", "must be a list"),
        ("kube_server", "http://127.0.0.1:6443", "must be an https URL"),
        ("source", "consul", "neither file nor kubernetes"),
    ],
)
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
    small.server.faults["patch"] += [
        lambda h: h.status(500, "etcd is away"),
        lambda h: h.status(403, "not yours"),
    ]
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
    app = pod.popen(
        "/usr/bin/python3", "-m", "http.server", "8080", "--bind", "::", log=world.work.path("app.log")
    )
    world.work.defer(app.stop)

    def fetch():
        return run(
            ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-m", "5", f"http://{pod.ip}:8080/"],
            netns=world.node.netns,
            check=False,
        ).stdout

    def counters():
        return agent_client.pods(world.node.run_dir)["shop/web"]["counters"]

    def told():
        """Lines of connections that went past the proxy; it accounts for them all the same."""
        lines = [x for x in world.node.access_log() if f"dst.addr={pod.ip}:8080" in x]
        return [x for x in lines if 'way="direct"' in x and 'direction="inbound"' in x]

    wait_for(lambda: fetch() == "200", "the application to answer")
    assert counters()["inbound_plaintext_lookups"] == 0
    (line,) = wait_for(told, "the line of a connection that bypasses the proxy", log=world.node.proxy_log)
    assert int(re.search(r"bytes_sent=(\d+)", line)[1]) > 100
    world.server.annotate_pod("shop", "web", {"ambient.istio.io/bypass-inbound-capture": "F"})
    wait_for(lambda: fetch() and counters()["inbound_plaintext_lookups"], "the proxy to get connections")
    assert world.state("shop/web") == "enrolled" and not world.status()["mends"]
    world.server.annotate_pod("shop", "web", {"ambient.istio.io/bypass-inbound-capture": None})
    world.server.annotate_pod("shop", "web", {"ambient.istio.io/bypass-inbound-capture": "1"})
    wait_for(lambda: "straight to the application now" in world.log(), "the change")
    before, lines = counters()["inbound_plaintext_lookups"], len(told())
    assert fetch() == "200" and counters()["inbound_plaintext_lookups"] == before
    wait_for(lambda: len(told()) == lines + 1, "its line", log=world.node.proxy_log)


DNS_CAPTURE = "ambient.istio.io/dns-capture"


def captured(pod):
    """Whether its DNS queries are."""
    return "dport 53" in run(["ip", "rule"], netns=pod.netns).stdout


def test_dns_is_captured_unless_the_pod_says_otherwise(world):
    world.server.make_namespace("shop", AMBIENT)
    pod = world.sandbox("shop", "web", 10)
    without = world.sandbox("shop", "cart", 11, annotations={DNS_CAPTURE: "false"})
    wrong = world.sandbox("shop", "pay", 12, annotations={DNS_CAPTURE: "perhaps"})
    for p in (pod, without, wrong):
        world.write_cache(p)
    world.start().ready()
    wait_for(lambda: captured(pod) and captured(wrong), "the rules of the pods that have not said no")
    world.wait_redirection("shop", "cart", "enabled")
    assert not captured(without)
    said = {name: p["dnsCapture"] for name, p in agent_client.pods(world.node.run_dir).items()}
    assert said["shop/web"] == "captured"
    assert said["shop/cart"] == "by the pod's annotation ambient.istio.io/dns-capture"
    world.server.annotate_pod("shop", "web", {DNS_CAPTURE: "0"})
    world.server.annotate_pod("shop", "cart", {DNS_CAPTURE: None})
    wait_for(lambda: captured(without) and not captured(pod), "the rules to follow the annotations")


def test_dns_annotation_is_applied_live(world):
    """Off by the setting: the annotation alone captures the pod's queries, and lets them go again."""
    annotation = DNS_CAPTURE
    world.server.make_namespace("shop", AMBIENT)
    pod = world.sandbox("shop", "web", 10, annotations={annotation: "true"})
    other = world.sandbox("shop", "cart", 11)
    for p in (pod, other):
        world.write_cache(p)
    world.start(dns_capture="false").ready()
    for p in ("web", "cart"):
        world.wait_redirection("shop", p, "enabled")
    wait_for(lambda: captured(pod), "the rule of the pod that asks for it")
    assert not captured(other)
    world.server.annotate_pod("shop", "cart", {annotation: "T"})
    world.server.annotate_pod("shop", "web", {annotation: "false"})
    wait_for(lambda: captured(other) and not captured(pod), "the rules to follow the annotations")
    world.server.annotate_pod("shop", "cart", {annotation: None})
    wait_for(lambda: not captured(other), "the rule to go with the annotation")
    assert world.state("shop/web") == world.state("shop/cart") == "enrolled" and not world.status()["mends"]


# ---- network namespaces of running pods ----


def test_cache_files_of_older_libraries(small):
    small.server.make_namespace("shop", AMBIENT)
    small.write_cache(small.sandbox("shop", "web", 10), old=True)
    with open(f"{small.cache}/results/garbage", "w") as f:
        f.write('{"kind": "cniCacheV1", "containerId": 7')
    small.start().ready()
    small.wait_redirection("shop", "web", "enabled")
    assert "by=cni-cache" in small.log()


def test_hostile_files_in_the_cache_hide_nobody(small):
    """Torn, huge, of every kind of file, and lies: what is good is found beside them, and the processes where
    all lie."""
    small.server.make_namespace("shop", AMBIENT)
    web, lost, other = (
        small.sandbox("shop", "web", 10),
        small.sandbox("shop", "lost", 11),
        small.sandbox("shop", "other", 12, labels={"istio.io/dataplane-mode": "none"}),
    )
    results = f"{small.cache}/results"
    small.write_cache(web)
    with open(f"{results}/pods-{web.container}-eth0") as f:
        good = f.read()
    with open(f"{results}/a-torn", "w") as f:
        f.write(good[: len(good) // 2])
    with open(f"{results}/a-huge", "w") as f:
        f.write(good[:-1] + " " * (2 << 20) + "}")
    with open(f"{results}/a-binary", "wb") as f:
        f.write(os.urandom(5000))
    open(f"{results}/a-empty", "w").close()
    os.mkfifo(f"{results}/a-fifo")
    os.mkdir(f"{results}/a-directory")
    os.symlink("/dev/zero", f"{results}/a-endless")
    os.symlink(f"{results}/nothing", f"{results}/a-dangling")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(f"{results}/a-socket")
    # Lies about a pod of the mesh: the node's own namespace, another pod's, no namespace at all, a way
    # around.
    for i, path in enumerate(
        (
            f"/run/netns/{small.node.netns}",
            f"/run/netns/{other.netns}",
            "/etc/passwd",
            "/dev/zero",
            "/proc/1/ns/mnt",
            f"{results}/a-fifo",
            "run/netns/relative",
            "/" + "x" * 600,
        )
    ):
        small.write_cache(lost, netns=path)
        os.rename(f"{results}/pods-{lost.container}-eth0", f"{results}/b-lie-{i}")
    kernel.cgroup_remove(lost.cgroup)
    lost.cgroup = f"{small.node.cgroup}/kubepods/pod{lost.uid}/{'ab' * 32}"
    kernel.cgroup_create(lost.cgroup)
    pause = lost.popen("sleep", "600", log=small.work.path("lost.log"))
    small.work.defer(pause.stop)
    small.start().ready()
    for pod, how in ((web, "cni-cache"), (lost, "proc")):
        small.wait_redirection("shop", pod.name, "enabled", 30)
        assert re.search(f'pod="shop/{pod.name}" by={how} ', small.log())
    assert small.state("shop/other") is None
    sock.close()


def test_address_used_again_by_another_sandbox(small):
    """The cache leads to a namespace that is another pod's now."""
    small.server.make_namespace("shop", AMBIENT)
    small.server.make_namespace("plain")
    web, other = small.sandbox("shop", "web", 10), small.sandbox("plain", "other", 11)
    small.write_cache(web, netns=f"/run/netns/{other.netns}")
    small.start().ready()
    wait_for(
        lambda: "has no address of the pod" in small.log(),
        "the mistake to be noticed",
        log=small.node.agent_log,
    )
    assert small.state("shop/web") is None and small.server.redirection("shop", "web") is None
    assert [p for p in small.status()["problems"] if p["reason"] == "netns_not_found"]
    small.write_cache(web)
    small.wait_redirection("shop", "web", "enabled", 30)
    assert not small.status()["podsNotFound"]


def test_a_sandbox_that_the_plugin_never_saw_is_looked_for(small):
    """The pod is recreated without a CNI call of ours, and the old sandbox is still there when the API server
    tells of the new one. Nothing more comes from there; the agent looks by itself once the old one is
    gone."""
    small.server.make_namespace("shop", AMBIENT)
    web = small.sandbox("shop", "web", 10)
    small.write_cache(web)
    small.start(verify_interval="300ms").ready()
    small.wait_redirection("shop", "web", "enabled")
    again = small.node.create_pod("shop", "again", host=11, add=False)
    small.work.defer(small.node.delete_pod, again)
    again.runtime_uid = web.uid
    small.plain.add(
        again.container,
        f"/run/netns/{again.netns}",
        "shop",
        "web",
        web.uid,
        [f"{again.ip}/24", f"{again.ip6}/64"],
    )
    small.work.defer(small.plain.delete, again.container)
    os.unlink(f"{small.cache}/results/pods-{web.container}-eth0")
    small.write_cache(again)
    small.server.set_status("shop", "web", again.ips)
    before = len(small.server.asked("PATCH", "/pods/"))
    small.node.wait_rounds(3)
    old = agent_client.pods(small.node.run_dir)["shop/web"]
    assert old["state"] == "enrolled" and sorted(old["ips"]) == sorted(web.ips)
    small.plain.delete(web.container)
    small.node.delete_pod(web)

    def moved():
        p = agent_client.pods(small.node.run_dir).get("shop/web")
        return (
            p
            and p["cookie"] != old["cookie"]
            and p["state"] == "enrolled"
            and sorted(p["ips"]) == sorted(again.ips)
        )

    wait_for(moved, "the new sandbox to be in the mesh", 15, log=small.node.agent_log)
    small.wait_redirection("shop", "web", "enabled")
    assert len(small.server.asked("PATCH", "/pods/")) <= before + 2, "at most out and in again"


def test_event_tells_of_a_pod_that_cannot_be_enrolled(world):
    world.server.make_namespace("shop", AMBIENT)
    pod = world.sandbox("shop", "web", 10, annotations={"ambient.istio.io/redirection": "enabled"})
    world.start().ready()
    event = wait_for(lambda: world.server.events("shop", "web"), "an Event", log=world.node.agent_log)[0]
    assert event["reason"] == "netns_not_found" and event["type"] == "Warning"
    assert event["involvedObject"]["uid"] == pod.uid and "CNI cache directory" in event["message"]
    assert event["message"].startswith("cannot be enrolled in the mesh: ")
    # Nobody shall dial it either.
    world.wait_redirection("shop", "web", None)
    world.write_cache(pod)
    world.wait_redirection("shop", "web", "enabled", 30)
    # It has run outside the mesh meanwhile, which is said once too.
    wait_for(
        lambda: (
            sorted(e["reason"] for e in world.server.events("shop", "web"))
            == ["captured_late", "netns_not_found"]
        ),
        "both Events, once each",
    )


def test_a_pod_that_forwards_is_not_announced(small):
    """Virtual machines and containers behind a pod are not captured: no annotation, an Event; and both change
    while it runs."""
    small.server.make_namespace("shop", AMBIENT)
    pod = small.sandbox("shop", "web", 10)
    small.write_cache(pod)
    small.start(forwarding_look="300ms").ready()
    small.wait_redirection("shop", "web", "enabled")
    run(["ip", "-n", pod.netns, "link", "add", "k6t-eth0", "type", "bridge"])
    run(["ip", "-n", pod.netns, "link", "set", "k6t-eth0", "up"])
    small.wait_redirection("shop", "web", None)
    assert small.state("shop/web") == "enrolled"
    event = wait_for(
        lambda: [e for e in small.server.events("shop", "web") if e["reason"] == "pod_forwards"], "an Event"
    )[0]
    assert (
        event["type"] == "Warning"
        and event["message"].startswith("is captured only in part: ")
        and "k6t-eth0" in event["message"]
    )
    run(["ip", "-n", pod.netns, "link", "del", "k6t-eth0"])
    small.wait_redirection("shop", "web", "enabled")


def test_processes_tell_where_a_pod_runs(small):
    small.server.make_namespace("shop", AMBIENT)
    pods = []
    for i, style in enumerate(("cgroupfs", "systemd", "static")):
        static = uuid.uuid4().hex if style == "static" else None
        pod = small.sandbox(
            "shop",
            style,
            10 + i,
            uid=static,
            annotations={"kubernetes.io/config.mirror": static} if static else {},
        )
        kernel.cgroup_remove(pod.cgroup)
        uid = static or pod.uid
        part = (
            f"kubepods-besteffort-pod{uid.replace('-', '_')}.slice/cri-containerd-{'ab' * 32}.scope"
            if style == "systemd"
            else f"kubepods/besteffort/pod{uid}/{'ab' * 32}"
        )
        pod.cgroup = f"{small.node.cgroup}/{part}"
        kernel.cgroup_create(pod.cgroup)
        pause = pod.popen("sleep", "600", log=small.work.path(f"{style}.log"))
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
    network.address(liar.netns, "lo", f"{web.ip}/32")
    kernel.cgroup_remove(liar.cgroup)
    liar.cgroup = f"{small.node.cgroup}/kubepods/pod{liar.uid}/{'ab' * 32}/pod{web.uid}/{'cd' * 32}"
    kernel.cgroup_create(liar.cgroup)
    p = liar.popen("sleep", "600", log=small.work.path("liar.log"))
    small.work.defer(p.stop)
    small.start().ready()
    wait_for(lambda: "cannot be found" in small.log(), "the search", log=small.node.agent_log)
    assert small.state("shop/web") is None


def test_pod_that_goes_by_another_ones_uid_changes_nothing_there(small):
    """Anybody who may create pods may write the annotation by which static pods are known."""
    small.server.make_namespace("shop", AMBIENT)
    small.server.make_namespace("plain")
    static = uuid.uuid4().hex
    pod = small.sandbox(
        "shop", "web", 10, uid=static, account="good", annotations={"kubernetes.io/config.mirror": static}
    )
    small.write_cache(pod)
    for i, uid in enumerate((static, pod.uid)):
        small.server.make_pod(
            "plain",
            f"a{i}",
            "n1",
            [pod.ip],
            account="evil",
            labels={"istio.io/dataplane-mode": "none"},
            annotations={"kubernetes.io/config.mirror": uid},
        )
    small.start().ready()
    small.wait_redirection("shop", "web", "enabled")
    small.server.make_pod(
        "shop", "a2", "n1", [pod.ip], account="evil", annotations={"kubernetes.io/config.mirror": static}
    )
    wait_for(lambda: "another pod" in small.log(), "the other pod not to be placed", log=small.node.agent_log)
    told = agent_client.pods(small.node.run_dir)
    assert list(told) == ["shop/web"] and told["shop/web"]["serviceAccount"] == "good"
    assert [small.server.redirection("plain", "a0"), small.server.redirection("shop", "a2")] == [None, None]
