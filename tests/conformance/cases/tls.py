# SPDX-License-Identifier: Apache-2.0
"""TLS of the HBONE port: whom it lets in, and what it offers."""

import socket
import ssl
import subprocess
import time

from conformance.registry import case, expect, expect_that
from conformance.site import PATIENCE
from support.network import inside
from support.proxies import hbone
from support.system import placed


def context(site, certificate=None):
    return hbone.context(False, *(certificate or site.of(site.far)))


def s_client(site, *options):
    """What a stock OpenSSL says of a handshake with shop's port, as far's."""
    cert, key, root = site.of(site.far)
    argv = ["openssl", "s_client", "-connect", f"{site.shop.ip}:15008", "-cert", cert, "-key", key]
    argv += ["-CAfile", root, "-alpn", "h2", *options]
    r = subprocess.run(
        placed(argv, site.far.netns), input=b"", capture_output=True, timeout=PATIENCE * 2, check=False
    )
    return (r.stdout + r.stderr).decode(errors="replace")


def refused(site, own):
    """A client with this context gets no tunnel."""
    with inside(site.far.netns):
        sock = socket.create_connection((site.shop.ip, 15008), timeout=PATIENCE)
    try:
        with own.wrap_socket(sock) as s:
            data = s.recv(100)
    except (ssl.SSLError, ConnectionError):
        return  # an alert, or the end
    expect("what the server says", data, b"")


@case("H-1")
def tls_13(site):
    """TLS is 1.3"""
    text = s_client(site)
    expect_that("TLSv1.3" in text, f"s_client says {text[-300:]}")


@case("H-1")
def not_tls_12(site):
    """A client that offers TLS 1.2 alone is refused"""
    own = context(site)
    own.minimum_version, own.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    refused(site, own)


@case("H-2")
def aes_gcm(site):
    """Both suites with AES-GCM are taken"""
    for suite in ("TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"):
        text = s_client(site, "-ciphersuites", suite)
        expect_that(f"Cipher is {suite}" in text, f"{suite}: {text[-300:]}")


@case("H-2")
def no_chacha(site):
    """A client that offers another suite alone is refused"""
    text = s_client(site, "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256")
    expect_that("Cipher is TLS_CHACHA20" not in text, "it was taken")


@case("H-3")
def groups(site):
    """X25519, P-256 and P-384 are taken"""
    for group in ("X25519", "P-256", "P-384"):
        text = s_client(site, "-groups", group)
        expect_that("Cipher is TLS_AES" in text, f"{group}: {text[-300:]}")


@case("H-4")
def alpn_is_h2(site):
    """The protocol h2 is chosen"""
    with site.tunnel() as c:
        expect("protocol", c.tls.selected_alpn_protocol(), "h2")


@case("H-4")
def alpn_without_h2(site):
    """A client that offers other protocols, but not h2, is refused"""
    own = context(site)
    own.set_alpn_protocols(["http/1.1"])
    refused(site, own)


@case("H-4")
def no_alpn(site):
    """A client that offers no protocol is served"""
    cert, key, root = site.of(site.far)
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    own.load_cert_chain(cert, key)
    own.load_verify_locations(root)
    own.check_hostname = False
    with inside(site.far.netns):
        sock = socket.create_connection((site.shop.ip, 15008), timeout=PATIENCE)
    with own.wrap_socket(sock) as s:
        s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4" + bytes(5))
        expect_that(s.recv(9)[3:4] == b"\4", "no SETTINGS came")


@case("H-5")
def no_certificate(site):
    """A client without a certificate is refused"""
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    own.check_hostname, own.verify_mode = False, ssl.CERT_NONE
    own.set_alpn_protocols(["h2"])
    refused(site, own)


@case("H-5")
def an_expired_certificate(site):
    """A client whose certificate has expired is refused"""
    refused(site, context(site, site.certificate(site.far.identity, begins=-60, ends=-5)))


@case("H-6")
def another_trust_domain(site):
    """A client of another trust domain is refused"""
    refused(site, context(site, site.certificate("spiffe://other.example/ns/demo/sa/far")))


@case("H-6")
def no_identity(site):
    """A client whose certificate has no SPIFFE ID is refused"""
    refused(site, context(site, site.certificate("https://far.demo.example/")))


@case("H-7")
def two_identities(site):
    """A certificate with two URI names is refused"""
    refused(
        site, context(site, site.certificate(site.far.identity, "spiffe://cluster.local/ns/demo/sa/second"))
    )


@case("H-8")
def no_tickets(site):
    """No session ticket is issued"""
    with site.tunnel() as c:
        expect("status", c.status(c.connect(f"{site.shop.ip}:8080")), 200)
        expect("the session has a ticket", c.tls.session.has_ticket, False)


@case("H-9")
def its_certificate_expires(site):
    """When the peer's certificate expires, its tunnel takes no new request and its open streams go on"""
    brief = site.certificate(site.far.identity, ends=3)
    with site.tunnel(brief) as c:
        sid = c.connect(f"{site.shop.ip}:8080")
        expect("status", c.status(sid), 200)
        c.pump(lambda: c.goaways or c.closed, 5)
        expect_that(c.goaways and not c.closed, "no GOAWAY came, or the tunnel was closed")
        c.send(sid, b"goes on", end=True)
        expect_that(c.pump(lambda: c.ended(sid)), "the open stream does not go on")
        expect("what came back", c.received(sid), b"goes on")


@case("H-10")
def garbage_instead_of_tls(site):
    """Who does not speak TLS is cut off, and nobody else notices"""
    for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(100), bytes(4096)):
        with site.dial(site.far, site.shop.ip, 15008, 12) as s:
            s.sendall(data)
            try:
                while s.recv(1000):
                    pass
            except ConnectionResetError:
                pass
    expect("status for another", site.status(), 200)


@case("H-10")
def silence_instead_of_tls(site):
    """Who says nothing is cut off within a minute"""
    sock = site.dial(site.far, site.shop.ip, 15008)
    begin = time.monotonic()
    sock.settimeout(20)
    with sock:
        try:
            data = sock.recv(100)
        except ConnectionResetError:
            data = b""
        except TimeoutError:
            data = None
    expect_that(data is not None, f"still open after {time.monotonic() - begin:.0f} s")
