# SPDX-License-Identifier: Apache-2.0
"""The built-in control plane, spoken to by an independent gRPC client: delta xDS, the CA, the mesh file's
changes."""

import os
import re

import pytest

from support.system import wait_for
from support.xds.control_plane import (
    ADDRESS,
    AUTHORIZATION,
    ROOT,
    Client,
    ControlPlane,
)
from support.xds.small_mesh import CART, MESH, WEB, hbone, packed, subscribe

# ---- what is served ----


def test_everything_is_served(stream):
    subscribe(stream)
    addresses = stream.resources[ADDRESS]
    assert set(addresses) == {CART, WEB, "Kubernetes//Pod/plain/outside", "shop/cart.shop.svc.cluster.local"}
    cart = stream.workload(CART)
    assert (cart.name, cart.namespace, cart.service_account, cart.node) == (
        "cart-0",
        "shop",
        "cart",
        "node-b",
    )
    assert cart.trust_domain == "cluster.local" and cart.tunnel_protocol == 1
    assert list(cart.addresses) == packed("10.9.0.2")
    assert list(cart.authorization_policies) == ["shop/only-web"]
    assert [(e.key, [(p.service_port, p.target_port) for p in e.value.ports]) for e in cart.services] == [
        ("shop/cart.shop.svc.cluster.local", [(80, 8080)])
    ]
    assert not hbone(stream, "Kubernetes//Pod/plain/outside")
    service = addresses["shop/cart.shop.svc.cluster.local"][1].service
    assert [a.address for a in service.addresses] == packed("10.96.0.20", "fd00::20")
    policy = stream.resources[AUTHORIZATION]["shop/only-web"][1]
    assert (policy.scope, policy.action, policy.dry_run) == (2, 0, False)
    match = policy.rules[0].clauses[0].matches[0]
    assert match.principals[0].exact == "cluster.local/ns/shop/sa/web"
    assert list(match.not_destination_ports) == [9090]


def test_nothing_is_a_response_too(work, build, messages):
    plane = ControlPlane(build, work.directory, "{}\n")
    client = Client(plane, messages)
    stream = client.stream()
    stream.ask(AUTHORIZATION)
    response = stream.answer()
    assert not response.resources and response.nonce and response.type_url == AUTHORIZATION
    assert stream.silent()
    stream.close()
    client.close()
    assert plane.stop() == 0


def test_deltas(plane, stream):
    subscribe(stream)
    before = stream.versions(ADDRESS)
    plane.write(MESH.replace("10.9.0.3", "10.9.0.4").replace("serviceAccount: cart", "serviceAccount: till"))
    response = stream.answer()
    assert {r.name for r in response.resources} == {CART, "Kubernetes//Pod/plain/outside"}
    assert not response.removed_resources
    assert stream.versions(ADDRESS)[CART] != before[CART] and stream.workload(CART).service_account == "till"
    plane.write(MESH)
    stream.answer()
    assert stream.versions(ADDRESS) == before, "a version says what the content is"
    plane.write("{}\n")
    stream.until(lambda: not stream.resources[ADDRESS] and not stream.resources[AUTHORIZATION], "all is gone")


def test_only_what_is_missing_after_a_reconnect(plane, client, stream):
    subscribe(stream)
    held = stream.versions(ADDRESS)
    stream.close()

    second = client.stream()
    second.ask(ADDRESS, held=held)
    response = second.answer()
    assert not response.resources and not response.removed_resources
    second.close()

    plane.write(MESH.replace("10.9.0.3", "10.9.0.4"))
    plane.wait_logged("mesh file read")
    wait_for(lambda: len(plane.events) == 1, "the file to be read")
    third = client.stream()
    third.ask(ADDRESS, held={**held, "shop/gone.shop.svc.cluster.local": "1", "x//Pod/a/b": ""})
    response = third.answer()
    assert [r.name for r in response.resources] == ["Kubernetes//Pod/plain/outside"]
    assert set(response.removed_resources) == {"shop/gone.shop.svc.cluster.local", "x//Pod/a/b"}
    third.close()


def test_a_restart_is_not_noticed_by_versions(plane, messages, client, stream):
    subscribe(stream)
    held, token, root = (
        stream.versions(ADDRESS),
        plane.control_file("token"),
        plane.control_file("root-cert.pem"),
    )
    plane.restart()
    assert plane.control_file("token") == token and plane.control_file("root-cert.pem") == root
    again = Client(plane, messages)
    second = again.stream()
    second.ask(ADDRESS, held=held)
    assert not second.answer().resources
    second.close()
    again.close()


def test_a_refusal_is_logged_with_its_reason(plane, stream):
    stream.ask(ADDRESS)
    response = stream.answer(ack=False)
    stream.ask(ADDRESS, nonce=response.nonce, error=f'{CART}: address of 5 bytes; "quoted"\n')
    line = plane.wait_logged("refuses resources", CART, "address of 5 bytes")
    assert ADDRESS in line and f"nonce={response.nonce}" in line and NODE_ID in line
    assert stream.silent(), "it is not sent again before it changes"
    plane.write(MESH.replace("10.9.0.2", "10.9.0.9"))
    assert [r.name for r in stream.answer().resources] == [CART]
    assert plane.report()["xdsRefused"] == 1


NODE_ID = "ztunnel~10.0.0.1~ztunnel-1.istio-system"


def test_on_demand(plane, stream):
    stream.ask(ADDRESS, subscribe=["*"], unsubscribe=["*"])
    assert not stream.answer().resources
    stream.ask(ADDRESS, subscribe=["/10.9.0.2"])
    response = stream.answer()
    assert [(r.name, list(r.aliases)) for r in response.resources] == [(CART, ["/10.9.0.2"])]
    stream.ask(ADDRESS, subscribe=["/10.96.0.20"])
    assert {r.name for r in stream.answer().resources} == {"shop/cart.shop.svc.cluster.local"}
    stream.ask(ADDRESS, subscribe=["/10.1.1.1"])
    assert list(stream.answer().removed_resources) == ["/10.1.1.1"]
    plane.write(MESH.replace("10.9.0.3", "10.1.1.1"))
    assert [r.name for r in stream.answer().resources] == ["Kubernetes//Pod/plain/outside"]
    plane.pod("u1", "shop", "web", True, "10.9.0.7")
    assert [r.name for r in stream.answer().resources] == [WEB], (
        "pods of the client's node come by themselves"
    )


def test_two_clients_are_told_each_its_own(plane, client, stream):
    subscribe(stream)
    other = client.stream()
    other.ask(ADDRESS)
    assert len(other.answer().resources) == 4
    assert plane.report()["xdsClients"] == 2
    plane.write(MESH.replace("10.9.0.3", "10.9.0.4"))
    assert len(stream.answer().resources) == 1 and len(other.answer().resources) == 1
    other.close()
    wait_for(lambda: plane.report()["xdsClients"] == 1, "the stream to be over")


def test_the_examples_in_the_tree(work, build):
    examples = []
    for page in ("mesh-file.md", "waypoints.md"):
        with open(os.path.join(ROOT, "docs", page), encoding="utf-8") as f:
            examples += re.findall(r"```yaml\n(.*?)```", f.read(), re.S)
    with open(os.path.join(ROOT, "packaging", "etc", "mesh.yaml"), encoding="utf-8") as f:
        examples.append(f.read())
    assert len(examples) == 4
    for i, text in enumerate(examples):
        plane = ControlPlane(build, work.path(str(i)), text)
        assert plane.first_report["meshReady"], plane.first_report["meshError"]
        assert plane.first_report["namespaces"] > 0
        assert plane.stop() == 0


# ---- pods of this node ----


def test_hbone_is_announced_once_a_pod_is_verified(plane, stream):
    plane.pod("u1", "shop", "web", False, "10.9.0.7", "fd00::7")
    subscribe(stream)
    assert not hbone(stream, WEB)
    assert list(stream.workload(WEB).addresses) == packed("10.9.0.7", "fd00::7")
    assert stream.workload(WEB).node == "node-a"
    plane.pod("u1", "shop", "web", True, "10.9.0.7", "fd00::7")
    stream.answer()
    assert hbone(stream, WEB)
    plane.pod("u1", "shop", "web", True, "10.9.0.7", "fd00::7")
    assert stream.silent()
    plane.tell("gone", "u1")
    stream.answer()
    assert not stream.workload(WEB).addresses and stream.workload(WEB).node == ""


def test_labels_decide(plane, stream):
    plane.pod("u1", "shop", "web", True, "10.9.0.7")
    subscribe(stream)
    assert hbone(stream, WEB) and hbone(stream, CART)
    assert plane.tell("ask", "shop", "web") == {
        "ready": True,
        "ambient": True,
        "mode": 0,
        "serviceAccount": "web",
    }
    plane.write(
        MESH.replace(
            "  serviceAccount: web\n", "  serviceAccount: web\n  labels: {istio.io/dataplane-mode: none}\n"
        )
    )
    stream.answer()
    assert not hbone(stream, WEB) and hbone(stream, CART)
    assert plane.tell("ask", "shop", "web")["mode"] == 2
    plane.write(MESH.replace("mode: ambient", "mode: other"))
    stream.until(lambda: not hbone(stream, CART), "the namespace to leave the mesh")
    assert not hbone(stream, WEB)
    assert not plane.tell("ask", "shop", "web")["ambient"]
    assert len(plane.events) == 2, "the core of the agent is told of each change"


def test_pods_that_the_file_does_not_name(plane, stream):
    subscribe(stream)
    plane.pod("u9", "shop", "extra", False, "10.9.0.50")
    stream.answer()
    uid = "Kubernetes//Pod/shop/extra"
    w = stream.workload(uid)
    assert (w.name, w.namespace, w.service_account, w.node, w.trust_domain) == (
        "extra",
        "shop",
        "default",
        "node-a",
        "cluster.local",
    )
    assert list(w.addresses) == packed("10.9.0.50") and not hbone(stream, uid)
    plane.pod("u9", "shop", "extra", True, "10.9.0.50")
    stream.answer()
    assert hbone(stream, uid)
    # Its successor comes before it is gone.
    plane.pod("u10", "shop", "extra", True, "10.9.0.51")
    stream.until(lambda: list(stream.workload(uid).addresses) == packed("10.9.0.51"), "the newer pod counts")
    plane.tell("gone", "u9")
    assert stream.silent()
    # The file names it now.
    plane.replace(
        MESH.replace("- name: web\n", "- {name: extra, namespace: shop, serviceAccount: sa}\n- name: web\n")
    )
    stream.until(lambda: stream.workload(uid).service_account == "sa", "the file's word counts")
    assert list(stream.workload(uid).addresses) == packed("10.9.0.51") and hbone(stream, uid)
    plane.replace(MESH)
    stream.until(lambda: stream.workload(uid).service_account == "default", "it is made again")
    plane.tell("gone", "u10")
    stream.until(lambda: stream.workload(uid) is None, "it is gone")
    plane.pod("u11", "plain", "quiet", False, "10.9.0.60")
    assert stream.silent(), "its namespace is not in the mesh"


# ---- the file ----


@pytest.mark.parametrize("how", ["in place", "rename", "slow writer", "removed and made"])
def test_changes_of_the_file(plane, stream, how):
    subscribe(stream)
    text = MESH.replace("10.9.0.3", "10.9.0.4")
    if how == "in place":
        plane.write(text)
    elif how == "rename":
        plane.replace(text)
    elif how == "removed and made":
        os.unlink(plane.mesh_file)
        wait_for(lambda: "No such file" in plane.report()["meshError"], "the loss to be noticed")
        assert plane.report()["meshReady"] and plane.report()["workloads"] == 3, "the last good state stays"
        plane.write(text)
    else:
        with open(plane.mesh_file, "w", encoding="utf-8") as f:
            half = text.index("services:\n- name")
            f.write(text[:half])
            f.flush()
            assert stream.silent(0.5), "a file that is being written is left alone"
            f.write(text[half:])
    response = stream.answer()
    assert [r.name for r in response.resources] == ["Kubernetes//Pod/plain/outside"]
    assert not response.removed_resources
    wait_for(lambda: plane.report()["meshError"] == "", "no error")


def test_a_mounted_configmap(work, build, messages):
    """kubelet's way: mesh.yaml -> ..data/mesh.yaml, and ..data is swapped by rename."""
    volume = work.path("volume")

    def publish(name, text):
        os.makedirs(os.path.join(volume, name))
        with open(os.path.join(volume, name, "mesh.yaml"), "w", encoding="utf-8") as f:
            f.write(text)
        os.symlink(name, os.path.join(volume, "..data_tmp"))
        os.rename(os.path.join(volume, "..data_tmp"), os.path.join(volume, "..data"))

    publish("..1", MESH)
    os.symlink("..data/mesh.yaml", os.path.join(volume, "mesh.yaml"))
    plane = ControlPlane(build, work.directory, mesh_file=os.path.join(volume, "mesh.yaml"))
    client = Client(plane, messages)
    stream = subscribe(client.stream())
    for i in (2, 3):
        publish(f"..{i}", MESH.replace("10.9.0.3", f"10.9.1.{i}"))
        stream.answer()
        assert list(stream.workload("Kubernetes//Pod/plain/outside").addresses) == packed(f"10.9.1.{i}")
    stream.close()
    client.close()
    assert plane.stop() == 0


def test_a_wrong_file_changes_nothing(plane, stream):
    subscribe(stream)
    wrong = MESH.replace('workloadIps: ["10.9.0.3"]', 'workloadIps: ["10.1.1"]')
    line = wrong[: wrong.index("10.1.1")].count("\n") + 1
    plane.write(wrong)
    expected = f'{plane.mesh_file}:{line}:17: workloads[2].workloadIps[0]: "10.1.1" is not an IP address'
    wait_for(lambda: plane.report()["meshError"] == expected, "the error to be reported")
    plane.wait_logged(
        "the mesh file cannot be used", "the last good one stays in use", "is not an IP address"
    )
    assert plane.report()["meshReady"] and plane.report()["workloads"] == 3
    assert stream.silent() and not plane.events
    plane.write("")
    wait_for(lambda: "is empty" in plane.report()["meshError"], "an empty file to be refused")
    assert stream.silent()
    plane.write(MESH.replace("10.9.0.3", "10.9.0.4"))
    stream.answer()
    assert plane.report()["meshError"] == ""


def test_nobody_is_told_of_an_empty_mesh(work, build, messages):
    """After a start with a wrong file clients keep what they know."""
    plane = ControlPlane(build, work.directory)
    assert not plane.first_report["meshReady"] and "No such file" in plane.first_report["meshError"]
    client = Client(plane, messages)
    stream = client.stream()
    stream.ask(ADDRESS, held={CART: "1"})
    assert stream.silent(1)
    plane.write(MESH)
    response = stream.answer()
    assert {r.name for r in response.resources} >= {CART, WEB} and not response.removed_resources
    stream.close()
    client.close()
    assert plane.stop() == 0


def test_a_hundred_thousand_workloads(work, build, messages):
    item = (
        "- {{uid: uid-{0}, name: pod-{0}, namespace: shop, serviceAccount: sa-{1}, node: node-{1}, "
        "workloadIps: [10.{2}.{3}.{4}], services: {{shop/cart: {{80: 8080}}}}}}\n"
    )
    items = [item.format(i, i % 100, 10 + (i >> 16), i >> 8 & 255, i & 255) for i in range(100000)]
    head = (
        "namespaces: [{name: shop, labels: {istio.io/dataplane-mode: ambient}}]\n"
        "services: [{name: cart, namespace: shop, hostname: cart, vips: [/10.96.0.20], ports: {80: 8080}}]\n"
        "workloads:\n"
    )
    plane = ControlPlane(build, work.directory, head + "".join(items))
    assert plane.first_report["workloads"] == 100000
    client = Client(plane, messages)
    stream = client.stream()
    stream.ask(ADDRESS)
    largest = 0
    while len(stream.resources[ADDRESS]) < 100001:
        largest = max(largest, len(stream.answer(timeout=60).resources))
    assert largest <= 500
    held = stream.versions(ADDRESS)
    items[77777] = items[77777].replace("serviceAccount: sa-77", "serviceAccount: changed")
    del items[5]
    plane.replace(head + "".join(items))
    response = stream.answer(timeout=60)
    assert [r.name for r in response.resources] == ["uid-77777"] and list(response.removed_resources) == [
        "uid-5"
    ]
    stream.close()

    # The reconnect of a proxy that holds them all.
    second = client.stream()
    second.ask(ADDRESS, held=held)
    response = second.answer(timeout=60)
    assert [r.name for r in response.resources] == ["uid-77777"] and list(response.removed_resources) == [
        "uid-5"
    ]
    # Two readings of the file and the queue of a stream; 160 leaves room for another allocator.
    assert plane.resident_megabytes() < 160
    second.close()
    client.close()
    assert plane.stop() == 0
