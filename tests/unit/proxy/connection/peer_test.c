/* SPDX-License-Identifier: Apache-2.0 */
/* What becomes of a peer's connection to port 15008, and of its requests; and what they wait for until then.
 * The peer is the pod itself: both ends of the tunnel are on the one worker. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/connection/worker_pods.h"
#include "proxy/hbone/tunnel.h"
#include "tests/unit/proxy/connection/pending_scene.h"

TestSuite(peer, .init = scene_begin, .fini = scene_end, .timeout = 60);

/* ---- requests of peers; the peer is the pod itself ---- */

static struct tunnel *tunnel_of_peer(void)
{
    return list_empty(&world.wp->servers) ? NULL : list_first(&world.wp->servers, struct tunnel, node);
}

static bool is_requested(void)
{
    return tunnel_of_peer() && tunnel_of_peer()->streams_len == 1;
}

static bool request_waits(void)
{
    return is_requested() && world_waiting() == 1;
}

static void ask_for_a_stream(const char *policy)
{
    mesh_knows_the_pod(policy);
    pods_state_changed(&world.proxy);
    certificate_comes();
    go_out(WORLD_POD, 0);
    cr_expect(OPENED == 1 && world_connections() == 1);
}

static void is_a_stream(void)
{
    world_until(served, "the application has a connection");
    cr_assert(send(client, "x", 1, MSG_NOSIGNAL) == 1);
    world_until(passes, "a byte goes there and back");
    cr_expect(world_connections() == 2 && world_waiting() == 0 && OPENED == 2);
    close(client);
    close(server);
    client = server = -1;
    world_until(none_left, "both streams end");
    cr_expect(CLOSED == 2 && world_metric("bruma_failures_total") == 0);
}

WORLD_TEST(peer, request_becomes_an_open_stream)
{
    ask_for_a_stream(NULL);
    is_a_stream();
    cr_expect(POLICY_WAITS == 0);
}

WORLD_TEST(peer, request_waits_for_a_policy)
{
    ask_for_a_stream("shop/rule");
    world_until(request_waits, "the request waits");
    cr_expect(world_connections() == 2 && POLICY_WAITS == 1 && OPENED == 1);
    mesh_has_policy(true);
    is_a_stream();
}

WORLD_TEST(peer, request_waits_for_a_policy_that_denies)
{
    ask_for_a_stream("shop/rule");
    world_until(request_waits, "the request waits");
    mesh_has_policy(false);
    is_refused();
    cr_expect(FAILURES("policy_denied") == 1 && FAILURES("connect_rejected") == 1);
    cr_expect(OPENED == 2 && CLOSED == 2);
}

WORLD_TEST(peer, request_waits_for_a_policy_in_vain)
{
    ask_for_a_stream("shop/rule");
    is_refused();
    cr_expect(FAILURES("policy_missing") == 1 && FAILURES("connect_rejected") == 1);
}

/* ---- the pod was told to end ---- */

static bool newest_is_told(void)
{
    struct tunnel *newest = NULL, *t;

    list_for_each (t, &world.wp->servers, node)
        newest = t;
    return newest && newest->goaway && world_metric("bruma_endpoints_leaving_total") > 0;
}

static bool ends(void)
{
    return loop_timer_armed(&world.wp->ending);
}

static bool ends_not(void)
{
    return !ends();
}

static unsigned tunnels_of_peers(void)
{
    unsigned n = 0;
    struct tunnel *t;

    list_for_each (t, &world.wp->servers, node)
        n++;
    return n;
}

WORLD_TEST(peer, is_asked_to_go_elsewhere_and_served)
{
    struct endpoint host = sample_endpoint(WORLD_POD ":1");
    int first;

    ask_for_a_stream(NULL);
    world_until(served, "the application has a connection");
    worker_pod_end(world.wp);
    world_until(newest_is_told, "GOAWAY has been said and heard");
    host = ejected_host(&host.addr);
    cr_expect(ejected_has(&world.worker->leaving, &host, loop_now(world.worker->loop)));
    cr_assert(send(client, "x", 1, MSG_NOSIGNAL) == 1);
    world_until(passes, "what is open is served");
    first = client;
    close(server);
    close(listener);
    server = -1;
    go_out(WORLD_POD, 0);
    world_until(served, "and so is who comes, by another tunnel");
    cr_expect(tunnels_of_peers() == 2 && !newest_is_told());
    cr_assert(send(client, "x", 1, MSG_NOSIGNAL) == 1);
    world_until(passes, "a byte goes there and back");
    world_until(newest_is_told, "which is told too");
    close(first);
    close(client);
    close(server);
    client = server = -1;
    world_until(none_left, "all of it ends");
    cr_expect(tunnels_of_peers() == 0 && world_metric("bruma_failures_total") == 0);
}

WORLD_TEST(peer, is_asked_by_a_pod_that_does_not_end_after_all)
{
    const struct pod_info info = {.uid = "1", .name = "web", .namespace = "shop", .cookie = 1};
    int fds[BRUMA_POD_FD_COUNT] = {open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)};
    enum bruma_reason reason;
    struct endpoint any;
    char error[256];

    pods_ending(&world.proxy, "unknown");
    pods_ending(&world.proxy, "1");
    world_until(ends, "the worker knows");
    for (int i = BRUMA_POD_FD_OUTBOUND; i < BRUMA_POD_FD_COUNT; i++)
        fds[i] = world_listen(WORLD_POD, 0, &any);
    cr_assert(pods_add(&world.proxy, &info, fds, &reason, error, sizeof(error)) == 0, "%s", error);
    world_until(ends_not, "the worker knows");
}

WORLD_TEST(peer, request_is_one_too_many)
{
    world.proxy.settings.max_peer_connections = 1; /* that is its tunnel */
    ask_for_a_stream(NULL);
    is_refused();
    cr_expect(FAILURES("peer_connections") == 1 && FAILURES("connect_rejected") == 1);
}

WORLD_TEST(peer, request_has_an_application_that_refuses)
{
    mesh_knows_the_pod(NULL);
    pods_state_changed(&world.proxy);
    certificate_comes();
    go_out(WORLD_POD, 9);
    is_refused();
    cr_expect(FAILURES("connect_refused") == 1 && FAILURES("connect_rejected") == 1);
}

WORLD_TEST(peer, request_has_a_tunnel_that_ends_while_it_waits)
{
    ask_for_a_stream("shop/rule");
    world_until(request_waits, "the request waits");
    tunnel_close(tunnel_of_peer(), BRUMA_REASON_TUNNEL_PING_TIMEOUT, NULL);
    cr_expect(world_waiting() == 0 && world_connections() == 1);
    world_until(request_waits, "its client asks again, by another tunnel");
    mesh_has_policy(true);
    world_until(served, "the application has a connection");
}

WORLD_TEST(peer, request_has_a_pod_that_goes_while_it_waits)
{
    ask_for_a_stream("shop/rule");
    world_until(request_waits, "the request waits");
    world_delete_pod();
    cr_expect(was_reset());
    cr_expect(FAILURES("pod_removed") == 2);
}

WORLD_TEST(peer, request_has_a_worker_that_ends_while_it_waits)
{
    ask_for_a_stream("shop/rule");
    world_until(request_waits, "the request waits");
    world_end_worker();
    cr_expect(was_reset());
    cr_expect(FAILURES("drain_deadline") == 2);
}

/* ---- peers' connections to port 15008, before their handshake ---- */

static int call(void)
{
    struct endpoint to = sample_endpoint(WORLD_POD ":15008");
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_storage sa;
    socklen_t len = (socklen_t)endpoint_to_sockaddr(&to, AF_UNSPEC, &sa);

    cr_assert(connect(fd, (struct sockaddr *)&sa, len) == 0);
    return fd;
}

static bool one_waits(void)
{
    return world_waiting() == 1 && world.wp->handshakes_len == 1;
}

static bool nobody_waits(void)
{
    return world_waiting() == 0;
}

WORLD_TEST(peer, waits_for_the_pod_in_vain)
{
    client = call();
    world_until(one_waits, "it waits");
    world_until(nobody_waits, "its time is over");
    cr_expect(FAILURES("source_unknown") == 1 && world.wp->handshakes_len == 0);
}

WORLD_TEST(peer, waits_for_the_certificate)
{
    knows_who_it_is();
    client = call();
    world_until(one_waits, "it waits");
    cr_expect(tunnel_of_peer() == NULL);
    certificate_comes();
    cr_assert(tunnel_of_peer() && tunnel_of_peer()->state == TUNNEL_HANDSHAKING);
    cr_expect(nobody_waits() && world.wp->handshakes_len == 1);
}

WORLD_TEST(peer, makes_room_for_the_next)
{
    int first = call();

    world.proxy.settings.max_pod_handshakes = 1;
    world_until(one_waits, "it waits");
    client = call();
    world_run(30);
    cr_expect(one_waits() && FAILURES("handshake_evicted") == 1);
    close(first);
}

WORLD_TEST(peer, is_one_too_many)
{
    world.proxy.settings.max_peer_connections = 0;
    client = call();
    world_run(30);
    cr_expect(nobody_waits() && FAILURES("peer_connections") == 1);
}

WORLD_TEST(peer, has_a_pod_that_goes_while_it_waits)
{
    client = call();
    world_until(one_waits, "it waits");
    world_delete_pod();
    cr_expect(FAILURES("source_unknown") == 1);
}
