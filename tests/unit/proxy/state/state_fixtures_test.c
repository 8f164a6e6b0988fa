/* SPDX-License-Identifier: Apache-2.0 */
/* What a control plane really sent (tests/data/xds) against what its text form says. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/cleanup.h"
#include "lib/proto/discovery.pb-c.h"
#include "tests/unit/proxy/mesh_samples.h"
#include "tests/unit/proxy/state/state_text.h"

typedef Envoy__Service__Discovery__V3__DeltaDiscoveryResponse Response;

static char *slurp(const char *name, size_t *ret_len)
{
    char path[512], *bytes = calloc(1, 65536);
    FILE *f;

    snprintf(path, sizeof(path), "%s/xds/%s", TEST_DATA, name);
    f = fopen(path, "r");
    cr_assert(f && bytes, "%s", path);
    *ret_len = fread(bytes, 1, 65535, f);
    fclose(f);
    return bytes;
}

static void apply_response(struct state *state, const char *name)
{
    size_t len;
    char *bytes = slurp(name, &len);
    Response *response =
        envoy__service__discovery__v3__delta_discovery_response__unpack(NULL, len, (uint8_t *)bytes);
    enum state_type type = strstr(name, "policy") ? STATE_AUTHORIZATION : STATE_ADDRESS;

    cr_assert(response != NULL, "%s", name);
    for (size_t i = 0; i < response->n_resources; i++) {
        const ProtobufCBinaryData *value = &response->resources[i]->resource->value;
        char error[256] = "";

        cr_assert(state_apply(state, type, response->resources[i]->name, value->data, value->len, error,
                              sizeof(error)) == 0,
                  "%s: %s", response->resources[i]->name, error);
    }
    for (size_t i = 0; i < response->n_removed_resources; i++)
        state_remove(state, type, response->removed_resources[i]);
    state_commit(state);
    protobuf_c_message_free_unpacked(&response->base, NULL);
    free(bytes);
}

static void expect_dump(struct state *state, const char *name)
{
    cJSON *dump = state_text(state), *expected;
    size_t len;
    char *text = slurp(name, &len);

    expected = cJSON_Parse(text);
    cr_assert(expected && dump);
    for (cJSON *part = expected->child; part; part = part->next) {
        cJSON *found = cJSON_GetObjectItemCaseSensitive(dump, part->string);
        char *have = cJSON_Print(found), *want = cJSON_Print(part);

        cr_expect(cJSON_Compare(found, part, true), "%s, %s: have %s, want %s", name, part->string, have,
                  want);
        free(have);
        free(want);
    }
    free(text);
    cJSON_Delete(expected);
    cJSON_Delete(dump);
}

Test(state_fixtures, stream)
{
    struct state *state = sample_state();

    apply_response(state, "stream-policy-1.bin");
    apply_response(state, "stream-workload-1.bin");
    expect_dump(state, "after-first.json");
    apply_response(state, "stream-workload-2.bin");
    apply_response(state, "stream-workload-3.bin");
    apply_response(state, "stream-workload-4.bin");
    apply_response(state, "stream-policy-2.bin");
    apply_response(state, "stream-workload-5.bin");
    apply_response(state, "stream-workload-6.bin");
    apply_response(state, "stream-workload-7.bin");
    apply_response(state, "stream-workload-8.bin");
    apply_response(state, "stream-workload-9.bin");
    expect_dump(state, "after-all.json");
    state_free(&state);
}

/* A control plane announces its waypoint as a workload without HBONE, behind a service with port 15008. */
Test(state_fixtures, to_the_waypoint)
{
    struct state *state = sample_state();
    struct endpoint destination = sample_endpoint("10.96.48.176:80");
    struct addr client = sample_endpoint("10.78.1.6:1").addr;
    char target[ENDPOINT_TEXT_LEN];
    uint64_t random = 1;
    struct route route;

    apply_response(state, "stream-policy-1.bin");
    apply_response(state, "stream-workload-1.bin");
    route_outbound(state, state_workload_by_address(state, &client), &destination, &random, NULL, &route);
    cr_assert(route.kind == ROUTE_HBONE && route.via_waypoint, "%s", route.detail);
    cr_expect(!strcmp(endpoint_format(&route.target, target), "10.78.2.5:15008"), "%s", target);
    cr_expect(!strcmp(route.authority, "10.96.48.176:80"), "%s", route.authority);
    cr_expect(!strcmp(route.service->hostname, "cart.shop.svc.cluster.local"));
    cr_expect(route_expects(route.upstream, route.expected_service, NULL, "",
                            "spiffe://cluster.local/ns/shop/sa/waypoint"));
    cr_expect(!route_expects(route.upstream, route.expected_service, NULL, "",
                             "spiffe://cluster.local/ns/shop/sa/cart"));
    route_release(&route);
    state_free(&state);
}

/* Two waypoints with weights 75 and 25: one named by its hostname, the other one by its address. */
Test(state_fixtures, to_a_waypoint_and_its_canary)
{
    struct state *state = sample_state();
    struct endpoint destination = sample_endpoint("10.96.50.1:80");
    struct addr client = sample_endpoint("10.78.1.21:1").addr;
    char target[ENDPOINT_TEXT_LEN];
    uint64_t random = 1;
    int to_canary = 0;

    apply_response(state, "canary-workload-1.bin");
    apply_response(state, "canary-policy-1.bin");
    for (int i = 0; i < 400; i++) {
        struct route route;
        bool canary;

        route_outbound(state, state_workload_by_address(state, &client), &destination, &random, NULL, &route);
        cr_assert(route.kind == ROUTE_HBONE && route.via_waypoint, "%s", route.detail);
        endpoint_format(&route.target, target);
        canary = !strcmp(target, "10.78.2.24:15008");
        cr_assert(canary || !strcmp(target, "10.78.2.23:15008"), "%s", target);
        cr_expect(!strcmp(route.upstream->identity, canary ? "spiffe://cluster.local/ns/shop/sa/canary"
                                                           : "spiffe://cluster.local/ns/shop/sa/waypoint"));
        cr_expect(!strcmp(route.authority, "10.96.50.1:80"), "%s", route.authority);
        to_canary += canary;
        route_release(&route);
    }
    /* 400 draws of 1 in 4: 100, and 52 is six standard deviations */
    cr_expect(to_canary > 48 && to_canary < 152, "%d", to_canary);
    state_free(&state);
}

/* The control plane's own policy lets the waypoint in, and so nobody else. It has made one for the canary
 * too, but the workload names it not. */
Test(state_fixtures, only_the_waypoint_is_let_in)
{
    struct state *state = sample_state();
    struct addr server = sample_endpoint("10.78.2.22:1").addr;
    static const struct {
        const char *identity;
        bool allowed;
    } callers[] = {{"spiffe://cluster.local/ns/shop/sa/waypoint", true},
                   {"spiffe://cluster.local/ns/shop/sa/canary", false},
                   {"spiffe://cluster.local/ns/shop/sa/web", false},
                   {NULL, false}};

    apply_response(state, "canary-workload-1.bin");
    apply_response(state, "canary-policy-1.bin");
    for (size_t i = 0; i < array_size(callers); i++) {
        struct policy_request request = {.source = sample_endpoint("10.78.1.21:40000"),
                                         .destination = sample_endpoint("10.78.2.22:8080"),
                                         .identity = callers[i].identity};
        struct policy_verdict verdict;

        policy_check(state, state_workload_by_address(state, &server), &request, &verdict);
        cr_expect(verdict.allowed == callers[i].allowed && !verdict.unknown, "%s: %s",
                  callers[i].identity ? callers[i].identity : "nobody", verdict.text);
    }
    state_free(&state);
}

Test(state_fixtures, on_demand_answer)
{
    struct state *state = sample_state();

    apply_response(state, "demand-workload-1.bin");
    expect_dump(state, "demand.json");
    state_free(&state);
}

Test(state_fixtures, pods_of_the_api_alone)
{
    struct state *state = sample_state();

    apply_response(state, "mini-policy-1.bin");
    apply_response(state, "mini-workload-1.bin");
    expect_dump(state, "mini.json");
    cr_expect(state_policy_count(state) == 0);
    state_free(&state);
}
