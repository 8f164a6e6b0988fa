# SPDX-License-Identifier: Apache-2.0
"""bruma-agent and proxies that come and go, by a proxy that is spoken by hand (support/nodes/odd_proxy.py): who serves,
who drains, who serves again."""

import json
import os
import signal
import time

import pytest

from support.nodes.agent_node import Plugin, breakage
from support.system import wait_for


def states(node):
    return {p["pid"]: p["state"] for p in node.status()["proxies"]}


def replaced(node):
    """An enrolled pod, and two proxies: the second has taken over from the first."""
    pod, first = node.pod("web"), node.proxy("first").serve()
    pod.add()
    second = node.proxy("second").serve()
    first.wait(event="message", op="drain")
    return pod, first, second


def test_the_younger_proxy_takes_over_and_the_older_drains(node):
    pod, first = node.pod("web"), node.proxy("first").serve()
    pod.add()
    second = node.proxy("second").serve()
    assert first.wait(event="message", op="drain")["deadlineMilliseconds"] == 30000
    assert states(node) == {first.pid: "replaced", second.pid: "serving"}
    first.kill()
    wait_for(lambda: len(node.status()["proxies"]) == 1, "the first to be gone")
    assert pod.greeting() == "second inbound"


def test_a_younger_proxy_is_given_what_the_older_one_brings_back_after_it(node):
    """Agent and proxy are replaced together: the new proxy is quicker at the new agent's socket than the old
    one. It is not told that it has heard of all pods, which would make it ready and be the end of the old
    one, before that has given back what it alone holds."""
    pod, first = node.pod("web"), node.proxy("first").serve()
    pod.add()
    node.agent.kill()
    first.wait(event="disconnected")
    node.start("--adopt-wait", "30s")
    second = node.proxy("second")
    second.do("connect")
    second.wait(event="message", op="setup")
    time.sleep(0.5)
    assert [m["op"] for m in second.seen(event="message")] == ["setup"]
    first.do("connect")
    second.wait(event="message", op="snapshot-end")
    assert [(m["op"], m.get("uid")) for m in second.seen(event="message")][1:] == [
        ("pod-add", pod.uid),
        ("snapshot-end", None),
    ]
    first.wait(event="message", op="drain")
    first.kill()
    assert pod.greeting() == "second inbound"
    assert "listener_closed" not in pod.item()["mends"]


def test_a_proxy_does_not_wait_for_ever_for_one_that_does_not_come(node):
    """What holds the pod's listeners is stuck, say: it neither connects nor dies."""
    pod, first = node.pod("web"), node.proxy("first").serve()
    pod.add()
    node.agent.kill()
    first.wait(event="disconnected")
    node.start()
    second = node.proxy("second").serve()
    assert second.wait(event="message", op="pod-add")["uid"] == pod.uid
    assert pod.greeting() == "second inbound"
    assert pod.item()["mends"]["listener_closed"] == 1


def test_a_replaced_proxy_that_connects_again_does_not_take_over(node):
    _pod, first, second = replaced(node)
    node.agent.kill()
    second.wait(event="disconnected")
    first.wait(event="disconnected")
    node.start()
    second.forget()
    first.forget()
    second.do("connect")
    second.wait(event="message", op="snapshot-end")
    first.do("connect")
    first.wait(event="message", op="snapshot-end")
    assert first.seen(event="message", op="pod-keep") and not first.seen(event="message", op="pod-add")
    assert states(node) == {first.pid: "replaced", second.pid: "serving"}
    assert not second.seen(event="message", op="drain")


@pytest.mark.parametrize("how", ["killed", "told to end"])
def test_a_replaced_proxy_serves_again_when_its_successor_is_gone(node, how):
    pod, first, second = replaced(node)
    later = node.pod("late")  # which the first has never heard of
    later.add()
    assert (pod.greeting(), later.greeting()) == ("second inbound",) * 2
    if how == "killed":
        second.kill()
    else:
        second.do("terminate")  # it lives on, for its connections
    wait_for(
        lambda: first.seen(event="message", op="pod-add", uid=later.uid),
        "the first to hear of the pods again",
    )
    assert [m["op"] for m in first.seen(event="message")].count("resume") == 1
    assert states(node) == {first.pid: "serving", **({} if how == "killed" else {second.pid: "ending"})}
    assert (pod.greeting(), later.greeting()) == ("first inbound",) * 2
    assert pod.item()["proxy"] == later.item()["proxy"] == "serving"
    third = node.proxy("third").serve()
    wait_for(lambda: len(first.seen(event="message", op="drain")) == 2, "the first to be replaced again")
    assert states(node)[third.pid] == "serving"


def test_a_proxy_that_knows_nothing_of_the_mesh_takes_nothing_over(node):
    """A roll-out with a control plane that does not answer: the proxy of before serves on, and again if it
    had been replaced."""
    pod, first = node.pod("web"), node.proxy("first").serve()
    pod.add()
    second = node.proxy("second")
    second.do("set", ready=False, accepting=False)
    second.serve()
    wait_for(lambda: states(node) == {first.pid: "serving", second.pid: "not_ready"}, "the second to wait")
    assert pod.greeting() == "first inbound" and not first.seen(event="message", op="drain")
    third = node.proxy("third").serve()
    wait_for(
        lambda: states(node) == {first.pid: "replaced", second.pid: "replaced", third.pid: "serving"},
        "the third to take over",
    )
    third.kill()
    wait_for(
        lambda: states(node) == {first.pid: "serving", second.pid: "replaced"},
        "the first, and not the second, to serve again",
    )
    assert pod.greeting() == "first inbound"


def test_a_proxy_takes_over_when_it_knows_the_mesh(node):
    pod, first = node.pod("web"), node.proxy("first").serve()
    pod.add()
    second = node.proxy("second")
    second.do("set", ready=False)
    second.serve()
    later = node.pod("late")
    later.add()
    wait_for(
        lambda: second.seen(event="message", op="pod-add", uid=later.uid),
        "the second to hear of new pods, too",
    )
    second.do("get-ready")
    first.wait(event="message", op="drain")
    assert states(node) == {first.pid: "replaced", second.pid: "serving"}
    assert (pod.greeting(), later.greeting()) == ("second inbound",) * 2


def test_the_youngest_of_the_replaced_that_can_serves_again(node):
    """One that ends is not asked, and one of a version that does not know how refuses."""
    pod, first = node.pod("web"), node.proxy("first").serve()
    pod.add()
    others = [node.proxy(tag) for tag in ("second", "third", "fourth")]
    for proxy in others:
        proxy.serve()
        wait_for(lambda proxy=proxy: states(node)[proxy.pid] == "serving", "it to take over")
    second, third, fourth = others
    second.do("set", resumes=False)
    third.do("terminate")
    fourth.kill()
    wait_for(
        lambda: states(node) == {first.pid: "serving", second.pid: "replaced", third.pid: "ending"},
        "the first to serve",
    )
    assert second.seen(event="message", op="resume") and not third.seen(event="message", op="resume")
    assert pod.greeting() == "first inbound"


def test_a_new_agent_finds_none_but_a_replaced_proxy(node):
    pod, first, second = replaced(node)
    node.agent.kill()
    first.wait(event="disconnected")
    second.kill()
    node.start()
    first.forget()
    first.do("connect")
    first.wait(event="message", op="resume")
    wait_for(lambda: states(node) == {first.pid: "serving"}, "it to serve again")
    assert pod.greeting() == "first inbound"


def test_a_replaced_proxy_that_finds_a_new_agent_first_waits_for_its_successor(node):
    pod, first, second = replaced(node)
    node.agent.kill()
    for proxy in (first, second):
        proxy.wait(event="disconnected")
        proxy.forget()
    node.start()
    first.do("connect")
    first.wait(event="message", op="snapshot-end")
    second.serve()
    wait_for(lambda: states(node) == {first.pid: "replaced", second.pid: "serving"}, "the second to serve")
    node.wait_rounds(8)  # longer than a replaced one waits, which is 2 s
    assert not first.seen(event="message", op="resume") and not second.seen(event="message", op="drain")
    assert pod.greeting() == "second inbound"


def test_a_successor_comes_while_the_replaced_proxy_is_just_told_to_resume(node):
    pod, first, second = replaced(node)
    os.kill(first.pid, signal.SIGSTOP)
    second.kill()
    wait_for(lambda: "asked to serve again" in node.agent.text(), "the first to be told")
    third = node.proxy("third").serve()
    wait_for(lambda: states(node)[third.pid] == "serving", "the third to serve")
    os.kill(first.pid, signal.SIGCONT)
    wait_for(lambda: len(first.seen(event="message", op="drain")) == 2, "the first to drain again")
    assert states(node) == {first.pid: "replaced", third.pid: "serving"}
    assert pod.greeting() == "third inbound"
    third.kill()
    wait_for(lambda: states(node) == {first.pid: "serving"}, "the first to serve again")
    assert pod.greeting() == "first inbound"


def test_a_proxy_that_resumes_hears_what_has_become_of_its_pods(node):
    """One was deleted, one left and came back, one has new listeners."""
    gone, back, repaired = pods = [node.pod(name) for name in ("gone", "back", "repaired")]
    first = node.proxy("first").serve()
    for pod in pods:
        pod.add()
    second = node.proxy("second").serve()
    first.wait(event="message", op="drain")
    gone.ask("cni-del")
    node.label(False)
    for pod in (back, repaired):
        pod.wait_state("outside")
    node.label(True)
    for pod in (back, repaired):
        pod.wait_state("enrolled")
    breakage(node, repaired, "listener_closed")
    wait_for(lambda: repaired.item()["mends"].get("listener_closed"), "new listeners")
    first.forget()
    second.kill()
    for pod in (back, repaired):
        wait_for(lambda pod=pod: pod.item()["proxy"] == "serving", "the first to serve the pod")
        assert (pod.greeting(), pod.greeting(15008), pod.dials_out()) == (
            "first inbound",
            "first hbone",
            "first outbound",
        )
    assert {m["uid"] for m in first.seen(event="message", op="pod-add")} == {back.uid, repaired.uid}


def test_a_pod_drains_on_when_a_replaced_proxy_resumes(node):
    pod, first, second = replaced(node)
    for proxy in (first, second):
        proxy.do("set", report_drained=False)
    node.label(False)
    pod.wait_state("draining")
    second.kill()
    wait_for(lambda: states(node) == {first.pid: "serving"}, "the first to serve again")
    node.wait_rounds(5)  # longer than a proxy that went is waited for
    assert pod.item()["state"] == "draining" and not pod.untouched(), "the first has a connection of it"
    first.do("drained", uid=pod.uid)
    pod.wait_state("outside")
    assert pod.untouched()


def test_a_proxy_that_ends_does_not_take_over_from_a_new_agent(node):
    pod, first = node.pod("web"), node.proxy("first").serve()
    pod.add()
    first.do("terminate")
    wait_for(lambda: states(node) == {first.pid: "ending"}, "it to end")
    assert pod.item()["proxy"] == "not_connected"
    node.agent.kill()
    first.wait(event="disconnected")
    node.start()
    first.forget()
    first.do("connect")
    first.wait(event="message", op="snapshot-end")
    assert states(node) == {first.pid: "ending"}
    client = pod.client()
    node.wait_rounds(8)
    assert not first.seen(event="message", op="resume")
    node.proxy("second").serve()
    assert client.communicate(timeout=60)[0].strip() == "second inbound", "the client has waited"


def test_listeners_of_another_namespace_are_not_adopted(node):
    pod, proxy = node.pod("web"), node.proxy().serve()
    pod.add()
    node.agent.kill()
    proxy.wait(event="disconnected")
    node.start()
    proxy.do("connect", lie="listener")
    wait_for(lambda: "not the pod's" in node.agent.text(), "the lie to be reported")
    wait_for(
        lambda: pod.item()["mends"].get("listener_closed") or pod.item()["proxy"] == "serving",
        "the pod to be served with listeners of its own",
    )
    assert wait_for(pod.greeting, "an answer") == "proxy inbound"


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"op":"ack"}',
        '{"op":"ack","seq":99999}',
        '{"op":"ack","seq":"x"}',
        '{"op":"proxy-hello"}',
        '{"op":"held-end"}',
        '{"op":"pod-held","uid":"x"}',
        '{"op":"pod-drained"}',
        '{"op":"listener-closed"}',
        '{"op":"nonsense"}',
    ],
)
def test_a_proxy_that_breaks_the_protocol_is_disconnected(node, text):
    pod, proxy = node.pod("web"), node.proxy().serve()
    pod.add()
    proxy.do("raw", text=text)
    assert proxy.wait(event="message", op="error")["reason"] == "message_invalid"
    proxy.wait(event="disconnected")
    assert pod.item()["state"] == "enrolled"
    proxy.do("connect")
    wait_for(lambda: pod.item()["proxy"] == "serving", "the proxy to be taken back")
    assert pod.greeting() == "proxy inbound"


@pytest.mark.parametrize("op", ["ready", "ending"])
def test_who_has_not_introduced_itself_is_neither_ready_nor_ending(node, op):
    pod, first = node.pod("web"), node.proxy("first").serve()
    pod.add()
    second = node.proxy("second")
    second.do("connect", hello=False)
    second.do("raw", text='{"op":"proxy-hello","pid":1,"version":"x"}')
    second.do("raw", text=f'{{"op":"{op}"}}')
    assert second.wait(event="message", op="error")["reason"] == "message_invalid"
    second.wait(event="disconnected")
    assert states(node) == {first.pid: "serving"}


@pytest.mark.parametrize(
    "told", ["{}", "7", '{"moved":-1,"left":0,"milliseconds":0,"pauseMicroseconds":0,"why":""}']
)
def test_who_introduces_itself_by_nonsense_is_disconnected(node, told):
    first, second = node.proxy("first").serve(), node.proxy("second")
    second.do("connect", hello=False)
    second.do("raw", text=f'{{"op":"proxy-hello","pid":1,"version":"x","handedOver":{told}}}')
    assert second.wait(event="message", op="error")["reason"] == "message_invalid"
    second.wait(event="disconnected")
    assert states(node) == {first.pid: "serving"}


def test_a_proxy_that_never_finishes_its_introduction_keeps_no_other_from_serving(node):
    pod, first = node.pod("web"), node.proxy("first").serve()
    pod.add()
    second, third = node.proxy("second").serve(), node.proxy("third")
    first.wait(event="message", op="drain")
    third.do("connect", hello=False)
    third.do("raw", text=json.dumps({"op": "proxy-hello", "pid": third.pid, "version": "silent"}))
    wait_for(lambda: third.pid in states(node), "the third to be known")
    second.kill()
    third.wait(event="disconnected")
    wait_for(lambda: states(node) == {first.pid: "serving"}, "the first to serve again")
    assert pod.greeting() == "first inbound"


@pytest.mark.parametrize("how", ["killed", "told to end"])
def test_a_pod_does_not_wait_for_the_answer_of_a_proxy_that_goes(node, how):
    proxy, pod = node.proxy().serve(), node.pod("web")
    wait_for(lambda: node.status()["proxyConnected"], "the proxy to serve")
    proxy.do("set", mute=True)
    with Plugin(node.run_dir) as plugin:
        pod.attach(pod.begin(plugin))
        proxy.wait(event="message", op="pod-add")
        proxy.kill() if how == "killed" else proxy.do("terminate")
        assert plugin.ask({"op": "cni-attached"})["op"] == "done"
    assert "did not answer" not in node.agent.text(), "it was waited for"


def test_a_silent_proxy_does_not_keep_pods_from_starting(node):
    proxy = node.proxy().serve()
    wait_for(lambda: node.status()["proxyConnected"], "the proxy to serve")
    proxy.do("set", mute=True)
    pod = node.pod("web")
    assert pod.add() == "enrol"
    proxy.wait(event="disconnected", timeout=40)
