# SPDX-License-Identifier: Apache-2.0
"""The plugin's binary, run as a container runtime runs it, beside a real agent. C1 to C11 are those of
contract 14.6."""

import json
import os
import re
import resource
import shutil
import socket
import subprocess
import threading

import pytest

from support import agent as agent_client
from support import network
from support.cni import Runtime, pod_args
from support.nodes.agent_node import AgentNode
from support.system import run

VERSIONS = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
DATA = os.path.join(os.path.dirname(__file__), "..", "data", "cni")
STOCK = "/usr/lib/cni"  # of Debian's containernetworking-plugins


class Answer:
    def __init__(self, r):
        self.code, self.out, self.err = r.returncode, r.stdout, r.stderr

    def ok(self):
        assert self.code == 0, (self.out, self.err)
        return json.loads(self.out) if self.out.strip() else None

    def error(self, code=None):
        """The one JSON object on stdout."""
        assert self.code != 0, self.out
        e = json.loads(self.out)
        assert {"cniVersion", "code", "msg"} <= set(e) <= {"cniVersion", "code", "msg", "details"}, e
        assert e["msg"] and isinstance(e["code"], int)
        assert code is None or e["code"] == code, e
        return e


class Plugin:
    def __init__(self, work, run_dir):
        self.path, self.run_dir = f"{work.build}/cni/bruma-cni", run_dir

    def config(self, version="1.1.0", **more):
        return {
            "cniVersion": version,
            "name": "pods",
            "type": "bruma-cni",
            "run_dir": self.run_dir,
            "timeout": 5,
            **more,
        }

    def call(self, command, config, container="", netns="", ifname="", args="", env=None):
        text = config if isinstance(config, (bytes, str)) else json.dumps(config)
        variables = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": ifname,
            "CNI_ARGS": args,
            "CNI_PATH": STOCK,
        }
        variables = {k: v for k, v in variables.items() if v} if env is None else env
        r = subprocess.run(
            [self.path],
            input=text.encode() if isinstance(text, str) else text,
            env=variables,
            capture_output=True,
            timeout=60,
        )
        return Answer(subprocess.CompletedProcess(r.args, r.returncode, r.stdout.decode(), r.stderr.decode()))

    def pod(self, command, pod, config, **changes):
        arguments = {
            "container": pod.container,
            "netns": pod.path,
            "ifname": "eth0",
            "args": pod_args(pod.namespace, pod.name, pod.uid, pod.container),
            **changes,
        }
        return self.call(command, config, **arguments)


def result(pod, version="1.1.0"):
    """What a main plugin answered."""
    if version < "0.3.0":
        return {"ip4": {"ip": f"{pod.ip}/24"}, "ip6": {"ip": f"{pod.ip6}/64"}, "dns": {}}
    ips = [{"address": ip, "interface": 0} for ip in pod.given]
    if version < "1.0.0":
        for ip in ips:
            ip["version"] = "6" if ":" in ip["address"] else "4"
    return {
        "cniVersion": version,
        "interfaces": [{"name": "eth0", "sandbox": pod.path}],
        "ips": ips,
        "odd key of somebody": {"b": 1, "a": [1.50, None]},
    }


@pytest.fixture
def plugin(node):
    return Plugin(node.work, node.run_dir)


@pytest.fixture
def alone(work):
    """No agent anywhere."""
    return Plugin(work, work.path("nobody"))


# ---- the requirements ----


@pytest.mark.parametrize("text", ["", '{"cniVersion":"1.0.0"}', "rubbish"])
def test_c1_version_needs_no_input(alone, text):
    answer = alone.call("VERSION", text, env={"CNI_COMMAND": "VERSION"}).ok()
    assert answer["supportedVersions"] == VERSIONS and answer["cniVersion"] == "1.1.0"


@pytest.mark.parametrize("version", VERSIONS)
def test_c2_add_of_nobodys_pod_echoes_the_result(alone, work, version):
    """No Kubernetes arguments: the pod is not ours to touch, so no agent is needed."""
    name = work.netns("c2")
    previous = result(
        type(
            "P",
            (),
            {
                "ip": "10.0.0.2",
                "ip6": "fd00::2",
                "path": f"/run/netns/{name}",
                "given": ["10.0.0.2/24", "fd00::2/64"],
            },
        ),
        version,
    )
    answer = alone.call("ADD", alone.config(version, prevResult=previous), "c2", f"/run/netns/{name}", "eth0")
    assert answer.ok() == previous


def test_c2_the_result_is_passed_on_to_the_letter(alone, work):
    """Numbers, order, escapes and white space of other plugins' answers stay as they were."""
    name = work.netns("c2")
    text = '{ "ips" : [ {"address":"10.0.0.2\\/24", "x": 1.0e3} ],\n "z":1, "a":"\\u00fc" , "cniVersion":"1.1.0"}'
    config = json.dumps(alone.config())[:-1] + ', "prevResult": ' + text + "}"
    assert alone.call("ADD", config, "c2", f"/run/netns/{name}", "eth0").out.strip() == text


@pytest.mark.parametrize("version", VERSIONS)
def test_c3_add_without_a_result_returns_a_minimal_one(alone, work, version):
    name = work.netns("c3")
    answer = alone.call("ADD", alone.config(version), "c3", f"/run/netns/{name}", "eth0")
    assert answer.ok() == {"cniVersion": version}


@pytest.mark.parametrize("case", ["no netns", "netns gone", "unknown container", "no agent", "no result"])
def test_c4_del_succeeds_whatever_is_missing(node, alone, plugin, case):
    p = alone if case == "no agent" else plugin
    netns = {"no netns": "", "netns gone": "/run/netns/bruma-gone"}.get(case, f"/run/netns/{node.netns}")
    config = p.config(prevResult={"cniVersion": "1.1.0"}) if case != "no result" else p.config()
    for _ in range(2):
        p.call("DEL", config, "never-seen", netns, "eth0", pod_args("shop", "web", "uid", "never-seen")).ok()


def test_c5_check_fails_once_capture_is_torn_down(work):
    node = AgentNode(work)
    node.start("--verify-interval", "1h")  # so that nobody repairs it before CHECK has looked
    plugin, pod, _ = Plugin(work, node.run_dir), node.pod("web"), node.proxy().serve()
    config = plugin.config(prevResult=result(pod))
    plugin.pod("ADD", pod, config).ok()
    plugin.pod("CHECK", pod, config).ok()
    run(["bpftool", "link", "detach", "id", str(network_links(pod.netns)[0]["id"])])
    assert "link_detached" in plugin.pod("CHECK", pod, config).error()["msg"]


def network_links(netns):
    inode = os.stat(f"/run/netns/{netns}").st_ino
    links = json.loads(run(["bpftool", "-j", "link", "show"]).stdout)
    return [link for link in links if link.get("netns_ino") == inode]


def test_c6_gc_drops_what_is_not_listed(node, plugin):
    pod, _ = node.pod("web"), node.proxy().serve()
    plugin.pod("ADD", pod, plugin.config(prevResult=result(pod))).ok()
    keep = [{"containerID": pod.container, "ifname": "eth0"}]
    plugin.call("GC", plugin.config(**{"cni.dev/valid-attachments": keep})).ok()
    assert pod.item()["state"] == "enrolled"
    plugin.call("GC", {**plugin.config(**{"cni.dev/valid-attachments": []}), "name": "other-network"}).ok()
    assert pod.item()["state"] == "enrolled", "of another network"
    plugin.call("GC", plugin.config(**{"cni.dev/valid-attachments": []})).ok()
    assert pod.item() is None and pod.pins() == [] and pod.untouched()


def test_c7_status_gates_only_when_told_to(node, alone, plugin):
    plugin.call("STATUS", plugin.config()).ok()
    plugin.call("STATUS", plugin.config(status_gate=True)).ok()
    alone.call("STATUS", alone.config()).ok()
    assert "agent_unreachable" in alone.call("STATUS", alone.config(status_gate=True)).error(50)["msg"]


BAD = [
    ("empty", "", {}, 6),
    ("broken JSON", '{"cniVersion":"1.1.0", "name"', {}, 6),
    ("not an object", "[1]", {}, 6),
    ("twice the same key", '{"cniVersion":"1.1.0","name":"a","name":"b"}', {}, 6),
    ("nested too deeply", "[" * 100000, {}, 6),
    ("not UTF-8", b'{"cniVersion":"1.1.0","name":"\xff"}', {}, 6),
    ("larger than 4 MiB", '{"cniVersion":"1.1.0","name":"' + "a" * (5 << 20) + '"}', {}, 6),
    ("version that is no text", '{"cniVersion":1,"name":"a"}', {}, 6),
    ("unknown version", '{"cniVersion":"2.0.0","name":"a"}', {}, 1),
    ("no name", '{"cniVersion":"1.1.0"}', {}, 7),
    ("result that is no object", '{"cniVersion":"1.1.0","name":"a","prevResult":7}', {}, 7),
    ("relative run_dir", '{"cniVersion":"1.1.0","name":"a","run_dir":"run"}', {}, 7),
    ("run_dir that is no text", '{"cniVersion":"1.1.0","name":"a","run_dir":{}}', {}, 7),
    ("timeout that is no number", '{"cniVersion":"1.1.0","name":"a","timeout":"1s"}', {}, 7),
    ("timeout out of range", '{"cniVersion":"1.1.0","name":"a","timeout":1e9}', {}, 7),
    (
        "excluded namespaces that are no list",
        '{"cniVersion":"1.1.0","name":"a","exclude_namespaces":"x"}',
        {},
        7,
    ),
    ("unknown command", "{}", {"CNI_COMMAND": "FROB"}, 4),
    ("no container", None, {"CNI_CONTAINERID": None}, 4),
    ("container with a slash", None, {"CNI_CONTAINERID": "../x"}, 4),
    ("no interface", None, {"CNI_IFNAME": None}, 4),
    ("interface with a slash", None, {"CNI_IFNAME": "a/b"}, 4),
    ("interface that is too long", None, {"CNI_IFNAME": "a" * 16}, 4),
    ("no netns", None, {"CNI_NETNS": None}, 4),
    ("netns that is a directory", None, {"CNI_NETNS": "/"}, 4),
    ("netns that is missing", None, {"CNI_NETNS": "/run/netns/bruma-gone"}, 4),
    ("netns of another kind", None, {"CNI_NETNS": "/proc/self/ns/uts"}, 4),
]


@pytest.mark.parametrize(("text", "changes", "code"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_c8_each_failure_is_one_error_object(alone, text, changes, code):
    env = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c8",
        "CNI_NETNS": "/proc/self/ns/net",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": pod_args("shop", "web", "uid", "c8"),
        **changes,
    }
    answer = alone.call(
        "", alone.config() if text is None else text, env={k: v for k, v in env.items() if v is not None}
    )
    answer.error(code)
    assert answer.out.count("\n") == 1


@pytest.mark.parametrize(
    "how",
    ["silent", "closes", "garbage", "wrong object", "unknown decision", "refuses", "refuses without reason"],
)
def test_c8_an_agent_that_misbehaves_is_an_error_to_try_again(work, node, how):
    """In place of the agent somebody who speaks by hand; the pod's namespace stays as it was."""
    pod, folder = node.pod("web"), work.path("odd")
    os.makedirs(folder)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(f"{folder}/agent.sock")
    server.listen(1)
    answers = {
        "garbage": b"\x00\xff",
        "wrong object": b'{"op":"done"}',
        "unknown decision": b'{"op":"decision","decision":"x"}',
        "refuses": b'{"op":"error","reason":"agent_not_ready","error":"not yet"}',
        "refuses without reason": b'{"op":"error","error":"no"}',
    }

    def serve():
        s, _ = server.accept()
        with s:
            _, fds, _, _ = socket.recv_fds(s, 65536, 4)
            for fd in fds:
                os.close(fd)
            if how in answers:
                s.send(answers[how])
            if how != "closes":
                s.settimeout(20)
                s.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    p = Plugin(work, folder)
    error = p.pod("ADD", pod, p.config(prevResult=result(pod), timeout=1)).error(11)
    thread.join(30)
    server.close()
    assert how != "refuses" or (error["msg"].startswith("agent_not_ready") and error["details"])
    assert how != "refuses without reason" or error["msg"] == "internal: no"
    assert pod.untouched() and network_links(pod.netns) == []


@pytest.mark.parametrize("level", ["debug", "error", "no such level"])
def test_c9_stdout_has_nothing_but_the_result(node, plugin, level):
    pod, _ = node.pod("web"), node.proxy().serve()
    config = plugin.config(prevResult=result(pod), log_level=level)
    assert plugin.pod("ADD", pod, config).ok() == result(pod)
    for command in ("CHECK", "DEL"):
        assert plugin.pod(command, pod, config).out == ""
    assert plugin.call("STATUS", config).out == ""
    assert plugin.call("GC", {**config, "cni.dev/valid-attachments": []}).out == ""


def test_c10_unknown_keys_are_accepted(node, plugin):
    pod, _ = node.pod("web"), node.proxy().serve()
    config = plugin.config(
        prevResult=result(pod),
        plugin_log_level="x",
        ambient_enabled=True,
        kubernetes={"a": [1]},
        capabilities={"portMappings": True},
        runtimeConfig={"x": None},
    )
    plugin.pod("ADD", pod, config).ok()
    assert pod.item()["state"] == "enrolled"


def test_c11_no_shared_library_and_no_environment_is_needed(plugin):
    r = subprocess.run(["ldd", plugin.path], capture_output=True, text=True)
    assert "statically linked" in r.stdout or "not a dynamic executable" in r.stderr, r.stdout
    assert plugin.call("STATUS", plugin.config(), env={"CNI_COMMAND": "STATUS"}).ok() is None


# ---- a whole chain, and what runtimes really send ----


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_chain_of_bridge_host_local_and_ours(node, work, plugin, version):
    """Debian's plugins first, as on a node. They speak up to 1.0.0."""
    node.proxy().serve()
    netns = work.netns("chained")
    leases = work.path("leases")
    runtime = Runtime(
        {
            "cniVersion": version,
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": leases,
                        "ranges": [[{"subnet": "10.80.0.0/24"}], [{"subnet": "fd80::/64"}]],
                    },
                },
                plugin.config(),
            ],
        },
        work.path("cache"),
        f"{STOCK}:{os.path.dirname(plugin.path)}",
        node.netns,
    )
    before = network.rules_and_routes(netns)
    answer = runtime.add("chained", f"/run/netns/{netns}", "shop", "chained", "uid-chained")
    ips = [ip["address"].split("/")[0] for ip in answer["ips"]]
    item = agent_client.pods(node.run_dir)["shop/chained"]
    assert item["state"] == "enrolled" and item["ips"] == ips and len(ips) == 2
    runtime.check("chained") if version != "0.3.1" else None
    runtime.delete("chained")
    assert agent_client.pods(node.run_dir) == {}
    assert network.rules_and_routes(netns) == before
    assert [f for f in os.listdir(f"{leases}/pods") if not f.startswith("last") and f != "lock"] == []


def test_a_failing_add_leaves_no_trace_in_the_chain(node, work, plugin):
    """The agent cannot enroll (its pin directory is gone): the runtime sees an error, deletes, and nothing is
    left."""
    node.proxy().serve()
    netns = work.netns("chained")
    before = network.rules_and_routes(netns)
    leases = work.path("leases")
    entry = plugin.config()
    entry["run_dir"] = work.path("nobody")
    runtime = Runtime(
        {
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "ipam": {"type": "host-local", "dataDir": leases, "subnet": "10.80.0.0/24"},
                },
                entry,
            ],
        },
        work.path("cache"),
        f"{STOCK}:{os.path.dirname(plugin.path)}",
        node.netns,
    )
    with pytest.raises(Exception, match="agent_unreachable"):
        runtime.add("chained", f"/run/netns/{netns}", "shop", "chained", "uid-chained")
    assert network.rules_and_routes(netns) == before and network_links(netns) == []
    assert [f for f in os.listdir(f"{leases}/pods") if re.match(r"[0-9]+\.", f)] == []


def test_what_containerd_sent(node, plugin):
    """Recorded calls of a containerd, as they were, except for this test's paths, namespace and address."""
    pod, _ = node.pod("t", "shop"), node.proxy().serve()

    def recorded(command):
        with open(f"{DATA}/containerd-{command}.json") as f:
            config = {**json.load(f), "run_dir": node.run_dir}
        with open(f"{DATA}/containerd-{command}.env") as f:
            env = dict(line.rstrip("\n").split("=", 1) for line in f if "=" in line)
        if env["CNI_NETNS"]:
            env["CNI_NETNS"] = pod.path
            env["CNI_ARGS"] = env["CNI_ARGS"].replace("K8S_POD_NAMESPACE=bk-spy", "K8S_POD_NAMESPACE=shop")
            config["prevResult"]["ips"][0]["address"] = pod.given[0]
        return config, env

    plugin.call("", recorded("STATUS")[0], env=recorded("STATUS")[1]).ok()
    config, env = recorded("ADD")
    assert plugin.call("", config, env=env).ok() == config["prevResult"]
    assert pod.item()["uid"] == "6a2305d4-300d-48df-9e70-b8bdd3f2234a" and pod.item()["state"] == "enrolled"
    config, env = recorded("DEL")
    assert plugin.call("", config, env=env).out == ""
    assert pod.item() is None and pod.untouched()


def test_status_talks_to_the_agent_alone_and_costs_next_to_nothing(node, plugin, work):
    """It is called every five seconds, for ever."""
    trace = work.path("trace")
    config = plugin.config(status_gate=True)
    r = subprocess.run(
        ["strace", "-f", "-e", "trace=%network,execve,clone,clone3,fork,vfork", "-o", trace, plugin.path],
        input=json.dumps(config),
        env={"CNI_COMMAND": "STATUS", "CNI_PATH": STOCK},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert r.returncode == 0, r.stdout + r.stderr
    with open(trace) as f:
        calls = [line.split(None, 1)[1] for line in f]
    made = [
        c
        for c in calls
        if c.startswith(("socket(", "connect(", "sendto(", "execve(", "clone", "fork", "vfork"))
    ]
    assert [c.split("(")[0] for c in made] == ["execve", "socket", "connect"], made
    assert "AF_UNIX" in made[1] and f'"{node.run_dir}/agent.sock"' in made[2]
    assert (
        sum(c.startswith("sendmsg(") for c in calls) == 1
        and sum(c.startswith("recvmsg(") for c in calls) <= 2
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(50):
        plugin.call("STATUS", config).ok()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 50
    assert cpu < 0.004, f"{cpu * 1e3:.1f} ms of CPU; with a busy machine's caches it is 1"


def test_pods_of_excluded_namespaces_start_without_an_agent(alone, work):
    """A node must be able to start its system pods while the agent is not there."""
    name = work.netns("system")
    args = pod_args("kube-system", "dns", "uid", "c")
    alone.call("ADD", alone.config(), "c", f"/run/netns/{name}", "eth0", args).ok()
    alone.call(
        "ADD", alone.config(exclude_namespaces=["kube-system"]), "c", f"/run/netns/{name}", "eth0", args
    ).ok()
    alone.call("ADD", alone.config(exclude_namespaces=[]), "c", f"/run/netns/{name}", "eth0", args).error(11)


def test_pods_of_the_host_network_are_refused(node, plugin):
    """The agent's own namespace is the node's: a pod that shares it cannot be enrolled."""
    node.proxy().serve()
    previous = {"cniVersion": "1.1.0", "ips": [{"address": "10.79.0.1/24"}]}
    answer = plugin.call(
        "ADD",
        plugin.config(prevResult=previous),
        "host",
        f"/run/netns/{node.netns}",
        "eth0",
        pod_args("shop", "host", "uid-host", "host"),
    )
    assert answer.error()["msg"].startswith("netns_is_host")


def test_two_adds_at_once(node, plugin):
    """Runtimes start pods side by side."""
    node.proxy().serve()
    pods = [node.pod(f"p{i}") for i in range(8)]
    answers = [None] * len(pods)

    def add(i):
        answers[i] = plugin.pod("ADD", pods[i], plugin.config(prevResult=result(pods[i])))

    threads = [threading.Thread(target=add, args=(i,)) for i in range(len(pods))]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    for pod, answer in zip(pods, answers, strict=True):
        assert answer.ok() == result(pod)
        assert pod.item()["state"] == "enrolled"


def test_stock_plugins_are_where_the_tests_expect_them():
    assert shutil.which("bridge", path=STOCK) and shutil.which("host-local", path=STOCK)
