# SPDX-License-Identifier: Apache-2.0
"""Descriptors, memory and other things run short, at each step in turn: what fails is refused by name and
tried again, nobody is taken for served who is not, nothing spins and no line is written again and again."""

import contextlib
import errno
import os
import resource
import socket
import time

import pytest

from support import agent as agent_client
from support.faults import Faults
from support.nodes.agent_node import AgentNode, Plugin
from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, REACH
from support.system import run, wait_for


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def limit_descriptors(pid, more):
    """So many more than it has now. Returns what undoes it."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")) + more, before[1]))
    return lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@pytest.fixture
def node(work):
    return AgentNode(work)


def start(node, faults):
    node.agent = node.work.process(
        node.argv("--verify-interval", "1h"), node.work.path("agent.log"), netns=node.netns, env=faults.env
    )
    wait_for(
        lambda: agent_client.status(node.run_dir)["meshReady"], "the agent to answer", log=node.agent.log
    )


# What an ADD takes of the agent, and what it does not have then. Its return from a namespace cannot fail: it
# ends rather. With the names that are among those by which it is refused: what runs short has one name at
# each step, else the step has its own.
STEPS = [
    ("socket", errno.EMFILE, {"out_of_resources"}),
    ("socket", errno.EACCES, {"route_setup_failed", "listener_open_failed"}),
    ("open", errno.EMFILE, {"out_of_resources"}),
    ("open", errno.EACCES, {"sysctl_setup_failed"}),
    ("fcntl dup", errno.EMFILE, set()),
    ("bpf", errno.EMFILE, {"out_of_resources"}),
    ("bpf", errno.ENOMEM, {"out_of_resources"}),
    ("bpf", errno.EPERM, {"map_update_failed", "attach_failed"}),
    ("epoll add", errno.ENOSPC, set()),
    ("epoll modify", errno.ENOMEM, set()),
    ("setns", errno.EPERM, {"netns_unusable"}),
    ("listen", errno.EADDRINUSE, {"listener_open_failed"}),
    ("bind", errno.ENOMEM, {"out_of_resources"}),
    ("bind", errno.EACCES, {"listener_open_failed"}),
    ("setsockopt", errno.ENOMEM, set()),
]


@pytest.mark.parametrize(
    ("call", "error", "names"), STEPS, ids=[f"{c} {errno.errorcode[e]}" for c, e, _ in STEPS]
)
def test_each_step_of_an_add(node, call, error, names):
    """Fails once, the first, the second, and so on. The ADD is refused by a name and nothing is left of it,
    or the pod is whole."""
    faults = Faults(node.work.build, node.work.path("faults"))
    start(node, faults)
    node.proxy().serve()
    pod = node.pod("web")
    refused, whole, reasons = 0, 0, set()
    for k in range(0, 400, 2 if call == "setns" else 1):
        faults.fail(call, error, skip=k, times=1)
        try:
            with Plugin(node.run_dir) as plugin:
                answer = pod.begin(plugin)
                if answer["op"] == "decision":
                    pod.attach(answer)
                    answer = plugin.ask({"op": "cni-attached"})
        except (ConnectionError, OSError):
            answer = {"op": "closed"}
        failed = faults.failed()
        faults.stop()
        assert node.agent.alive(), node.agent.text()[-2000:]
        if answer["op"] == "done":
            whole += 1
            item = pod.item()
            assert item["state"] == "enrolled" and item["proxy"] == "serving", (k, item)
            assert pod.ask("cni-check")["op"] == "done", (k, pod.ask("cni-check"))
            assert pod.greeting() == "proxy inbound", k
        else:
            refused += 1
            assert answer["op"] == "closed" or answer.get("reason") not in (None, "", "none"), (k, answer)
            reasons.add(answer.get("reason"))
            wait_for(lambda: pod.item() is None, f"nothing to be known of the pod after {k}")
            assert pod.pins() == [], k
            wait_for(pod.untouched, f"its namespace to be as before after {k}")
        pod.ask("cni-del")
        if not failed:
            break
    print(f"{call}: {refused} refused ({reasons}), {whole} whole")
    assert names <= reasons, reasons
    assert not failed and whole, "the last ADD is one in which nothing fails"
    assert pod.add() == "enrol" and pod.greeting() == "proxy inbound"


# ---- agent without descriptors ----


def test_an_agent_without_descriptors_rests_and_says_so_now_and_then(node):
    node.start()
    kept = node.pod("kept")
    node.proxy().serve()
    kept.add()
    undo = limit_descriptors(node.agent.pid, 0)
    clients = []
    try:
        for _ in range(50):
            s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            s.settimeout(20)
            s.connect(f"{node.run_dir}/agent.sock")
            clients.append(s)
        size, before = os.path.getsize(node.agent.log), cpu_seconds(node.agent.pid)
        time.sleep(3)
        used, lines = cpu_seconds(node.agent.pid) - before, open(node.agent.log).read()[size:].splitlines()
        print(f"{used:.2f} s of processor time in 3 s, {len(lines)} lines")
        assert used < 0.5, "it spins"
        assert len(lines) <= 5, lines
        assert kept.greeting() == "proxy inbound", "what is in the kernel steers on"
    finally:
        undo()
    for s in clients:
        s.send(b'{"op":"status"}')
        assert s.recv(65536), "who waited is answered"
        s.close()
    wait_for(lambda: kept.item()["verified"], "the pod to be verified again")
    assert kept.item()["state"] == "enrolled" and sum(kept.item()["mends"].values()) == 0, kept.item()
    assert "out_of_resources" in node.agent.text() or "capture_unverified" in node.agent.text()
    other = node.pod("other")
    assert other.add() == "enrol"


def test_a_pod_is_not_taken_for_gone_because_nobody_can_look(node):
    """The agent does not see where the namespace is, and has no descriptor left to look for its processes."""
    node.start()
    pod = node.pod("web")
    pod.add()
    sleeper = node.python("import time; print('there', flush=True); time.sleep(60)", pod.netns)
    assert sleeper.stdout.readline().strip() == "there"
    try:
        run(["umount", "-l", pod.path])
        undo = limit_descriptors(node.agent.pid, 0)
        try:
            time.sleep(3)
        finally:
            undo()
        assert pod.item()["state"] == "enrolled"
    finally:
        run(["mount", "--bind", f"/proc/{sleeper.pid}/ns/net", pod.path])
        sleeper.kill()
        sleeper.wait()


@pytest.mark.parametrize("more", range(0, 30, 2))
def test_pods_added_while_the_agents_descriptors_run_out(node, more):
    """Enrolled and whole, or refused by name and nothing left."""
    node.start()
    node.proxy().serve()
    pods = [node.pod(f"web{i}") for i in range(4)]
    undo = limit_descriptors(node.agent.pid, more)
    added = []
    try:
        for pod in pods:
            with Plugin(node.run_dir) as plugin:
                plugin.socket.settimeout(2)
                try:
                    answer = pod.begin(plugin)
                    if answer["op"] == "decision":
                        pod.attach(answer)
                        answer = plugin.ask({"op": "cni-attached"})
                except OSError:
                    answer = {"op": "not accepted"}
                if answer["op"] == "done":
                    added.append(pod)
                elif answer["op"] == "error":
                    # Not by what could not be done for want of them, such as a namespace that cannot be used.
                    assert answer["reason"] == "out_of_resources", answer
    finally:
        undo()
    for pod in pods:
        if pod in added:
            wait_for(lambda p=pod: p.ask("cni-check")["op"] == "done", "it to be whole")
        else:
            wait_for(lambda p=pod: p.item() is None and p.add() == "enrol", "it to be added the next time")
        assert pod.greeting() == "proxy inbound"


# ---- proxy without descriptors ----


@pytest.fixture
def mesh():
    with Mesh(nodes=1, workers=2) as m:
        m.web, m.shop = m.pod("web"), m.pod("shop")
        m.start()
        m.shop.server(ECHO, "8080")
        wait_for(lambda: reaches(m.web, m.shop), "traffic")
        yield m


def reaches(source, target):
    return source.python(REACH, target.ip).split() == ["yes"]


def state(mesh, name):
    return [p for p in agent_client.ask(mesh.nodes[0].run_dir, "pods") if p["name"] == name]


@pytest.mark.parametrize("more", range(12))
def test_a_pod_added_while_the_proxys_descriptors_are_short(mesh, more):
    """Refused by name, and served once it can be; or served. Never taken for served and deaf."""
    node = mesh.nodes[0]
    late = mesh.pod("late")
    mesh.write()
    undo = limit_descriptors(node.proxy.pid, more)
    try:
        late.cni("ADD", check=False)
        found = state(mesh, "late")
        print(more, [(p["state"], p["proxy"], p["lastReason"]) for p in found])
        if found and found[0]["proxy"] == "failed":
            assert found[0]["lastReason"] == "out_of_resources"
    finally:
        undo()
    if not state(mesh, "late"):
        late.cni("ADD")
    wait_for(lambda: state(mesh, "late")[0]["proxy"] == "serving", "it to be served")
    late.enrolled = True
    wait_for(lambda: reaches(late, mesh.shop), "its connections", 30)
    late.server(ECHO, "8080")
    wait_for(lambda: reaches(mesh.web, late), "connections to it", 30)


def test_a_proxy_without_descriptors_rests_and_says_so_now_and_then(mesh):
    node = mesh.nodes[0]
    undo = limit_descriptors(node.proxy.pid, 0)
    clients = [mesh.web.popen("/usr/bin/python3", "-c", REACH, mesh.shop.ip) for _ in range(5)]
    try:
        size, before = os.path.getsize(node.proxy.log), cpu_seconds(node.proxy.pid)
        time.sleep(3)
        used = cpu_seconds(node.proxy.pid) - before
        lines = [
            line
            for line in open(node.proxy.log).read()[size:].splitlines()
            if "\taccess\t" not in line and ("\terror\t" in line or "\twarn\t" in line)
        ]
        print(f"{used:.2f} s of processor time in 3 s, {len(lines)} lines")
        assert used < 0.5, "it spins"
        assert len(lines) <= 6, lines
    finally:
        undo()
        for p in clients:
            p.popen.wait(20)
    wait_for(lambda: reaches(mesh.web, mesh.shop), "traffic again")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("epoll add", errno.ENOSPC),
        ("epoll modify", errno.ENOMEM),
        ("fcntl dup", errno.EMFILE),
        ("setns", errno.EPERM),
    ],
)
def test_each_step_of_the_proxy(call, error, tmp_path):
    """A pod is added, and connections are made to and from it, while a call of one kind fails, the first one,
    the second, and so on: afterwards all goes."""
    faults = Faults(os.environ["BRUMA_BUILD"], str(tmp_path / "faults"))
    with Mesh(nodes=1, workers=1, proxy_env=faults.env) as mesh:
        web, shop = mesh.pod("web"), mesh.pod("shop")
        mesh.start()
        shop.server(ECHO, "8080")
        wait_for(lambda: reaches(web, shop), "traffic")
        late = mesh.pod("late")
        late.outside = True
        mesh.write()
        for k in range(0, 24, 2 if call == "setns" else 1):
            faults.fail(call, error, skip=k, times=1)
            late.cni("ADD", check=False)
            web.python(REACH, shop.ip)
            failed = faults.failed()
            faults.stop()
            assert mesh.nodes[0].proxy.alive()
            if not state(mesh, "late"):
                late.cni("ADD")
            wait_for(lambda: state(mesh, "late")[0]["proxy"] == "serving", f"it to be served after {k}")
            wait_for(lambda: reaches(late, shop) and reaches(web, shop), f"connections after {k}", 30)
            late.cni("DEL")
            if not failed:
                break


def test_an_agent_whose_loop_cannot_go_on_ends_with_an_error(node):
    faults = Faults(node.work.build, node.work.path("faults"))
    start(node, faults)
    faults.fail("epoll wait", errno.EBADF)
    assert node.agent.wait() == 1
    assert "the agent cannot go on" in node.agent.text()


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("epoll wait", "the control thread cannot go on"),
        ("epoll wait of flows", "the reader of direct connections cannot go on"),
        ("epoll wait of a worker", "worker 0 cannot go on"),
    ],
)
def test_a_proxy_whose_loop_cannot_go_on_ends_with_an_error(tmp_path, what, line):
    """And does not count as one that was told to end: whoever starts it starts it again."""
    faults = Faults(os.environ["BRUMA_BUILD"], str(tmp_path / "faults"))
    with Mesh(nodes=1, workers=1, proxy_env=faults.env) as mesh:
        mesh.pod("web")
        mesh.start()
        proxy = mesh.nodes[0].proxy
        faults.fail(what, errno.EBADF)
        assert proxy.wait() == 1
        assert line in proxy.text()


def test_agents_that_come_and_go_leave_no_descriptors_with_the_proxy():
    with Mesh(nodes=1, workers=2) as mesh:
        web, shop = mesh.pod("web"), mesh.pod("shop")
        mesh.start()
        shop.server(ECHO, "8080")
        node = mesh.nodes[0]

        def maps():
            folder, found = f"/proc/{node.proxy.pid}/fd", 0
            for fd in os.listdir(folder):
                with contextlib.suppress(FileNotFoundError):  # of a connection that has just ended
                    found += os.readlink(f"{folder}/{fd}") == "anon_inode:bpf-map"
            return found

        wait_for(lambda: reaches(web, shop), "traffic")
        before = maps()
        assert before
        for _ in range(3):
            node.agent.kill()
            node.start_agent()
            wait_for(
                lambda: state(mesh, "web")[0]["proxy"] == state(mesh, "shop")[0]["proxy"] == "serving",
                "the proxy to be back",
            )
            assert reaches(web, shop)
        wait_for(lambda: maps() == before, "the maps that are not used any more to be closed")
