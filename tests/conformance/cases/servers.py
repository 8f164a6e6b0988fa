# SPDX-License-Identifier: Apache-2.0
"""The proxy's own pages, and its end."""

import json
import socket
import time

from conformance.registry import case, expect, expect_that
from conformance.site import PATIENCE, read
from support.network import inside

LAST = 2**31 - 1


@case("S-1")
def readiness(site):
    """/healthz/ready on port 15021 is 200"""
    expect("status", site.node.http(15021, "/healthz/ready")[0], 200)


@case("S-2")
def the_config_dump(site):
    """/config_dump on port 15000 is JSON with the lists that istioctl reads"""
    status, body = site.node.http(15000, "/config_dump")
    expect("status", status, 200)
    dump = json.loads(body)
    for key, kind in (
        ("workloads", list),
        ("services", list),
        ("policies", list),
        ("certificates", list),
        ("workloadState", dict),
    ):
        expect(f"type of {key}", type(dump.get(key)), kind)
    uids = [w["uid"] for w in dump["workloads"]]
    expect_that(uids == sorted(uids), "workloads are not sorted")
    expect_that(site.shop.uid in dump["workloadState"], f"states of {sorted(dump['workloadState'])}")
    web = next(w for w in dump["workloads"] if w["name"] == "web")
    expect("protocol", web["protocol"], "HBONE")
    expect("addresses", sorted(web["workloadIps"]), sorted(site.web.ips))


@case("S-2")
def certificates_in_the_dump(site):
    """The dump has the certificate of each served pod"""
    site.status()
    dump = site.node.config_dump()
    states = {c["identity"]: c["state"] for c in dump["certificates"]}
    expect("state of shop's", states.get(site.shop.identity), "Available")


@case("S-3")
def admin_is_for_the_loopback(site):
    """The admin pages are on the loopback alone"""
    with inside(site.outside.netns):
        s = socket.socket()
    with s:
        s.settimeout(PATIENCE)
        expect_that(s.connect_ex((site.node.gateway, 15000)) != 0, "reached from a pod")


@case("S-4")
def unknown_pages(site):
    """Pages that there are not are 404"""
    for port in (15000, 15020, 15021):
        expect(f"status on {port}", site.node.http(port, "/no-such-page")[0], 404)


@case("S-5")
def an_idle_tunnel_at_the_end(site):
    """SIGTERM: GOAWAY with the highest stream number, then with the last one; without streams the process ends with 0"""
    with site.tunnel() as c:
        expect_that(c.pump(lambda: c.events.get(0), PATIENCE), "no SETTINGS")
        site.terminate()
        c.pump(lambda: c.closed, PATIENCE)
        expect("GOAWAYs", c.goaways, [(0, LAST), (0, 0)])
        expect("status of the process", site.node.proxy.wait(PATIENCE), 0)


@case("S-5")
def a_busy_tunnel_at_the_end(site):
    """SIGTERM: open streams go on, the second GOAWAY names the last one, and then the process ends with 0"""
    with site.tunnel() as c:
        sid = c.connect(f"{site.shop.ip}:8080")
        expect("status", c.status(sid), 200)
        site.terminate()
        c.pump(lambda: len(c.goaways) == 2, PATIENCE)
        expect("GOAWAYs", c.goaways, [(0, LAST), (0, sid)])
        time.sleep(0.5)
        c.send(sid, b"still served", end=True)
        expect_that(c.pump(lambda: c.ended(sid), PATIENCE), "the stream does not go on")
        expect("what came back", c.received(sid), b"still served")
        expect("status of the process", site.node.proxy.wait(PATIENCE), 0)


@case("S-5")
def plaintext_at_the_end(site):
    """SIGTERM: open plaintext connections and those of the pod go on"""
    with site.peer(), site.dial(site.outside, site.shop.ip) as one, site.dial(site.web, site.far.ip) as two:
        for s in (one, two):
            s.sendall(b"x")
            expect("before", read(s, 1), b"x")
        site.terminate()
        time.sleep(0.5)
        for s in (one, two):
            s.sendall(b"y")
            expect("while it drains", read(s, 1), b"y")


@case("S-6")
def no_new_connections_at_the_end(site):
    """While it drains no new connection is served"""
    with site.tunnel() as c:
        sid = c.connect(f"{site.shop.ip}:8080")
        expect("status", c.status(sid), 200)
        site.terminate()
        c.pump(lambda: c.goaways, PATIENCE)
        time.sleep(0.3)
        expect("plaintext", site.ask(site.outside, site.shop.ip), "closed")


@case("S-7")
def the_deadline(site):
    """What is open at CONNECTION_TERMINATION_DEADLINE is ended, and the process ends with 0"""
    site.restart(CONNECTION_TERMINATION_DEADLINE="1s")
    with site.tunnel() as c:
        sid = c.connect(f"{site.shop.ip}:8080")
        expect("status", c.status(sid), 200)
        begin = time.monotonic()
        site.terminate()
        expect("status of the process", site.node.proxy.wait(PATIENCE), 0)
        took = time.monotonic() - begin
        expect_that(0.9 < took < 4, f"it took {took:.1f} s")
