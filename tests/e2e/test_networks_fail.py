# SPDX-License-Identifier: Apache-2.0
"""Networks whose gateways or servers fail, are refused, or are others than they should be."""

import pytest

from support.networks import AWAY, GATEWAY_HOST, HOST, VIP4, VIP6, Networks
from support.nodes.mesh import TRUST_DOMAIN
from support.nodes.pod_programs import ECHO
from support.system import wait_for
from support.xds.site import CLIENT

OTHER = f"spiffe://{TRUST_DOMAIN}/ns/demo/sa/other"


@pytest.fixture(scope="module")
def two(program):
    env = {"BRUMA_EJECTION_TIME": "1s", "BRUMA_CONNECT_TIMEOUT": "4s"}
    with Networks(program, home_env=env) as n:
        n.start(gateways=2)
        n.texts = {pod: pod.server(ECHO, "8080", "of " + pod.name) for pod in (n.shop, n.shop2, n.near)}
        yield n


@pytest.fixture(autouse=True)
def as_it_was(two):
    yield
    two.names, two.references, two.near_serves = [two.shop.identity], "address", False
    two.service_extra, two.remote, two.extra = {}, {"capacity": 1}, []
    two.write()
    dump = two.nodes[0].config_dump
    wait_for(
        lambda: (
            len(dump()["workloads"]) == 5
            and not both_known(two)
            and next(s for s in dump()["services"] if s["hostname"] == HOST)["subjectAltNames"] == two.names
        ),
        "the clients' proxy to know the mesh as it was",
    )
    wait_for(lambda: ask(two) == "ping", "the service to serve again")


def ask(two, vip=VIP4, port=80):
    return two.web.python(CLIENT, vip, port).strip()


def refusal(two, reason, vip=VIP4, words=""):
    """The connection is refused, and the log says why; nothing has arrived at a server."""
    came = sum(p.text().count("FROM") for p in two.texts.values())
    before = len(two.nodes[0].proxy.text())
    assert ask(two, vip) in ("ConnectionResetError", "closed")

    def line():
        return [
            x
            for x in two.nodes[0].proxy.text()[before:].splitlines()
            if f"{reason}: " in x and words in x and "\taccess\t" in x
        ]

    found = wait_for(line, f"{reason} in the log")[-1]
    assert sum(p.text().count("FROM") for p in two.texts.values()) == came
    return found


def both_known(two):
    """By the clients' proxy: the endpoint here, and the one in the other network."""
    services = two.nodes[0].config_dump()["services"]
    return len(next(s for s in services if s["hostname"] == HOST)["endpoints"]) == 2


def refers(two, destination):
    """Whether the clients' proxy knows the other network's gateway by that."""
    workloads = two.nodes[0].config_dump()["workloads"]
    return any((w.get("networkGateway") or {}).get("destination") == destination for w in workloads)


def publish(two, **fields):
    for name, value in fields.items():
        setattr(two, name, value)
    two.write()


# ---- refused, never in plaintext ----


def test_without_names_to_expect(two):
    publish(two, names=[])
    wait_for(lambda: ask(two) != "ping", "the change to be known")
    refusal(two, "gateway_names_missing", words=HOST)
    refusal(two, "gateway_names_missing", VIP6)
    said = two.nodes[0].ctl("explain", "demo/web", f"{VIP4}:80", check=False).stdout
    assert "gateway_names_missing" in said, said


def test_without_a_gateway(two):
    publish(two, references=None)
    wait_for(lambda: ask(two) != "ping", "the change to be known")
    refusal(two, "gateway_unresolved", words="without a gateway")
    said = two.nodes[0].ctl("explain", "demo/web", f"{VIP4}:80", check=False).stdout
    assert "gateway_unresolved" in said, said


def test_the_gateway_is_somebody_else(two):
    """Its certificate is of the mesh, and of another account than the control plane says."""
    impostor = two.gateway(0, account="other")
    two.gateways[0].stop()
    try:
        impostor.start()
        line = refusal(two, "peer_identity_mismatch", words="east-west gateway")
        assert OTHER in line and f"dst.addr={two.pods[0].ip}:15008" in line, line
    finally:
        impostor.stop()
        two.gateways[0].start()


def test_the_server_is_somebody_else(two):
    """The service is said to have another identity than the pods that the gateway reaches."""
    publish(two, names=[OTHER])
    wait_for(lambda: ask(two) != "ping", "the change to be known")
    line = refusal(two, "peer_identity_mismatch", words="behind the gateway")
    assert two.shop.identity in line, line


def test_the_gateway_refuses_the_client(two):
    """By 403, which is a decision: nothing else is tried."""
    publish(two, near_serves=True, remote={"capacity": 1000})
    wait_for(lambda: both_known(two), "both endpoints to be known")
    strict = two.gateway(0)
    text = strict.text().replace(
        "          - name: envoy.filters.http.router\n",
        "          - name: envoy.filters.http.rbac\n"
        "            typed_config:\n"
        '              "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC\n'
        "              rules: {action: ALLOW, policies: {}}\n"
        "          - name: envoy.filters.http.router\n",
        1,
    )
    assert "rbac" in text
    strict.text = lambda: text
    two.gateways[0].stop()
    try:
        strict.start()
        line = refusal(two, "gateway_rejected", words="status 403")
        assert "retries=" not in line, line
    finally:
        strict.stop()
        two.gateways[0].start()


# ---- failover ----

# Those of the own network come first, whatever their weight.
LOCAL_FIRST = {
    "loadBalancer": {
        "routingPreferences": ["Network", "Region"],
        "mode": "Failover",
        "healthPolicy": "OnlyHealthy",
    }
}


def served_by(two, count=10):
    """Who answers so many connections."""
    before = {pod: p.text().count("FROM") for pod, p in two.texts.items()}
    for _ in range(count):
        assert ask(two) == "ping"
    return {pod.name for pod, p in two.texts.items() if p.text().count("FROM") > before[pod]}


def test_the_own_network_comes_first_and_the_other_one_takes_over(two):
    publish(two, near_serves=True, service_extra=LOCAL_FIRST, remote={"capacity": 100})
    wait_for(lambda: served_by(two, 1) == {"near"}, "the endpoint here to serve")
    assert served_by(two) == {"near"}
    # Its application has gone; the control plane does not know yet.
    two.texts[two.near].kill()
    try:
        assert served_by(two) <= {"shop", "shop-2"}
        assert [x for x in two.nodes[0].access_log() if "retries=1" in x and "connect_rejected" in x]
    finally:
        two.texts[two.near] = two.near.server(ECHO, "8080")
    wait_for(lambda: served_by(two, 1) == {"near"}, "the endpoint here to serve again")


def test_a_dead_gateway_makes_room_for_the_own_network(two):
    publish(two, near_serves=True, remote={"capacity": 1000, "clusterId": "Kubernetes"}, service_extra={})
    wait_for(lambda: both_known(two), "both endpoints to be known")
    two.gateways[0].kill()
    try:
        assert served_by(two) == {"near"}
    finally:
        two.gateways[0].start()


def test_gateway_killed_and_back(two):
    two.gateways[0].kill()
    try:
        line = refusal(two, "connect_refused", words="east-west gateway")
        assert f"dst.addr={two.pods[0].ip}:15008" in line, line
    finally:
        two.gateways[0].start()
    assert ask(two) == "ping"


def test_gateway_killed_under_open_connections(two):
    p = two.web.popen("/usr/bin/python3", "-u", "-c", STAY, VIP4)
    p.wait_for_text("OPEN")
    two.gateways[0].kill()
    try:
        p.wait_for_text("CUT")
    finally:
        two.gateways[0].start()
    assert ask(two) == "ping"


STAY = """
import socket, sys
s = socket.create_connection((sys.argv[1], 80), timeout=60)
s.sendall(b"ping")
s.recv(4)
print("OPEN", flush=True)
try:
    print("CUT" if s.recv(4) == b"" else "DATA", flush=True)
except ConnectionResetError:
    print("CUT", flush=True)
"""


@pytest.mark.parametrize("references", ["hostname", "address6"])
def test_gateways_by_hostname_and_by_ipv6(two, references):
    publish(two, references=references)
    named = {"hostname": f"demo/{GATEWAY_HOST}", "address6": f"{AWAY}/{two.pods[0].ip6}"}[references]
    wait_for(lambda: refers(two, named), "the change to be known")
    before = len(two.nodes[0].access_log())
    for vip in (VIP4, VIP6):
        assert ask(two, vip) == "ping"
    lines = wait_for(lambda: len(x := two.nodes[0].access_log()[before:]) == 2 and x, "both lines")
    ips = [ip for p in two.pods for ip in (p.ip, f"[{p.ip6}]")]
    wanted = ips if references == "hostname" else [f"[{two.pods[0].ip6}]"]
    assert all(any(f"dst.addr={ip}:15008" in x for ip in wanted) for x in lines), lines


def test_another_gateway_of_the_same_service_is_tried(two):
    publish(two, references="hostname")
    wait_for(lambda: refers(two, f"demo/{GATEWAY_HOST}"), "the gateway's hostname to be known")
    two.gateways[0].kill()
    try:
        for _ in range(10):
            assert ask(two) == "ping"
    finally:
        two.gateways[0].start()


def test_a_server_that_is_gone_behind_the_gateway(two):
    """The gateway has said 200 before it could know, or says 503: either way another endpoint is tried."""
    publish(two, near_serves=True, remote={"capacity": 1000})
    nowhere = two.gateway(0, endpoints=[(two.spare.ip, 15008)])
    two.gateways[0].stop()
    try:
        nowhere.start()
        wait_for(lambda: both_known(two), "both endpoints to be known")
        assert served_by(two) == {"near"}
        publish(two, near_serves=False)
        wait_for(lambda: not both_known(two), "one endpoint to be known")
        refusal(two, "gateway_unavailable", words="status 503")
    finally:
        nowhere.stop()
        two.gateways[0].start()
