/* SPDX-License-Identifier: Apache-2.0 */
/* Contract section 4.2: ranks and weights. */
#include "proxy/route/endpoints.h"

#include <criterion/criterion.h>
#include <stdio.h>

#include "tests/unit/proxy/mesh_samples.h"

#define CART "shop/cart.shop.svc.cluster.local"

enum { REGION = 1, ZONE, SUBZONE, NODE, CLUSTER, NETWORK };
enum { STRICT = 1, FAILOVER = 2 };

static struct state *state;

static void setup(void)
{
    state = sample_state();
    WORKLOAD(state, .name = "web", .node = "node-a", .addresses = {"10.1.0.2"}, .region = "r1", .zone = "z1",
             .subzone = "s1", .cluster = "c1");
}

static void teardown(void)
{
    state_free(&state);
}

TestSuite(endpoints, .init = setup, .fini = teardown);

#define ENDPOINT(name_, ip, ...) \
    WORKLOAD(state, .name = name_, .addresses = {ip}, .services = {{CART}}, .cluster = "c1", __VA_ARGS__)

/* How often each of the endpoints a, b, c, d is chosen in 2000 connections; "none" in [4]. */
static void count(int seen[5])
{
    static uint64_t random = 7;
    struct endpoint destination = sample_endpoint("10.96.0.20:80");
    const struct workload *source;

    memset(seen, 0, 5 * sizeof(*seen));
    state_commit(state);
    source = state_find_local(state, "shop", "web", "");
    for (int i = 0; i < 2000; i++) {
        struct route route;

        route_outbound(state, source, &destination, &random, NULL, &route);
        seen[route.kind == ROUTE_FAILED ? 4 : route.upstream->name[0] - 'a']++;
        route_release(&route);
    }
}

#define cart(...) \
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20"}, .ports = {{80, 8080}}, __VA_ARGS__)

Test(endpoints, weights)
{
    int seen[5];

    cart(.mode = 0);
    ENDPOINT("a", "10.1.0.10", .capacity = 1);
    ENDPOINT("b", "10.1.0.11", .capacity = 3);
    ENDPOINT("c", "10.1.0.12", .no_capacity = true);
    ENDPOINT("d", "10.1.0.13", .capacity = 4);
    count(seen);
    cr_expect(seen[0] > 180 && seen[0] < 330, "%d", seen[0]);
    cr_expect(seen[1] > 650 && seen[1] < 850, "%d", seen[1]);
    cr_expect(seen[2] == 0 && seen[4] == 0);
    cr_expect(seen[3] > 880 && seen[3] < 1120, "%d", seen[3]);
}

Test(endpoints, very_uneven_weights)
{
    int seen[5];

    cart(.mode = 0);
    ENDPOINT("a", "10.1.0.10", .capacity = 4000000000u, .status = 1);
    ENDPOINT("b", "10.1.0.11", .capacity = 1);
    ENDPOINT("c", "10.1.0.12", .capacity = 1);
    count(seen);
    cr_expect(seen[1] > 880 && seen[2] > 880 && seen[1] + seen[2] == 2000, "%d %d", seen[1], seen[2]);
    /* one of enormous weight that cannot be used for this port: the others keep their even shares */
    WORKLOAD(state, .name = "d", .capacity = 4000000000u, .network = "net-2", .addresses = {"10.2.0.1"},
             .services = {{CART}});
    count(seen);
    cr_expect(seen[1] > 880 && seen[2] > 880 && seen[1] + seen[2] == 2000, "%d %d", seen[1], seen[2]);
}

Test(endpoints, no_weight_at_all)
{
    int seen[5];

    cart(.mode = 0);
    ENDPOINT("a", "10.1.0.10", .no_capacity = true);
    count(seen);
    cr_expect(seen[4] == 2000);
    cart(.mode = FAILOVER, .preferences = {NODE});
    count(seen);
    cr_expect(seen[4] == 2000);
}

Test(endpoints, failover_walks_the_preferences)
{
    int seen[5];

    cart(.mode = FAILOVER, .preferences = {REGION, ZONE, SUBZONE});
    ENDPOINT("a", "10.1.0.10", .region = "r1", .zone = "z2", .subzone = "s1");
    ENDPOINT("b", "10.1.0.11", .region = "r2", .zone = "z1", .subzone = "s1");
    count(seen);
    cr_expect(seen[0] == 2000, "the walk ends at the first difference");
    ENDPOINT("c", "10.1.0.12", .region = "r1", .zone = "z1", .subzone = "s9");
    count(seen);
    cr_expect(seen[2] == 2000);
    ENDPOINT("d", "10.1.0.13", .region = "r1", .zone = "z1", .subzone = "s1");
    count(seen);
    cr_expect(seen[3] == 2000);
    ENDPOINT("d", "10.1.0.13", .region = "r1", .zone = "z1", .subzone = "s1", .status = 1);
    ENDPOINT("c", "10.1.0.12", .region = "r1", .zone = "z1", .subzone = "s9", .status = 1);
    ENDPOINT("a", "10.1.0.10", .region = "r1", .zone = "z2", .status = 1);
    count(seen);
    cr_expect(seen[1] == 2000, "the last resort");
}

Test(endpoints, strict_keeps_only_full_matches)
{
    int seen[5];

    cart(.mode = STRICT, .preferences = {NODE});
    ENDPOINT("a", "10.1.0.10", .node = "node-b");
    count(seen);
    cr_expect(seen[4] == 2000);
    ENDPOINT("b", "10.1.0.11", .node = "node-a");
    ENDPOINT("c", "10.1.0.12", .node = "node-a", .capacity = 3);
    count(seen);
    cr_expect(seen[0] == 0 && seen[1] + seen[2] == 2000 && seen[2] > 1380 && seen[2] < 1620, "%d", seen[2]);
}

Test(endpoints, network_first_and_same_node)
{
    int seen[5];

    cart(.mode = FAILOVER, .preferences = {NETWORK, REGION, ZONE, SUBZONE, NODE});
    ENDPOINT("a", "10.1.0.10", .region = "r9");
    WORKLOAD(state, .name = "b", .network = "net-2", .services = {{CART}}, .region = "r1", .zone = "z1",
             .subzone = "s1", .gateway = "@net-2/198.51.100.1:15008");
    count(seen);
    cr_expect(seen[0] == 2000, "an endpoint of the network comes before all others");
    ENDPOINT("c", "10.1.0.12", .region = "r1", .zone = "z1", .subzone = "s1", .node = "node-a");
    ENDPOINT("d", "10.1.0.13", .region = "r1", .zone = "z1", .subzone = "s1", .node = "node-b");
    count(seen);
    cr_expect(seen[2] == 2000);
    cart(.mode = STRICT, .preferences = {CLUSTER});
    count(seen);
    cr_expect(seen[0] + seen[2] + seen[3] == 2000 && seen[0] > 500);
}

Test(endpoints, unknown_preferences_are_left_out)
{
    int seen[5];

    cart(.mode = FAILOVER, .preferences = {77, ZONE});
    ENDPOINT("a", "10.1.0.10", .zone = "z2");
    ENDPOINT("b", "10.1.0.11", .zone = "z1");
    count(seen);
    cr_expect(seen[1] == 2000);
    cart(.mode = 9, .health = 9);
    count(seen);
    cr_expect(seen[0] > 800 && seen[1] > 800, "an unknown mode is the standard one");
}

Test(endpoints, random_numbers)
{
    uint64_t random = 0;
    int seen[3] = {0};

    for (int i = 0; i < 3000; i++)
        seen[random_below(&random, 3)]++;
    for (int i = 0; i < 3; i++)
        cr_expect(seen[i] > 850 && seen[i] < 1150);
    cr_expect(random != 0 && random_below(&random, 1) == 0);
}
