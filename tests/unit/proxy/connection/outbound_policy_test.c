/* SPDX-License-Identifier: Apache-2.0 */
/* REGISTRY_ONLY and ALLOW_ANY, for new connections and for those that are open when the policy changes. */
#include <criterion/criterion.h>
#include <unistd.h>

#include "lib/outbound_policy.h"
#include "proxy/connection/outbound_policy.h"
#include "proxy/pod/pod.h"
#include "tests/unit/proxy/connection/pending_scene.h"

TestSuite(outbound_policy, .init = scene_begin, .fini = scene_end, .timeout = 60);

/* As pods_add() and worker_add_pod() do it. */
static void becomes(enum outbound_policy policy)
{
    atomic_store(&world.pod->outbound_policy, (int)policy);
    outbound_policy_check(world.wp);
}

WORLD_TEST(outbound_policy, refuses_what_the_mesh_does_not_know)
{
    becomes(OUTBOUND_REGISTRY_ONLY);
    go_out(WORLD_FAR, 0);
    is_refused();
    cr_expect(FAILURES("destination_unknown") == 1 && OPENED == 0);
}

WORLD_TEST(outbound_policy, allows_anything)
{
    becomes(OUTBOUND_ALLOW_ANY);
    go_out(WORLD_FAR, 0);
    is_a_relay();
    cr_expect(world_metric("bruma_failures_total") == 0);
}

WORLD_TEST(outbound_policy, passes_what_a_service_without_endpoints_of_its_own_has)
{
    SERVICE(world.proxy.state, .name = "outside", .hostname = "outside.example.com",
            .addresses = {"192.0.2.3/32"}, .balancing = true, .mode = 3);
    world_commit(false);
    becomes(OUTBOUND_REGISTRY_ONLY);
    go_out(WORLD_FAR, 0);
    is_a_relay();
}

WORLD_TEST(outbound_policy, passes_workloads_that_speak_no_hbone)
{
    WORKLOAD(world.proxy.state, .name = "old", .addresses = {WORLD_FAR}, .plain = true);
    world_commit(false);
    becomes(OUTBOUND_REGISTRY_ONLY);
    go_out(WORLD_FAR, 0);
    is_a_relay();
}

WORLD_TEST(outbound_policy, ends_open_connections_when_it_becomes_strict)
{
    go_out(WORLD_FAR, 0);
    world_until(served, "the other side has a connection");
    becomes(OUTBOUND_ALLOW_ANY);
    cr_assert(send(client, "x", 1, MSG_NOSIGNAL) == 1);
    world_until(passes, "a byte goes there and back");
    becomes(OUTBOUND_REGISTRY_ONLY);
    world_until(was_reset, "the client sees a reset");
    cr_expect(none_left() && FAILURES("policy_changed") == 1 && CLOSED == 1);
}

WORLD_TEST(outbound_policy, leaves_open_connections_to_what_is_known)
{
    WORKLOAD(world.proxy.state, .name = "old", .addresses = {WORLD_FAR}, .plain = true);
    world_commit(false);
    go_out(WORLD_FAR, 0);
    world_until(served, "the other side has a connection");
    becomes(OUTBOUND_REGISTRY_ONLY);
    is_a_relay();
    cr_expect(FAILURES("policy_changed") == 0);
}

WORLD_TEST(outbound_policy, leaves_connections_from_outside)
{
    mesh_knows_the_pod(NULL);
    come_in(0);
    world_until(served, "the application has a connection");
    becomes(OUTBOUND_REGISTRY_ONLY);
    is_a_relay();
}
