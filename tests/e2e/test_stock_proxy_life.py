# SPDX-License-Identifier: Apache-2.0
"""Stock node proxies that come and go under Bruma's steering, and pods that do, and agents."""

import json
import os
import signal
import time

from support import agent
from support.nodes.mesh import Mesh
from support.proxies.stock_world import LONG, PORT, SERVER, STREAM, Stock, ask, stock_mesh
from support.system import sh, wait_for

# ---- proxies come and go ----


def test_killed_it_fails_closed_and_comes_back():
    with stock_mesh() as (m, stock):
        stock.all[0][0].kill()
        wait_for(lambda: not stock.proxies(), "the agent to notice")
        wait_for(lambda: stock.exempt() == [], "its cgroup to be taken out")
        server = m.shop.processes[0]
        got = server.text().count("GOT")
        assert ask(m.shop, m.web.ip)[0] in ("ConnectionRefusedError", "ConnectionResetError")
        assert ask(m.web, m.shop.ip)[0] == "TimeoutError"
        assert ask(m.web, m.shop.ip6)[0] == "TimeoutError"
        assert server.text().count("GOT") == got  # nothing went past the mesh
        pod = wait_for(lambda: (p := stock.pod(m.web))["lastReason"] == "proxy_away" and p, "the reason")
        # nobody has broken the capture, and nothing of it was repaired
        assert pod["state"] == "enrolled" and pod["proxy"] == "not_connected" and not pod["mends"]
        assert "proxy_away" in stock.node.ctl("explain", "demo/web", check=False).stdout
        assert m.web.cni("CHECK").returncode == 0
        waiting = m.web.popen("/usr/bin/python3", "-u", "-c", LONG, m.shop.ip, str(PORT))
        time.sleep(0.5)
        stock.start()
        wait_for(lambda: stock.pod(m.web)["lastReason"] == "none", "the reason to go")
        assert ask(m.shop, m.web.ip)[0] == m.shop.ip and ask(m.web, m.shop.ip)[0] == m.web.ip
        wait_for(lambda: "WORD" in waiting.text(), "a connection that began meanwhile")
        assert not stock.pod(m.web)["mends"]


def test_upgrade_loses_nothing():
    with stock_mesh() as (m, stock):
        old = stock.all[0][0]
        streams = [
            m.shop.popen("/usr/bin/python3", "-u", "-c", STREAM, m.web.ip, str(PORT)),
            m.web.popen("/usr/bin/python3", "-u", "-c", STREAM, m.shop.ip6, str(PORT)),
        ]
        long = m.shop.popen("/usr/bin/python3", "-u", "-c", LONG, m.web.ip, str(PORT))
        wait_for(lambda: "WORD 1" in long.text(), "the long connection")
        for _ in range(2):
            new = stock.start()
            old.popen.send_signal(signal.SIGTERM)
            n = len(old.text())
            wait_for(
                lambda p=new: " ".join((m.shop.ip, m.web.ip, str(PORT))) in p.text(),
                "the new one to carry connections",
            )
            words = long.text().count("WORD")
            wait_for(lambda w=words: long.text().count("WORD") > w + 3, "the long connection to go on")
            if old is not stock.all[0][0]:
                wait_for(lambda o=old: not o.alive(), "the old one to end")
            assert "OUT" not in old.text()[n + 200 :]
            old = new
        long.kill()
        wait_for(lambda: not stock.all[0][0].alive(), "the first one to end once nothing is left")
        wait_for(lambda: stock.exempt() == [old.pid], "the cgroups of those that ended to be taken out")
        for s in streams:
            assert s.stop() == 0
            assert "FAILED" not in s.text() and "DONE" in s.text(), s.text()


def test_the_youngest_serves_and_the_older_one_again_when_it_dies():
    with stock_mesh() as (m, stock):
        old = stock.all[0][0]
        new = stock.start()
        assert ask(m.shop, m.web.ip)[0] == m.shop.ip and f"IN {m.shop.ip} {m.web.ip}" in new.text()
        late = m.pod("late")
        m.write()
        time.sleep(0.5)
        late.cni("ADD")
        late.server(SERVER, str(PORT))
        new.kill()
        stock.wait_serving(old)
        assert ask(m.shop, m.web.ip)[0] == m.shop.ip and f"IN {m.shop.ip} {m.web.ip}" in old.text()
        # it knows the pod that was added meanwhile, too
        assert ask(m.shop, late.ip)[0] == m.shop.ip and f"IN {m.shop.ip} {late.ip}" in old.text()
        late.cni("DEL")
        wait_for(lambda: "DEL uid-late" in old.text(), "the pod to be deleted")


def test_the_agent_restarts():
    with stock_mesh() as (m, stock):
        p = stock.all[0][0]
        streams = [
            m.shop.popen("/usr/bin/python3", "-u", "-c", STREAM, m.web.ip, str(PORT)),
            m.web.popen("/usr/bin/python3", "-u", "-c", STREAM, m.shop.ip, str(PORT)),
        ]
        for s in streams:
            wait_for(lambda s=s: "READY" in s.text(), "the stream")
        stock.node.agent.kill()
        time.sleep(0.5)
        assert ask(m.web, m.shop.ip)[0] == m.web.ip  # what is pinned steers on, and exempts
        stock.start_agent()
        stock.wait_serving(p)
        for pod in (m.web, m.other):
            wait_for(lambda q=pod: stock.pod(q)["proxy"] == "serving", "the pod to be served")
        # gone while the agent was away: what it had exempted is forgotten
        stock.node.agent.stop()
        stock.spawn(["sleep", "60"])
        inode = os.stat(stock.all[1][1]).st_ino
        sh(
            "bpftool",
            "map",
            "update",
            "pinned",
            f"{stock.node.pin_dir}/maps/proxy_cgroups",
            "key",
            *[f"0x{b:02x}" for b in inode.to_bytes(8, "little")],
            "value",
            "1",
            "0",
            "0",
            "0",
        )
        assert len(stock.exempt()) == 2
        stock.start_agent()
        stock.wait_serving(p)
        assert stock.exempt() == [p.pid]
        for s in streams:
            assert s.stop() == 0
            assert "FAILED" not in s.text(), s.text()


def test_listeners_that_somebody_destroys():
    with stock_mesh() as (m, stock):
        sh("ip", "netns", "exec", m.web.netns, "ss", "-K", "-tl", "sport", "=", ":15006")
        wait_for(lambda: stock.pod(m.web)["mends"].get("listener_closed"), "the agent to find it")
        wait_for(lambda: ask(m.shop, m.web.ip)[0] == m.shop.ip, "the listener to be back")


# ---- many ----


def descriptors(p):
    return len(os.listdir(f"/proc/{p.pid}/fd"))


def test_pods_that_come_and_go_leave_nothing():
    with stock_mesh() as (m, stock):
        p, ours = stock.all[0][0], stock.node.agent
        before = None
        for turn in range(4):
            pods = [m.pod(f"t{turn}p{i}") for i in range(8)]  # the same addresses each turn
            m.write()
            # Else they begin as "default", and a stock proxy is told of them anew as soon as their account is
            # known.
            wait_for(
                lambda: agent.ask(stock.node.run_dir, "status")[0]["workloads"] == 2 + len(pods),
                "the agent to know of them",
            )
            for pod in pods:
                wait_for(lambda pod=pod: pod.cni("ADD", check=False).returncode == 0, "the pod to be added")
                pod.server(SERVER, str(PORT))
                assert ask(pods[0], pod.ip)[0] == pods[0].ip
            for i, pod in enumerate(pods):
                if i % 2:  # the namespace goes, and nobody says so
                    pod.enrolled = False
                else:
                    pod.cni("DEL")
                pod.remove()
            m.nodes[0].addresses -= len(pods)
            m.write()
            wait_for(
                lambda: agent.ask(stock.node.run_dir, "status")[0]["workloads"] == 2,
                "the agent to know that they went",
            )
            wait_for(lambda: len(agent.ask(stock.node.run_dir, "pods")) == 2, "the agent to forget them")
            for pod in pods:
                # What goes while it is being told of anew is let go a second time.
                wait_for(
                    lambda pod=pod: p.text().rfind(f"DEL {pod.uid}") > p.text().rfind(f"ADD {pod.uid}"),
                    "all to be let go",
                )
            if before is None:
                before = wait_for(
                    lambda: (
                        (n := (descriptors(ours), descriptors(p)))
                        and (time.sleep(0.5) or n == (descriptors(ours), descriptors(p)))
                        and n
                    ),
                    "both to be at rest",
                )
        wait_for(
            lambda: descriptors(ours) <= before[0] and descriptors(p) <= before[1],
            "no descriptor to be left",
        )
        assert (
            len(json.loads(sh("bpftool", "-j", "map", "dump", "pinned", f"{stock.node.pin_dir}/maps/pods")))
            == 2
        )
        assert len(os.listdir(f"{stock.node.pin_dir}/pods")) == 2


def test_a_hundred_pods_in_the_snapshot():
    """They are told of one after the other; those that have been told of are served meanwhile."""
    with Mesh(nodes=1) as m:
        pods = [m.pod(f"p{i}") for i in range(100)]
        m.write()
        with Stock(m) as stock:
            stock.start_agent()
            p = stock.start()
            for pod in pods:
                pod.cni("ADD")
            p.kill()
            wait_for(lambda: not stock.proxies(), "the agent to notice")
            begin = time.monotonic()
            p = stock.start()
            took = time.monotonic() - begin
            assert p.text().count("ADD") == 100 and "SNAPSHOT 100" in p.text()
            assert all(o["proxy"] == "serving" for o in agent.ask(stock.node.run_dir, "pods"))
            print(f"100 pods in {took:.2f} s, with the proxy's start")


# ---- from one kind to the other ----


def test_from_our_proxy_to_a_stock_one_and_back():
    with stock_mesh(proxy=False) as (m, stock):
        stock.node.agent.stop()
        stock.node.start_agent()
        stock.node.start_proxy()
        for pod in (m.web, m.other):
            pod.cni("ADD")
        assert ask(m.web, m.shop.ip)[0] == m.web.ip
        streams = [
            m.shop.popen("/usr/bin/python3", "-u", "-c", STREAM, m.web.ip, str(PORT)),
            m.web.popen("/usr/bin/python3", "-u", "-c", STREAM, m.shop.ip, str(PORT)),
        ]
        for s in streams:
            wait_for(lambda s=s: "READY" in s.text(), "the stream")
        stock.node.agent.stop()
        stock.start_agent()
        p = stock.start()
        wait_for(lambda: stock.pod(m.web)["proxy"] == "serving", "the stock proxy to serve")
        wait_for(
            lambda: f"IN {m.shop.ip} {m.web.ip}" in p.text() and f"OUT {m.web.ip} {m.shop.ip}" in p.text(),
            "its work",
        )
        time.sleep(0.5)
        stock.node.proxy.stop()
        time.sleep(0.5)
        stock.node.agent.stop()
        stock.node.start_agent()
        stock.node.start_proxy()
        wait_for(lambda: stock.pod(m.web)["proxy"] == "serving", "our proxy to serve")
        p.stop()
        for s in streams:
            assert s.stop() == 0
            assert "FAILED" not in s.text(), s.text()
