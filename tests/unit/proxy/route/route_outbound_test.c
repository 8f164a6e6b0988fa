/* SPDX-License-Identifier: Apache-2.0 */
/* Contract section 4: where a connection of a local pod goes. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "tests/unit/proxy/mesh_samples.h"

#define CART "shop/cart.shop.svc.cluster.local"

static struct state *state;
static struct route route;

static void setup(void)
{
    state = sample_state();
    WORKLOAD(state, .name = "web", .node = "node-a", .addresses = {"10.1.0.2", "fd01::2"}, .region = "r1",
             .zone = "z1");
}

static void teardown(void)
{
    route_release(&route);
    state_free(&state);
}

TestSuite(route_outbound, .init = setup, .fini = teardown);

/* The decision for a connection of the pod shop/web; committed before. */
static const struct route *go_from(const char *namespace, const char *name, const char *to)
{
    static uint64_t random = 1;
    struct endpoint destination = sample_endpoint(to);
    const struct workload *source;

    state_commit(state);
    source = state_find_local(state, namespace, name, "");
    cr_assert(source != NULL, "no local workload %s", name);
    route_release(&route);
    route_outbound(state, source, &destination, &random, NULL, &route);
    return &route;
}

static const struct route *go(const char *to)
{
    return go_from("shop", "web", to);
}

/* Only a tunnel to the target itself has one. */
static void expect_application_port(const struct route *r)
{
    const struct endpoint named = {r->target.addr, r->application_port};
    bool straight = r->kind == ROUTE_HBONE && !r->via_waypoint && !r->gateway && !r->hostname;
    char text[ENDPOINT_TEXT_LEN];

    cr_expect((r->application_port != 0) == straight);
    if (r->application_port)
        cr_expect_str_eq(r->authority, endpoint_format(&named, text));
}

/* "kind target authority upstream service": what a test compares; "-" for what is absent. */
static const char *told(const struct route *r)
{
    static const char *const kinds[] = {"FAILED", "PASSTHROUGH", "TCP", "HBONE"};
    static char text[600];
    char target[ENDPOINT_TEXT_LEN];

    if (r->kind == ROUTE_FAILED) {
        snprintf(text, sizeof(text), "FAILED %d", r->reason);
        return text;
    }
    expect_application_port(r);
    snprintf(text, sizeof(text), "%s %s %s %s %s%s", kinds[r->kind], endpoint_format(&r->target, target),
             r->authority[0] ? r->authority : "-", r->upstream ? r->upstream->name : "-",
             r->service ? r->service->name : "-", r->via_waypoint ? " waypoint" : "");
    return text;
}

#define expect_route(to, wanted)                                                                  \
    do {                                                                                          \
        const struct route *_r = go(to);                                                          \
                                                                                                  \
        cr_expect(!strcmp(told(_r), wanted), "%s: \"%s\", not \"%s\" (%s)", to, told(_r), wanted, \
                  _r->detail);                                                                    \
    } while (0)

#define expect_failure(to, wanted, words)                                                           \
    do {                                                                                            \
        const struct route *_r = go(to);                                                            \
                                                                                                    \
        cr_expect(_r->kind == ROUTE_FAILED && _r->reason == (wanted), "%s: %s (%s)", to, told(_r),  \
                  _r->detail);                                                                      \
        cr_expect(strstr(_r->detail, words) != NULL, "\"%s\" is not in \"%s\"", words, _r->detail); \
    } while (0)

Test(route_outbound, unknown_address_is_passed_through)
{
    expect_route("192.0.2.1:443", "PASSTHROUGH 192.0.2.1:443 - - -");
    expect_route("[2001:db8::1]:443", "PASSTHROUGH [2001:db8::1]:443 - - -");
}

Test(route_outbound, own_ports_on_loopback)
{
    expect_failure("127.0.0.1:15001", BRUMA_REASON_SELF_CALL, "15001");
    expect_failure("[::1]:15008", BRUMA_REASON_SELF_CALL, "15008");
    expect_route("127.0.0.1:80", "PASSTHROUGH 127.0.0.1:80 - - -");
}

Test(route_outbound, workloads_by_address)
{
    WORKLOAD(state, .name = "cart", .addresses = {"10.1.0.9", "fd01::9"});
    WORKLOAD(state, .name = "old", .addresses = {"10.1.0.10"}, .plain = true);
    expect_route("10.1.0.9:6379", "HBONE 10.1.0.9:15008 10.1.0.9:6379 cart -");
    expect_route("[fd01::9]:6379", "HBONE [fd01::9]:15008 [fd01::9]:6379 cart -");
    expect_route("10.1.0.10:80", "TCP 10.1.0.10:80 - old -");
}

Test(route_outbound, host_network_is_passed_through)
{
    WORKLOAD(state, .name = "node-agent", .addresses = {"10.0.0.1"}, .mode = 1);
    expect_route("10.0.0.1:10250", "PASSTHROUGH 10.0.0.1:10250 - - -");
}

Test(route_outbound, service_to_endpoint)
{
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20"}, .ports = {{80, 0}, {81, 9090}},
            .names = {"spiffe://cluster.local/ns/shop/sa/other", "not-an-identity"});
    WORKLOAD(state, .name = "cart-0", .addresses = {"10.1.0.9"}, .account = "cart",
             .services = {{CART, {{80, 8080}}}});
    expect_route("10.96.0.20:80", "HBONE 10.1.0.9:15008 10.1.0.9:8080 cart-0 cart");
    cr_expect(route_expects(route.upstream, route.expected_service, NULL, "",
                            "spiffe://cluster.local/ns/shop/sa/cart"));
    cr_expect(route_expects(route.upstream, route.expected_service, NULL, "",
                            "spiffe://cluster.local/ns/shop/sa/other"));
    cr_expect(!route_expects(route.upstream, route.expected_service, NULL, "", "not-an-identity"));
    cr_expect(
        !route_expects(route.upstream, route.expected_service, NULL, "", "spiffe://other/ns/shop/sa/cart"));
    cr_expect(!route_expects(route.upstream, route.expected_service, NULL, "", ""));
    /* no mapping of the endpoint: the service's own */
    expect_route("10.96.0.20:81", "HBONE 10.1.0.9:15008 10.1.0.9:9090 cart-0 cart");
    expect_failure("10.96.0.20:82", BRUMA_REASON_NO_HEALTHY_UPSTREAM, "has no port 82");
}

Test(route_outbound, plain_endpoint_of_a_service)
{
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20"}, .ports = {{80, 8080}});
    WORKLOAD(state, .name = "cart-0", .addresses = {"10.1.0.9"}, .plain = true, .services = {{CART}});
    expect_route("10.96.0.20:80", "TCP 10.1.0.9:8080 - cart-0 cart");
}

Test(route_outbound, host_network_endpoint_is_found_through_its_service)
{
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20"}, .ports = {{80, 8080}});
    WORKLOAD(state, .name = "cart-0", .addresses = {"10.0.0.1"}, .plain = true, .mode = 1,
             .services = {{CART}});
    expect_route("10.96.0.20:80", "TCP 10.0.0.1:8080 - cart-0 cart");
}

Test(route_outbound, service_without_healthy_endpoints)
{
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20"}, .ports = {{80, 8080}});
    expect_failure("10.96.0.20:80", BRUMA_REASON_NO_HEALTHY_UPSTREAM, "shop/cart.shop.svc.cluster.local");
    WORKLOAD(state, .name = "cart-0", .addresses = {"10.1.0.9"}, .status = 1, .services = {{CART}});
    expect_failure("10.96.0.20:80", BRUMA_REASON_NO_HEALTHY_UPSTREAM, "no usable endpoint");
    /* the endpoint that was unhealthy counts as soon as the service takes all */
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20"}, .ports = {{80, 8080}}, .health = 1);
    expect_route("10.96.0.20:80", "HBONE 10.1.0.9:15008 10.1.0.9:8080 cart-0 cart");
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20"}, .ports = {{80, 8080}});
    expect_failure("10.96.0.20:80", BRUMA_REASON_NO_HEALTHY_UPSTREAM, "no usable endpoint");
    WORKLOAD(state, .name = "cart-0", .addresses = {"10.1.0.9"}, .services = {{CART}});
    expect_route("10.96.0.20:80", "HBONE 10.1.0.9:15008 10.1.0.9:8080 cart-0 cart");
}

Test(route_outbound, prefix_and_endpoints_in_one_response)
{
    SERVICE(state, .name = "cart", .addresses = {"240.10.0.0/16"}, .ports = {{80, 8080}});
    WORKLOAD(state, .name = "cart-0", .addresses = {"10.1.0.9"}, .services = {{CART}});
    expect_route("240.10.3.4:80", "HBONE 10.1.0.9:15008 10.1.0.9:8080 cart-0 cart");
    /* it follows later changes of the endpoints */
    state_remove(state, STATE_ADDRESS, "Kubernetes//Pod/shop/cart-0");
    WORKLOAD(state, .name = "cart-1", .addresses = {"10.1.0.10"}, .services = {{CART}});
    expect_route("240.10.3.4:80", "HBONE 10.1.0.10:15008 10.1.0.10:8080 cart-1 cart");
    expect_route("240.11.3.4:80", "PASSTHROUGH 240.11.3.4:80 - - -");
    state_remove(state, STATE_ADDRESS, CART);
    expect_route("240.10.3.4:80", "PASSTHROUGH 240.10.3.4:80 - - -");
}

Test(route_outbound, longest_prefix_of_each_family)
{
    SERVICE(state, .name = "wide", .addresses = {"240.0.0.0/8", "fd96::/32"}, .ports = {{80, 1}});
    SERVICE(state, .name = "near", .addresses = {"240.10.0.0/16", "fd96::/48"}, .ports = {{80, 2}});
    SERVICE(state, .name = "exact", .addresses = {"240.10.0.1", "fd96::1"}, .ports = {{80, 3}});
    for (const char *const *name = (const char *const[]){"wide", "near", "exact", NULL}; *name; name++) {
        char key[100];

        snprintf(key, sizeof(key), "shop/%s.shop.svc.cluster.local", *name);
        WORKLOAD(state, .name = *name, .addresses = {"10.1.0.9", "fd01::9"}, .services = {{key}});
    }
    expect_route("240.9.0.1:80", "HBONE 10.1.0.9:15008 10.1.0.9:1 wide wide");
    expect_route("240.10.0.2:80", "HBONE 10.1.0.9:15008 10.1.0.9:2 near near");
    expect_route("240.10.0.1:80", "HBONE 10.1.0.9:15008 10.1.0.9:3 exact exact");
    expect_route("[fd96:0:1::1]:80", "HBONE [fd01::9]:15008 [fd01::9]:1 wide wide");
    expect_route("[fd96::2]:80", "HBONE [fd01::9]:15008 [fd01::9]:2 near near");
    expect_route("[fd96::1]:80", "HBONE [fd01::9]:15008 [fd01::9]:3 exact exact");
    /* no family takes the other's prefixes */
    SERVICE(state, .name = "all6", .addresses = {"::/0"}, .ports = {{80, 4}});
    expect_route("192.0.2.1:80", "PASSTHROUGH 192.0.2.1:80 - - -");
    expect_failure("[2001:db8::1]:80", BRUMA_REASON_NO_HEALTHY_UPSTREAM, "all6");
}

Test(route_outbound, choice_among_services_of_one_address)
{
    SERVICE(state, .name = "first", .namespace = "other", .addresses = {"10.96.0.20"}, .ports = {{80, 1}});
    expect_failure("10.96.0.20:80", BRUMA_REASON_NO_HEALTHY_UPSTREAM, "other/first");
    SERVICE(state, .name = "second", .namespace = "third", .addresses = {"10.96.0.20"}, .ports = {{80, 1}});
    expect_failure("10.96.0.20:80", BRUMA_REASON_NO_HEALTHY_UPSTREAM, "other/first");
    SERVICE(state, .name = "second", .namespace = "third", .addresses = {"10.96.0.20"}, .ports = {{80, 1}},
            .canonical = true);
    expect_failure("10.96.0.20:80", BRUMA_REASON_NO_HEALTHY_UPSTREAM, "third/second");
    SERVICE(state, .name = "mine", .addresses = {"10.96.0.20"}, .ports = {{80, 1}});
    expect_failure("10.96.0.20:80", BRUMA_REASON_NO_HEALTHY_UPSTREAM, "shop/mine");
    /* visible in its own namespace only */
    state_remove(state, STATE_ADDRESS, "shop/mine.shop.svc.cluster.local");
    SERVICE(state, .name = "second", .namespace = "third", .addresses = {"10.96.0.20"}, .ports = {{80, 1}},
            .canonical = true, .visibility = 1);
    expect_failure("10.96.0.20:80", BRUMA_REASON_NO_HEALTHY_UPSTREAM, "other/first");
    state_remove(state, STATE_ADDRESS, "other/first.other.svc.cluster.local");
    expect_route("10.96.0.20:80", "PASSTHROUGH 10.96.0.20:80 - - -");
}

Test(route_outbound, passthrough_service)
{
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20"}, .ports = {{80, 8080}}, .mode = 3);
    WORKLOAD(state, .name = "cart-0", .addresses = {"10.1.0.9"}, .services = {{CART}});
    expect_route("10.96.0.20:80", "PASSTHROUGH 10.96.0.20:80 - - -");
}

Test(route_outbound, several_workloads_of_one_address)
{
    WORKLOAD(state, .name = "entry", .uid = "Kubernetes/networking.istio.io/WorkloadEntry/shop/entry",
             .addresses = {"10.1.0.9"}, .plain = true);
    expect_route("10.1.0.9:80", "TCP 10.1.0.9:80 - entry -");
    WORKLOAD(state, .name = "tunnel", .uid = "Kubernetes/networking.istio.io/WorkloadEntry/shop/tunnel",
             .addresses = {"10.1.0.9"});
    expect_route("10.1.0.9:80", "HBONE 10.1.0.9:15008 10.1.0.9:80 tunnel -");
    WORKLOAD(state, .name = "pod", .addresses = {"10.1.0.9"}, .plain = true);
    expect_route("10.1.0.9:80", "TCP 10.1.0.9:80 - pod -");
    state_remove(state, STATE_ADDRESS, "Kubernetes//Pod/shop/pod");
    expect_route("10.1.0.9:80", "HBONE 10.1.0.9:15008 10.1.0.9:80 tunnel -");
}

Test(route_outbound, families_of_endpoints)
{
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20", "fd96::20"}, .ports = {{80, 8080}});
    WORKLOAD(state, .name = "cart-0", .addresses = {"10.1.0.9", "fd01::9"}, .services = {{CART}});
    expect_route("10.96.0.20:80", "HBONE 10.1.0.9:15008 10.1.0.9:8080 cart-0 cart");
    expect_route("[fd96::20]:80", "HBONE [fd01::9]:15008 [fd01::9]:8080 cart-0 cart");
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20", "fd96::20"}, .ports = {{80, 8080}},
            .families = 1);
    expect_route("[fd96::20]:80", "HBONE 10.1.0.9:15008 10.1.0.9:8080 cart-0 cart");
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20", "fd96::20"}, .ports = {{80, 8080}},
            .families = 2);
    expect_route("10.96.0.20:80", "HBONE [fd01::9]:15008 [fd01::9]:8080 cart-0 cart");
    WORKLOAD(state, .name = "cart-0", .addresses = {"10.1.0.9"}, .services = {{CART}});
    expect_failure("10.96.0.20:80", BRUMA_REASON_NO_HEALTHY_UPSTREAM, "family");
}

/* ---- waypoints ---- */

#define WAYPOINT_SERVICE "shop/waypoint.shop.svc.cluster.local"

static void add_waypoint(void)
{
    SERVICE(state, .name = "waypoint", .addresses = {"10.96.0.99"}, .ports = {{15008, 15018}},
            .names = {"spiffe://cluster.local/ns/shop/sa/waypoint-extra"});
    WORKLOAD(state, .name = "wp-0", .account = "waypoint", .addresses = {"10.1.0.99", "fd01::99"},
             .services = {{WAYPOINT_SERVICE}});
}

Test(route_outbound, service_with_waypoint)
{
    add_waypoint();
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20", "fd96::20"}, .ports = {{80, 8080}},
            .waypoint = WAYPOINT_SERVICE ":15008");
    /* before any endpoint is chosen: there is none, and port 81 does not exist */
    expect_route("10.96.0.20:80", "HBONE 10.1.0.99:15018 10.96.0.20:80 wp-0 cart waypoint");
    expect_route("10.96.0.20:81", "HBONE 10.1.0.99:15018 10.96.0.20:81 wp-0 cart waypoint");
    expect_route("[fd96::20]:80", "HBONE [fd01::99]:15018 [fd96::20]:80 wp-0 cart waypoint");
    cr_expect(route_expects(route.upstream, route.expected_service, NULL, "",
                            "spiffe://cluster.local/ns/shop/sa/waypoint"));
    cr_expect(route_expects(route.upstream, route.expected_service, NULL, "",
                            "spiffe://cluster.local/ns/shop/sa/waypoint-extra"));
    cr_expect(!route_expects(route.upstream, route.expected_service, NULL, "",
                             "spiffe://cluster.local/ns/shop/sa/cart"));
}

Test(route_outbound, waypoint_by_address)
{
    add_waypoint();
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20"}, .ports = {{80, 8080}},
            .waypoint = "@/10.96.0.99:15008");
    expect_route("10.96.0.20:80", "HBONE 10.1.0.99:15018 10.96.0.20:80 wp-0 cart waypoint");
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20"}, .ports = {{80, 8080}},
            .waypoint = "@/fd01::99:15009");
    expect_route("10.96.0.20:80", "HBONE [fd01::99]:15009 10.96.0.20:80 wp-0 cart waypoint");
    cr_expect(!route_expects(route.upstream, route.expected_service, NULL, "",
                             "spiffe://cluster.local/ns/shop/sa/waypoint-extra"));
}

Test(route_outbound, waypoint_by_hostname_of_a_workload)
{
    WORKLOAD(state, .name = "wp-1", .addresses = {"10.1.0.98"}, .hostname = "wp.example.com");
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20"}, .ports = {{80, 8080}},
            .waypoint = "shop/wp.example.com:15008");
    expect_route("10.96.0.20:80", "HBONE 10.1.0.98:15008 10.96.0.20:80 wp-1 cart waypoint");
}

Test(route_outbound, no_way_around_a_waypoint)
{
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20"}, .ports = {{80, 8080}},
            .waypoint = WAYPOINT_SERVICE ":15008");
    WORKLOAD(state, .name = "cart-0", .addresses = {"10.1.0.9"}, .services = {{CART}});
    expect_failure("10.96.0.20:80", BRUMA_REASON_WAYPOINT_UNRESOLVED, WAYPOINT_SERVICE);
    SERVICE(state, .name = "waypoint", .addresses = {"10.96.0.99"}, .ports = {{15008, 15008}});
    expect_failure("10.96.0.20:80", BRUMA_REASON_WAYPOINT_UNRESOLVED, "no usable endpoint");
    /* also where the traffic would not be balanced */
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20"}, .ports = {{80, 8080}}, .mode = 3,
            .waypoint = WAYPOINT_SERVICE ":15008");
    expect_failure("10.96.0.20:80", BRUMA_REASON_WAYPOINT_UNRESOLVED, WAYPOINT_SERVICE);
}

Test(route_outbound, waypoint_with_application_tunnel_needs_no_port)
{
    SERVICE(state, .name = "waypoint", .addresses = {"10.96.0.99"}, .ports = {{80, 80}});
    WORKLOAD(state, .name = "wp-0", .addresses = {"10.1.0.99"}, .services = {{WAYPOINT_SERVICE}},
             .tunnel = true, .tunnel_protocol = 1, .tunnel_port = 15088);
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20"}, .ports = {{80, 8080}},
            .waypoint = WAYPOINT_SERVICE ":15008");
    expect_route("10.96.0.20:80", "HBONE 10.1.0.99:15008 10.96.0.20:80 wp-0 cart waypoint");
    WORKLOAD(state, .name = "wp-0", .addresses = {"10.1.0.99"}, .services = {{WAYPOINT_SERVICE}},
             .tunnel = true, .tunnel_protocol = 1);
    expect_failure("10.96.0.20:80", BRUMA_REASON_WAYPOINT_UNRESOLVED, "no usable endpoint");
}

Test(route_outbound, weighted_waypoints)
{
    int seen[3] = {0};

    add_waypoint();
    WORKLOAD(state, .name = "wp-1", .addresses = {"10.1.0.98"}, .hostname = "wp.example.com");
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20"}, .ports = {{80, 8080}},
            .waypoint = "shop/not-used:15008",
            .weighted = {
                {WAYPOINT_SERVICE ":15008", 3}, {"shop/never:15008", 0}, {"shop/wp.example.com:15008", 1}});
    for (int i = 0; i < 4000; i++) {
        const struct route *r = go("10.96.0.20:80");

        cr_assert(r->kind == ROUTE_HBONE, "%s", r->detail);
        seen[!strcmp(r->upstream->name, "wp-1")]++;
    }
    cr_expect(seen[0] > 2700 && seen[0] < 3300 && seen[0] + seen[1] == 4000, "%d", seen[0]);
    /* weights that add up to nothing: the single one */
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20"}, .ports = {{80, 8080}},
            .waypoint = "shop/wp.example.com:15008", .weighted = {{WAYPOINT_SERVICE ":15008", 0}});
    expect_route("10.96.0.20:80", "HBONE 10.1.0.98:15008 10.96.0.20:80 wp-1 cart waypoint");
}

Test(route_outbound, workload_with_waypoint)
{
    add_waypoint();
    WORKLOAD(state, .name = "cart-0", .addresses = {"10.1.0.9"}, .services = {{CART}},
             .waypoint = WAYPOINT_SERVICE ":15008");
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20"}, .ports = {{80, 8080}});
    expect_route("10.1.0.9:80", "HBONE 10.1.0.99:15018 10.1.0.9:80 wp-0 - waypoint");
    /* service-addressed traffic does not use the waypoint of a workload */
    expect_route("10.96.0.20:80", "HBONE 10.1.0.9:15008 10.1.0.9:8080 cart-0 cart");
}

Test(route_outbound, waypoint_reaches_its_workloads_directly)
{
    SERVICE(state, .name = "waypoint", .addresses = {"10.96.0.99"}, .ports = {{15008, 15008}});
    WORKLOAD(state, .name = "wp-0", .node = "node-a", .addresses = {"10.1.0.99"},
             .services = {{WAYPOINT_SERVICE}});
    WORKLOAD(state, .name = "cart-0", .addresses = {"10.1.0.9"}, .waypoint = WAYPOINT_SERVICE ":15008");
    WORKLOAD(state, .name = "cart-1", .addresses = {"10.1.0.10"}, .waypoint = "@/10.1.0.99:15008");
    go_from("shop", "wp-0", "10.1.0.9:80");
    cr_expect(!strcmp(told(&route), "HBONE 10.1.0.9:15008 10.1.0.9:80 cart-0 -"), "%s", told(&route));
    go_from("shop", "wp-0", "10.1.0.10:80");
    cr_expect(!strcmp(told(&route), "HBONE 10.1.0.10:15008 10.1.0.10:80 cart-1 -"), "%s", told(&route));
    go("10.1.0.9:80");
    cr_expect(!strcmp(told(&route), "HBONE 10.1.0.99:15008 10.1.0.9:80 wp-0 - waypoint"), "%s", told(&route));
}

static void expect_hostname(const char *to, const char *hostname, bool prefers_ipv4, const char *address,
                            const char *wanted)
{
    const struct route *r = go(to);
    struct endpoint e = sample_endpoint(address);

    cr_assert(r->hostname != NULL, "%s: %s (%s)", to, told(r), r->detail);
    cr_expect_str_eq(r->hostname, hostname);
    cr_expect(r->prefers_ipv4 == prefers_ipv4 && addr_is_none(&r->target.addr));
    route_resolved(&route, &e.addr);
    cr_expect(!route.hostname && !strcmp(told(&route), wanted), "%s: \"%s\", not \"%s\"", to, told(&route),
              wanted);
}

Test(route_outbound, endpoint_with_a_hostname)
{
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20", "fd00:96::20"}, .ports = {{80, 8080}});
    WORKLOAD(state, .name = "named", .hostname = "db.example.com", .services = {{CART}}, .plain = true);
    expect_hostname("10.96.0.20:80", "db.example.com", true, "192.0.2.1:1",
                    "TCP 192.0.2.1:8080 - named cart");
    expect_hostname("[fd00:96::20]:80", "db.example.com", false, "[2001:db8::1]:1",
                    "TCP [2001:db8::1]:8080 - named cart");
    WORKLOAD(state, .name = "named", .hostname = "db.example.com", .services = {{CART}});
    expect_hostname("10.96.0.20:80", "db.example.com", true, "192.0.2.1:1",
                    "HBONE 192.0.2.1:15008 192.0.2.1:8080 named cart");
    /* addresses are not asked for where there are some */
    WORKLOAD(state, .name = "named", .hostname = "db.example.com", .addresses = {"192.0.2.7"},
             .services = {{CART}}, .plain = true);
    expect_route("10.96.0.20:80", "TCP 192.0.2.7:8080 - named cart");
    cr_expect(!route.hostname);
}

Test(route_outbound, waypoint_with_a_hostname)
{
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20"}, .ports = {{80, 8080}},
            .waypoint = "shop/wp.example.com:15008");
    WORKLOAD(state, .name = "cart-0", .addresses = {"10.1.0.9"}, .services = {{CART}});
    WORKLOAD(state, .name = "wp-1", .hostname = "wp.example.com");
    expect_hostname("10.96.0.20:80", "wp.example.com", true, "192.0.2.9:1",
                    "HBONE 192.0.2.9:15008 10.96.0.20:80 wp-1 cart waypoint");
    /* the destination has one too: the waypoint's counts */
    WORKLOAD(state, .name = "far", .addresses = {"10.1.0.44"}, .hostname = "far.example.com",
             .waypoint = "shop/wp.example.com:15008");
    expect_hostname("10.1.0.44:80", "wp.example.com", true, "192.0.2.9:1",
                    "HBONE 192.0.2.9:15008 10.1.0.44:80 wp-1 - waypoint");
}

Test(route_outbound, the_same_random_state_leads_to_the_same_endpoint)
{
    struct endpoint destination = sample_endpoint("10.96.0.20:80");
    const struct workload *source;
    int changes = 0;
    char first[64];

    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20"}, .ports = {{80, 8080}});
    WORKLOAD(state, .name = "a", .hostname = "a.example.com", .services = {{CART}});
    WORKLOAD(state, .name = "b", .hostname = "b.example.com", .services = {{CART}});
    WORKLOAD(state, .name = "c", .addresses = {"10.1.0.9"}, .services = {{CART}});
    state_commit(state);
    source = state_find_local(state, "shop", "web", "");
    for (uint64_t seed = 1; seed <= 100; seed++) {
        for (int i = 0; i < 3; i++) {
            uint64_t random = seed * 0x9e3779b97f4a7c15u;

            route_release(&route);
            route_outbound(state, source, &destination, &random, NULL, &route);
            cr_assert_not_null(route.upstream);
            if (i == 0)
                changes += seed > 1 && strcmp(first, route.upstream->name) != 0;
            if (i == 0)
                snprintf(first, sizeof(first), "%s", route.upstream->name);
            cr_assert_str_eq(first, route.upstream->name);
        }
    }
    cr_expect(changes > 40, "%d", changes);
}

Test(route_outbound, expected_hash)
{
    uint64_t direct, again, through;

    add_waypoint();
    WORKLOAD(state, .name = "cart-0", .account = "cart", .addresses = {"10.1.0.9"});
    WORKLOAD(state, .name = "cart-1", .account = "cart", .addresses = {"10.1.0.10"});
    go("10.1.0.9:80");
    direct = route_expected_hash(route.upstream, route.expected_service);
    go("10.1.0.10:80");
    again = route_expected_hash(route.upstream, route.expected_service);
    go("10.96.0.99:15008");
    through = route_expected_hash(route.upstream, route.expected_service);
    cr_expect(direct == again && direct != through);
}
