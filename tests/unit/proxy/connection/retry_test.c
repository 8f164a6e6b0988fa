/* SPDX-License-Identifier: Apache-2.0 */
/* Connections to a service whose endpoint fails: which other one they are tried on, and what is counted. */
#include <criterion/criterion.h>
#include <unistd.h>

#include "bruma/mesh.h"
#include "proxy/connection/retry.h"
#include "tests/unit/proxy/connection/pending_scene.h"

#define CART            "shop/cart.shop.svc.cluster.local"
#define VIP             "203.0.113.9"
#define RETRIES(reason) world_metric("bruma_outbound_retries_total{reason=\"" reason "\"}")
#define EJECTIONS       world_metric("bruma_endpoint_ejections_total")

TestSuite(retry, .init = scene_begin, .fini = scene_end, .timeout = 60);

static unsigned target_port;

/* An endpoint at that address, chosen first: nearly all the weight is its own. */
#define BAD(name_, ip, ...)                                                         \
    WORKLOAD(world.proxy.state, .name = name_, .node = "node-b", .addresses = {ip}, \
             .services = {{CART, {{80, target_port}}}}, .capacity = 1000000, __VA_ARGS__)

/* The one at WORLD_FAR has listener for its application, and no tunnels. */
static void good(void)
{
    WORKLOAD(world.proxy.state, .name = "good", .node = "node-b", .addresses = {WORLD_FAR}, .plain = true,
             .services = {{CART, {{80, target_port}}}}, .capacity = 1);
}

static void service(void)
{
    struct endpoint at;

    world.proxy.settings.outbound_retries = 3;
    world.proxy.settings.ejection_time = 60000;
    listener = world_listen(WORLD_FAR, 0, &at);
    target_port = at.port;
    mesh_knows_the_pod(NULL);
    SERVICE(world.proxy.state, .name = "cart", .addresses = {VIP}, .ports = {{80, target_port}});
}

static void call(void)
{
    world_commit(false);
    pods_state_changed(&world.proxy);
    go_out(VIP, 80);
}

static void is_served(unsigned connections)
{
    world_until(served, "the good endpoint has a connection");
    cr_assert(send(client, "x", 1, MSG_NOSIGNAL) == 1);
    world_until(passes, "a byte goes there and back");
    close(client);
    close(server);
    client = server = -1;
    world_until(none_left, "the relay ends");
    cr_expect(OPENED == connections && CLOSED == connections, "opened %g, closed %g", OPENED, CLOSED);
    cr_expect(world_metric("bruma_failures_total") == 0);
    cr_expect(world_metric("istio_tcp_sockets_open") == 0);
}

WORLD_TEST(retry, of_a_plain_endpoint_that_refuses)
{
    service();
    BAD("bad", WORLD_CLIENT, .plain = true);
    good();
    call();
    is_served(1);
    cr_expect(RETRIES("connect_refused") == 1 && EJECTIONS == 1);
    call();
    is_served(2);
    cr_expect(RETRIES("connect_refused") == 1, "it is left alone");
}

WORLD_TEST(retry, of_a_plain_endpoint_that_is_silent)
{
    world.proxy.settings.connect_timeout = 400;
    service();
    BAD("bad", WORLD_SILENT, .plain = true);
    good();
    call();
    is_served(1);
    cr_expect(RETRIES("connect_timeout") == 1);
}

WORLD_TEST(retry, of_tunnels_that_are_refused_and_silent)
{
    world.proxy.settings.connect_timeout = 800;
    service();
    world_commit(false);
    pods_state_changed(&world.proxy);
    certificate_comes();
    BAD("bad", WORLD_CLIENT, .uid = NULL);
    BAD("silent", WORLD_SILENT, .uid = NULL);
    good();
    call();
    is_served(1);
    cr_expect(RETRIES("connect_refused") == 1 && RETRIES("hbone_blocked") == 1 && EJECTIONS == 2);
    world_run(1000); /* the dial of which nobody wants anything any more */
    cr_expect(world_metric("bruma_failures_total") == 0);
}

WORLD_TEST(retry, ends_when_all_have_been_tried)
{
    service();
    BAD("bad", WORLD_CLIENT, .plain = true);
    BAD("worse", WORLD_POD, .plain = true);
    call();
    is_refused();
    cr_expect(RETRIES("connect_refused") == 1 && FAILURES("connect_refused") == 1);
    cr_expect(OPENED == 1 && CLOSED == 1);
    call();
    is_refused();
    cr_expect(FAILURES("connect_refused") == 2, "if all are out, all are in");
}

WORLD_TEST(retry, is_limited_in_number)
{
    service();
    world.proxy.settings.outbound_retries = 1;
    BAD("bad", WORLD_CLIENT, .plain = true);
    BAD("worse", WORLD_POD, .plain = true);
    BAD("worst", "127.0.0.9", .plain = true);
    call();
    is_refused();
    cr_expect(RETRIES("connect_refused") == 1 && FAILURES("connect_refused") == 1);
}

WORLD_TEST(retry, is_limited_in_time)
{
    world.proxy.settings.connect_timeout = 4;
    service();
    BAD("bad", WORLD_SILENT, .plain = true);
    BAD("worse", "198.51.100.8", .plain = true);
    BAD("worst", "198.51.100.9", .plain = true);
    BAD("last", "198.51.100.10", .plain = true);
    call();
    is_refused();
    cr_expect(RETRIES("connect_timeout") < 3 && FAILURES("connect_timeout") == 1);
}

WORLD_TEST(retry, is_switched_off)
{
    service();
    world.proxy.settings.outbound_retries = 0;
    world.proxy.settings.ejection_time = 0;
    BAD("bad", WORLD_CLIENT, .plain = true);
    good();
    call();
    is_refused();
    cr_expect(RETRIES("connect_refused") == 0 && EJECTIONS == 0 && FAILURES("connect_refused") == 1);
}

/* ---- endpoints that have said GOAWAY ---- */

static void leaves(const char *address)
{
    struct endpoint host = {};

    cr_assert(addr_parse(address, &host.addr) == 0);
    host = ejected_host(&host.addr);
    cr_expect(
        ejected_add(&world.worker->leaving, &host, loop_now(world.worker->loop), 60000, BRUMA_REASON_NONE));
}

static const char *chosen(void)
{
    struct connection c = {.wp = world.wp, .destination = {.port = 80}};
    static char text[ADDR_TEXT_LEN];
    struct route route;

    cr_assert(addr_parse(VIP, &c.destination.addr) == 0);
    retry_route(&c, worker_pod_source(world.wp), &world.worker->random, &route);
    addr_format(&route.target.addr, text);
    route_release(&route);
    return text;
}

WORLD_TEST(retry, is_not_needed_where_endpoints_leave)
{
    struct endpoint bad = sample_endpoint(WORLD_CLIENT ":1");

    service();
    bad.port = (uint16_t)target_port;
    BAD("bad", WORLD_CLIENT, .plain = true);
    good();
    world_commit(false);
    pods_state_changed(&world.proxy);
    cr_expect_str_eq(chosen(), WORLD_CLIENT);
    leaves(WORLD_CLIENT);
    cr_expect_str_eq(chosen(), WORLD_FAR, "one that stays is preferred");
    leaves(WORLD_FAR);
    cr_expect_str_eq(chosen(), WORLD_CLIENT, "if all leave, all serve");
    ejected_add(&world.worker->ejected, &bad, loop_now(world.worker->loop), 60000, BRUMA_REASON_NONE);
    cr_expect_str_eq(chosen(), WORLD_FAR, "one that leaves is preferred to one that has failed");
}

WORLD_TEST(retry, is_not_of_a_pod_by_its_own_address)
{
    service();
    BAD("bad", WORLD_CLIENT, .plain = true);
    good();
    world_commit(false);
    go_out(WORLD_CLIENT, (uint16_t)target_port);
    is_refused();
    cr_expect(world_metric("bruma_outbound_retries_total") == 0 && FAILURES("connect_refused") == 1);
}

WORLD_TEST(retry, has_a_service_that_is_gone_meanwhile)
{
    world.proxy.settings.connect_timeout = 400;
    service();
    BAD("bad", WORLD_SILENT, .plain = true);
    good();
    call();
    state_remove(world.proxy.state, STATE_ADDRESS, CART);
    world_commit(false);
    is_refused();
    cr_expect(FAILURES("connect_timeout") == 1, "its address alone is no destination that was meant");
}
