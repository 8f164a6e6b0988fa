# SPDX-License-Identifier: Apache-2.0
"""HBONE to a pod: requests and their answers."""

import socket

import h2.events

from conformance.registry import case, expect, expect_that
from conformance.site import HOST, PATIENCE
from support.system import wait_for


def seen_by_shop(site, address):
    """The server has got a connection from there."""
    return any(f"FROM {a} " in site.shop.echo.text() for a in (address, f"::ffff:{address}"))


def echo(site, c, authority, word=b"hello"):
    """What comes back on a stream of its own."""
    sid = c.connect(authority)
    expect(f"status of {authority}", c.status(sid), 200)
    c.send(sid, word, end=True)
    expect_that(c.pump(lambda: c.ended(sid), PATIENCE), "no end came")
    return c.received(sid)


def lives(site, c):
    """The tunnel is good for another request."""
    expect("what comes back on the same tunnel", echo(site, c, f"{site.shop.ip}:8080"), b"hello")


@case("H-20")
def an_address_of_ipv4(site):
    """CONNECT IP:PORT to the pod's address is answered with 200, and bytes pass"""
    with site.tunnel() as c:
        expect("what comes back", echo(site, c, f"{site.shop.ip}:8080"), b"hello")


@case("H-20")
def an_address_of_ipv6(site):
    """CONNECT [IP]:PORT to the pod's IPv6 address is answered with 200, and bytes pass"""
    with site.tunnel(address=site.shop.ip6) as c:
        expect("what comes back", echo(site, c, f"[{site.shop.ip6}]:8080"), b"hello")


@case("H-21")
def a_hostname(site):
    """CONNECT HOSTNAME:PORT of a service of this pod leads to the service's target port"""
    with site.tunnel() as c:
        expect("what comes back", echo(site, c, f"{HOST}:80"), b"hello")


@case("H-22")
def get(site):
    """GET is answered with 400"""
    with site.tunnel() as c:
        head = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/"),
            (":authority", f"{site.shop.ip}:8080"),
        ]
        expect("status", c.status(c.request(head, end=True)), 400)
        lives(site, c)


@case("H-23")
def without_an_authority(site):
    """CONNECT without an authority is answered with 400, or its stream is reset as a PROTOCOL_ERROR"""
    with site.tunnel() as c:
        expect("status", c.status(c.request([(":method", "CONNECT")])), 400, ("reset", 1))
        lives(site, c)


@case("H-23")
def without_a_port(site):
    """An authority without a port is answered with 400"""
    expect("status", site.status(site.shop.ip), 400)


@case("H-23")
def a_port_that_there_is_not(site):
    """An authority with port 99999 is answered with 400"""
    expect("status", site.status(f"{site.shop.ip}:99999"), 400)


@case("H-24")
def the_address_of_another_pod(site):
    """An address that is not this pod's is answered with 400, be it another pod's or the loopback's"""
    for address in (site.web.ip, site.far.ip, site.outside.ip, "127.0.0.1"):
        expect(f"status of {address}", site.status(f"{address}:8080"), 400)


@case("H-24")
def an_address_that_is_mapped(site):
    """The pod's address as an IPv4-mapped one is answered with 400"""
    expect("status", site.status(f"[::ffff:{site.shop.ip}]:8080"), 400)


@case("H-24")
def an_address_whose_waypoint_this_is(site):
    """The address of a service whose waypoint this pod is is accepted, and leads to this pod"""
    item = site.plane.service("behind.demo.svc.cluster.local", "10.96.8.1", ports=((8080, 8080),))
    item[1].service.waypoint.address.address = socket.inet_aton(site.shop.ip)
    item[1].service.waypoint.hbone_mtls_port = 15008
    with site.resources(item), site.tunnel() as c:
        expect("what comes back", echo(site, c, "10.96.8.1:8080"), b"hello")
        expect("the address of another service", c.status(c.connect("10.96.1.1:8080")), 400)


@case("H-25")
def an_unknown_hostname(site):
    """A hostname that is no service of this pod is answered with 503"""
    expect("status", site.status("unknown.example:80"), 503)


@case("H-26")
def ports_of_the_proxy(site):
    """Ports of the proxy itself are answered with 503"""
    with site.tunnel() as c:
        for port in (15001, 15006, 15008):
            expect(f"status of {port}", c.status(c.connect(f"{site.shop.ip}:{port}")), 503)


@case("H-27")
def nobody_listens(site):
    """A port where no application listens is answered with 503"""
    with site.tunnel() as c:
        expect("status", c.status(c.connect(f"{site.shop.ip}:9999")), 503)
        lives(site, c)


@case("H-28")
def with_a_protocol(site):
    """CONNECT with :protocol, :scheme and :path is reset as a PROTOCOL_ERROR"""
    with site.tunnel() as c:
        head = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":path", "/")]
        sid = c.request([*head, (":authority", f"{site.shop.ip}:8080")])
        expect("answer", c.status(sid), ("reset", 1))


@case("H-29")
def a_malformed_traceparent(site):
    """A malformed traceparent is ignored"""
    with site.tunnel() as c:
        for value in ("00-" + "0" * 52, "x", "00-" + "g" * 32 + "-" + "0" * 16 + "-00"):
            sid = c.connect(f"{site.shop.ip}:8080", [("traceparent", value)])
            expect(f"answer to {value}", c.status(sid), 200)


@case("H-29")
def malformed_baggage(site):
    """Malformed baggage is ignored, and so is a malformed forwarded"""
    with site.tunnel() as c:
        for name, value in (
            ("baggage", "=,=,,k8s.namespace.name,=x"),
            ("baggage", "k8s.namespace.name=" + "x" * 4000),
            ("forwarded", 'for="";host='),
            ("forwarded", ";;;=;host"),
        ):
            sid = c.connect(f"{site.shop.ip}:8080", [(name, value)])
            expect(f"answer to {name}: {value[:40]}", c.status(sid), 200)


@case("H-29")
def unknown_headers(site):
    """Headers that nobody knows are ignored"""
    extra = [("x-of-tomorrow", "1"), ("x-forwarded-network", "net9"), ("x-istio-source", "waypoint")]
    expect("answer", site.status(extra=extra), 200)


@case("H-30")
def baggage_of_the_destination(site):
    """A 200 carries baggage that describes the destination"""
    with site.tunnel() as c:
        sid = c.connect(f"{site.shop.ip}:8080")
        expect("status", c.status(sid), 200)
        baggage = c.headers(sid).get("baggage", "")
    for part in ("k8s.cluster.name=Kubernetes", "k8s.namespace.name=demo", "service.name=shop"):
        expect_that(part in baggage.split(","), f"{part} is not in {baggage!r}")


@case("H-30")
def an_answer_without_the_rest(site):
    """An answer that refuses ends its stream, and has no baggage"""
    with site.tunnel() as c:
        sid = c.connect(f"{site.web.ip}:8080")
        expect("status", c.status(sid), 400)
        expect_that(
            c.pump(lambda: c.ended(sid) or c.reset_code(sid) is not None, PATIENCE), "the stream is open"
        )
        expect("baggage", c.headers(sid).get("baggage"), None)


@case("H-31")
def the_clients_address(site):
    """The application sees the client's address, for IPv4 and IPv6"""
    for authority, to, source in (
        (f"{site.shop.ip}:8080", site.shop.ip, site.far.ip),
        (f"[{site.shop.ip6}]:8080", site.shop.ip6, site.far.ip6),
    ):
        with site.tunnel(address=to) as c:
            echo(site, c, authority)
        wait_for(lambda s=source: seen_by_shop(site, s), f"{source} at the application", PATIENCE)


@case("H-32")
def baggage_is_no_identity(site):
    """Baggage and forwarded decide nothing: a policy sees the certificate's identity and the tunnel's address"""
    extra = [("baggage", "k8s.namespace.name=demo,service.name=web"), ("forwarded", f'for="{site.web.ip}:1"')]
    name, message = site.policy(
        "lie", {"principals": ["cluster.local/ns/demo/sa/web"]}, {"source_ips": [site.web.ip + "/32"]}
    )
    with site.policies((name, message)):
        expect("who says that it is web", site.status(extra=extra), 200)
        other = site.certificate(site.web.identity)
        expect("who is", site.status(certificate=other), 401)


@case("H-33")
def settings(site):
    """The server's SETTINGS: 200 streams, and a header list of 64 KiB"""
    with site.tunnel() as c:
        c.pump(lambda: c.of(0, h2.events.RemoteSettingsChanged), PATIENCE)
        changed = c.of(0, h2.events.RemoteSettingsChanged)[0].changed_settings
    values = {int(k): v.new_value for k, v in changed.items()}
    expect("MAX_CONCURRENT_STREAMS", values.get(3), 200)
    expect("MAX_HEADER_LIST_SIZE", values.get(6), 65536)


@case("H-33")
def windows(site):
    """The server's windows: 4 MiB for a stream, frames of up to 1 MiB, 16 MiB for the connection"""
    with site.tunnel() as c:
        c.pump(lambda: c.of(0, h2.events.RemoteSettingsChanged), PATIENCE)
        changed = c.of(0, h2.events.RemoteSettingsChanged)[0].changed_settings
        values = {int(k): v.new_value for k, v in changed.items()}
        c.status(c.connect(f"{site.shop.ip}:8080"))
        window = c.h2.outbound_flow_control_window
    expect("INITIAL_WINDOW_SIZE", values.get(4), 4 << 20)
    expect("MAX_FRAME_SIZE", values.get(5), 1 << 20)
    expect("window of the connection", window, 16 << 20)


@case("H-34")
def more_streams_than_there_may_be(site):
    """Of 220 streams 200 are served, and each beyond is refused as REFUSED_STREAM"""
    with site.tunnel() as c:
        sids = [c.connect(f"{site.shop.ip}:8080") for _ in range(220)]
        answers = [c.status(s, 20) for s in sids]
    expect("answers of 200", answers.count(200), 200)
    expect("streams that were refused", answers.count(("reset", 7)), 20)


@case("H-35")
def headers_of_more_than_64_kib(site):
    """A header list of more than 64 KiB is answered with 431, and the tunnel lives"""
    with site.tunnel() as c:
        sid = c.connect(f"{site.shop.ip}:8080", [(f"x-{i}", "v" * 1000) for i in range(70)])
        expect("status", c.status(sid), 431)
        lives(site, c)


@case("H-36")
def rapid_reset(site):
    """A flood of resets ends the tunnel with ENHANCE_YOUR_CALM, and nobody else notices"""
    with site.tunnel() as c:
        try:
            for _ in range(3000):
                c.h2.reset_stream(c.connect(f"{site.shop.ip}:8080"), 8)
                c.flush()
        except OSError:
            pass
        c.pump(lambda: c.goaways or c.closed, 20)
        expect_that(c.goaways or c.closed, "the tunnel lives")
        if c.goaways:
            expect("GOAWAYs", sorted({code for code, _ in c.goaways}), [11])
    expect("status for another", site.status(), 200)


@case("H-37")
def ping(site):
    """A PING is answered"""
    with site.tunnel() as c:
        c.h2.ping(b"12345678")
        c.flush()
        expect_that(c.pump(lambda: c.of(0, h2.events.PingAckReceived), PATIENCE), "no answer")
