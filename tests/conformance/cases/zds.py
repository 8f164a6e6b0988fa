# SPDX-License-Identifier: Apache-2.0
"""The workload discovery socket: what a CNI agent says, and what the proxy answers."""

import contextlib
import os
import select
import socket
import time

from conformance.registry import case, expect, expect_that
from conformance.site import PATIENCE, read
from support.network import inside
from support.protobuf import text
from support.proxies.at_rest import listening
from support.proxies.zds import SNAPSHOT_SENT, Refused, add_message, keep_message
from support.system import wait_for

SERVED = [15001, 15006, 15008]
RETRY = 7  # seconds until what was refused has been tried again


def late(site):
    """A pod that nobody has told of yet."""
    name = f"late{len(site.mesh.pods)}"
    return site.mesh.pod(name)


def ready_status(site):
    return site.node.http(15021, "/healthz/ready")[0]


@case("Z-1")
def it_says_hello(site):
    """The proxy connects to the agent's socket and says hello with version 1 first"""
    site.link.close()
    site.link = site.agent.accept()  # which is where the hello is looked at
    for pod in site.enrolled:
        site.link.keep(pod.uid)
    site.link.snapshot_sent()


@case("Z-2")
def a_pod_is_served(site):
    """An added pod has its three listeners when the answer comes"""
    pod = late(site)
    try:
        site.link.add(pod)
        expect("ports that listen in the pod", listening(pod), SERVED)
    finally:
        site.link.delete(pod.uid)
        pod.remove()


@case("Z-3")
def the_same_add_twice(site):
    """The same pod in the same namespace, added again, is answered well and changes nothing"""
    with site.tunnel() as c:
        sid = c.connect(f"{site.shop.ip}:8080")
        expect("status", c.status(sid), 200)
        site.link.add(site.shop)
        site.link.add(site.shop)
        expect("ports that listen in the pod", listening(site.shop), SERVED)
        c.send(sid, b"still there", end=True)
        expect_that(c.pump(lambda: c.ended(sid)), "the open connection has not survived")
        expect("what came back", c.received(sid), b"still there")


@case("Z-4")
def what_the_snapshot_does_not_name(site):
    """A pod that the snapshot does not name is not served any more, and is served until its end"""
    site.link.close()
    site.link = site.agent.accept()
    site.link.add(site.web)
    expect("before the end of the snapshot", listening(site.shop), SERVED)
    site.link.snapshot_sent()
    wait_for(lambda: listening(site.shop) == [], "the listeners of the pod to be gone", PATIENCE)
    expect("those of the pod that was named", listening(site.web), SERVED)
    site.link.add(site.shop)
    expect("added again", listening(site.shop), SERVED)


@case("Z-5")
def ready_after_the_snapshot(site):
    """Readiness is 500 until the snapshot of this connection is complete, then 200"""
    site.link.close()
    site.link = site.agent.accept()
    for pod in site.enrolled:
        site.link.add(pod)
    expect("before the end of the snapshot", ready_status(site), 500)
    site.link.snapshot_sent()
    wait_for(lambda: ready_status(site) == 200, "readiness after the snapshot", PATIENCE)


@case("Z-6")
def keep_needs_no_namespace(site):
    """A pod that is kept is served as before, without a descriptor"""
    with site.tunnel() as c:
        sid = c.connect(f"{site.shop.ip}:8080")
        expect("status", c.status(sid), 200)
        site.link.close()
        site.link = site.agent.accept()
        for pod in site.enrolled:
            site.link.keep(pod.uid)
        site.link.snapshot_sent()
        c.send(sid, b"kept", end=True)
        expect_that(c.pump(lambda: c.ended(sid)), "the open connection has not survived")
    expect("ports that listen in the pod", listening(site.shop), SERVED)


@case("Z-7")
def del_ends_a_pod(site):
    """A deleted pod has no listener any more, and its open connections end"""
    with site.tunnel() as c:
        sid = c.connect(f"{site.shop.ip}:8080")
        expect("status", c.status(sid), 200)
        site.link.delete(site.shop.uid)
        try:
            expect_that(
                c.pump(lambda: c.closed or c.reset_code(sid) is not None, PATIENCE), "the tunnel lives on"
            )
            wait_for(lambda: listening(site.shop) == [], "the listeners to be gone", PATIENCE)
        finally:
            site.link.add(site.shop)


@case("Z-8")
def del_of_nobody(site):
    """The removal of a pod that is not known is answered well"""
    site.link.delete("uid-of-nobody")
    expect("ports that listen in another pod", listening(site.shop), SERVED)


def occupied(pod):
    """A socket that has the HBONE port, as of a program that does not share it."""
    with inside(pod.netns):
        s = socket.socket(socket.AF_INET6)
    s.bind(("::", 15008))
    s.listen(1)
    return s


@case("Z-9")
def an_add_that_cannot_be_served(site):
    """An add that cannot be served is refused with a text, the connection stays, and it is tried again within seconds"""
    pod = late(site)
    try:
        with occupied(pod):
            try:
                site.link.add(pod)
                raise AssertionError("it was answered well")
            except Refused as e:
                expect_that(0 < len(str(e)) < 1024, f"a text of {len(str(e))} bytes")
            site.link.add(site.web)
        wait_for(lambda: listening(pod) == SERVED, "the pod to be served when its port is free", RETRY)
    finally:
        site.link.delete(pod.uid)
        pod.remove()


@case("Z-10")
def not_ready_while_a_pod_waits(site):
    """The proxy is not ready while a pod cannot be served"""
    pod = late(site)
    try:
        with occupied(pod):
            with contextlib.suppress(Refused):
                site.link.add(pod)
            expect("readiness", ready_status(site), 500)
    finally:
        site.link.delete(pod.uid)
        wait_for(lambda: ready_status(site) == 200, "readiness without the pod", RETRY)
        pod.remove()


def comes_back(site):
    """The proxy has hung up, and connects again."""
    expect_that(site.link.ended(PATIENCE), "the connection is still open")
    site.introduce()


@case("Z-11")
def an_add_without_a_descriptor(site):
    """An add without a descriptor is refused, and the proxy begins anew"""
    site.link.send(add_message(site.web.uid, site.web.name, "demo", "web"))
    expect_that(site.link.answer() is not None, "it was answered well")
    comes_back(site)


@case("Z-11")
def an_add_with_two_descriptors(site):
    """An add with two descriptors is refused, and the proxy begins anew"""
    fds = [os.open(f"/run/netns/{site.web.netns}", os.O_RDONLY) for _ in range(2)]
    try:
        site.link.send(add_message(site.web.uid, site.web.name, "demo", "web"), fds)
    finally:
        for fd in fds:
            os.close(fd)
    expect_that(site.link.answer() is not None, "it was answered well")
    comes_back(site)


@case("Z-11")
def garbage(site):
    """What cannot be decoded ends the connection, and the proxy begins anew"""
    site.link.send(b"\xff\xff\xff garbage")
    data = site.link.sock.recv(1024)  # a refusal, or the end at once
    if data:
        expect_that(data != b"\x0a\x00", "it was answered well")
        comes_back(site)
    else:
        site.introduce()


def is_the_end(site, message, fds=()):
    site.link.send(message, fds)
    expect_that(site.link.answer() is not None, "it was answered well")
    expect("status of the process", site.node.proxy.wait(PATIENCE), 1)


@case("Z-12")
def keep_after_the_snapshot(site):
    """A keep after the snapshot is refused and ends the process with status 1"""
    is_the_end(site, keep_message(site.web.uid))


@case("Z-12")
def a_second_snapshot(site):
    """A second snapshot is refused and ends the process with status 1"""
    is_the_end(site, SNAPSHOT_SENT)


@case("Z-12")
def an_add_without_its_workload(site):
    """An add without its workload is refused and ends the process with status 1"""
    fd = os.open(f"/run/netns/{site.web.netns}", os.O_RDONLY)
    try:
        is_the_end(site, text(1, text(1, "uid-x")), [fd])
    finally:
        os.close(fd)


@case("Z-13")
def the_agent_goes_away(site):
    """Without an agent the proxy is not ready, serves whom it knows, and connects again by itself"""
    site.agent.close()
    wait_for(lambda: ready_status(site) == 500, "the proxy to say so", PATIENCE)
    expect("traffic meanwhile", site.status(), 200)
    expect("from the pod meanwhile", site.ask(site.web, site.outside.ip), "hello")
    site.agent.listen()
    site.introduce()


@case("Z-14")
def nothing_unasked(site):
    """The proxy sends nothing that is not an answer"""
    time.sleep(1)
    expect("messages", select.select([site.link.sock], [], [], 0)[0], [])


@case("Z-15")
def another_namespace_is_a_new_sandbox(site):
    """The same pod in another network namespace: the old one's connections end, the new one is served"""
    pod = late(site)
    with site.tunnel() as c:
        sid = c.connect(f"{site.shop.ip}:8080")
        expect("status", c.status(sid), 200)
        try:
            site.link.add(site.shop, netns=f"/run/netns/{pod.netns}")
            expect("ports that listen in the new one", listening(pod), SERVED)
            expect_that(
                c.pump(lambda: c.closed or c.reset_code(sid) is not None, PATIENCE), "the tunnel lives on"
            )
            wait_for(lambda: listening(site.shop) == [], "the old listeners to be gone", PATIENCE)
        finally:
            site.link.add(site.shop)
            pod.remove()
    expect("what comes back afterwards", read_back(site), b"x")


def read_back(site):
    with site.dial(site.outside, site.shop.ip) as s:
        s.sendall(b"x")
        return read(s, 1)
