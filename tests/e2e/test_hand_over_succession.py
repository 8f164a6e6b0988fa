# SPDX-License-Identifier: Apache-2.0
"""Upgrades that come before the one before is done, and deadlines that are shorter than a hand-over: connections move all the
same, to the proxy that serves in the end."""

import os
import signal
import threading

import pytest

from support.nodes.direct import LONG
from support.nodes.hand_over import MIRROR, Talkers, next_proxy, serving, told
from support.system import wait_for
from support.xds.site import Site

DONE = "connections were handed over"


@pytest.fixture
def drain():
    """The deadline of those that are replaced."""
    return "0s"


@pytest.fixture
def site(drain):
    """Its node's proxies have certificates from a control plane, which may keep them waiting."""
    s = Site()
    s.mesh.agent_options = (*LONG, "--proxy-drain", drain)
    s.mesh.proxy_env["BRUMA_SAME_NODE"] = "relay"
    with s.mesh:
        s.start()
        s.shop.server(MIRROR, "8081")
        s.may_sign = threading.Event()
        s.may_sign.set()
        good = s.plane.good_certificate

        def answer(identity, csr):
            s.may_sign.wait(9)  # a call may take 10 seconds, and is made again then
            return good(identity, csr)

        s.plane.answer_certificate = answer
        yield s
        s.may_sign.set()


def talk(site):
    talkers = [Talkers(site.web, ip, port=8081) for ip in site.shop.ips]
    for t in talkers:
        t.goes_on()
    return talkers


def ended(node, process):
    wait_for(lambda: not process.alive(), "one that has been replaced to end", log=node.proxy_log)


def all_moved(node, at, count):
    """The last one has what the first one had. at: of its log, which all share."""
    text = node.proxy.text()[at:]
    moved = [told(line, DONE) for line in text.splitlines() if DONE in line]
    assert sum(m["moved"] for m in moved) == count and not any(m["left"] for m in moved), text[-3000:]


def took_over(node, at):
    return told(node.proxy.text()[at:], "connections were taken over")


def test_no_deadline_cuts_what_is_still_to_move(site):
    """The new one waits for its pods' certificates, and what it is given meanwhile to is late by --proxy-drain."""
    node, talkers, at = site.node, talk(site), len(site.node.proxy.text())
    site.may_sign.clear()
    old, _ = next_proxy(node)
    wait_for(lambda: "another proxy has taken over" in old.text()[at:], "the old one to hear of it")
    for t in talkers:
        t.goes_on()
    assert old.alive() and DONE not in old.text()[at:]
    site.may_sign.set()
    ended(node, old)
    all_moved(node, at, 36)
    for t in talkers:
        t.goes_on()
        t.end()


def test_the_next_but_one_waits_until_the_next_one_has_taken_over(site):
    node, talkers, at = site.node, talk(site), len(site.node.proxy.text())
    first = node.proxy
    site.may_sign.clear()
    next_proxy(node)
    next_proxy(node, wait=False)
    waits = f"proxy waits until another one has taken over\tpid={node.proxy.pid} "
    wait_for(lambda: waits in node.agent.text(), "the third one to wait", log=node.agent.log)
    assert not serving(node)
    site.may_sign.set()
    wait_for(lambda: serving(node), "it to serve then", log=node.agent.log)
    for process in node.proxies[-3:-1]:
        ended(node, process)
    assert first in node.proxies[-3:]
    all_moved(node, at, 72)  # twice
    for t in talkers:
        t.goes_on()
        t.end()


def test_three_new_ones_at_once(site):
    """Whichever is ready when: one is left. It need not be the last of them, which were born in the same moment."""
    node, talkers = site.node, talk(site)
    all_four = [node.proxy]
    for _ in range(3):
        next_proxy(node, wait=False)
        all_four.append(node.proxy)
    wait_for(lambda: sum(p.alive() for p in all_four) == 1, "one to be left", log=node.proxy_log)
    (node.proxy,) = [p for p in all_four if p.alive()]
    assert serving(node)
    for t in talkers:
        t.goes_on()
        t.end()


@pytest.mark.parametrize("drain", ["60s"])
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_what_one_has_not_taken_that_ends_goes_to_the_one_that_waits(site, sig):
    node, talkers, at = site.node, talk(site), len(site.node.proxy.text())
    first = node.proxy
    site.may_sign.clear()
    next_proxy(node)
    second = node.proxy
    next_proxy(node, wait=False)
    waits = f"pid={node.proxy.pid} other={second.pid}"
    wait_for(lambda: waits in node.agent.text(), "the third one to wait", log=node.agent.log)
    os.kill(second.pid, sig)
    wait_for(lambda: serving(node), "it to serve then", log=node.agent.log)
    site.may_sign.set()
    for process in (first, second):
        ended(node, process)
    assert took_over(node, at)["taken"] == 36
    for t in talkers:
        t.goes_on()
        t.end()
