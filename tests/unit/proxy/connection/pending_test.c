/* SPDX-License-Identifier: Apache-2.0 */
/* What becomes of an accepted connection: a stream, a relay, or nothing; and what it waits for until then. */
#include <criterion/criterion.h>
#include <unistd.h>

#include "bruma/mesh.h"
#include "proxy/connection/plaintext.h"
#include "proxy/connection/worker_post.h"
#include "proxy/hbone/tunnel.h"
#include "tests/unit/proxy/connection/pending_scene.h"

TestSuite(pending, .init = scene_begin, .fini = scene_end, .timeout = 60);

static struct tunnel *only_tunnel(void)
{
    for (size_t i = 0; i < array_size(world.wp->clients); i++) {
        if (!list_empty(&world.wp->clients[i]))
            return list_first(&world.wp->clients[i], struct tunnel, node);
    }
    return NULL;
}

/* ---- of the pod's applications ---- */

WORLD_TEST(pending, becomes_a_relay_at_once)
{
    go_out(WORLD_FAR, 0);
    cr_expect(world_waiting() == 0, "what needs nothing is not kept");
    is_a_relay();
    cr_expect(world_metric("bruma_failures_total") == 0);
}

WORLD_TEST(pending, becomes_a_relay_that_nobody_answers)
{
    world.proxy.settings.connect_timeout = 100;
    go_out(WORLD_SILENT, 9);
    cr_expect(world_connections() == 1 && world_waiting() == 0);
    is_refused();
    cr_expect(FAILURES("connect_timeout") == 1 && OPENED == 1 && CLOSED == 1);
}

WORLD_TEST(pending, waits_for_its_certificate_in_vain)
{
    mesh_knows_the_pod(NULL);
    mesh_knows_a_peer();
    go_out(WORLD_SILENT, 8080);
    waits();
    world_commit(false);
    waits();
    cr_expect(OPENED == 0, "telemetry hears of it when it goes on");
    is_refused();
    cr_expect(FAILURES("identity_unavailable") == 1 && OPENED == 1 && CLOSED == 1);
}

WORLD_TEST(pending, waits_while_nobody_knows_who_it_is)
{
    mesh_knows_a_peer();
    go_out(WORLD_SILENT, 8080);
    waits();
    is_refused();
    cr_expect(FAILURES("source_unknown") == 1 && OPENED == 0);
}

WORLD_TEST(pending, becomes_a_stream_at_once)
{
    knows_who_it_is();
    certificate_comes();
    go_out(WORLD_SILENT, 8080);
    cr_expect(world_waiting() == 0 && world_connections() == 1 && OPENED == 1);
    cr_assert(only_tunnel() && only_tunnel()->queue_len == 1);
}

WORLD_TEST(pending, becomes_a_stream_once_its_certificate_is_there)
{
    knows_who_it_is();
    go_out(WORLD_SILENT, 8080);
    waits();
    cr_expect(only_tunnel() == NULL);
    certificate_comes();
    cr_expect(world_waiting() == 0 && world_connections() == 1 && OPENED == 1);
    cr_assert(only_tunnel() && only_tunnel()->queue_len == 1);
    cr_expect(only_tunnel()->peer.port == BRUMA_PORT_HBONE);
}

WORLD_TEST(pending, goes_where_the_mesh_says_when_it_has_waited)
{
    knows_who_it_is();
    go_out(WORLD_FAR, 0);
    is_a_relay();
    WORKLOAD(world.proxy.state, .name = "other", .node = "node-b", .addresses = {WORLD_FAR});
    world_commit(false);
    close(listener);
    go_out(WORLD_FAR, 0);
    waits();
    WORKLOAD(world.proxy.state, .name = "other", .node = "node-b", .addresses = {WORLD_FAR}, .plain = true);
    certificate_comes();
    cr_expect(only_tunnel() == NULL);
    world_until(served, "it is plain by now");
}

WORLD_TEST(pending, is_one_of_the_listeners_own)
{
    go_out("127.0.0.1", 8080);
    is_refused();
    cr_expect(FAILURES("self_call") == 1);
}

WORLD_TEST(pending, is_one_too_many)
{
    world.proxy.settings.max_pod_descriptors = 0;
    go_out(WORLD_FAR, 0);
    is_refused();
    cr_expect(FAILURES("pod_descriptors") == 1);
}

/* ---- from outside, without a tunnel ---- */

WORLD_TEST(pending, waits_for_its_pod_to_be_known)
{
    come_in(0);
    waits();
    mesh_knows_the_pod(NULL);
    cr_expect(POLICY_WAITS == 0);
    is_a_relay();
}

WORLD_TEST(pending, waits_for_its_pod_in_vain)
{
    come_in(0);
    waits();
    is_refused();
    cr_expect(FAILURES("source_unknown") == 1 && OPENED == 0);
}

WORLD_TEST(pending, waits_for_the_pod_then_for_a_policy)
{
    come_in(0);
    waits();
    mesh_knows_the_pod("shop/rule");
    waits();
    cr_expect(POLICY_WAITS == 1);
    world_commit(true);
    waits();
    cr_expect(POLICY_WAITS == 1, "it is counted once");
    mesh_has_policy(true);
    is_a_relay();
}

WORLD_TEST(pending, waits_for_a_policy_that_denies)
{
    mesh_knows_the_pod("shop/rule");
    come_in(0);
    waits();
    mesh_has_policy(false);
    is_refused();
    cr_expect(FAILURES("policy_denied") == 1 && OPENED == 1 && CLOSED == 1);
}

WORLD_TEST(pending, waits_for_a_policy_in_vain)
{
    mesh_knows_the_pod("shop/rule");
    come_in(0);
    waits();
    is_refused();
    cr_expect(FAILURES("policy_missing") == 1 && OPENED == 1 && CLOSED == 1);
}

WORLD_TEST(pending, waits_for_a_policy_for_as_long_as_is_set)
{
    world.proxy.settings.source_timeout = 1;
    world.proxy.settings.policy_timeout = 60000;
    mesh_knows_the_pod("shop/rule");
    come_in(0);
    world_run(100);
    waits();
    mesh_has_policy(true);
    is_a_relay();
}

WORLD_TEST(pending, passes_without_a_policy_that_is_missing_if_that_is_set)
{
    state_set_unknown_policy(world.proxy.state, false);
    mesh_knows_the_pod("shop/rule");
    come_in(0);
    waits();
    is_a_relay();
}

WORLD_TEST(pending, waits_for_a_policy_of_a_pod_that_goes_from_the_mesh)
{
    mesh_knows_the_pod("shop/rule");
    come_in(0);
    waits();
    state_remove(world.proxy.state, STATE_ADDRESS, "Kubernetes//Pod/shop/web");
    world_commit(false);
    is_refused();
    cr_expect(FAILURES("source_unknown") == 1 && OPENED == 0);
}

WORLD_TEST(pending, is_allowed_or_denied_at_once)
{
    mesh_knows_the_pod("shop/rule");
    mesh_has_policy(true);
    come_in(0);
    cr_expect(world_waiting() == 0);
    is_a_relay();
    mesh_has_policy(false);
    close(listener);
    come_in(0);
    cr_expect(world_waiting() == 0);
    is_refused();
    cr_expect(FAILURES("policy_denied") == 1);
}

WORLD_TEST(pending, is_for_a_port_of_the_proxy)
{
    come_in(BRUMA_PORT_HBONE);
    is_refused();
    cr_expect(FAILURES("self_call") == 1);
}

WORLD_TEST(pending, is_not_for_the_pod)
{
    struct endpoint from, to = sample_endpoint(WORLD_SILENT ":80"),
                          arrival = sample_endpoint(WORLD_POD ":80");
    int fd;

    client = world_connect(&fd, &from);
    plaintext_accept(world.wp, fd, &from, &to, &arrival);
    is_refused();
    cr_expect(FAILURES("not_of_pod") == 1);
}

/* ---- ends while it waits ---- */

WORLD_TEST(pending, has_a_client_that_goes_while_it_waits)
{
    come_in(0);
    waits();
    close(client);
    client = -1;
    world_run(50);
    waits();
    mesh_knows_the_pod(NULL);
    world_until(served, "what the client has sent may still be wanted");
    close(server);
    server = -1;
    world_until(none_left, "the relay ends");
}

WORLD_TEST(pending, has_a_client_that_goes_and_waits_in_vain)
{
    come_in(0);
    waits();
    close(client);
    client = -1;
    world_until(none_left, "its time is over");
    cr_expect(FAILURES("source_unknown") == 1);
}

WORLD_TEST(pending, has_a_pod_that_goes_while_it_waits)
{
    come_in(0);
    waits();
    world_delete_pod();
    cr_expect(was_reset());
    cr_expect(FAILURES("pod_removed") == 1 && OPENED == 0);
}

WORLD_TEST(pending, has_a_worker_that_ends_while_it_waits)
{
    mesh_knows_a_peer();
    go_out(WORLD_SILENT, 8080);
    waits();
    world_end_worker();
    cr_expect(was_reset());
    cr_expect(FAILURES("drain_deadline") == 1 && OPENED == 0);
}

WORLD_TEST(pending, has_a_drain_that_ends_while_it_waits)
{
    come_in(0);
    waits();
    worker_drain(world.worker);
    worker_drain_tunnels(world.worker);
    world_run(20);
    waits();
    worker_abort_connections(world.worker);
    is_refused();
    cr_expect(FAILURES("drain_deadline") == 1 && OPENED == 0);
}

WORLD_TEST(pending, is_many)
{
    int clients[100];

    for (size_t i = 0; i < array_size(clients); i++) {
        come_in(8080);
        clients[i] = client;
    }
    client = -1;
    cr_expect(world_waiting() == 100 && world_connections() == 100);
    world_until(none_left, "their time is over");
    cr_expect(FAILURES("source_unknown") == 100);
    for (size_t i = 0; i < array_size(clients); i++)
        close(clients[i]);
}
