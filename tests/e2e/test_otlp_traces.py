# SPDX-License-Identifier: Apache-2.0
"""Spans of connections: both proxies' are of one trace, with the parent that CONNECT carried; which have one; and what becomes
of them when connections move to another proxy."""

import time

import pytest

from support.network import inside
from support.nodes.direct import LONG
from support.nodes.hand_over import Talkers, hand_over_mesh, upgrade
from support.nodes.mesh import Mesh, leaf
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.otlp import Receiver, plain
from support.proxies import hbone
from support.system import wait_for

LOCAL = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_METRICS_EXPORTER": "none"}
CLIENT, SERVER, ERROR = 3, 2, 2
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def mesh():
    env = {**LOCAL, "BRUMA_SAME_NODE": "relay"}
    with Mesh(nodes=2, proxy_env=env, agent_options=LONG) as m:
        m.web, m.near, m.shop = m.pod("web"), m.pod("near"), m.pod("shop", node=1)
        m.receivers = [Receiver(node.netns) for node in m.nodes]
        m.start()
        for pod in (m.near, m.shop):
            pod.server(ECHO, "8080")
        m.certificate = leaf(m, m.web.identity)
        yield m
        for r in m.receivers:
            r.close()


@pytest.fixture
def since(mesh):
    """Spans of each node that have come since."""
    before = [len(r.spans()) for r in mesh.receivers]
    return lambda i: mesh.receivers[i].spans()[before[i] :]


def wait_spans(since, node, count):
    wait_for(lambda: len(since(node)) >= count, f"{count} spans", 20)
    return sorted(since(node)[:count], key=lambda s: s.start_time_unix_nano)


def test_both_sides_are_one_trace(mesh, since):
    began = time.time_ns()
    for i in range(3):
        mesh.web.python(ONE_SHOT, mesh.shop.ip, 8080, f"word {i}")
    out, into = wait_spans(since, 0, 3), wait_spans(since, 1, 3)
    assert len({s.trace_id for s in out}) == 3 and len({s.span_id for s in out + into}) == 6
    for source, destination in zip(out, into, strict=True):
        assert len(source.trace_id) == 16 and len(source.span_id) == 8
        assert source.trace_id == destination.trace_id and destination.parent_span_id == source.span_id
        assert not source.parent_span_id
        assert (source.kind, destination.kind) == (CLIENT, SERVER)
        assert (source.name, destination.name) == ("outbound connection", "inbound connection")
        assert (source.flags, destination.flags) == (0x101, 0x301)
        assert began < source.start_time_unix_nano <= destination.start_time_unix_nano
        assert destination.end_time_unix_nano < time.time_ns()
        assert source.start_time_unix_nano < source.end_time_unix_nano
        a, b = plain(source.attributes), plain(destination.attributes)
        assert a["src.workload"] == b["src.workload"] == "web" and a["dst.workload"] == "shop"
        assert (a["bytes_sent"], a["bytes_recv"]) == (b["bytes_recv"], b["bytes_sent"]) == (6, 6)
        assert not source.status.code and not destination.status.code


def test_records_of_the_log_know_their_span(mesh, since):
    mesh.web.python(ONE_SHOT, mesh.shop.ip, 8080, "words")
    for node in (0, 1):
        (span,) = wait_spans(since, node, 1)
        (record,) = mesh.receivers[node].wait_logs(1, lambda r, s=span: r.span_id == s.span_id)
        assert record.trace_id == span.trace_id and record.flags == 1
        assert plain(record.attributes) == plain(span.attributes)


def test_what_fails_is_an_error(mesh, since):
    mesh.web.python(ONE_SHOT, mesh.shop.ip, 8099, "nobody listens", check=False)
    (source,), (destination,) = wait_spans(since, 0, 1), wait_spans(since, 1, 1)
    assert destination.parent_span_id == source.span_id
    assert source.status.code == destination.status.code == ERROR
    assert source.status.message.startswith("connect_rejected: ")
    assert plain(destination.attributes)["error.type"] == "connect_refused"


def test_between_two_pods_of_one_node(mesh, since):
    mesh.web.python(ONE_SHOT, mesh.near.ip, 8080, "words")
    spans = {s.kind: s for s in wait_spans(since, 0, 2)}
    assert spans[SERVER].trace_id == spans[CLIENT].trace_id
    assert spans[SERVER].parent_span_id == spans[CLIENT].span_id


@pytest.fixture
def connect(mesh):
    """CONNECT of another's client with these headers, and the end of it."""

    def run(*headers):
        with inside(mesh.nodes[0].netns):
            c = hbone.Client((mesh.shop.ip, 15008), *mesh.certificate)
        sid = c.connect(f"{mesh.shop.ip}:8080", list(headers))
        assert c.status(sid) == 200
        c.send(sid, b"hello", end=True)
        assert c.pump(lambda: c.ended(sid))
        c.close()

    return run


def test_the_parent_is_what_connect_carried(since, connect):
    connect(("traceparent", f"00-{TRACE}-{SPAN}-01"))
    connect(("traceparent", f"cc-{TRACE}-{SPAN}-09-more"))
    for span in wait_spans(since, 1, 2):
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
        assert span.span_id.hex() != SPAN and span.flags == 0x301


def test_a_parent_without_a_span_has_no_children(since, connect):
    connect(("traceparent", f"00-{TRACE}-{SPAN}-00"))
    connect()
    (span,) = wait_spans(since, 1, 1)
    assert not span.parent_span_id
    time.sleep(3)
    assert len(since(1)) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "00-" + "0" * 52,
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0x",
        f"cc-{TRACE}-{SPAN}-01more",
        "x" * 9000,
    ],
)
def test_what_is_no_traceparent_is_none(since, connect, wrong):
    connect(("traceparent", wrong))
    (span,) = wait_spans(since, 1, 1)
    assert not span.parent_span_id and span.trace_id.hex() != TRACE


def test_the_first_proxy_chooses_and_the_other_follows():
    env = {**LOCAL, "OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    with Mesh(nodes=2, proxy_env=env) as m:
        web, shop = m.pod("web"), m.pod("shop", node=1)
        with Receiver(m.nodes[0].netns) as first, Receiver(m.nodes[1].netns) as second:
            m.start()
            shop.server(ECHO, "8080")
            for i in range(40):
                web.python(ONE_SHOT, shop.ip, 8080, f"word {i}")
            for receiver in (first, second):
                receiver.wait_logs(40)
            for node in m.nodes:
                node.proxy.kill(15)
                node.proxy.wait()
            out, into = first.spans(), second.spans()
            # all or none of 40 by chance: once in a million million
            assert 0 < len(out) < 40
            assert {s.span_id for s in out} == {s.parent_span_id for s in into}
            traced = {r.span_id for r in first.logs() if r.span_id}
            assert traced == {s.span_id for s in out}


def test_a_connection_that_moves_keeps_its_span():
    with (
        hand_over_mesh(**LOCAL) as m,
        Receiver(m.node.netns) as receiver,
        Receiver(m.nodes[1].netns) as other,
    ):
        talkers = Talkers(m.web, m.cart.ip, count=4)
        talkers.goes_on()
        moved, _ = upgrade(m.node)
        assert moved["moved"] >= 1 and not moved["left"], moved  # tunnels, with all their streams
        talkers.end()
        out = wait_for(lambda: len(receiver.spans()) >= 4 and receiver.spans(), "spans of one side", 20)
        into = wait_for(lambda: len(other.spans()) >= 4 and other.spans(), "and of the other", 20)
        assert len(out) == len(into) == 4
        assert {s.span_id for s in out} == {s.parent_span_id for s in into}
        assert {s.trace_id for s in out} == {s.trace_id for s in into}
