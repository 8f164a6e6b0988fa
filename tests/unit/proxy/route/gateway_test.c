/* SPDX-License-Identifier: Apache-2.0 */
/* Contract section 4.4: destinations in other networks. */
#include "proxy/route/gateway.h"

#include <criterion/criterion.h>
#include <stdio.h>

#include "tests/unit/proxy/mesh_samples.h"

#define CART    "shop/cart.shop.svc.cluster.local"
#define WAY     "shop/waypoint.shop.svc.cluster.local"
#define GATEWAY "infra/gw.infra.svc.cluster.local"
#define NAME    "spiffe://cluster.local/ns/shop/sa/cart"

enum { NETWORK = 6, REGION = 1, FAILOVER = 2, STRICT = 1, PASSTHROUGH = 3 };

static struct state *state;
static struct route route;

static void setup(void)
{
    state = sample_state();
    WORKLOAD(state, .name = "web", .node = "node-a", .addresses = {"10.1.0.2", "fd01::2"});
}

static void teardown(void)
{
    route_release(&route);
    state_free(&state);
}

TestSuite(gateway, .init = setup, .fini = teardown);

static const struct route *go_with(const char *to, const struct endpoint_filter *filter)
{
    static uint64_t random = 1;
    struct endpoint destination = sample_endpoint(to);

    state_commit(state);
    route_release(&route);
    route_outbound(state, state_find_local(state, "shop", "web", ""), &destination, &random, filter, &route);
    return &route;
}

/* "gateway's address, authority, upstream, gateway, whose names are expected of it, and of the other end". */
static const char *told(const struct route *r)
{
    static char text[700];
    char target[ENDPOINT_TEXT_LEN];

    if (r->kind != ROUTE_HBONE || !r->gateway) {
        snprintf(text, sizeof(text), "%d %d %s", r->kind, r->reason, r->detail);
        return text;
    }
    snprintf(text, sizeof(text), "%s %s %s by %s %s expecting %s%s",
             r->hostname ? r->hostname : endpoint_format(&r->target, target), r->authority, r->upstream->name,
             r->gateway->name, r->gateway_service ? r->gateway_service->name : "-",
             r->expected_service ? r->expected_service->name : "nobody", r->via_waypoint ? " waypoint" : "");
    return text;
}

#define expect_route(to, wanted)                                                              \
    do {                                                                                      \
        const struct route *_r = go_with(to, NULL);                                           \
                                                                                              \
        cr_expect(!strcmp(told(_r), wanted), "%s: \"%s\", not \"%s\"", to, told(_r), wanted); \
    } while (0)

#define expect_failure(to, wanted, words)                                                           \
    do {                                                                                            \
        const struct route *_r = go_with(to, NULL);                                                 \
                                                                                                    \
        cr_expect(_r->kind == ROUTE_FAILED && _r->reason == (wanted), "%s: %s", to, told(_r));      \
        cr_expect(strstr(_r->detail, words) != NULL, "\"%s\" is not in \"%s\"", words, _r->detail); \
    } while (0)

#define cart(...)                                                                                     \
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20", "fd00:96::20"}, .ports = {{80, 8080}}, \
            __VA_ARGS__)
#define remote(...)                                                                                         \
    WORKLOAD(state, .name = "remote", .uid = "net-2/SplitHorizonWorkload/gw/shop/cart", .network = "net-2", \
             .services = {{CART}}, __VA_ARGS__)
#define by_address(...)                                                                                    \
    WORKLOAD(state, .name = "gw", .namespace = "infra", .network = "net-2", .addresses = {"198.51.100.1"}, \
             .plain = true, __VA_ARGS__)

Test(gateway, only_remote_endpoints)
{
    cart(.names = {NAME});
    remote(.gateway = "@net-2/198.51.100.1:15008", .capacity = 7);
    by_address();
    expect_route("10.96.0.20:80",
                 "198.51.100.1:15008 cart.shop.svc.cluster.local:80 remote by gw - expecting cart");
    cr_expect(route.service && !strcmp(route.service->name, "cart") && route.endpoint.port == 15008);
    expect_route("[fd00:96::20]:80",
                 "198.51.100.1:15008 cart.shop.svc.cluster.local:80 remote by gw - expecting cart");
}

Test(gateway, by_a_service)
{
    cart(.names = {NAME});
    remote(.gateway = "@/10.96.0.200:15008");
    SERVICE(state, .name = "gw", .namespace = "infra", .addresses = {"10.96.0.200"},
            .ports = {{15008, 15010}});
    by_address(.services = {{GATEWAY}});
    expect_route("10.96.0.20:80",
                 "198.51.100.1:15010 cart.shop.svc.cluster.local:80 remote by gw gw expecting cart");
    remote(.gateway = GATEWAY ":15008");
    expect_route("10.96.0.20:80",
                 "198.51.100.1:15010 cart.shop.svc.cluster.local:80 remote by gw gw expecting cart");
}

Test(gateway, with_a_hostname)
{
    struct endpoint e = sample_endpoint("203.0.113.9:1");

    cart(.names = {NAME});
    remote(.gateway = "infra/gw.example.com:15443");
    WORKLOAD(state, .name = "gw", .namespace = "infra", .network = "net-2", .hostname = "gw.example.com",
             .plain = true);
    expect_route("10.96.0.20:80",
                 "gw.example.com cart.shop.svc.cluster.local:80 remote by gw - expecting cart");
    route_resolved(&route, &e.addr);
    cr_expect_str_eq(told(&route),
                     "203.0.113.9:15443 cart.shop.svc.cluster.local:80 remote by gw - expecting cart");
}

Test(gateway, family_of_the_reference)
{
    cart(.names = {NAME});
    WORKLOAD(state, .name = "gw", .namespace = "infra", .network = "net-2",
             .addresses = {"198.51.100.1", "2001:db8::1"}, .plain = true);
    remote(.gateway = "@net-2/2001:db8::1:15008");
    expect_route("10.96.0.20:80",
                 "[2001:db8::1]:15008 cart.shop.svc.cluster.local:80 remote by gw - expecting cart");
}

Test(gateway, refusals)
{
    cart(.names = {NAME});
    remote();
    expect_failure("10.96.0.20:80", BRUMA_REASON_GATEWAY_UNRESOLVED, "without a gateway");
    remote(.gateway = "@net-2/198.51.100.1:15008");
    expect_failure("10.96.0.20:80", BRUMA_REASON_GATEWAY_UNRESOLVED, "without a gateway");
    WORKLOAD(state, .name = "gw", .network = "net-2", .hostname = "other.example.com");
    expect_failure("10.96.0.20:80", BRUMA_REASON_GATEWAY_UNRESOLVED, "without a gateway");
    remote(.gateway = "@net-2/198.51.100.1:15008");
    by_address();
    cart();
    expect_failure("10.96.0.20:80", BRUMA_REASON_GATEWAY_NAMES_MISSING, "alternative names");
    cart(.names = {"cart.example.com"}); /* none that could be expected */
    expect_failure("10.96.0.20:80", BRUMA_REASON_GATEWAY_NAMES_MISSING, "alternative names");
    cart(.names = {NAME});
    expect_failure("10.96.0.20:81", BRUMA_REASON_NO_HEALTHY_UPSTREAM, "no port 81");
}

Test(gateway, a_gateway_of_a_gateway_is_none)
{
    cart(.names = {NAME});
    remote(.gateway = GATEWAY ":15008");
    SERVICE(state, .name = "gw", .namespace = "infra", .names = {NAME}, .ports = {{15008, 15008}});
    WORKLOAD(state, .name = "gw-far", .network = "net-3", .services = {{GATEWAY}},
             .gateway = "@net-2/198.51.100.1:15008");
    by_address();
    expect_failure("10.96.0.20:80", BRUMA_REASON_GATEWAY_UNRESOLVED, "without a gateway");
}

Test(gateway, one_address_in_two_networks)
{
    WORKLOAD(state, .name = "far", .network = "net-2", .addresses = {"10.7.7.7"});
    go_with("10.7.7.7:80", NULL);
    cr_expect(route.kind == ROUTE_PASSTHROUGH);
    cart(.names = {NAME});
    WORKLOAD(state, .name = "far", .network = "net-2", .addresses = {"10.7.7.7"}, .services = {{CART}},
             .gateway = "@net-2/198.51.100.1:15008");
    by_address();
    expect_route("10.96.0.20:80",
                 "198.51.100.1:15008 cart.shop.svc.cluster.local:80 far by gw - expecting cart");
}

/* ---- among local and remote ones ---- */

static void count(unsigned *ret_near, unsigned *ret_far, const struct endpoint_filter *filter)
{
    *ret_near = *ret_far = 0;
    for (int i = 0; i < 1000; i++) {
        go_with("10.96.0.20:80", filter);
        *ret_far += route.kind == ROUTE_HBONE && route.gateway != NULL;
        *ret_near += route.kind == ROUTE_HBONE && route.gateway == NULL;
    }
}

Test(gateway, weights)
{
    unsigned near, far;

    cart(.names = {NAME});
    WORKLOAD(state, .name = "cart-0", .addresses = {"10.1.0.9"}, .services = {{CART}});
    remote(.gateway = "@net-2/198.51.100.1:15008", .capacity = 3);
    by_address();
    count(&near, &far, NULL);
    cr_expect(near + far == 1000 && near > 170 && near < 330, "%u %u", near, far); /* 250, six deviations */
    cart();
    count(&near, &far, NULL); /* nobody knows whom to expect: those here serve */
    cr_expect(near == 1000, "%u %u", near, far);
}

Test(gateway, the_own_network_is_preferred)
{
    unsigned near, far;

    cart(.names = {NAME}, .balancing = true, .mode = FAILOVER, .preferences = {NETWORK, REGION});
    WORKLOAD(state, .name = "cart-0", .addresses = {"10.1.0.9"}, .services = {{CART}}, .region = "elsewhere");
    remote(.gateway = "@net-2/198.51.100.1:15008", .capacity = 100);
    by_address();
    count(&near, &far, NULL);
    cr_expect(near == 1000, "%u %u", near, far);
    WORKLOAD(state, .name = "cart-0", .addresses = {"10.1.0.9"}, .services = {{CART}}, .status = 1);
    count(&near, &far, NULL);
    cr_expect(far == 1000, "%u %u", near, far);
    cart(.names = {NAME}, .balancing = true, .mode = STRICT, .preferences = {NETWORK});
    expect_failure("10.96.0.20:80", BRUMA_REASON_NO_HEALTHY_UPSTREAM, "no usable endpoint");
}

/* ---- what has failed ---- */

Test(gateway, another_gateway_is_tried)
{
    struct endpoint tried[2];
    struct endpoint_filter filter = {.tried = tried};

    cart(.names = {NAME});
    remote(.gateway = GATEWAY ":15008");
    SERVICE(state, .name = "gw", .namespace = "infra", .ports = {{15008, 15008}});
    by_address(.services = {{GATEWAY}});
    WORKLOAD(state, .name = "gw-2", .namespace = "infra", .network = "net-2", .addresses = {"198.51.100.2"},
             .services = {{GATEWAY}}, .plain = true);
    go_with("10.96.0.20:80", &filter);
    tried[0] = route.endpoint;
    filter.tried_len = 1;
    for (int i = 0; i < 50; i++) {
        go_with("10.96.0.20:80", &filter);
        cr_assert(route.gateway && !endpoint_equal(&route.endpoint, &tried[0]), "%s", told(&route));
    }
    tried[1] = route.endpoint;
    filter.tried_len = 2;
    go_with("10.96.0.20:80", &filter);
    cr_expect(route.kind == ROUTE_FAILED, "%s", told(&route));
    WORKLOAD(state, .name = "cart-0", .addresses = {"10.1.0.9"}, .services = {{CART}});
    go_with("10.96.0.20:80", &filter);
    cr_expect(route.kind == ROUTE_HBONE && !route.gateway, "%s", told(&route));
}

Test(gateway, one_that_is_ejected_is_left_alone_by_all_services)
{
    static struct ejected ejected;
    struct endpoint_filter filter = {.ejected = &ejected, .now = 1000};
    struct endpoint gateway = sample_endpoint("198.51.100.1:15008");
    unsigned near, far;

    ejected = (struct ejected){};
    cart(.names = {NAME});
    remote(.gateway = "@net-2/198.51.100.1:15008", .capacity = 3);
    by_address();
    WORKLOAD(state, .name = "cart-0", .addresses = {"10.1.0.9"}, .services = {{CART}});
    ejected_add(&ejected, &gateway, 1000, 500, BRUMA_REASON_CONNECT_REFUSED);
    count(&near, &far, &filter);
    cr_expect(near == 1000, "%u %u", near, far);
    filter.now = 2000;
    count(&near, &far, &filter);
    cr_expect(far > 600, "%u %u", near, far);
    /* it is better than none */
    filter.now = 1000;
    WORKLOAD(state, .name = "cart-0", .addresses = {"10.1.0.9"}, .services = {{CART}}, .status = 1);
    count(&near, &far, &filter);
    cr_expect(far == 1000, "%u %u", near, far);
}

Test(gateway, what_fails_behind_it_is_of_one_service)
{
    static struct ejected ejected;
    struct endpoint_filter filter = {.ejected = &ejected, .now = 1000};
    struct endpoint of_cart;

    ejected = (struct ejected){};
    cart(.names = {NAME});
    SERVICE(state, .name = "pay", .addresses = {"10.96.0.30"}, .ports = {{80, 8080}}, .names = {NAME});
    remote(.gateway = "@net-2/198.51.100.1:15008");
    WORKLOAD(state, .name = "pay-far", .uid = "net-2/SplitHorizonWorkload/gw/shop/pay", .network = "net-2",
             .services = {{"shop/pay.shop.svc.cluster.local"}}, .gateway = "@net-2/198.51.100.1:15008");
    by_address();
    of_cart = go_with("10.96.0.20:80", NULL)->endpoint;
    ejected_add(&ejected, &of_cart, 1000, 500, BRUMA_REASON_CONNECT_REFUSED);
    go_with("10.96.0.30:80", &filter);
    cr_expect(route.gateway && !ejected_has(&ejected, &route.endpoint, 1000), "%s", told(&route));
}

/* ---- waypoints ---- */

Test(gateway, waypoint_in_another_network)
{
    cart(.names = {NAME}, .waypoint = WAY ":15008");
    SERVICE(state, .name = "waypoint", .addresses = {"10.96.0.99"}, .ports = {{15008, 15008}},
            .names = {"spiffe://cluster.local/ns/shop/sa/waypoint"});
    WORKLOAD(state, .name = "wp-far", .network = "net-2", .services = {{WAY}},
             .gateway = "@net-2/198.51.100.1:15008");
    by_address();
    expect_route("10.96.0.20:80", "198.51.100.1:15008 cart.shop.svc.cluster.local:80 wp-far by gw - "
                                  "expecting waypoint waypoint");
    cr_expect(route.service && !strcmp(route.service->name, "cart"));
}

Test(gateway, waypoint_is_not_gone_around)
{
    cart(.names = {NAME}, .waypoint = WAY ":15008");
    SERVICE(state, .name = "waypoint", .addresses = {"10.96.0.99"}, .ports = {{15008, 15008}});
    WORKLOAD(state, .name = "cart-0", .addresses = {"10.1.0.9"}, .services = {{CART}});
    WORKLOAD(state, .name = "wp-far", .network = "net-2", .services = {{WAY}},
             .gateway = "@net-2/198.51.100.1:15008");
    by_address();
    expect_failure("10.96.0.20:80", BRUMA_REASON_GATEWAY_NAMES_MISSING, "waypoint " WAY);
    SERVICE(state, .name = "waypoint", .addresses = {"10.96.0.99"}, .ports = {{15008, 15008}},
            .names = {NAME});
    WORKLOAD(state, .name = "wp-far", .network = "net-2", .services = {{WAY}});
    expect_failure("10.96.0.20:80", BRUMA_REASON_GATEWAY_UNRESOLVED, "waypoint " WAY);
    /* one that is a workload has no service, and so no names */
    cart(.names = {NAME}, .waypoint = "shop/wp.example.com:15008");
    WORKLOAD(state, .name = "wp-9", .network = "net-2", .addresses = {"10.7.7.9"},
             .hostname = "wp.example.com", .gateway = "@net-2/198.51.100.1:15008");
    expect_failure("10.96.0.20:80", BRUMA_REASON_GATEWAY_NAMES_MISSING, "shop/wp.example.com");
}

Test(gateway, waypoint_of_a_workload)
{
    WORKLOAD(state, .name = "cart-0", .addresses = {"10.1.0.9"}, .waypoint = WAY ":15008");
    SERVICE(state, .name = "waypoint", .addresses = {"10.96.0.99"}, .ports = {{15008, 15008}},
            .names = {NAME});
    WORKLOAD(state, .name = "wp-far", .network = "net-2", .services = {{WAY}},
             .gateway = "@net-2/198.51.100.1:15008");
    by_address();
    /* there is no service whose name the gateway could be told */
    expect_failure("10.1.0.9:8080", BRUMA_REASON_GATEWAY_UNRESOLVED, "not called by a service");
}

Test(gateway, tunnels_that_may_be_shared)
{
    const struct service *one, *other;
    uint64_t base;

    cart(.names = {NAME, "spiffe://cluster.local/ns/shop/sa/pay"});
    remote(.gateway = "@net-2/198.51.100.1:15008");
    by_address();
    go_with("10.96.0.20:80", NULL);
    one = route.expected_service;
    service_ref(one);
    base = route_inner_hash(one, route.authority, 1);
    cr_expect(base == route_inner_hash(one, route.authority, 1));
    cr_expect(base != route_inner_hash(one, route.authority, 2), "another gateway's names");
    cr_expect(base != route_inner_hash(one, "cart.shop.svc.cluster.local:81", 1), "another port");
    cr_expect(base != route_expected_hash(NULL, one) && base != 1, "not the gateway's own");
    cart(.names = {NAME});
    go_with("10.96.0.20:80", NULL);
    other = route.expected_service;
    cr_expect(base != route_inner_hash(other, route.authority, 1), "other identities");
    service_unref(one);
}
