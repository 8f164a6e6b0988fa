# SPDX-License-Identifier: Apache-2.0
"""Connections to a service of several endpoints, of which one fails in each way that an endpoint can fail: before
anything of the application was sent another one is tried, and nothing is tried again that was denied."""

import contextlib
import json
import re
import signal
import threading
import time

import h2.errors
import pytest

from support.nodes.mesh import Mesh, leaf
from support.nodes.peer_place import place_of_a_peer
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.proxies import hbone
from support.system import sh, wait_for

CART, VIP = "demo/cart.demo.svc.cluster.local", "10.96.0.50"
MEMBER = {CART: {7000: 7000}}
LEFT_ALONE = 8  # seconds: of each test's own endpoint, so that no test waits for it

CALL = """
import socket, sys
try:
    s = socket.create_connection((sys.argv[1], 7000), timeout=30)
    s.sendall(b"x")
    print("served" if s.recv(1) == b"x" else "end")
except OSError as e:
    print(type(e).__name__)
"""


def cart(mesh):
    """The service; pods and workloads become its endpoints by MEMBER."""
    mesh.services.append(
        {
            "name": "cart",
            "namespace": "demo",
            "hostname": "cart.demo.svc.cluster.local",
            "vips": [f"/{VIP}"],
            "ports": {7000: 7000},
        }
    )


@contextlib.contextmanager
def mesh_with_a_good_endpoint(**settings):
    env = {
        "BRUMA_CONNECT_TIMEOUT": "4s",
        "BRUMA_PEER_HANDSHAKE_TIMEOUT": "4s",
        "BRUMA_EJECTION_TIME": f"{LEFT_ALONE}s",
        **settings,
    }
    with Mesh(nodes=2, proxy_env=env) as m:
        cart(m)
        m.web, m.good = m.pod("web"), m.pod("good", node=1)
        m.good.services = MEMBER
        m.start()
        m.good.server(ECHO, 7000)
        yield m


@pytest.fixture(scope="module")
def mesh():
    with mesh_with_a_good_endpoint() as m:
        yield m


@contextlib.contextmanager
def bad_endpoint(mesh, **more):
    """An endpoint that nearly every choice falls on."""
    with place_of_a_peer(mesh) as (pod, listener, cert):
        mesh.extra[-1].update({"services": MEMBER, "capacity": 1000000, **more})
        mesh.write()

        def known():
            services = [s for s in mesh.nodes[0].config_dump()["services"] if s["name"] == "cart"]
            return services and pod.name in str(services[0])

        wait_for(known, "the endpoint")
        yield pod, listener, cert


def retries(mesh, reason):
    found = re.search(rf'bruma_outbound_retries_total{{reason="{reason}"}} (\d+)', mesh.nodes[0].metrics())
    return int(found[1]) if found else 0


def served_elsewhere(mesh, reason):
    """The first call fails at the bad endpoint and is served by the good one; further ones go there at once."""
    before, failures = retries(mesh, reason), mesh.nodes[0].failures(reason)
    lines = len(mesh.nodes[0].access_log(f'retry_reason="{reason}"'))
    assert mesh.web.python(ONE_SHOT, VIP, 7000, "ping") == "ping"
    assert retries(mesh, reason) == before + 1
    began = time.monotonic()
    assert mesh.web.python(ONE_SHOT, VIP, 7000, "pong") == "pong"
    assert time.monotonic() - began < LEFT_ALONE, "no slower than that it was left alone"
    assert retries(mesh, reason) == before + 1
    assert mesh.nodes[0].failures(reason) == failures, "no connection has failed"

    def said():
        new = mesh.nodes[0].access_log(f'retry_reason="{reason}"')[lines:]
        return new and all("retries=1 " in line and 'dst.workload="good"' in line for line in new)

    wait_for(said, "the attempt in the access log")


def test_one_that_refuses(mesh):
    with bad_endpoint(mesh) as (_, listener, _):
        listener.close()
        served_elsewhere(mesh, "connect_refused")


def left_out(mesh, why):
    return int(re.search(rf'bruma_endpoints_left_out{{why="{why}"}} (\d+)', mesh.nodes[0].metrics())[1])


def test_it_is_shown_while_it_is_left_alone():
    with (
        mesh_with_a_good_endpoint(BRUMA_EJECTION_TIME="60s") as mesh,
        bad_endpoint(mesh) as (pod, listener, _),
    ):
        ctl = mesh.nodes[0].ctl
        assert "No endpoint is left out." in ctl("endpoints").stdout
        assert left_out(mesh, "failed") == left_out(mesh, "leaving") == 0
        listener.close()
        opened = mesh.nodes[0].metrics().count("istio_tcp_connections_opened_total{")
        assert mesh.web.python(ONE_SHOT, VIP, 7000, "ping") == "ping"
        assert left_out(mesh, "failed") == 1
        line = ctl("endpoints").stdout.splitlines()[1].split()
        assert line[:4] == [f"{pod.ip}:7000", f"demo/{pod.name}-hbone", "failed", "connect_refused"]
        assert 30 < float(line[4].rstrip("s")) <= 60 and line[5] == "1"
        (item,) = json.loads(ctl("endpoints", "-o", "json").stdout)
        assert item["reason"] == "connect_refused" and item["worker"] == 0
        # In Istio's metrics it is one connection, to the endpoint that serves.
        assert mesh.nodes[0].metrics().count("istio_tcp_connections_opened_total{") == opened + 1
        assert f'destination_workload="{pod.name}' not in mesh.nodes[0].metrics()


def test_one_that_refuses_without_a_tunnel(mesh):
    with bad_endpoint(mesh, protocol="TCP"):
        served_elsewhere(mesh, "connect_refused")


def test_one_that_is_silent(mesh):
    with bad_endpoint(mesh) as (pod, _, _):
        sh("ip", "-n", pod.netns, "route", "add", "blackhole", mesh.web.ip)
        served_elsewhere(mesh, "hbone_blocked")


def test_one_that_is_silent_without_a_tunnel(mesh):
    with bad_endpoint(mesh, protocol="TCP") as (pod, _, _):
        sh("ip", "-n", pod.netns, "route", "add", "blackhole", mesh.web.ip)
        served_elsewhere(mesh, "connect_timeout")


def test_one_without_a_way(mesh):
    with bad_endpoint(mesh) as (pod, _, _):
        sh("ip", "-n", mesh.web.netns, "route", "add", "unreachable", pod.ip)
        try:
            served_elsewhere(mesh, "connect_unreachable")
        finally:
            sh("ip", "-n", mesh.web.netns, "route", "del", "unreachable", pod.ip)


def test_one_that_accepts_and_says_nothing(mesh):
    with bad_endpoint(mesh):
        served_elsewhere(mesh, "tls_handshake_timeout")


def test_one_that_resets_the_handshake(mesh):
    with bad_endpoint(mesh) as (_, listener, _):
        stop = threading.Event()

        def reset():
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    sock, _ = listener.accept()
                    sock.recv(1)
                    sock.close()  # with bytes unread: a reset

        listener.settimeout(0.2)
        thread = threading.Thread(target=reset)
        thread.start()
        try:
            served_elsewhere(mesh, "tls_handshake_failed")
        finally:
            stop.set()
            thread.join()


def answer_503(server, conn, sid, headers):
    conn.h2.send_headers(sid, [(":status", "503")], end_stream=True)


def refuse(server, conn, sid, headers):
    conn.h2.reset_stream(sid, h2.errors.ErrorCodes.REFUSED_STREAM)


def go_away(server, conn, sid, headers):
    conn.h2.close_connection(last_stream_id=0)


@pytest.mark.parametrize(
    ("how", "reason"),
    [(answer_503, "connect_rejected"), (refuse, "http2_error"), (go_away, "http2_error")],
    ids=["503", "refused_stream", "goaway"],
)
def test_one_that_takes_no_request(mesh, how, reason):
    with bad_endpoint(mesh) as (_, listener, cert):
        server = hbone.Server(listener, *cert, behaviour=how)
        try:
            served_elsewhere(mesh, reason)
            assert server.requests
        finally:
            server.stop()


# ---- what is not tried again ----


def is_not_tried_again(mesh, reason):
    retried, failures = sum_of_retries(mesh), mesh.nodes[0].failures(reason)
    for _ in range(3):
        assert mesh.web.python(CALL, VIP).strip() == "ConnectionResetError"
    assert mesh.nodes[0].failures(reason) == failures + 3
    assert sum_of_retries(mesh) == retried


def sum_of_retries(mesh):
    return sum(int(n) for n in re.findall(r"bruma_outbound_retries_total{.*} (\d+)", mesh.nodes[0].metrics()))


@pytest.mark.parametrize("status", ["401", "403"])
def test_a_denial_is_not_tried_elsewhere(mesh, status):
    with bad_endpoint(mesh) as (_, listener, cert):
        server = hbone.Server(
            listener,
            *cert,
            behaviour=lambda server, conn, sid, headers: conn.h2.send_headers(
                sid, [(":status", status)], end_stream=True
            ),
        )
        try:
            is_not_tried_again(mesh, "connect_rejected")
        finally:
            server.stop()


def test_another_identity_is_not_gone_around(mesh):
    with bad_endpoint(mesh) as (_, listener, _):
        impostor = leaf(mesh, "spiffe://cluster.local/ns/demo/sa/impostor")
        server = hbone.Server(listener, *impostor)
        try:
            is_not_tried_again(mesh, "peer_identity_mismatch")
        finally:
            server.stop()


def test_a_pod_by_its_own_address_is_not_replaced(mesh):
    with bad_endpoint(mesh) as (pod, listener, _):
        listener.close()
        before = sum_of_retries(mesh)
        assert mesh.web.python(CALL, pod.ip).strip() == "ConnectionResetError"
        assert sum_of_retries(mesh) == before


def test_all_fail(mesh):
    """The last one's failure is the connection's, and it is tried as often as there are endpoints."""
    with bad_endpoint(mesh) as (_, one, _), bad_endpoint(mesh) as (_, other, _):
        one.close()
        other.close()
        mesh.good.services = {}
        mesh.write()
        wait_for(lambda: mesh.good.name not in str(cart_of(mesh)), "the good one is out")
        try:
            before, failures = retries(mesh, "connect_refused"), mesh.nodes[0].failures("connect_refused")
            assert mesh.web.python(CALL, VIP).strip() == "ConnectionResetError"
            assert retries(mesh, "connect_refused") == before + 1
            assert mesh.nodes[0].failures("connect_refused") == failures + 1
            assert mesh.web.python(CALL, VIP).strip() == "ConnectionResetError", "if all are out, all are in"
            assert mesh.nodes[0].failures("connect_refused") == failures + 2
        finally:
            mesh.good.services = MEMBER
            mesh.write()
            wait_for(lambda: mesh.good.name in str(cart_of(mesh)), "the good one is in")


def cart_of(mesh):
    return [s for s in mesh.nodes[0].config_dump()["services"] if s["name"] == "cart"]


def test_it_can_be_switched_off():
    settings = {"BRUMA_OUTBOUND_RETRIES": "0", "BRUMA_EJECTION_TIME": "0s"}
    with mesh_with_a_good_endpoint(**settings) as mesh, bad_endpoint(mesh) as (_, listener, _):
        listener.close()
        is_not_tried_again(mesh, "connect_refused")


# ---- a rolling restart ----

# New connections one after the other in some threads, and one that is kept; told to end, it says what has failed.
LOAD = """
import signal, socket, sys, threading, time
address, threads = sys.argv[1], int(sys.argv[2])
failed, made, stop = [], [0] * threads, threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
def kept():
    # one that ends with its pod is replaced by a new one
    while not stop.is_set():
        try:
            s = socket.create_connection((address, 7000), timeout=30)
            s.sendall(b"k")
            if s.recv(1) != b"k":
                raise OSError("end")
        except OSError as e:
            failed.append(repr(e))
            continue
        try:
            while not stop.is_set():
                s.sendall(b"k")
                if s.recv(1) != b"k":
                    break
                time.sleep(0.05)
        except ConnectionError:
            pass
def new(i):
    while not stop.is_set():
        try:
            with socket.create_connection((address, 7000), timeout=30) as s:
                s.sendall(b"n")
                if s.recv(1) != b"n":
                    raise OSError("end")
        except OSError as e:
            failed.append(repr(e))
        made[i] += 1
        time.sleep(0.02)
all = [threading.Thread(target=new, args=(i,)) for i in range(threads)] + [threading.Thread(target=kept)]
for t in all:
    t.start()
print("READY", flush=True)
while not stop.is_set():
    stop.wait(0.1)
for t in all:
    t.join()
print("DONE", sum(made), len(failed), failed[:5], flush=True)
"""


def replace(mesh, pod, name):
    """As a rollout does it, at its worst: the application takes no new connections any more, and then the pod is
    gone, before anybody has heard that it is no endpoint. The new one is an endpoint before it can be reached."""
    reject = ("-p", "tcp", "--dport", "7000", "--syn", "-j", "REJECT", "--reject-with", "tcp-reset")
    pod.run("iptables", "-I", "INPUT", *reject)
    time.sleep(0.3)
    pod.remove()
    time.sleep(0.3)
    new = mesh.pod(name, node=1, account="cart")
    new.services = MEMBER
    mesh.write()
    time.sleep(0.3)
    new.server(ECHO, 7000)
    new.enroll()
    return new


def test_a_rolling_restart_fails_no_new_connection():
    with Mesh(nodes=2, workers=2) as mesh:
        cart(mesh)
        mesh.web = mesh.pod("web")
        pods = [mesh.pod(f"cart-{i}", node=1, account="cart") for i in range(4)]
        for pod in pods:
            pod.services = MEMBER
        mesh.start()
        for pod in pods:
            pod.server(ECHO, 7000)
        assert mesh.web.python(ONE_SHOT, VIP, 7000, "ping") == "ping"
        load = mesh.web.server(LOAD, VIP, 6)
        for turn in range(2):
            for i, pod in enumerate(pods):
                pods[i] = replace(mesh, pod, f"cart-{i}-{turn}")
        time.sleep(1)
        load.kill(signal.SIGTERM)
        load.wait_for_text("DONE", timeout=60)
        made, failed, which = re.search(r"DONE (\d+) (\d+) (.*)", load.text()).groups()
        assert int(made) > 300 and int(failed) == 0, (made, failed, which)
        assert sum_of_retries(mesh) > 0, "some of them were tried again"
