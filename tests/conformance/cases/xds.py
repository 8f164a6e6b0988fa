# SPDX-License-Identifier: Apache-2.0
"""The proxy as a client of a control plane (delta xDS)."""

from conformance.registry import case, expect, expect_that
from conformance.site import PATIENCE
from support.system import wait_for
from support.xds.control_plane import ADDRESS, AUTHORIZATION


def dumped(site):
    """Names of the workloads that the proxy has."""
    return {w["name"] for w in site.node.config_dump()["workloads"]}


def becomes_known(site, name, known=True):
    wait_for(
        lambda: (name in dumped(site)) == known, f"{name} to be {'known' if known else 'gone'}", PATIENCE
    )


def last_nack(site):
    return wait_for(site.stream().nacks, "a NACK", PATIENCE)[-1].error_detail.message


@case("X-1")
def addresses_then_authorizations(site):
    """One stream asks for istio.workload.Address, then for istio.security.Authorization"""
    asked = [r.type_url for r in site.stream().requests if not r.response_nonce]
    expect("types in their order", asked, [ADDRESS, AUTHORIZATION])


@case("X-2")
def wildcard_subscriptions(site):
    """The first requests name nothing, or the wildcard"""
    for kind in (ADDRESS, AUTHORIZATION):
        expect(f"names for {kind}", list(site.stream().first(kind).resource_names_subscribe), [], ["*"])


@case("X-3")
def who_asks(site):
    """The first request tells who asks: ztunnel~IP~POD.NAMESPACE~NAMESPACE.svc.cluster.local and its metadata"""
    node = site.stream().first(ADDRESS).node
    want = f"ztunnel~{site.node.gateway}~judged.istio-system~istio-system.svc.cluster.local"
    expect("node.id", node.id, want)
    metadata = {f.key: f.value.string_value for f in node.metadata.fields}
    expect("NODE_NAME in the metadata", metadata.get("NODE_NAME"), site.node.name)
    expect("NAMESPACE in the metadata", metadata.get("NAMESPACE"), "istio-system")


@case("X-4")
def the_token_is_read_for_each_call(site):
    """Each call carries the token, read from its file for that call"""
    expect_that("Bearer first-token" in site.plane.tokens, f"tokens: {site.plane.tokens}")
    with open(site.plane.token_file, "w") as f:
        f.write("second-token")
    site.end_stream()
    expect("token of the next stream", site.plane.tokens[-1], "Bearer second-token")


@case("X-5")
def an_answer_to_each_response(site):
    """Each response is acknowledged with its nonce, without an error where nothing was rejected"""
    site.push(site.plane.workload("fresh", "10.80.0.1"))
    nonce = f"n{site.plane.nonce}"
    answers = [r for r in site.stream().requests if r.response_nonce == nonce]
    expect("answers", len(answers), 1)
    expect("type of the answer", answers[0].type_url, ADDRESS)
    expect("error in it", answers[0].error_detail.message, "")
    becomes_known(site, "fresh")


@case("X-6")
def one_bad_and_one_good(site):
    """An invalid resource is rejected by itself: the answer names it, and the others of its response count"""
    bad = site.plane.workload("bad", b"\1\2\3\4\5")
    site.push(bad, site.plane.workload("good", "10.80.0.2"))
    expect_that(bad[0] in last_nack(site), f"the NACK does not name it: {last_nack(site)}")
    becomes_known(site, "good")
    expect_that("bad" not in dumped(site), "the bad one is known")


@case("X-6")
def the_tunnel_protocol_of_the_past(site):
    """A workload of the tunnel protocol 2 is rejected"""
    site.push(
        site.plane.workload("old", "10.80.0.3", tunnel_protocol=2), site.plane.workload("new", "10.80.0.4")
    )
    becomes_known(site, "new")
    expect_that("old" not in dumped(site), "the old one is known")


@case("X-7")
def the_connection_survives_a_rejection(site):
    """After a rejection the stream lives, and the next response is applied"""
    streams = len(site.plane.streams)
    site.push(site.plane.workload("bad", b"\1\2\3\4\5"))
    site.push(site.plane.workload("after", "10.80.0.5"))
    becomes_known(site, "after")
    expect("streams opened meanwhile", len(site.plane.streams), streams)


@case("X-8")
def values_of_tomorrow(site):
    """A value that is not known yet does not hide a workload"""
    for i, field in enumerate(("workload_type", "status", "network_mode")):
        name = field.replace("_", "-")
        site.push(site.plane.workload(name, f"10.80.1.{i + 1}", **{field: 99}))
        becomes_known(site, name)


@case("X-9")
def a_removal(site):
    """What is removed is not known any more"""
    item = site.plane.workload("goes", "10.80.0.6")
    site.push(item)
    becomes_known(site, "goes")
    site.withdraw(item[0])
    becomes_known(site, "goes", False)


@case("X-10")
def versions_of_what_it_has(site):
    """A new stream begins with the versions of what the proxy has, without those of what it has rejected"""
    stays, bad = site.plane.workload("stays", "10.80.0.7"), site.plane.workload("bad", b"\1\2\3\4\5")
    site.push(stays, bad)
    with site.plane.lock:
        version = site.plane.resources[ADDRESS][stays[0]][0]
    held = {v.key: v.value for v in site.end_stream().initial_resource_versions}
    expect("version of the accepted one", held.get(stays[0]), version)
    expect_that(bad[0] not in held, "the rejected one is listed")


@case("X-10")
def a_removal_while_nobody_listens(site):
    """What was removed between two streams is not known any more after the second has begun"""
    item = site.plane.workload("gone", "10.80.0.8")
    site.push(item)
    becomes_known(site, "gone")
    with site.plane.lock:
        del site.plane.resources[ADDRESS][item[0]]
    site.end_stream()
    becomes_known(site, "gone", False)


@case("X-11")
def away_and_back(site):
    """While the control plane is away the last state stays in use; afterwards what has changed is learnt"""
    site.plane.stop()
    try:
        expect("HBONE meanwhile", site.status(), 200)
        with site.peer():
            expect("from the pod meanwhile", site.ask(site.web, site.far.ip), "hello")
        expect("readiness meanwhile", site.node.http(15021, "/healthz/ready")[0], 200)
        with site.plane.lock:
            name, message = site.plane.workload("meanwhile", "10.80.0.9")
            site.plane.resources[ADDRESS][name] = ("1", message)
    finally:
        streams = len(site.plane.streams)
        site.plane.start()
        wait_for(lambda: len(site.plane.streams) > streams, "the proxy to come back", 20)
    becomes_known(site, "meanwhile")


@case("X-11")
def garbage_from_the_control_plane(site):
    """What cannot be decoded costs the stream alone, which is opened again"""
    before, streams = dumped(site), len(site.plane.streams)
    site.stream().out.put(b"\xff\xff\xff\xff garbage")
    wait_for(lambda: len(site.plane.streams) > streams, "a new stream", PATIENCE)
    expect("workloads that it has", dumped(site), before)
    expect("HBONE afterwards", site.status(), 200)


@case("X-12")
def the_state_is_what_is_said_last(site):
    """A resource that is sent again takes the place of the former one"""
    site.push(site.plane.workload("moves", "10.80.0.10"))
    site.push(site.plane.workload("moves", "10.80.0.11"))

    def addresses():
        return [w["workloadIps"] for w in site.node.config_dump()["workloads"] if w["name"] == "moves"]

    wait_for(lambda: addresses() == [["10.80.0.11"]], f"the new address alone: {addresses()}", PATIENCE)


@case("X-13")
def not_ready_without_a_state(site):
    """The proxy is not ready, and serves nobody, before it has acknowledged each type once"""
    site.node.proxy.kill()
    site.drop_connections()
    site.plane.stop()
    try:
        site.node.start_proxy()
        status = wait_for(lambda: site.node.http(15021, "/healthz/ready")[0], "the readiness page", PATIENCE)
        expect("readiness", status, 500)
    finally:
        site.plane.start()
    site.introduce()
    expect("HBONE afterwards", site.status(), 200)
