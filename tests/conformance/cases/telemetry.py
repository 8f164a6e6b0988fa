# SPDX-License-Identifier: Apache-2.0
"""Metrics and the access log."""

import json
import os
import re
import time

from conformance.registry import case, expect, expect_that
from conformance.site import PATIENCE, read
from support.system import wait_for

FAR = "cluster.local/ns/demo/sa/far"
LABELS = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
]
KEYS = [
    "src.addr",
    "src.workload",
    "src.namespace",
    "src.identity",
    "src.cluster",
    "dst.addr",
    "dst.hbone_addr",
    "dst.service",
    "dst.workload",
    "dst.namespace",
    "dst.identity",
    "dst.cluster",
    "direction",
    "bytes_sent",
    "bytes_recv",
    "duration",
    "error",
]
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\t\w+\taccess\tconnection complete\t")


def samples(site, name):
    """(labels, value) of a metric."""
    found = []
    for line in site.node.metrics().splitlines():
        match = re.fullmatch(rf"{name}\{{(.*)\}} (\S+)", line)
        if match:
            found.append((dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[1])), float(match[2])))
    return found


def total(site, name, **want):
    return sum(v for labels, v in samples(site, name) if all(labels.get(k) == w for k, w in want.items()))


def at_rest(site, name, **want):
    """The sum once it has stopped to grow: connections of former cases may end late."""
    last = None
    while (now := total(site, name, **want)) != last:
        last = now
        time.sleep(0.05)
    return now


def grows(site, name, by, cause, **want):
    """The sum over samples with these labels grows by so much, and no more."""
    before = at_rest(site, name, **want)
    cause()
    wait_for(
        lambda: total(site, name, **want) - before == by,
        f"{name} with {want} to grow by {by}",
        PATIENCE,
    )
    expect(f"growth of {name} in the end", at_rest(site, name, **want) - before, by)


def inbound(site, word=b"hello"):
    with site.tunnel() as c:
        sid = c.connect(f"{site.shop.ip}:8080")
        expect("status", c.status(sid), 200)
        c.send(sid, word, end=True)
        expect_that(c.pump(lambda: c.ended(sid), PATIENCE), "no end came")


def outbound(site):
    with site.peer():
        expect("what comes back", site.ask(site.web, site.far.ip), "hello")


@case("T-1")
def the_page(site):
    """The page /metrics on port 15020 ends with # EOF and has istio_build"""
    status, body = site.node.http(15020, "/metrics")
    expect("status", status, 200)
    expect("last line", body.splitlines()[-1], "# EOF")
    expect_that(re.search(r'^istio_build\{component="\w+",tag="[^"]*"\} 1$', body, re.M), "no istio_build")


@case("T-2")
def labels_of_connections(site):
    """Metrics of connections have Istio's labels in Istio's order"""
    inbound(site)
    name = "istio_tcp_connections_opened_total"
    first = wait_for(lambda: samples(site, name), name, PATIENCE)[0][0]
    expect("labels", list(first)[: len(LABELS)], LABELS)


@case("T-3")
def a_connection_that_comes(site):
    """A tunnelled connection to the pod is counted as the destination's, with both principals"""
    want = {
        "reporter": "destination",
        "source_principal": f"spiffe://{FAR}",
        "destination_principal": site.shop.identity,
        "source_workload": "far",
        "destination_workload": "shop",
        "destination_workload_namespace": "demo",
        "request_protocol": "tcp",
        "connection_security_policy": "mutual_tls",
        "response_flags": "-",
    }
    for name in ("opened", "closed"):
        grows(site, f"istio_tcp_connections_{name}_total", 1, lambda: inbound(site), **want)


@case("T-3")
def a_connection_that_goes(site):
    """A tunnelled connection of the pod's is counted as the source's, with both principals"""
    want = {
        "reporter": "source",
        "source_principal": site.web.identity,
        "destination_principal": site.far.identity,
        "connection_security_policy": "mutual_tls",
        "response_flags": "-",
    }
    for name in ("opened", "closed"):
        grows(site, f"istio_tcp_connections_{name}_total", 1, lambda: outbound(site), **want)


@case("T-3")
def a_plaintext_connection(site):
    """A plaintext connection has no principal of its source, and the security policy unknown"""
    want = {
        "reporter": "destination",
        "source_principal": "unknown",
        "destination_workload": "shop",
        "connection_security_policy": "unknown",
    }
    ask = lambda: expect("plaintext", site.ask(site.outside, site.shop.ip), "hello")
    grows(site, "istio_tcp_connections_opened_total", 1, ask, **want)


@case("T-3")
def the_service_that_was_called(site):
    """Where a service was called, its name is in the labels"""
    want = {
        "reporter": "destination",
        "destination_service": "shop.demo.svc.cluster.local",
        "destination_service_name": "shop",
        "destination_service_namespace": "demo",
    }
    grows(site, "istio_tcp_connections_opened_total", 1, lambda: inbound(site), **want)


@case("T-4")
def bytes_by_direction(site):
    """Received bytes are those of who has opened the connection, sent bytes those to it"""
    with site.dial(site.outside, site.shop.ip) as s:
        ask = lambda: (s.sendall(b"1234567"), read(s, 7), s.close())
        want = {"reporter": "destination", "connection_security_policy": "unknown"}
        before = total(site, "istio_tcp_sent_bytes_total", **want)
        grows(site, "istio_tcp_received_bytes_total", 7, ask, **want)
    expect("bytes sent", total(site, "istio_tcp_sent_bytes_total", **want) - before, 7)


@case("T-5")
def what_was_refused(site):
    """A connection that a policy refuses is counted as failed, with the flag DENY"""
    with site.policies(site.policy("no-far", {"principals": [FAR]})):
        grows(
            site,
            "istio_tcp_connections_failed_total",
            1,
            site.status,
            response_flags="DENY",
            reporter="destination",
        )


@case("T-5")
def what_was_not_reached(site):
    """A connection to a port where nobody listens is counted as failed, with the flag CONNECT"""
    ask = lambda: site.status(f"{site.shop.ip}:9999")
    grows(
        site, "istio_tcp_connections_failed_total", 1, ask, response_flags="CONNECT", reporter="destination"
    )


@case("T-6")
def counts_of_pods(site):
    """How many pods are served is a metric"""
    found = re.search(r"^workload_manager_active_proxy_count (\d+)$", site.node.metrics(), re.M)
    expect("workload_manager_active_proxy_count", found and int(found[1]), len(site.enrolled))


@case("T-7")
def messages_of_the_control_plane(site):
    """Messages of the control plane are counted by their type"""
    ask = lambda: site.push(site.plane.workload("counted", "10.80.2.1"))
    grows(site, "istio_xds_message_total", 1, ask, url="type.googleapis.com/istio.workload.Address")


def logged(site, cause, **want):
    """The line of the access log that the cause gets."""
    log = site.access_log()
    cause()
    return log.wait(str(want), **want)


@case("T-8")
def a_line_of_who_comes(site):
    """The access log has a line of a connection to the pod: who, by which identity, and how many bytes"""
    mine = {"dst__hbone_addr": f"{site.shop.ip}:8080", "bytes_recv": "5"}
    line = logged(site, lambda: inbound(site, b"12345"), direction="inbound", **mine)
    for key, value in (
        ("src.workload", "far"),
        ("src.namespace", "demo"),
        ("src.identity", site.far.identity),
        ("dst.addr", f"{site.shop.ip}:15008"),
        ("dst.hbone_addr", f"{site.shop.ip}:8080"),
        ("dst.workload", "shop"),
        ("dst.identity", site.shop.identity),
        ("bytes_sent", "5"),
        ("bytes_recv", "5"),
    ):
        expect(key, line.get(key), value)
    expect_that(line["src.addr"].startswith(site.far.ip + ":"), f"src.addr: {line['src.addr']}")


@case("T-8")
def a_line_of_who_goes(site):
    """The access log has a line of a connection of the pod's"""
    line = logged(site, lambda: outbound(site), direction="outbound")
    for key, value in (
        ("src.workload", "web"),
        ("src.identity", site.web.identity),
        ("dst.addr", f"{site.far.ip}:15008"),
        ("dst.hbone_addr", f"{site.far.ip}:8080"),
        ("dst.workload", "far"),
        ("dst.identity", site.far.identity),
        ("bytes_sent", "5"),
        ("bytes_recv", "5"),
    ):
        expect(key, line.get(key), value)


@case("T-9")
def the_form_of_a_line(site):
    """A line is TIME, LEVEL, SCOPE and MESSAGE by tabs, then Istio's keys in Istio's order"""
    line = logged(site, lambda: inbound(site), direction="inbound")
    expect_that(LINE.match(line["line"]), f"the line: {line['line']}")
    keys = [k for k in line if k in KEYS]
    expect("keys", keys, [k for k in KEYS if k in keys])
    expect_that(re.fullmatch(r"\d+ms", line["duration"]), f"duration: {line['duration']}")


@case("T-10")
def lines_as_json(site):
    """With LOG_FORMAT=json a line is an object, with level, time, scope, message and the same keys"""
    site.restart(LOG_FORMAT="json")
    before = os.path.getsize(site.node.proxy_log)

    def line():
        with open(site.node.proxy_log, errors="replace") as f:
            f.seek(before)
            lines = [json.loads(x) for x in f if x.startswith("{") and '"direction"' in x]
        return lines and lines[-1]

    try:
        inbound(site)
        have = wait_for(line, "a line of the access log", PATIENCE)
    finally:
        site.restart()
    for key, value in (
        ("level", "info"),
        ("scope", "access"),
        ("message", "connection complete"),
        ("direction", "inbound"),
        ("src.identity", site.far.identity),
        ("dst.workload", "shop"),
    ):
        expect(key, have.get(key), value)
    expect_that("time" in have, f"no time: {have}")


@case("T-9")
def a_line_of_what_was_refused(site):
    """The line of a connection that was refused has the error, and is of level error"""
    with site.policies(site.policy("no-far", {"principals": [FAR]})):
        line = logged(site, site.status, direction="inbound", error=lambda e: e)
    expect("level", line["line"].split("\t")[1], "error")
    expect_that("no-far" in line["error"], f"the error does not name the policy: {line['error']}")


@case("T-9")
def a_line_of_plaintext(site):
    """The line of a plaintext connection has no identity"""
    line = logged(
        site,
        lambda: site.ask(site.outside, site.shop.ip),
        dst__addr=f"{site.shop.ip}:8080",
        direction="inbound",
    )
    expect("identities", (line.get("src.identity"), line.get("dst.identity")), (None, None))
