# SPDX-License-Identifier: Apache-2.0
"""Nothing keeps the agent's only thread: no pod's state, and no call that could wait."""

import contextlib
import os
import shutil
import signal
import threading
import time

import pytest

from support import agent as agent_client
from support import network
from support.faults import waits_env
from support.kube.small import SmallServer
from support.kube.world import AMBIENT, World
from support.nodes.agent_node import BREAKABLE, AgentNode, Plugin, breakage
from support.system import run, wait_for


@pytest.fixture
def node(work):
    n = AgentNode(work)
    n.start()
    return n


def log_lines(node, *parts):
    with open(node.agent.log) as f:
        return [line for line in f if all(part in line for part in parts)]


def unrepaired(pod):
    return (pod.item() or {}).get("unmended")


# ---- pods that cannot be repaired ----


def test_a_pod_that_takes_its_address_away_keeps_nobody(node):
    """Its route cannot be set without. The others of the node are added and answered as ever, it is told of
    once, and is whole again when the address is back."""
    broken = [node.pod(f"broken{i}") for i in range(3)]
    for pod in broken:
        pod.add()
        run(["ip", "-n", pod.netns, "-6", "address", "flush", "dev", "eth0"])
    wait_for(lambda: all(unrepaired(p) for p in broken), "what is broken to be told")
    for pod in broken:
        item = pod.item()
        assert (
            item["unmended"] == ["route_missing"]
            and not item["verified"]
            and item["lastReason"] == "pod_address_unusable"
        ), item
        assert item["state"] == "enrolled"
    slowest, pods = 0, []
    for i in range(10):
        before = time.monotonic()
        pods.append(node.pod(f"web{i}"))
        assert pods[-1].add() == "enrol"
        assert len(agent_client.pods(node.run_dir)) == 3 + len(pods)
        slowest = max(slowest, time.monotonic() - before)
    print(f"the slowest ADD of ten took {slowest * 1000:.0f} ms with the making of its pod")
    wait_for(lambda: all(p.item()["failedMends"] >= 4 for p in broken), "it to be tried again and again")
    for pod in broken:
        assert len(log_lines(node, "\terror\t", f'shop/{pod.name}"')) == 1, log_lines(node, pod.name)
        assert pod.item()["mends"].get("route_missing", 0) == 0, "nothing was repaired"
    table = run([f"{node.work.build}/ctl/brumactl", "--run-dir", node.run_dir, "pods"]).stdout
    assert table.count("no: route_missing; last ") == 3, table
    for pod in broken:
        network.address(pod.netns, "eth0", f"{pod.ip6}/64")
    wait_for(
        lambda: all(p.item()["verified"] for p in broken), "they to be whole once their addresses are back"
    )
    for pod in broken:
        item = pod.item()
        assert (
            item["unmended"] == [] and item["lastReason"] == "none" and item["mends"]["route_missing"] == 1
        ), item


@pytest.mark.parametrize("what", [b for b in BREAKABLE if b != "route_missing"])
def test_what_else_is_broken_in_such_a_pod_is_repaired(node, what):
    """And nothing of its capture is taken back because a part of it cannot be put right."""
    pod = node.pod("web")
    pod.add()
    run(["ip", "-n", pod.netns, "-6", "address", "flush", "dev", "eth0"])
    wait_for(lambda: unrepaired(pod) == ["route_missing"], "what is broken to be told")
    breakage(node, pod, what)
    wait_for(lambda: pod.item()["mends"].get(what), f"{what} to be repaired")
    wait_for(lambda: unrepaired(pod) == ["route_missing"], "nothing else to be left")
    assert len(pod.pins()) == 1
    node.proxy().serve()
    wait_for(
        lambda: pod.greeting() == "proxy inbound" and pod.dials_out() == "proxy outbound",
        "its traffic to go through the mesh",
    )


def test_an_add_waits_for_duplicate_address_detection_and_nobody_waits_with_it(node):
    slow, other = node.pod("slow"), node.pod("other")
    run(["ip", "-n", slow.netns, "-6", "address", "del", f"{slow.ip6}/64", "dev", "eth0"])
    network.sysctl(
        slow.netns,
        {
            "net.ipv6.conf.all.accept_dad": 1,
            "net.ipv6.conf.eth0.accept_dad": 1,
            "net.ipv6.conf.eth0.dad_transmits": 1,
        },
    )
    run(["ip", "-n", slow.netns, "address", "add", f"{slow.ip6}/64", "dev", "eth0"])
    begun = node.python("print('begun')")  # a process that is ready before the address is
    begun.communicate()
    added = []
    thread = threading.Thread(target=lambda: added.append(slow.add()))
    thread.start()
    answers = 0
    while thread.is_alive():
        assert node.status()["version"]
        answers += 1
        if answers == 3:
            assert other.add() == "enrol"
            assert "tentative" in run(["ip", "-n", slow.netns, "-6", "address"]).stdout, (
                "it must wait while the other is added"
            )
    thread.join()
    assert added == ["enrol"] and slow.item()["verified"] and answers > 10
    assert not log_lines(node, "\terror\t"), log_lines(node, "\terror\t")


def test_an_add_whose_address_never_comes_is_refused_by_name(node):
    pod = node.pod("web")
    run(["ip", "-n", pod.netns, "-6", "address", "flush", "dev", "eth0"])
    pod.rules_before = network.rules_and_routes(pod.netns)
    with Plugin(node.run_dir) as plugin:
        answer = pod.begin(plugin)
    assert answer["op"] == "error" and answer["reason"] == "pod_address_unusable", answer
    assert pod.item() is None and pod.pins() == [] and pod.untouched()


def test_a_running_pod_whose_address_is_gone_is_tried_again(work):
    node = AgentNode(work)
    node.label(False)
    node.start()
    pod = node.pod("web")
    assert pod.add() == "pass"
    run(["ip", "-n", pod.netns, "-6", "address", "flush", "dev", "eth0"])
    node.label(True)
    wait_for(lambda: pod.item()["lastReason"] == "pod_address_unusable", "the failure to be told")
    assert pod.item()["state"] == "outside" and pod.pins() == []
    wait_for(lambda: len(log_lines(node, "a pod could not be enrolled")) == 1, "it to be logged")
    network.address(pod.netns, "eth0", f"{pod.ip6}/64")
    pod.wait_state("enrolled", 60)
    assert len(log_lines(node, "a pod could not be enrolled")) == 1, "told once"


def flood(pod, command, seconds):
    """Changes its own tables as fast as it can."""
    return pod.node.python(
        f"import subprocess,time\nend = time.monotonic() + {seconds}\n"
        f"p = subprocess.Popen(['ip', '-batch', '-'], stdin=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL)\n"
        f"while time.monotonic() < end: p.stdin.write('''{command}''' * 50)\np.stdin.close(); p.wait()",
        pod.netns,
    )


def cpu_ticks(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_pods_that_flood_their_own_tables_are_looked_at_now_and_then(node):
    pods = [node.pod(f"web{i}") for i in range(2)]
    for pod in pods:
        pod.add()
    quiet = node.pod("quiet")
    quiet.add()
    floods = [flood(p, "rule add pref 5 lookup main\nrule del pref 5\n", 6) for p in pods]
    try:
        time.sleep(1)
        before, verifications = cpu_ticks(node.agent.pid), time.monotonic()
        while time.monotonic() < verifications + 3:
            assert node.status()["version"]
            time.sleep(0.1)
        used = (cpu_ticks(node.agent.pid) - before) / os.sysconf("SC_CLK_TCK")
        print(f"{used:.2f} s of processor time in 3 s")
        assert used < 1.0, f"{used} s of 3"
        breakage(node, quiet, "rule_missing")
        wait_for(lambda: quiet.item()["mends"].get("rule_missing"), "another pod to be repaired meanwhile")
        breakage(node, pods[0], "link_detached")
        wait_for(
            lambda: pods[0].item()["mends"].get("link_detached"), "the pod itself to be repaired meanwhile"
        )
    finally:
        for p in floods:
            p.communicate()


RULES = 16000  # 2.6 MB of netlink, of which 2 MiB are read


@contextlib.contextmanager
def stopped(agent):
    """It does not look meanwhile: a look that a change interrupts is a failed one, after which it waits longer."""
    os.kill(agent.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(agent.pid, signal.SIGCONT)


def test_a_pod_with_endless_rules_is_not_read_to_its_end(work):
    """It cannot be verified in full, which is told. Nobody else notices."""
    node = AgentNode(work)
    node.start("--verify-walk", "300ms")
    pod, other = node.pod("web"), node.pod("other")
    pod.add()
    other.add()
    with stopped(node.agent):
        network.add_rules(pod.netns, RULES)
    wait_for(lambda: unrepaired(pod) == ["capture_unverified"], "it to be told", 60)
    assert not pod.item()["verified"] and other.item()["verified"]
    wait_for(lambda: pod.item()["failedMends"] >= 2, "it to be tried again", 60)
    assert len(log_lines(node, "\terror\t", 'shop/web"')) == 1
    with stopped(node.agent):
        network.delete_rules(pod.netns, RULES)
    wait_for(lambda: pod.item()["verified"], "it to be whole again", 60)


# ---- calls that could wait ----


def waits(path):
    if not os.path.exists(path):
        return []
    with open(path) as f:
        return f.read().splitlines()


def test_no_call_on_the_agents_loop_can_wait(work):
    """Each call by which the loop's thread could wait takes three seconds here. Through a life of pods, with
    the API, the metrics, a mesh file that changes, an installed plugin and all that breaks, none is made."""
    node = AgentNode(work)
    # In memory, as /run is.
    node.run_dir = f"/dev/shm/{work.name('run')}"
    work.defer(shutil.rmtree, node.run_dir, True)
    record, conf, binaries = work.path("waits"), work.path("net.d"), work.path("bin")
    os.mkdir(conf)
    os.mkdir(binaries)
    with open(f"{conf}/10-pods.conflist", "w") as f:
        f.write('{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]}')
    node.agent = work.process(
        node.argv(
            "--cni-conf-dir",
            conf,
            "--cni-bin-dir",
            binaries,
            "--cni-plugin",
            f"{work.build}/cni/bruma-cni",
            "--metrics-port",
            "15014",
        ),
        work.path("agent.log"),
        netns=node.netns,
        env=waits_env(work.build, record, 3000),
    )
    wait_for(
        lambda: agent_client.status(node.run_dir)["meshReady"], "the agent to answer", 60, log=node.agent.log
    )
    proxy = node.proxy().serve()
    pods = [node.pod(f"web{i}") for i in range(3)]
    for pod in pods:
        assert pod.add() == "enrol"
    for what in BREAKABLE:
        breakage(node, pods[0], what)
        wait_for(lambda: pods[0].item()["mends"].get(what), f"{what} to be repaired")
    run(["ip", "-n", pods[1].netns, "-6", "address", "flush", "dev", "eth0"])
    wait_for(lambda: unrepaired(pods[1]), "a pod that cannot be repaired")
    os.unlink(f"{conf}/10-pods.conflist")
    with open(f"{conf}/20-others.conflist", "w") as f:
        f.write('{"cniVersion": "1.0.0", "name": "others", "plugins": [{"type": "bridge"}]}')
    wait_for(lambda: "bruma-cni" in open(f"{conf}/20-others.conflist").read(), "the entry to be put in")
    node.label(False)
    pods[0].wait_state("outside")
    node.label(True)
    pods[0].wait_state("enrolled")
    os.kill(proxy.pid, signal.SIGSTOP)
    assert pods[2].ask("cni-check")["op"] == "done"
    os.kill(proxy.pid, signal.SIGCONT)
    for op in ("doctor", "explain", "status", "pods"):
        agent_client.ask(node.run_dir, op, **({"pod": "shop/web0"} if op == "explain" else {}))
    run(
        [
            "python3",
            "-c",
            "import urllib.request; urllib.request.urlopen('http://127.0.0.1:15014/metrics').read()",
        ],
        netns=node.netns,
    )
    assert pods[2].ask("cni-del")["op"] == "done"
    proxy.kill()
    wait_for(lambda: not node.status()["proxyConnected"], "the proxy to be missed")
    assert not waits(record), "\n".join(waits(record))


def in_memory(work, *paths):
    """Copies, where secrets are mounted in a cluster."""
    directory = f"/dev/shm/{work.name('secrets')}"
    work.defer(shutil.rmtree, directory, True)
    os.mkdir(directory)
    return [shutil.copy(path, directory) for path in paths]


def test_nor_in_a_cluster(work, monkeypatch):
    """The API server, the container runtime and the CNI library's files are asked, and names take ten seconds
    to be resolved."""
    world = World(work, SmallServer)
    record = work.path("waits")
    world.node.run_dir = f"/dev/shm/{work.name('run')}"
    work.defer(shutil.rmtree, world.node.run_dir, True)
    ca, token = in_memory(work, world.settings["kube_ca"], world.settings["kube_token_file"])
    world.server.make_namespace("shop", AMBIENT)
    pods = [world.sandbox("shop", f"p{i}", 10 + i) for i in range(3)]
    for pod in pods[:2]:
        world.write_cache(pod)
    for name, value in waits_env(work.build, record, 3000).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("FAULTS_DNS", "10000")
    world.node.start_agent(
        **{**world.settings, "kube_ca": ca, "kube_token_file": token, "cri_socket": work.path("none.sock")}
    )
    for name in [*waits_env(work.build, record, 0), "FAULTS_DNS"]:
        monkeypatch.delenv(name)
    world.ready()
    world.wait_state("shop/p0", "enrolled")
    world.wait_state("shop/p1", "enrolled")
    world.server.merge("/api/v1/namespaces/shop", labels={"istio.io/dataplane-mode": None})
    world.wait_state("shop/p0", "outside")
    assert not waits(record), "\n".join(waits(record))


def test_nor_while_a_name_is_not_resolved(work, monkeypatch):
    """Requests end before their names are known."""
    world = World(work, SmallServer)
    record = work.path("waits")
    world.node.run_dir = f"/dev/shm/{work.name('run')}"
    work.defer(shutil.rmtree, world.node.run_dir, True)
    ca, token = in_memory(work, world.settings["kube_ca"], world.settings["kube_token_file"])
    for name, value in waits_env(work.build, record, 3000).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("FAULTS_DNS", "60000")
    world.node.start_agent(
        **{
            **world.settings,
            "kube_ca": ca,
            "kube_token_file": token,
            "kube_server": "https://api.invalid:6443",
        }
    )
    for name in [*waits_env(work.build, record, 0), "FAULTS_DNS"]:
        monkeypatch.delenv(name)
    wait_for(
        lambda: "api.invalid" in world.log() and "imed out" in world.log(), "a request to be given up", 40
    )
    assert not world.status()["sourceReady"]
    assert not waits(record), "\n".join(waits(record))
