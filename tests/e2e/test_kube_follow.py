# SPDX-License-Identifier: Apache-2.0
"""bruma-agent follows the Kubernetes API: lists, watches, tokens, whatever goes wrong with them; restarts and
uninstall."""

import concurrent.futures
import contextlib
import json
import os
import re
import time
import uuid

import pytest

from support import agent as agent_client
from support import cni
from support.kube.small import refused
from support.kube.world import AMBIENT
from support.system import Failed, run, wait_for

# ---- following the server ----


def follow_all(small, count=7):
    """Pods without a sandbox, outside the mesh: only what is known counts."""
    small.server.make_namespace("shop")
    for i in range(count):
        small.server.make_pod("shop", f"p{i}", "n1", [f"10.1.0.{i + 1}"])
    small.server.make_pod("shop", "elsewhere", "n2", ["10.1.1.1"])


def knows(small, pods):
    wait_for(
        lambda: small.status()["podsOfNode"] == pods, f"{pods} pods to be known", log=small.node.agent_log
    )


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


def test_bookmarks_keep_the_version_young(small):
    """On a quiet node of a busy cluster the version of the last object is one that the server forgets."""
    follow_all(small)
    small.start(proxy=False).ready()
    wait_for(lambda: small.server.watching("pods"), "the watch")
    for i in range(3):
        small.server.make_pod("shop", f"far{i}", "n2", [f"10.1.3.{i + 1}"])
    young = small.server.version
    wait_for(lambda: small.server.bookmarked.get("pods", 0) >= young, "a bookmark")
    before = len(small.server.asked("GET", "/api/v1/pods?"))
    small.server.cut()
    asked = wait_for(
        lambda: small.server.asked("GET", "/api/v1/pods?")[before:],
        "the next watch",
        log=small.node.agent_log,
    )
    assert "watch=1" in asked[0] and int(re.search(r"resourceVersion=(\d+)", asked[0])[1]) >= young
    knows(small, 7)


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
        wait_for(
            lambda: small.status()["watchPods"]["lists"] == lists, "a new list", log=small.node.agent_log
        )
        knows(small, 7 - lists + 1)


def test_410_as_status_of_the_watch(small):
    follow_all(small)
    small.server.faults["watch"] += [lambda h: h.status(410, "too old")] * 4
    small.start(proxy=False).ready()
    knows(small, 7)
    wait_for(lambda: small.server.watching("pods") and small.server.watching("namespaces"), "both watches")
    small.server.make_pod("shop", "more", "n1", ["10.1.2.1"])
    knows(small, 8)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"this is no JSON\n", "is not one JSON object"),
        (b"{}\n", "without a type"),
        (b'{"type":"ADDED"}\n', "without an object"),
        (b'{"type":"UPSERTED","object":{}}\n', "unknown type"),
        (b'{"type":"ERROR","object":{"code":500,"message":"etcd has no leader"}}\n', "etcd has no leader"),
        (b'{"type":"ADDED","object":{"metadata":' + b"[" * 2000 + b"\n", "is not one JSON object"),
        (b'"' + b"x" * (5 * 1024 * 1024), "a line of more than 4 MiB"),
    ],
    ids=["no-json", "no-type", "no-object", "unknown-type", "error", "deep", "long"],
)
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
    for o in (
        {"metadata": {"name": "../x", "namespace": "shop", "uid": "u"}},
        {"metadata": 7},
        {},
        {"metadata": {"name": "x", "namespace": "shop", "uid": "u"}, "status": {"podIPs": [{"ip": "ten"}]}},
    ):
        small.server.say("pods", json.dumps({"type": "ADDED", "object": o}).encode() + b"\n")
    small.server.make_pod("shop", "more", "n1", ["10.1.2.1"])
    knows(small, 8)
    assert small.log().count("a pod of the API server cannot be used") == 4
    assert small.status()["watchPods"]["lists"] == 1


def test_line_that_comes_byte_by_byte(small):
    small.server.make_namespace("shop")
    small.start(proxy=False).ready()
    wait_for(lambda: small.server.watching("pods"), "the watch")
    line = (
        json.dumps(
            {
                "type": "ADDED",
                "object": {
                    "metadata": {"name": "slow", "namespace": "shop", "uid": "u-1", "resourceVersion": "1000"}
                },
            }
        )
        + "\n"
    )
    for c in line.encode():
        small.server.say("pods", bytes([c]))
    knows(small, 1)


def test_quiet_watch_ends_and_goes_on(small):
    follow_all(small)
    small.server.faults["watch"].append(
        lambda h: (
            h.close_connection
            or h.send_response(200)
            or h.send_header("Content-Length", "0")
            or h.end_headers()
            or True
        )
    )
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
    with pytest.raises(cni.PluginFailed, match="the agent does not know the pod"):
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
    with pytest.raises(Failed, match="have not all been read"):
        small.node.add(pod)
    assert [p for p in small.status()["problems"] if p["reason"] == "agent_not_ready"]


def turns(small):
    """How often the agent's loop has gone to sleep."""
    with open(f"/proc/{small.node.agent.pid}/status", encoding="utf-8") as f:
        return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", f.read(), re.M).group(1))


def test_plugin_waits_for_the_server_to_tell_of_a_pod(small):
    small.server.make_namespace("shop", AMBIENT)
    small.start().ready()
    pod = small.node.create_pod("shop", "web", host=10, add=False)
    small.work.defer(small.node.delete_pod, pod)
    pod.uid = str(uuid.uuid4())
    with concurrent.futures.ThreadPoolExecutor() as pool:
        added = pool.submit(small.node.add, pod)
        time.sleep(0.5)
        before = turns(small)
        time.sleep(2)
        assert not added.done()
        assert turns(small) - before < 60, "the agent is called back, it does not look again and again"
        with small.server.condition:
            small.server.put(
                "pods",
                ("shop", "web"),
                "ADDED",
                {
                    "metadata": {"name": "web", "namespace": "shop", "uid": pod.uid},
                    "spec": {"nodeName": "n1"},
                },
            )
        added.result(20)
    assert small.state("shop/web") == "enrolled"


def test_tokens_rotate(small):
    follow_all(small)
    small.start(proxy=False).ready()
    wait_for(lambda: small.server.watching("pods"), "the watch")
    small.server.tokens = {"admin-of-the-test", "fresh-token"}
    small.server.cut()
    wait_for(
        lambda: "HTTP status 401" in small.log(), "the old token to be refused", log=small.node.agent_log
    )
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
    run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            "/dev/null",
            "-subj",
            "/CN=other",
            "-days",
            "1",
            "-out",
            other,
        ]
    )
    small.start(proxy=False, kube_ca=other)
    wait_for(
        lambda: "the API server cannot be watched" in small.log() and "certificate" in small.log(),
        "the refusal",
        log=small.node.agent_log,
    )
    assert not small.server.asked("GET", "/") and not small.status()["sourceReady"]


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


def asked_again(small):
    """The agent has been refused twice since now."""
    before = len(small.server.asked("GET", "/pods"))
    wait_for(lambda: len(small.server.asked("GET", "/pods")) >= before + 3, "it to ask again and again", 30)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_an_agent_whose_token_is_refused_lets_nobody_go(small, status):
    """While it runs, and after it has begun anew."""
    small.server.make_namespace("shop", AMBIENT)
    pod = small.sandbox("shop", "web", 10)
    small.write_cache(pod)
    small.start().ready()
    small.wait_state("shop/web", "enrolled")
    small.server.faults["list"] = refused(status) * 100
    small.server.faults["watch"] = refused(status) * 100
    small.server.cut()
    wait_for(
        lambda: f"status={status}" in small.log() or f" {status}" in small.log(),
        "the refusals",
        log=small.node.agent_log,
    )
    asked_again(small)
    assert small.state("shop/web") == "enrolled"
    small.node.agent.stop()
    small.node.start_agent(**small.settings)
    asked_again(small)
    assert small.state("shop/web") == "enrolled"
    small.server.faults.clear()
    small.ready()
    assert small.state("shop/web") == "enrolled"


def test_status_in_words(small):
    follow_all(small)
    small.start(proxy=False).ready()
    said = run(
        [f"{small.work.build}/ctl/brumactl", "--run-dir", small.node.run_dir, "status"], check=False
    ).stdout
    assert "https://127.0.0.1:6443, followed; " in said and "7 pods of this node" in said
    said = run(
        [f"{small.work.build}/ctl/brumactl", "--run-dir", small.node.run_dir, "doctor"], check=False
    ).stdout
    assert "kubernetes" in said and "watched" in said


def test_pods_that_come_and_go_leave_nothing(small):
    """Half of them by CNI, half found while they run; the API server is cut and forgets meanwhile."""
    small.server.make_namespace("shop", AMBIENT)
    small.start().ready()

    def left():
        kinds = [link.partition(":")[0] for link in links(small.node.agent.pid)]
        return {
            "descriptors": len(kinds) - kinds.count("socket"),
            "netns": kinds.count("net"),
            "pins": len(os.listdir(f"{small.node.pin_dir}/pods")),
            "records": len(os.listdir(f"{small.node.run_dir}/pods")),
        }, kinds.count("socket")

    def links(pid):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                yield os.readlink(f"/proc/{pid}/fd/{fd}")

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
        wait_for(
            lambda: not agent_client.pods(small.node.run_dir),
            "all pods to be forgotten",
            log=small.node.agent_log,
        )

    come_and_go(0)
    before, sockets = left()
    assert before["pins"] == before["records"] == before["netns"] == 0
    for turn in range(1, 3):
        come_and_go(turn)
    # Up to eight connections to the API server are kept. Each pod had four sockets.
    wait_for(
        lambda: left()[0] == before and left()[1] <= sockets + 8,
        f"what was left after the first turn: {before} and {sockets} sockets, now {left()}",
    )
