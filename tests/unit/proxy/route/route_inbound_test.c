/* SPDX-License-Identifier: Apache-2.0 */
/* Contract section 5.1, steps 3, 5 and 6. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "tests/unit/proxy/mesh_samples.h"

#define CART     "shop/cart.shop.svc.cluster.local"
#define WAYPOINT "shop/waypoint.shop.svc.cluster.local"

static struct state *state;
static struct inbound_target target;

static void setup(void)
{
    state = sample_state();
    SERVICE(state, .name = "cart", .addresses = {"fd96::20", "net-2@10.99.0.1", "10.96.0.20"},
            .ports = {{80, 0}, {81, 9091}, {82, 0}});
    WORKLOAD(state, .name = "cart-0", .node = "node-a", .addresses = {"10.1.0.9", "fd01::9"},
             .services = {{CART, {{80, 8080}}}});
    WORKLOAD(state, .name = "other", .addresses = {"10.1.0.10"});
}

static void teardown(void)
{
    service_unref(target.service);
    state_free(&state);
}

TestSuite(route_inbound, .init = setup, .fini = teardown);

static int ask_as(const char *name, const char *arrival, const char *authority, const char *forwarded)
{
    struct endpoint at = sample_endpoint(arrival);
    const struct workload *local;

    state_commit(state);
    local = state_find_local(state, "shop", name, "");
    cr_assert(local != NULL);
    service_unref(target.service);
    route_inbound(state, local, &at, authority, authority ? strlen(authority) : 0, forwarded,
                  forwarded ? strlen(forwarded) : 0, &target);
    return target.status;
}

static int ask(const char *authority)
{
    return ask_as("cart-0", "10.1.0.9:15008", authority, NULL);
}

static const char *target_text(void)
{
    static char text[ENDPOINT_TEXT_LEN];

    return endpoint_format(&target.target, text);
}

Test(route_inbound, own_address)
{
    cr_expect(ask("10.1.0.9:8080") == 200 && !strcmp(target_text(), "10.1.0.9:8080"), "%s", target_text());
    cr_expect(target.reason == BRUMA_REASON_NONE && !target.proxy_header);
    cr_expect(ask_as("cart-0", "[fd01::9]:15008", "[fd01::9]:8080", NULL) == 200);
    cr_expect(!strcmp(target_text(), "[fd01::9]:8080"));
}

Test(route_inbound, refused_authorities)
{
    cr_expect(ask("10.1.0.10:8080") == 400 && target.reason == BRUMA_REASON_BAD_AUTHORITY, "another pod");
    cr_expect(ask("[fd01::9]:8080") == 400, "its address, but not the one that the tunnel came to");
    cr_expect(ask("192.0.2.1:8080") == 400, "unknown to all");
    cr_expect(ask("10.96.0.20:80") == 400, "a service's address");
    cr_expect(ask("[::ffff:10.1.0.9]:8080") == 400);
    cr_expect(ask(":8080") == 503);
    cr_expect(ask("10.1.0.9") == 400 && ask("10.1.0.9:") == 400 && ask("10.1.0.9:99999") == 400);
    cr_expect(ask(NULL) == 400 && ask("") == 400);
    cr_expect(target.service == NULL);
}

Test(route_inbound, own_ports)
{
    cr_expect(ask("10.1.0.9:15001") == 503 && target.reason == BRUMA_REASON_SELF_CALL);
    cr_expect(ask("10.1.0.9:15006") == 503 && ask("10.1.0.9:15008") == 503);
    cr_expect(ask("10.1.0.9:15007") == 200 && ask("10.1.0.9:15021") == 200);
    /* also behind a service's port */
    SERVICE(state, .name = "trick", .ports = {{80, 15006}});
    cr_expect(ask("trick.shop.svc.cluster.local:80") == 503);
}

Test(route_inbound, hostnames)
{
    cr_expect(ask("cart.shop.svc.cluster.local:80") == 200 && !strcmp(target_text(), "10.1.0.9:8080"), "%s",
              target_text());
    cr_expect(ask("CART.shop.svc.cluster.local:81") == 200 && !strcmp(target_text(), "10.1.0.9:9091"));
    cr_expect(ask("cart.shop.svc.cluster.local:82") == 503, "a port that nobody maps");
    cr_expect(ask("cart.shop.svc.cluster.local:83") == 503, "no such port");
    cr_expect(ask("unknown.shop.svc.cluster.local:80") == 503);
    /* of several with one hostname, that of the local namespace */
    SERVICE(state, .name = "x", .namespace = "a", .hostname = "x.example.com", .ports = {{80, 1000}});
    SERVICE(state, .name = "x", .namespace = "shop", .hostname = "x.example.com", .ports = {{80, 2000}});
    SERVICE(state, .name = "x", .namespace = "z", .hostname = "x.example.com", .ports = {{80, 3000}},
            .canonical = true);
    cr_expect(ask("x.example.com:80") == 200 && !strcmp(target_text(), "10.1.0.9:2000"), "%s", target_text());
}

Test(route_inbound, through_this_waypoint)
{
    SERVICE(state, .name = "waypoint", .addresses = {"10.96.0.99"}, .ports = {{15008, 15008}});
    cr_expect(ask("10.96.0.20:80") == 400);
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20"}, .ports = {{80, 8080}},
            .waypoint = WAYPOINT ":15008");
    WORKLOAD(state, .name = "cart-0", .node = "node-a", .addresses = {"10.1.0.9"}, .services = {{WAYPOINT}});
    cr_expect(ask("10.96.0.20:80") == 200 && !strcmp(target_text(), "10.1.0.9:80"),
              "the address stays the arrival's");
    cr_expect(ask("10.96.0.99:80") == 400, "the waypoint's own service has no waypoint");
    /* the same for a workload's waypoint, and for references by address */
    WORKLOAD(state, .name = "other", .addresses = {"10.1.0.10"}, .waypoint = WAYPOINT ":15008");
    cr_expect(ask("10.1.0.10:80") == 200);
    WORKLOAD(state, .name = "other", .addresses = {"10.1.0.10"}, .waypoint = "@/10.1.0.9:15008");
    cr_expect(ask("10.1.0.10:80") == 200);
    WORKLOAD(state, .name = "other", .addresses = {"10.1.0.10"}, .waypoint = "@/10.1.0.11:15008");
    cr_expect(ask("10.1.0.10:80") == 400);
    /* weighted waypoints count too, a prefix as well */
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.0/24"}, .ports = {{80, 8080}},
            .weighted = {{"shop/elsewhere:15008", 1}, {WAYPOINT ":15008", 1}});
    cr_expect(ask("10.96.0.20:80") == 200);
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.0/24"}, .ports = {{80, 8080}},
            .weighted = {{"shop/elsewhere:15008", 1}});
    cr_expect(ask("10.96.0.20:80") == 400);
}

Test(route_inbound, application_tunnel)
{
    char text[ENDPOINT_TEXT_LEN];

    WORKLOAD(state, .name = "wp", .node = "node-a", .addresses = {"10.1.0.99"}, .tunnel = true,
             .tunnel_protocol = 1, .tunnel_port = 15088);
    cr_expect(ask_as("wp", "10.1.0.99:15008", "192.0.2.7:443", NULL) == 200, "any address");
    cr_expect(!strcmp(target_text(), "10.1.0.99:15088") && target.proxy_header, "%s", target_text());
    cr_expect(!strcmp(endpoint_format(&target.original, text), "192.0.2.7:443"), "%s", text);
    /* a hostname: in the header stands the service's address of our network, IPv4 first */
    cr_expect(ask_as("wp", "10.1.0.99:15008", "cart.shop.svc.cluster.local:81", NULL) == 200);
    cr_expect(!strcmp(endpoint_format(&target.original, text), "10.96.0.20:81"), "%s", text);
    cr_expect(!strcmp(target_text(), "10.1.0.99:15088"));
    SERVICE(state, .name = "headless", .ports = {{80, 80}});
    cr_expect(ask_as("wp", "10.1.0.99:15008", "headless.shop.svc.cluster.local:80", NULL) == 503);
    /* own ports are checked before the tunnel's port takes over */
    cr_expect(ask_as("wp", "10.1.0.99:15008", "192.0.2.7:15008", NULL) == 503);
    /* without PROXY: delivered as it is */
    WORKLOAD(state, .name = "wp", .node = "node-a", .addresses = {"10.1.0.99"}, .tunnel = true);
    cr_expect(ask_as("wp", "10.1.0.99:15008", "192.0.2.7:443", NULL) == 200 && !target.proxy_header);
    cr_expect(!strcmp(target_text(), "10.1.0.99:443"), "%s", target_text());
    cr_expect(ask_as("wp", "10.1.0.99:15008", "headless.shop.svc.cluster.local:80", NULL) == 200);
}

static const char *told(const char *authority, const char *forwarded)
{
    cr_assert(ask_as("cart-0", "10.1.0.9:15008", authority, forwarded) == 200);
    return target.service ? target.service->hostname : "-";
}

Test(route_inbound, service_for_telemetry)
{
    SERVICE(state, .name = "admin", .ports = {{443, 8443}});
    WORKLOAD(
        state, .name = "cart-0", .node = "node-a", .addresses = {"10.1.0.9"},
        .services = {{CART, {{80, 8080}}}, {"shop/admin.shop.svc.cluster.local"}, {"shop/gone.example.com"}});
    cr_expect(!strcmp(told("10.1.0.9:8080", NULL), "cart.shop.svc.cluster.local"));
    cr_expect(!strcmp(told("10.1.0.9:9091", NULL), "cart.shop.svc.cluster.local"));
    cr_expect(!strcmp(told("10.1.0.9:8443", NULL), "admin.shop.svc.cluster.local"));
    cr_expect(!strcmp(told("10.1.0.9:1", NULL), "-"));
    cr_expect(!strcmp(told("10.1.0.9:8080", "for=\"10.1.0.2:1\";host=admin.shop.svc.cluster.local"),
                      "admin.shop.svc.cluster.local"));
    cr_expect(
        !strcmp(told("10.1.0.9:1", "host=\"admin.shop.svc.cluster.local\""), "admin.shop.svc.cluster.local"));
    /* not one of the workload's, empty, or no text */
    cr_expect(!strcmp(told("10.1.0.9:8443", "host=gone.example.com"), "admin.shop.svc.cluster.local"));
    cr_expect(!strcmp(told("10.1.0.9:8443", "host="), "admin.shop.svc.cluster.local"));
    cr_expect(!strcmp(told("10.1.0.9:8443", "host=\"\""), "admin.shop.svc.cluster.local"));
    cr_expect(!strcmp(told("10.1.0.9:8443", "host=\""), "admin.shop.svc.cluster.local"));
    cr_expect(!strcmp(told("10.1.0.9:8443", "\xc3\xa4;host=cart.shop.svc.cluster.local"),
                      "admin.shop.svc.cluster.local"));
    cr_expect(!strcmp(told("10.1.0.9:8443", ";;;"), "admin.shop.svc.cluster.local"));
}

Test(route_inbound, workload_of_an_earlier_version)
{
    struct endpoint at = sample_endpoint("10.1.0.9:15008");
    const struct workload *kept;

    state_commit(state);
    kept = state_find_local(state, "shop", "cart-0", "");
    workload_ref(kept);
    state_remove(state, STATE_ADDRESS, CART);
    state_remove(state, STATE_ADDRESS, "Kubernetes//Pod/shop/cart-0");
    state_commit(state);
    SERVICE(state, .name = "cart", .ports = {{80, 0}});
    state_commit(state);
    /* a connection that holds the old workload: it still maps the port of the service that came back */
    route_inbound(state, kept, &at, "cart.shop.svc.cluster.local:80", 30, NULL, 0, &target);
    cr_expect(target.status == 200 && target.target.port == 8080, "%d %s", target.status, target_text());
    workload_unref(kept);
}
