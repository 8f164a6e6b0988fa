# SPDX-License-Identifier: Apache-2.0
"""The guard: a pod of the mesh that runs without being captured (the node was cut off and came back, the main
CNI plugin wrote its configuration anew before the agent ran) talks to nobody before it is captured; pods
outside the mesh wait for a bounded time at the most, and the node's own processes never."""

import json
import os
import shutil
import subprocess
import time

import pytest

from support import agent as agent_client
from support import kernel
from support.kube.guard_scene import OUTSIDE, Scene, holds_inbound
from support.kube.world import AMBIENT
from support.system import run, wait_for


@pytest.fixture
def scene(small):
    return Scene(small)


def test_a_node_that_was_cut_off_comes_back(scene):
    """The API server cannot be reached at first, as after a power cut: whoever is not known waits, and then
    web is captured before its first connection, and plain is let go."""
    world = scene.world
    assert scene.dial(scene.web) == "ok", (
        "without an agent nothing is in its way: the guard must make the difference"
    )
    world.server.stop_api()
    world.start()
    told = scene.guard()
    assert told["closed"] and told["cgroup"] == world.node.cgroup and told["holdsInbound"] == holds_inbound()
    wait_for(lambda: "API server" in scene.guard()["waitsFor"], "it to say what it waits for")
    for ip in world.node.pod_addresses(1):
        assert scene.dial(scene.web, ip) == "refused"
        assert scene.dial(scene.plain, ip) == "refused"
    assert scene.undecided() == 4
    if holds_inbound():
        for ip in scene.web.ips:
            assert scene.node_dials(ip, 8080) == "silence"
    assert scene.dial(scene.web, "127.0.0.1", 8080) == "ok", "a pod's own loopback is nobody's business"
    # A pod in the node's network, and the node itself.
    assert scene.node_dials("127.0.0.1", OUTSIDE, cgroup=scene.host_cgroup) == "ok"
    assert scene.node_dials(world.node.pod_addresses(1)[0], OUTSIDE, cgroup=scene.host_cgroup) == "ok"
    world.server.start_api()
    world.wait_state("shop/web", "enrolled", 30)
    scene.wait_open()
    assert scene.hooks() == [], "nothing of the guard runs while it is open"
    assert scene.dial(scene.plain) == "ok" and scene.node_dials(scene.plain.ip, 8080) == "ok"
    item = agent_client.pods(world.node.run_dir)["shop/web"]
    assert not item["capturedSinceStart"] and item["counters"]["outbound_captured_connections"] == 0
    assert world.state("other/plain") is None
    # It is no secret that web ran without.
    assert world.status()["capturedLate"] == 1
    events = wait_for(lambda: world.server.events("shop", "web"), "an Event")
    assert events[0]["reason"] == "captured_late" and events[0]["type"] == "Warning"
    assert events[0]["message"].startswith(
        "belongs to the mesh and ran outside of it: it was found running and is captured now"
    )
    assert not world.server.events("other", "plain")
    assert scene.guard()["gaveUp"] == 0 and "guard_gave_up" not in scene.problems()


def test_decisions_outlive_the_agent(scene):
    """An agent's restart disturbs nobody who is known, even if it cannot decide anything new."""
    world = scene.world
    world.start(guard="strict").ready()
    scene.wait_open()
    world.node.agent.kill()
    stranger = world.sandbox("other", "stranger", 12)
    world.server.stop_api()
    world.start(proxy=False, guard="strict")
    wait_for(lambda: world.status()["sourceError"], "the agent to ask in vain")
    assert scene.guard()["closed"], "it has heard of nothing yet"
    assert scene.dial(scene.plain) == "ok" and scene.undecided() == 0
    item = agent_client.pods(world.node.run_dir)["shop/web"]
    assert item["state"] == "enrolled"
    # One that came meanwhile is none of them.
    assert scene.dial(stranger) == "refused"


def test_an_agent_that_dies_leaves_a_strict_guard_closed(scene):
    world = scene.world
    world.server.stop_api()
    world.start(guard="strict")
    world.node.agent.kill()
    assert scene.dial(scene.web) == "refused" and len(scene.hooks()) == 2 + holds_inbound()
    world.server.start_api()
    world.start(proxy=False, guard="strict")
    world.wait_state("shop/web", "enrolled", 30)
    scene.wait_open()


def test_a_bounded_guard_gives_up_and_says_so(scene):
    world = scene.world
    world.server.stop_api()
    world.start(guard_limit="5s")
    assert scene.dial(scene.plain) == "refused"
    scene.wait_open()
    assert scene.dial(scene.plain) == "ok" and scene.dial(scene.web) == "ok"
    assert scene.guard()["gaveUp"] == 1 and "guard_gave_up" in scene.problems()
    assert "guard_gave_up" in world.log()


def test_the_limit_counts_without_an_agent(scene):
    world = scene.world
    world.server.stop_api()
    world.start(guard_limit="5s")
    world.node.agent.kill()
    assert scene.dial(scene.plain) == "refused"
    wait_for(lambda: scene.dial(scene.plain) == "ok", "the limit to pass")


def test_a_strict_guard_does_not_give_up(scene):
    world = scene.world
    world.server.stop_api()
    world.start(guard="strict", guard_limit="500ms", verify_interval="300ms")
    world.node.wait_rounds(4)  # twice the limit
    assert scene.guard()["closed"] and scene.dial(scene.web) == "refused"


def test_off_is_off(scene):
    world = scene.world
    world.server.stop_api()
    world.start(guard="off")
    assert scene.guard() == {"mode": "off"} and scene.hooks() == []
    assert scene.dial(scene.web) == "ok" and scene.dial(scene.plain) == "ok"


def test_a_new_pod_does_not_wait_for_the_others(scene):
    """Closed for what is undecided: what the plugin has told of goes on at once, in the mesh and outside."""
    world = scene.world
    world.server.make_namespace("late", AMBIENT)
    lost = world.sandbox("late", "lost", 13)  # nothing says where it is: never decided
    scene.serve(lost, 8080)
    world.start(guard="strict", proc="/nowhere").ready()
    assert scene.guard()["closed"]
    for namespace, name, host, state in (("shop", "new", 20, "enrolled"), ("other", "young", 21, "outside")):
        pod = world.sandbox(namespace, name, host, plain=False)
        world.node.add(pod)
        assert world.state(f"{namespace}/{name}") == state
        if state == "outside":
            assert scene.dial(pod) == "ok"
    assert scene.guard()["closed"] and scene.dial(lost) == "refused"


def test_an_entry_that_was_missing_closes_it_again(scene):
    world = scene.world
    conf, plugins = world.work.path("net.d"), world.work.path("plugins")
    os.makedirs(conf)
    os.makedirs(plugins)
    network = {**world.node.conflist(), "plugins": world.node.conflist()["plugins"][:1]}

    def write():
        with open(f"{conf}/10-pods.conflist.tmp", "w") as f:
            json.dump(network, f)
        os.rename(f"{conf}/10-pods.conflist.tmp", f"{conf}/10-pods.conflist")

    write()
    world.start(
        cni_conf_dir=conf, cni_bin_dir=plugins, cni_plugin=f"{world.work.build}/cni/bruma-cni"
    ).ready()
    scene.wait_open()
    before = scene.guard()["closings"]
    # One that began in between, without the plugin, and of which the API server has not told where it is.
    pod = world.node.create_pod("shop", "sudden", host=30, add=False)
    world.work.defer(world.node.delete_pod, pod)
    pod.uid = pod.runtime_uid = world.server.make_pod("shop", "sudden", "n1", [])
    write()
    world.plain.add(
        pod.container,
        f"/run/netns/{pod.netns}",
        "shop",
        "sudden",
        pod.uid,
        [f"{pod.ip}/24", f"{pod.ip6}/64"],
    )
    world.work.defer(world.plain.delete, pod.container)
    scene.serve(pod, 8080)
    wait_for(
        lambda: scene.guard()["closings"] > before and scene.guard()["closed"], "the guard to close again"
    )
    assert scene.dial(pod) == "refused" and scene.dial(scene.plain) == "ok"
    world.write_cache(pod)
    world.server.set_status("shop", "sudden", pod.ips)
    world.wait_state("shop/sudden", "enrolled")
    scene.wait_open()


def test_before_the_kubelet(scene):
    """What a unit of the node does: the pods' cgroup is made where the kubelet will find it, and nobody below
    it has a connection before an agent has come."""
    world = scene.world
    cgroup = os.path.join(world.node.cgroup, "kubepods.slice")
    argv = [
        f"{world.work.build}/agent/bruma-agent",
        "--close-guard",
        "--run-dir",
        world.node.run_dir,
        "--pin-dir",
        world.node.pin_dir,
        "--cgroup",
        world.node.cgroup,
        "--guard-cgroup",
        cgroup,
    ]
    done = subprocess.run(
        ["nsenter", f"--net=/run/netns/{world.node.netns}", *argv], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    world.work.defer(kernel.cgroup_remove, cgroup)
    assert os.path.isdir(cgroup) and len(scene.hooks()) == 2 + holds_inbound()
    below = os.path.join(cgroup, "pod")
    kernel.cgroup_create(below)
    world.work.defer(kernel.cgroup_remove, below)
    outside, scene.web.cgroup = scene.web.cgroup, below
    assert scene.dial(scene.web) == "refused"
    assert scene.node_dials("127.0.0.1", OUTSIDE, cgroup=below) == "ok"
    scene.web.cgroup = outside
    assert scene.dial(scene.web) == "ok", "who is no pod is left alone"
    # The agent finds that cgroup by its name, and opens.
    world.settings["guard_cgroup"] = "auto"
    world.start(guard="strict").ready()
    assert scene.guard()["cgroup"] == cgroup
    scene.wait_open()
    assert scene.hooks() == []


def test_before_the_kubelet_there_must_be_a_cgroup(scene):
    world = scene.world
    argv = [
        f"{world.work.build}/agent/bruma-agent",
        "--close-guard",
        "--run-dir",
        world.node.run_dir,
        "--pin-dir",
        world.node.pin_dir,
        "--cgroup",
        world.node.cgroup,
    ]
    done = subprocess.run(
        ["nsenter", f"--net=/run/netns/{world.node.netns}", *argv], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "--guard-cgroup" in done.stderr


INSTALLED = (
    "bruma-cni is on the disk",
    "an agent was here",
    "only an older agent was here",
    "nothing was here",
)


@pytest.mark.parametrize("what", INSTALLED)
def test_it_closes_at_a_boot_and_not_at_an_installation(scene, what):
    """On a node whose pods run while Bruma is installed nobody loses a connection."""
    with open("/proc/uptime") as f:
        young = float(f.read().split()[0]) < 600
    world = scene.world
    conf, plugins = world.work.path("net.d"), world.work.path("plugins")
    os.makedirs(conf)
    os.makedirs(plugins)
    with open(f"{conf}/10-pods.conflist", "w") as f:
        json.dump({**world.node.conflist(), "plugins": world.node.conflist()["plugins"][:1]}, f)
    if what == INSTALLED[0]:
        shutil.copy(f"{world.work.build}/cni/bruma-cni", plugins)
    if what in INSTALLED[1:3]:
        world.start(guard="off")
        world.node.stop()
        for map in ("sandboxes", "guard") if what == INSTALLED[2] else ():
            os.unlink(f"{world.node.pin_dir}/maps/{map}")
        shutil.rmtree(f"{world.node.run_dir}", ignore_errors=True)
        os.makedirs(world.node.run_dir)
    world.server.stop_api()
    world.start(cni_conf_dir=conf, cni_bin_dir=plugins, cni_plugin=f"{world.work.build}/cni/bruma-cni")
    closes = what in INSTALLED[:2] or (young and what == INSTALLED[3])
    assert scene.guard()["closed"] == closes
    assert scene.dial(scene.plain) == ("refused" if closes else "ok")
    world.server.start_api()
    world.wait_state("shop/web", "enrolled", 30)
    scene.wait_open()
    # And is known from then on.
    wait_for(lambda: "other/plain" in scene.entries(), "plain to be found")
    world.node.agent.kill()
    world.server.stop_api()
    world.start(proxy=False, guard="strict")
    assert scene.guard()["closed"] and scene.dial(scene.plain) == "ok"


def test_an_agent_that_comes_and_goes_gets_no_more_time(scene):
    world = scene.world
    world.server.stop_api()
    world.start(guard_limit="4s")
    began = time.monotonic()
    assert scene.dial(scene.plain) == "refused"
    time.sleep(2)
    world.node.agent.kill()
    world.start(proxy=False, guard_limit="60s")
    scene.wait_open(10)
    assert time.monotonic() - began < 12 and scene.dial(scene.plain) == "ok"


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("guard", "maybe", "neither off nor bounded nor strict"),
        ("guard_cgroup", "kubepods", "absolute path"),
        ("same_node", "Kernel", "neither hbone nor relay nor kernel"),
        ("direct_outside", "maybe", "direct-outside"),
        ("direct_inbound", "", "direct-inbound"),
    ],
)
def test_wrong_settings_end_the_start(small, setting, value, said):
    small.node.start_agent(wait=False, **{**small.settings, setting: value})
    assert small.node.agent.wait(20) == 2 and said in small.log()


def test_an_excluded_namespace_needs_no_server(scene):
    """Pods of kube-system may be what brings the API server back."""
    world = scene.world
    world.server.make_namespace("kube-system")
    pod = world.sandbox("kube-system", "dns", 40, plain=False)
    web = world.sandbox("shop", "new", 41, plain=False)
    world.server.stop_api()
    world.start(exclude_namespaces="kube-system")
    world.node.add(pod)
    assert world.state("kube-system/dns") == "outside" and scene.dial(pod) == "ok"
    with pytest.raises(Exception, match="agent_not_ready"):
        world.node.add(web)


def test_metrics_tell(scene):
    world = scene.world
    world.server.stop_api()
    world.start(metrics_port="15014", guard_limit="1s")

    def page():
        return run(["curl", "-s", "-m", "5", "http://127.0.0.1:15014/metrics"], netns=world.node.netns).stdout

    assert "bruma_guard_closed 1" in page() and "bruma_guard_gave_up_total 0" in page()
    scene.dial(scene.web)
    assert 'bruma_steering_failures_total{reason="pod_undecided"} 1' in page()
    scene.wait_open()
    assert "bruma_guard_closed 0" in page() and "bruma_guard_gave_up_total 1" in page()
    world.server.start_api()
    wait_for(lambda: "bruma_pods_captured_late_total 1" in page(), "the count of late ones", 30)


def test_a_label_that_comes_later_is_no_late_capture(world):
    world.server.make_namespace("shop")
    pod = world.sandbox("shop", "web", 10)
    world.write_cache(pod)
    world.start(guard_cgroup=world.node.cgroup).ready()
    world.server.label_namespace("shop", mode="ambient")
    world.wait_state("shop/web", "enrolled")
    world.wait_redirection("shop", "web", "enabled")
    assert world.status()["capturedLate"] == 0 and not world.server.events("shop", "web")


def test_sandboxes_that_go_leave_no_entry(scene):
    world = scene.world
    world.start().ready()
    scene.wait_open()

    entries = scene.entries
    assert entries() == {"n1", "other/plain"}
    pod = world.sandbox("other", "short", 50, plain=False)
    world.node.add(pod)
    assert entries() == {"n1", "other/plain", "other/short"}
    world.node.delete_pod(pod)
    wait_for(lambda: entries() == {"n1", "other/plain"}, "the entry of a pod that is gone to go")
    world.server.delete_pod("other", "plain")
    wait_for(lambda: entries() == {"n1"}, "the entry of a pod that the API server forgot to go")


def test_the_plugin_excludes_what_the_agent_excludes(scene):
    """kube-system too, if the settings do not: the plugin's own list is for entries that somebody wrote by
    hand."""
    world = scene.world
    conf, plugins = world.work.path("net.d"), world.work.path("plugins")
    os.makedirs(conf)
    os.makedirs(plugins)
    with open(f"{conf}/10-pods.conflist", "w") as f:
        json.dump({**world.node.conflist(), "plugins": world.node.conflist()["plugins"][:1]}, f)

    def entry():
        with open(f"{conf}/10-pods.conflist") as f:
            return json.load(f)["plugins"][-1]

    options = {
        "cni_conf_dir": conf,
        "cni_bin_dir": plugins,
        "cni_plugin": f"{world.work.build}/cni/bruma-cni",
    }
    world.start(**options, exclude_namespaces="").ready()
    wait_for(
        lambda: entry() == {"type": "bruma-cni", "run_dir": world.node.run_dir, "exclude_namespaces": []},
        "the entry",
    )
    world.node.agent.stop()
    world.start(proxy=False, **options, exclude_namespaces="a, kube-system").ready()
    wait_for(lambda: entry()["exclude_namespaces"] == ["a", "kube-system"], "the entry to follow")


def test_brumactl_tells(scene):
    world = scene.world
    world.server.stop_api()
    world.start()

    def brumactl(command):
        return run(
            [f"{world.work.build}/ctl/brumactl", "--run-dir", world.node.run_dir, command], check=False
        ).stdout

    wait_for(
        lambda: (
            "waits for: pods, namespaces and the mesh configuration have not all been read from the API server"
            in brumactl("status")
        ),
        "the reason in words",
    )
    assert "bounded, closed for" in brumactl("status") and "undecided have no network" in brumactl("doctor")
    world.server.start_api()
    world.wait_state("shop/web", "enrolled", 30)
    scene.wait_open()
    assert "bounded, open; was closed for" in brumactl("status") and "captured late" in brumactl("status")
    assert "open: all pods are decided about" in brumactl("doctor")
    row = next(line.split() for line in brumactl("pods").splitlines() if line.startswith("shop"))
    assert "no" in row, "since start"


def test_uninstalled_while_it_is_closed_nothing_is_left(scene):
    world = scene.world
    world.server.stop_api()
    world.start(guard="strict")
    assert scene.dial(scene.plain) == "refused"
    world.node.stop()
    settings = [a for k, v in world.settings.items() for a in (f"--{k.replace('_', '-')}", v)]
    r = subprocess.run(
        [
            "nsenter",
            f"--net=/run/netns/{world.node.netns}",
            f"{world.work.build}/agent/bruma-agent",
            "--uninstall",
            "--run-dir",
            world.node.run_dir,
            "--pin-dir",
            world.node.pin_dir,
            "--cgroup",
            world.node.cgroup,
            "--node-name",
            "n1",
            "--source=file",
            *[s for s in settings if s not in ("--source", "kubernetes")],
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert r.returncode == 0, r.stderr
    assert not os.path.exists(world.node.pin_dir) and scene.dial(scene.plain) == "ok"


@pytest.mark.parametrize(("mode", "closed"), [("off", False), ("bounded", True)])
def test_an_agent_with_another_mode_takes_over(scene, mode, closed):
    """What an earlier agent has closed for ever."""
    world = scene.world
    world.server.stop_api()
    world.start(guard="strict")
    world.node.agent.kill()
    assert scene.dial(scene.plain) == "refused"
    world.start(proxy=False, guard=mode, guard_limit="2s")
    assert scene.guard().get("closed", False) == closed
    wait_for(lambda: scene.dial(scene.plain) == "ok", "it to open", 10)


THREADS = (
    "import os,sys,threading,time\n"
    "threading.Thread(target=time.sleep, args=(600,)).start()\n"
    "print('threads', flush=True)\n"
    "import ctypes\n"
    "ctypes.CDLL(None).syscall(60, 0)\n"
)  # exit(2) of the first thread alone


def state_of(pid):
    with open(f"/proc/{pid}/stat") as f:
        return f.read().rsplit(")", 1)[1].split()[0]


@pytest.mark.parametrize("what", ["another /proc", "another PID namespace", "a first thread that has ended"])
def test_pods_that_cannot_be_looked_at_are_not_decided(scene, what):
    """Whoever cannot be seen may be somebody: the guard stays closed, and says why. An agent without hostPID
    sees the numbers of no process, and one whose --proc is wrong sees none of them below it."""
    world = scene.world
    world.server.make_namespace("late", AMBIENT)
    lost = world.sandbox("late", "lost", 13)  # nothing says where it is: never decided
    if what == "a first thread that has ended":
        p = lost.popen("/usr/bin/python3", "-c", THREADS, log=world.work.path("threads.log"))
        world.work.defer(p.kill)
        p.wait_for_text("threads")
        wait_for(lambda: state_of(p.popen.pid) == "Z", "the first thread to end")
    else:
        scene.serve(lost, 8080)
    options = {"proc": world.work.path("empty")} if what == "another /proc" else {}
    os.makedirs(world.work.path("empty"))
    world.start(
        guard="strict",
        verify_interval="300ms",
        **options,
        **(
            {"wrap": ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]}
            if what == "another PID namespace"
            else {}
        ),
    ).ready()
    if what == "a first thread that has ended":
        wait_for(lambda: scene.guard()["undecided"] == 1, "it to be seen")
    else:
        wait_for(lambda: "cannot be inspected" in scene.guard()["waitsFor"], "the guard to say so")
        assert "reason=guard_failed" in world.log()
    world.node.wait_rounds(3)
    assert scene.guard()["closed"] and scene.dial(lost) == "refused"
    assert scene.guard()["undecided"] == 1 or what != "a first thread that has ended"


def test_a_bound_that_has_passed_is_not_given_again(scene):
    """An agent that comes back after the bound: those who are undecided have had the network since, and lose
    it no more."""
    world = scene.world
    world.server.stop_api()
    world.start(guard_limit="1500ms")
    world.node.agent.kill()
    wait_for(lambda: scene.dial(scene.plain) == "ok", "the limit to pass")
    for _ in range(2):  # and the one after that
        world.start(proxy=False, guard_limit="60s")
        assert not scene.guard()["closed"] and scene.dial(scene.plain) == "ok"
        assert scene.guard()["gaveUp"] == 1 and "guard_gave_up" in scene.problems()
        assert scene.hooks() == [], "nothing of the guard runs while it is open"
        world.node.agent.kill()
    # Once all is decided, the next agent has a bound of its own.
    world.server.start_api()
    world.start(proxy=False, guard_limit="60s").ready()
    world.wait_state("shop/web", "enrolled", 30)
    wait_for(lambda: "all pods are decided about" in world.log(), "all to be decided")
    world.node.agent.kill()
    stranger = world.sandbox("other", "stranger", 12)
    world.server.stop_api()
    world.start(proxy=False, guard_limit="60s")
    assert scene.guard()["closed"] and scene.dial(stranger) == "refused"
