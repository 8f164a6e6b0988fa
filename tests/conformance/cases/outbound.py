# SPDX-License-Identifier: Apache-2.0
"""HBONE and plaintext from a pod: where connections go, and what peers see of them."""

import re
import socket
import time

import h2.errors
import h2.events

from conformance.registry import case, expect, expect_that
from conformance.site import AFTER_A_PEER, PATIENCE, read
from support.proxies import hbone
from support.system import wait_for

SERVICE = "echo.demo.svc.cluster.local"
VIP = "10.96.7.1"


def served(site, peer, word=b"hello", **to):
    """A word of web's comes back from the peer; the request that carried it."""
    before = len(peer.requests)
    expect(
        "what comes back",
        site.ask(site.web, to.get("address", site.far.ip), to.get("port", 8080), word),
        word.decode(),
    )
    expect("requests at the peer", len(peer.requests) - before, 1)
    return peer.requests[-1]


def endpoint(site, pod, **fields):
    return site.plane.of(pod, node="elsewhere", services={SERVICE: [(80, 7000)]}, **fields)


def service(site, *vips, **fields):
    return site.plane.service(SERVICE, *(vips or (VIP,)), ports=((80, 7000),), **fields)


def closed(site, address, port=8080):
    """The application's connection comes to nothing."""
    expect("what comes back", site.ask(site.web, address, port), "closed")


@case("H-60")
def the_request(site):
    """To a workload with a tunnel: CONNECT with the authority that was dialed, without scheme, path and protocol"""
    with site.peer() as peer:
        request = served(site, peer)
    expect(":method", request[":method"], "CONNECT")
    expect(":authority", request[":authority"], f"{site.far.ip}:8080")
    expect("others", [h for h in (":scheme", ":path", ":protocol") if h in request], [])


@case("H-60")
def the_request_by_ipv6(site):
    """By IPv6 the authority is [IP]:PORT"""
    with site.peer() as peer:
        expect(":authority", served(site, peer, address=site.far.ip6)[":authority"], f"[{site.far.ip6}]:8080")


@case("H-61")
def forwarded(site):
    """The request has the application's address in forwarded"""
    with site.peer() as peer:
        value = served(site, peer).get("forwarded", "")
    expect_that(re.fullmatch(rf'for="{re.escape(site.web.ip)}:\d+"', value), f"forwarded: {value!r}")


@case("H-61")
def forwarded_with_the_service(site):
    """Where a service was called, forwarded has its hostname too"""
    with site.resources(service(site), endpoint(site, site.far)), site.peer() as peer:
        value = served(site, peer, address=VIP, port=80).get("forwarded", "")
    expect_that(value.endswith(f";host={SERVICE}"), f"forwarded: {value!r}")


@case("H-62")
def baggage(site):
    """The request has baggage that describes the source, in the order of the contract"""
    with site.peer() as peer:
        value = served(site, peer).get("baggage", "")
    parts = value.split(",")
    for part in ("k8s.cluster.name=Kubernetes", "k8s.namespace.name=demo", "service.name=web"):
        expect_that(part in parts, f"{part} is not in {value!r}")
    order = ["k8s.cluster.name", "k8s.namespace.name", "k8s.deployment.name", "service.name"]
    expect("keys", [p.partition("=")[0] for p in parts], order)


@case("H-62")
def traceparent(site):
    """The request has a traceparent of its own"""
    with site.peer() as peer:
        values = [served(site, peer).get("traceparent", "") for _ in range(2)]
    for value in values:
        expect_that(re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", value), f"traceparent: {value!r}")
    expect_that(values[0] != values[1], "two connections have one")


@case("H-63")
def the_client_in_tls(site):
    """The client shows the pod's certificate, offers h2 and TLS 1.3 and sends no server name"""
    names, own = [], hbone.context(True, *site.of(site.far))
    own.sni_callback = lambda sock, name, context: names.append(name)
    with site.peer() as peer:
        peer.tls_context = own
        served(site, peer)
        tls = peer.connections[-1].tls
        expect("version", tls.version(), "TLSv1.3")
        expect("protocol", tls.selected_alpn_protocol(), "h2")
    expect("server name", names, [None])
    expect_that(
        ("URI", site.web.identity) in peer.peers[0]["subjectAltName"], f"certificate: {peer.peers[0]}"
    )


@case("H-64")
def another_identity(site):
    """A server that is not the expected identity gets no request"""
    with site.peer(certificate=site.certificate("spiffe://cluster.local/ns/demo/sa/impostor")) as peer:
        closed(site, site.far.ip)
        expect("requests", peer.requests, [])


@case("H-64")
def the_services_names(site):
    """A server whose identity is one of the service's names is accepted"""
    name = "spiffe://cluster.local/ns/demo/sa/alias"
    item = service(site)
    item[1].service.subject_alt_names.append(name)
    with (
        site.resources(item, endpoint(site, site.far)),
        site.peer(certificate=site.certificate(name)) as peer,
    ):
        served(site, peer, address=VIP, port=80)


@case("H-65")
def one_tunnel_for_many(site):
    """Connections to one destination share a tunnel"""
    with site.peer() as peer:
        for _ in range(5):
            served(site, peer)
        expect("tunnels", len(peer.connections), 1)


@case("H-65")
def no_more_than_the_peer_takes(site):
    """A tunnel carries no more streams at once than its peer takes, and another one is opened for the rest"""
    with site.peer(max_streams=3) as peer:
        served(site, peer)  # the limit is known from here on
        sockets = [site.dial(site.web, site.far.ip) for _ in range(8)]
        try:
            for s in sockets:
                s.sendall(b"x")
            for s in sockets:
                expect("what comes back", read(s, 1), b"x")
            expect_that(len(peer.connections) >= 3, f"{len(peer.connections)} tunnels for eight streams")
            for c in peer.connections:
                expect_that(
                    c.h2.open_inbound_streams <= 3, f"{c.h2.open_inbound_streams} streams in a tunnel"
                )
        finally:
            for s in sockets:
                s.close()


@case("H-65")
def no_more_than_a_hundred(site):
    """A tunnel carries no more than a hundred streams at once"""
    with site.peer() as peer:
        sockets = [site.dial(site.web, site.far.ip) for _ in range(130)]
        try:
            for s in sockets:
                s.sendall(b"x")
            for s in sockets:
                expect("what comes back", read(s, 1), b"x")
            most = max(c.h2.open_inbound_streams for c in peer.connections)
            expect_that(most <= 100, f"{most} streams in a tunnel")
        finally:
            for s in sockets:
                s.close()


@case("H-66")
def another_status(site):
    """Any final answer but 200 ends the application's connection"""
    for status in ("401", "404", "503"):
        answer = lambda server, conn, sid, headers: conn.h2.send_headers(
            sid, [(":status", status)], end_stream=True
        )
        with site.peer(behaviour=answer):
            closed(site, site.far.ip)


@case("H-66")
def interim_answers(site):
    """Interim answers are ignored, the final one counts"""

    def hints_first(server, conn, sid, headers):
        conn.h2.send_headers(sid, [(":status", "103"), ("link", "</x>")])
        conn.h2.send_headers(sid, [(":status", "200")])

    with site.peer(behaviour=hints_first) as peer:
        served(site, peer)


@case("H-67")
def half_close_outbound(site):
    """The end of each direction is passed on by itself"""

    def end_first(server, conn, sid, headers):
        conn.h2.send_headers(sid, [(":status", "200")])
        conn.h2.send_data(sid, b"bye", end_stream=True)

    with site.peer(behaviour=end_first), site.dial(site.web, site.far.ip) as s:
        expect("what comes, and the end", read(s, 100), b"bye")
        s.sendall(b"still allowed")
        s.shutdown(socket.SHUT_WR)


@case("H-67")
def a_reset_of_the_application(site):
    """A reset of the application is RST_STREAM with CANCEL at the peer"""
    with site.peer() as peer:
        codes = []
        handle = peer.handle
        peer.handle = lambda conn, e: (
            codes.append(int(e.error_code)) if isinstance(e, h2.events.StreamReset) else handle(conn, e)
        )
        s = site.dial(site.web, site.far.ip)
        s.sendall(b"x")
        read(s, 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        s.close()
        wait_for(lambda: codes, "a reset at the peer", 3)
    expect("code", codes, [int(h2.errors.ErrorCodes.CANCEL)])


@case("H-67")
def connect_error_is_a_normal_end(site):
    """CONNECT_ERROR, with which Envoy ends streams, is a normal end: what came before it arrives"""

    def answer_and_end(server, conn, sid, headers):
        conn.h2.send_headers(sid, [(":status", "200")])
        conn.h2.send_data(sid, b"bye")
        conn.h2.reset_stream(sid, h2.errors.ErrorCodes.CONNECT_ERROR)

    with site.peer(behaviour=answer_and_end), site.dial(site.web, site.far.ip) as s:
        expect("what comes, and the end", read(s, 100), b"bye")


@case("H-68")
def goaway(site):
    """After a GOAWAY new connections take another tunnel"""
    with site.peer() as peer:
        served(site, peer)
        for c in list(peer.connections):
            c.do(hbone.goaway)
        time.sleep(AFTER_A_PEER)
        before = len(peer.connections)
        served(site, peer)
        expect_that(len(peer.connections) > before, "no new tunnel")


@case("H-68")
def a_tunnel_that_was_closed(site):
    """A connection right after its peer has closed the pooled tunnel is served"""
    with site.peer() as peer:
        served(site, peer)
        for _ in range(20):
            for c in [c for c in peer.connections if not c.closed]:
                c.do(hbone.fin)
            expect("what comes back", site.ask(site.web, site.far.ip), "hello")


@case("H-69")
def a_refused_stream(site):
    """A stream that was refused as REFUSED_STREAM is tried again, and the application does not notice"""
    refused = []

    def refuse_first(server, conn, sid, headers):
        if refused:
            conn.h2.send_headers(sid, [(":status", "200")])
        else:
            refused.append(sid)
            conn.h2.reset_stream(sid, h2.errors.ErrorCodes.REFUSED_STREAM)

    with site.peer(behaviour=refuse_first) as peer:
        expect("what comes back", site.ask(site.web, site.far.ip), "hello")
        expect("requests", len(peer.requests), 2)


@case("H-70")
def another_endpoint(site):
    """A connection to a service whose chosen endpoint refuses is served by another one"""
    items = (service(site), endpoint(site, site.far), endpoint(site, site.wp))
    with site.resources(*items), site.peer() as peer:  # nobody listens in wp
        answers = [site.ask(site.web, VIP, 80) for _ in range(10)]
        expect("answers", answers, ["hello"] * 10)
        expect("requests at the one that serves", len(peer.requests), 10)


@case("O-1")
def an_unknown_destination(site):
    """A destination that the mesh does not know is reached in plaintext"""
    expect("what comes back", site.ask(site.web, site.outside.ip), "hello")
    expect_that(f"FROM ::ffff:{site.web.ip} " in site.outside.echo.text(), "not from the pod's address")


@case("O-2")
def a_workload_without_a_tunnel(site):
    """A workload without a tunnel is reached in plaintext"""
    expect("what comes back", site.ask(site.web, site.plain.ip), "hello")
    expect_that(f"FROM ::ffff:{site.web.ip} " in site.plain.echo.text(), "not from the pod's address")


@case("O-2")
def a_workload_of_the_host_network(site):
    """The address of a workload in the host's network is reached in plaintext"""
    item = site.plane.workload("host", site.outside.ip, network_mode=1, tunnel_protocol=1)
    with site.resources(item):
        expect("what comes back", site.ask(site.web, site.outside.ip), "hello")


@case("O-3")
def endpoints_of_a_service(site):
    """A service is served by all of its endpoints, each by its own address and target port"""
    items = (service(site), endpoint(site, site.far), endpoint(site, site.wp))
    with site.resources(*items), site.peer() as one, site.peer(site.wp) as two:

        def both():
            """One that has failed in a former case may be left alone for a while."""
            expect("what comes back", site.ask(site.web, VIP, 80), "hello")
            return one.requests and two.requests

        wait_for(both, "both endpoints to serve", 2 * PATIENCE)
        for peer, pod in ((one, site.far), (two, site.wp)):
            authorities = {r[":authority"] for r in peer.requests}
            expect(f"authorities at {pod.name}", authorities, {f"{pod.ip}:7000"})


@case("O-3")
def by_capacity(site):
    """An endpoint of capacity 0 gets nothing"""
    none = endpoint(site, site.wp)
    none[1].workload.capacity.value = 0
    with (
        site.resources(service(site), endpoint(site, site.far), none),
        site.peer() as one,
        site.peer(site.wp) as two,
    ):
        expect("answers", [site.ask(site.web, VIP, 80) for _ in range(15)], ["hello"] * 15)
        expect("requests", (len(one.requests), len(two.requests)), (15, 0))


@case("O-3")
def unhealthy_endpoints(site):
    """An endpoint that is not healthy gets nothing"""
    items = (service(site), endpoint(site, site.far), endpoint(site, site.wp, status=1))
    with site.resources(*items), site.peer() as one, site.peer(site.wp) as two:
        expect("answers", [site.ask(site.web, VIP, 80) for _ in range(15)], ["hello"] * 15)
        expect("requests", (len(one.requests), len(two.requests)), (15, 0))


@case("O-3")
def a_service_of_a_range(site):
    """A service whose address is a range is reached by each of them"""
    with site.resources(service(site, "10.97.0.0/16"), endpoint(site, site.far)), site.peer() as peer:
        for address in ("10.97.3.4", "10.97.200.200"):
            served(site, peer, address=address, port=80)


@case("O-4")
def nobody_behind_a_service(site):
    """A connection to a service without an endpoint fails"""
    with site.resources(service(site)):
        closed(site, VIP, 80)


@case("O-4")
def passthrough(site):
    """A service that is passthrough is reached at the address that was dialed, in plaintext"""
    item = site.plane.service("through.demo.svc.cluster.local", site.outside.ip, ports=((8080, 8080),))
    item[1].service.load_balancing.mode = 3
    with site.resources(item):
        expect("what comes back", site.ask(site.web, site.outside.ip), "hello")


@case("O-4")
def a_port_that_the_service_has_not(site):
    """A connection to a port that the service has not fails"""
    with site.resources(service(site), endpoint(site, site.far)), site.peer() as peer:
        closed(site, VIP, 81)
        expect("requests", peer.requests, [])


def through(item, address, port=15008):
    """The service or workload behind a waypoint."""
    kind = item[1].WhichOneof("type")
    gateway = getattr(item[1], kind).waypoint
    gateway.address.address = socket.inet_aton(address)
    gateway.hbone_mtls_port = port
    return item


@case("O-5")
def a_waypoint_of_a_service(site):
    """A service with a waypoint is reached through it alone, with the address that the application dialed as authority"""
    items = (through(service(site), site.wp.ip), endpoint(site, site.far))
    with site.resources(*items), site.peer() as server, site.peer(site.wp) as waypoint:
        request = served(site, waypoint, address=VIP, port=80)
        expect(":authority", request[":authority"], f"{VIP}:80")
        expect("requests at the endpoint", server.requests, [])


@case("O-5")
def a_waypoint_of_a_workload(site):
    """A workload with a waypoint is reached through it alone, with the workload's address as authority"""
    with (
        site.resources(through(site.plane.of(site.far, node="elsewhere"), site.wp.ip)),
        site.peer(site.wp) as waypoint,
    ):
        expect(":authority", served(site, waypoint)[":authority"], f"{site.far.ip}:8080")


@case("O-5")
def a_waypoint_by_its_hostname(site):
    """A waypoint that is named by its hostname is found"""
    item = service(site)
    item[1].service.waypoint.hostname.namespace = "demo"
    item[1].service.waypoint.hostname.hostname = "wp.demo.svc.cluster.local"
    item[1].service.waypoint.hbone_mtls_port = 15008
    items = (
        item,
        site.plane.service("wp.demo.svc.cluster.local", "10.96.7.9", ports=((15008, 15008),)),
        site.plane.of(site.wp, node="elsewhere", services={"wp.demo.svc.cluster.local": [(15008, 15008)]}),
        endpoint(site, site.far),
    )
    with site.resources(*items), site.peer(site.wp) as waypoint:
        expect(":authority", served(site, waypoint, address=VIP, port=80)[":authority"], f"{VIP}:80")


@case("O-8")
def a_waypoint_without_weight(site):
    """Of several waypoints one without weight gets nothing"""
    item = service(site)
    for pod, weight in ((site.wp, 1), (site.far, 0)):
        w = item[1].service.weighted_waypoints.add(weight=weight)
        w.destination.address.address = socket.inet_aton(pod.ip)
        w.destination.hbone_mtls_port = 15008
    with site.resources(item, endpoint(site, site.far)), site.peer() as none, site.peer(site.wp) as all_of_it:
        expect("answers", [site.ask(site.web, VIP, 80) for _ in range(10)], ["hello"] * 10)
        expect("requests", (len(all_of_it.requests), len(none.requests)), (10, 0))


@case("O-6")
def a_waypoint_that_is_not_there(site):
    """Where the waypoint is not known, or does not answer, the connection fails: it is never gone around"""
    for address in ("10.80.9.9", site.wp.ip):  # nobody listens in wp
        items = (through(service(site), address), endpoint(site, site.far))
        with site.resources(*items), site.peer() as server:
            closed(site, VIP, 80)
            expect("requests at the endpoint", server.requests, [])


@case("O-7")
def the_proxys_own_ports(site):
    """A connection to a port of the proxy itself on the loopback is refused"""
    for port in (15001, 15006):
        expect(f"to {port}", site.ask(site.web, "127.0.0.1", port), "closed")
