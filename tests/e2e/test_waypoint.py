# SPDX-License-Identifier: Apache-2.0
"""Waypoints: a stock Envoy with the configuration of docs/waypoints.md, two nodes with real agents and
proxies."""

import json
import re

import pytest

from support.nodes.mesh import TRUST_DOMAIN, Mesh
from support.nodes.pod_programs import HTTP_APP
from support.proxies import waypoint as support
from support.proxies.waypoint_shop import (
    DESTINATION,
    POST,
    SHOP,
    VIP4,
    VIP6,
    WAYPOINT,
    WAYPOINT_VIP,
    envoy,
    named,
    one,
    only_waypoint,
    publish,
    requests,
    set_services,
    set_waypoints,
)
from support.system import wait_for

# All connections are open at once; the requests come after the last has been opened.
PARALLEL = """
import http.client, json, sys
all = [http.client.HTTPConnection(sys.argv[1], 80, timeout=60) for i in range(120)]
for c in all:
    c.connect()
for c in all:
    c.request("GET", "/")
print(json.dumps([c.getresponse().status for c in all]))
"""


# Takes a MiB of an answer without end, and leaves.
LEAVE = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], 80, timeout=30)
connection.request("GET", "/endless", headers={"x-version": "v2"})
print(len(connection.getresponse().read(1 << 20)))
"""


# So many uploads; the first line of each answer, as far as it came.
# Eight at a time: who has answered waits a second before it closes.
UPLOAD = """
import concurrent.futures, json, socket, sys, threading
def push(s):
    try:
        for i in range(128):
            s.sendall(bytes(65536))
    except OSError:
        pass
def upload(_):
    s = socket.create_connection((sys.argv[1], 80), timeout=30)
    s.sendall(b"%s / HTTP/1.1\\r\\nHost: shop\\r\\nContent-Length: 8388608\\r\\n\\r\\n" % sys.argv[3].encode())
    t = threading.Thread(target=push, args=(s,))
    t.start()
    got = b""
    try:
        while d := s.recv(65536):
            got += d
    except OSError:
        pass
    t.join()
    s.close()
    return got.partition(b"\\r\\n")[0].decode()
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    print(json.dumps(list(pool.map(upload, range(int(sys.argv[2]))))))
"""


@pytest.fixture(scope="module")
def mesh(program):
    """web and other (clients) on the first node, v1 and v2 of shop and the waypoints on the second."""
    with Mesh(nodes=2) as m:
        m.web, m.other = m.pod("web"), m.pod("other")
        m.v1, m.v2 = m.pod("shop-v1", node=1, account="shop"), m.pod("shop-v2", node=1, account="shop")
        m.waypoint, m.second = m.pod("waypoint", node=1), m.pod("waypoint-2", node=1, account="waypoint")
        for pod in (m.waypoint, m.second):
            pod.outside = True
        for pod in (m.v1, m.v2):
            pod.services = {f"demo/{SHOP}": {80: 8080}}
        set_services(m, waypoint=DESTINATION)
        set_waypoints(m, m.waypoint)
        m.start()
        m.v1.app, m.v2.app = m.v1.server(HTTP_APP, "v1"), m.v2.server(HTTP_APP, "v2")
        m.envoy = envoy(m, m.waypoint, program)
        try:
            m.envoy.start()
            yield m
        finally:
            m.envoy.stop()


@pytest.fixture(autouse=True)
def as_it_was(request):
    """Each test finds the mesh as the fixture made it."""
    yield
    if "mesh" not in request.fixturenames:
        return
    m = request.getfixturevalue("mesh")
    set_services(m, waypoint=DESTINATION)
    set_waypoints(m, m.waypoint)
    m.policies.clear()
    for pod in m.pods:
        pod.more = {}
    publish(m)
    # The services were perhaps as they are now all the time: what else a test changes has to be gone from
    # both proxies, too.
    for node in m.nodes:
        wait_for(
            lambda node=node: untouched(m, node.config_dump()),
            f"the proxy of {node.name} to forget this test's changes",
        )
    wait_for(lambda: one(m.web, VIP4)[0] == 200, "requests to be answered again")


def untouched(m, dump):
    waypoints = [
        (w["name"], w.get("capacity", 1)) for w in dump["workloads"] if w["name"].startswith("waypoint")
    ]
    pods = [w for w in dump["workloads"] if w["name"].startswith("shop-")]
    return (
        waypoints == [(m.waypoint.name, 1)]
        and not dump["policies"]
        and not any(w.get("waypoint") for w in pods)
    )


def failures(node):
    return [line for line in node.proxy.text().splitlines() if "\taccess\t" in line and "error=" in line]


def test_an_early_answer_arrives_before_the_reset(mesh):
    """Envoy refuses before it has the body (403); so does the application behind it, which does not know the
    method (501)."""
    assert set(json.loads(mesh.web.python(UPLOAD, VIP4, 40, "DELETE", timeout=120))) == {
        "HTTP/1.1 403 Forbidden"
    }


@pytest.mark.parametrize("vip", [VIP4, VIP6], ids=["v4", "v6"])
def test_get_is_allowed_and_delete_is_refused(mesh, vip):
    status, body = one(mesh.web, vip)
    assert status == 200 and body in ("v1", "v2")
    assert one(mesh.web, vip, "DELETE") == [403, "RBAC: access denied"]
    assert "DELETE" not in mesh.v1.app.text() + mesh.v2.app.text()
    wait_for(
        lambda: [
            x
            for x in mesh.envoy.lines()
            if x.startswith(f"{mesh.web.identity} DELETE") and "403 rbac_access_denied" in x
        ],
        "the refusal in Envoy's log",
    )


def test_the_waypoint_sees_the_clients_identity(mesh):
    assert one(mesh.other, VIP4) == [403, "RBAC: access denied"]
    wait_for(
        lambda: [x for x in mesh.envoy.lines() if x.startswith(f"{mesh.other.identity} GET") and "403" in x],
        "the identity in Envoy's log",
    )


def test_both_proxies_name_the_waypoint(mesh):
    ours, theirs = len(mesh.nodes[0].access_log()), len(mesh.nodes[1].access_log())
    assert one(mesh.web, VIP4, **{"x-version": "v2"}) == [200, "v2"]
    line = wait_for(lambda: mesh.nodes[0].access_log()[ours:], "the client's line")[-1]
    assert f"dst.addr={mesh.waypoint.ip}:15008" in line and f"dst.hbone_addr={VIP4}:80" in line, line
    assert (
        f'dst.service="{SHOP}"' in line
        and f'dst.identity="{mesh.waypoint.identity}"' in line
        and "error=" not in line
    ), line
    mesh.envoy.stop()  # it kept its connections to the pods
    mesh.envoy.start()
    lines = wait_for(
        lambda: [x for x in mesh.nodes[1].access_log()[theirs:] if 'dst.workload="shop-v2"' in x],
        "the server's line",
    )
    assert all(f'src.identity="{mesh.waypoint.identity}"' in x and "error=" not in x for x in lines), lines


def test_a_client_that_leaves_in_the_middle(mesh):
    """Envoy resets the stream to the pod with INTERNAL_ERROR, which is nobody's failure here and reaches the
    application."""
    theirs = len(mesh.nodes[1].access_log())
    assert mesh.web.python(LEAVE, VIP4).strip() == str(1 << 20)
    wait_for(lambda: "ENDED" in mesh.v2.app.text(), "the application to see the end")
    line = wait_for(
        lambda: [x for x in mesh.nodes[1].access_log()[theirs:] if re.search(r"bytes_sent=\d{7}", x)],
        "the server's line",
    )[-1]
    assert 'dst.workload="shop-v2"' in line and "error=" not in line, line


def test_canary_split_and_pinned_version(mesh):
    answers = requests(mesh.web, VIP4, 300)
    assert {status for status, _ in answers} == {200}
    # 300 draws of 1 in 5: 60, and 42 is six standard deviations
    assert 18 <= sum(body == "v2" for _, body in answers) <= 102
    assert requests(mesh.web, VIP4, 20, **{"x-version": "v2"}) == [[200, "v2"]] * 20


def test_four_mebibytes_arrive_intact(mesh):
    assert mesh.web.python(POST, VIP4, timeout=90).strip() == "same"


def test_more_connections_than_envoy_takes_streams(mesh):
    assert json.loads(mesh.web.python(PARALLEL, VIP4, timeout=120)) == [200] * 120


def test_what_envoy_does_not_list_it_closes(mesh):
    set_services(mesh, waypoint=DESTINATION, ports={80: 8080, 81: 8080})
    publish(mesh, lambda dump: any(s["ports"] == {"80": 8080, "81": 8080} for s in dump["services"]))
    ours = len(mesh.nodes[0].access_log())
    assert one(mesh.web, VIP4, port=81)[0] == 0
    wait_for(
        lambda: [
            x
            for x in mesh.nodes[0].access_log()[ours:]
            if f"dst.hbone_addr={VIP4}:81" in x and "connect_rejected: " in x
        ],
        "the reason in the log",
    )


def references(m):
    return {
        "hostname": f"demo/{WAYPOINT}",
        "address of a service": f"/{WAYPOINT_VIP}",
        "address of a workload": f"/{m.waypoint.ip}",
        "IPv6 address of a workload": f"/{m.waypoint.ip6}",
    }


@pytest.mark.parametrize(
    "how", ["hostname", "address of a service", "address of a workload", "IPv6 address of a workload"]
)
def test_a_service_names_its_waypoint(mesh, how):
    set_services(mesh)
    publish(mesh)
    assert one(mesh.web, VIP4, "DELETE")[0] == 200  # without a waypoint nobody knows of methods
    set_services(mesh, waypoint=named(references(mesh)[how]))
    publish(mesh)
    assert one(mesh.web, VIP4, "DELETE")[0] == 403
    assert one(mesh.web, VIP4)[0] == 200


@pytest.mark.parametrize("how", ["hostname", "address of a service", "address of a workload"])
def test_a_workload_names_its_waypoint(mesh, how):
    assert one(mesh.web, mesh.v1.ip, "DELETE", port=8080) == [200, "v1"]
    mesh.v1.more = {"waypoint": named(references(mesh)[how])}
    set_services(mesh)  # service-addressed traffic does not ask the workloads
    publish(mesh, lambda dump: any(w["name"] == "shop-v1" and w.get("waypoint") for w in dump["workloads"]))
    assert one(mesh.web, mesh.v1.ip, "DELETE", port=8080) == [403, "RBAC: access denied"]
    assert one(mesh.web, mesh.v1.ip, port=8080) == [200, "v1"]
    wait_for(
        lambda: [x for x in mesh.envoy.lines() if f"for {mesh.v1.ip}:8080 -> 200" in x],
        "the request in Envoy's log",
    )
    assert {status for status, _ in requests(mesh.web, VIP4, 10, "DELETE")} == {200}


def test_weighted_waypoints(mesh, program):
    """Three of four connections to the second, the rest to the first; one without weight is never asked
    for."""
    second = envoy(mesh, mesh.second, program)
    try:
        second.start()
        set_waypoints(mesh, mesh.waypoint, mesh.second)
        weighted = [
            {"destination": named(f"/{mesh.waypoint.ip}"), "weight": 1},
            {"destination": named("demo/nowhere.example"), "weight": 0},
            {"destination": named(f"/{mesh.second.ip}"), "weight": 3},
        ]
        set_services(mesh, waypoint=named("demo/nowhere.example"), weightedWaypoints=weighted)
        publish(mesh)
        before = len(mesh.envoy.lines())
        assert {status for status, _ in requests(mesh.web, VIP4, 100)} == {200}
        lines = wait_for(
            lambda: len(second.lines()) + len(mesh.envoy.lines()) - before >= 100 and second.lines(),
            "100 requests",
        )
        assert 49 <= len(lines) <= 98 and len(mesh.envoy.lines()) > before  # 75, and six standard deviations
    finally:
        second.stop()


def test_endpoints_of_a_waypoint_share_by_capacity(mesh, program):
    second = envoy(mesh, mesh.second, program)
    try:
        second.start()
        set_waypoints(mesh, mesh.waypoint, mesh.second)
        mesh.extra[1]["capacity"] = 3
        publish(
            mesh,
            lambda dump: any(w["name"] == "waypoint-2" and w.get("capacity") == 3 for w in dump["workloads"]),
        )
        before = len(mesh.envoy.lines())
        assert {status for status, _ in requests(mesh.web, VIP4, 100)} == {200}
        lines = wait_for(
            lambda: len(second.lines()) + len(mesh.envoy.lines()) - before >= 100 and second.lines(),
            "100 requests",
        )
        assert 49 <= len(lines) <= 98 and len(mesh.envoy.lines()) > before
    finally:
        second.stop()


def test_waypoint_gone_and_back(mesh):
    assert one(mesh.web, VIP4)[0] == 200
    before = len(failures(mesh.nodes[0]))
    mesh.envoy.kill()
    assert one(mesh.web, VIP4)[0] == 0
    line = wait_for(
        lambda: [
            x
            for x in failures(mesh.nodes[0])[before:]
            if f"dst.addr={mesh.waypoint.ip}:15008" in x and "connect_refused: " in x
        ],
        "the reason in the log",
    )[-1]
    assert f"dst.hbone_addr={VIP4}:80" in line, line
    mesh.envoy.start()
    assert one(mesh.web, VIP4)[0] == 200


def test_a_waypoint_that_nobody_knows_is_not_gone_around(mesh):
    served = mesh.v1.app.text() + mesh.v2.app.text()
    set_waypoints(mesh)
    publish(mesh, lambda dump: not any(w["name"] == "waypoint" for w in dump["workloads"]))
    assert one(mesh.web, VIP4)[0] == 0
    wait_for(
        lambda: (
            f"waypoint_unresolved: waypoint demo/{WAYPOINT}: it has no usable endpoint"
            in mesh.nodes[0].proxy.text()
        ),
        "the reason in the log",
    )
    assert mesh.v1.app.text() + mesh.v2.app.text() == served


def test_another_identity_than_the_waypoints_is_refused(mesh, program):
    impostor = envoy(mesh, mesh.waypoint, program, account="impostor")
    before = len(failures(mesh.nodes[0]))
    mesh.envoy.stop()
    try:
        impostor.start()
        assert one(mesh.web, VIP4)[0] == 0
        wait_for(
            lambda: [x for x in failures(mesh.nodes[0])[before:] if "peer_identity_mismatch: " in x],
            "the reason in the log",
        )
        assert not impostor.lines()
    finally:
        impostor.stop()
        mesh.envoy.start()


def test_servers_that_accept_only_their_waypoint(mesh):
    assert one(mesh.web, mesh.v1.ip, port=8080) == [200, "v1"]
    mesh.policies.append(only_waypoint())
    for pod in (mesh.v1, mesh.v2):
        pod.more = {"authorizationPolicies": ["demo/only-waypoint"]}
    mesh.write()
    wait_for(lambda: one(mesh.web, mesh.v1.ip, port=8080)[0] == 0, "direct connections to be refused")
    for pod in (mesh.v1, mesh.v2):
        before = len(failures(mesh.nodes[0])), len(failures(mesh.nodes[1]))
        assert one(mesh.web, pod.ip, port=8080)[0] == 0
        wait_for(
            lambda: [
                x for x in failures(mesh.nodes[0])[before[0] :] if "connect_rejected: " in x and "401" in x
            ],
            "401 at the client",
        )
        wait_for(
            lambda: [x for x in failures(mesh.nodes[1])[before[1] :] if "policy_denied: " in x],
            "the reason at the server",
        )
    assert {tuple(x) for x in requests(mesh.web, VIP4, 40)} <= {(200, "v1"), (200, "v2")}
    assert one(mesh.web, VIP4, "DELETE")[0] == 403


def test_servers_that_refuse_the_waypoint(mesh):
    before = len(failures(mesh.nodes[1]))
    mesh.policies.append(
        {
            "name": "no-waypoint",
            "namespace": "demo",
            "scope": "Namespace",
            "action": "Deny",
            "dryRun": False,
            "rules": [[[{"principals": [{"Exact": f"{TRUST_DOMAIN}/ns/demo/sa/waypoint"}]}]]],
        }
    )
    mesh.write()
    # One that is let in just before is cut, which has another reason.
    wait_for(
        lambda: (
            one(mesh.web, VIP4)[0] == 503
            and [x for x in failures(mesh.nodes[1])[before:] if "policy_denied: " in x]
        ),
        "Envoy to be refused, and the reason at the server",
    )


@pytest.mark.parametrize("sample", [support.SAMPLE, support.SAMPLE_IN_MESH])
def test_samples_say_what_is_to_be_changed(sample):
    """Nothing in a sample is of the example's mesh but what its first lines name."""
    with open(sample) as f:
        text = f.read()
    head = "".join(re.match(r"(#.*\n)+", text).group())
    own = set(re.findall(r"\b10\.[0-9.]+[0-9]\b|\bfd[0-9a-f]{2}:[0-9a-f:]+|/etc/[a-z]+", text[len(head) :]))
    assert own and not [x for x in own if x not in head], head
