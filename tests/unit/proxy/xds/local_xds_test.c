/* SPDX-License-Identifier: Apache-2.0 */
/* Workloads, services and policies that the proxy is given as YAML: contract section 10.1. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "proxy/route/policy.h"
#include "proxy/route/route.h"
#include "proxy/state/intern.h"
#include "proxy/xds/local_xds.h"
#include "tests/unit/proxy/mesh_samples.h"
#include "tests/unit/proxy/state/state_text.h"

static struct state *state;
static char error[1200], path[64];

static void setup(void)
{
    state = sample_state();
    snprintf(path, sizeof(path), "/tmp/bruma-local-xds-%d", (int)getpid());
    error[0] = '\0';
}

static void teardown(void)
{
    unlink(path);
    state_free(&state);
    cr_expect(intern_count() == 0, "%zu strings are left", intern_count());
}

TestSuite(local_xds, .init = setup, .fini = teardown);

static int load_text(const char *text)
{
    return local_xds_load(state, &(struct local_xds){"", text, "td"}, error, sizeof(error));
}

static int load_file(const char *text)
{
    FILE *f = fopen(path, "w");

    cr_assert(f && fputs(text, f) >= 0 && fclose(f) == 0);
    return local_xds_load(state, &(struct local_xds){path, "", "td"}, error, sizeof(error));
}

static const char mesh[] = "workloads:\n"
                           "- uid: lab//Pod/shop/cart-0\n"
                           "  name: cart-0\n"
                           "  namespace: shop\n"
                           "  serviceAccount: cart\n"
                           "  trustDomain: cluster.local\n"
                           "  workloadIps: [\"10.9.0.2\", \"fd09::2\"]\n"
                           "  protocol: HBONE\n"
                           "  node: node-a\n"
                           "  network: \"\"\n"
                           "  capacity: 2\n"
                           "  authorizationPolicies: [\"shop/only-web\", \"shop/of-the-control-plane\"]\n"
                           "  services:\n"
                           "    \"shop/cart.shop.svc.cluster.local\": {80: 8080}\n"
                           "    \"shop/of-the-control-plane.shop.svc.cluster.local\": {80: 8081}\n"
                           "- {name: plain, namespace: shop, workloadIps: [10.9.0.3], services: {}}\n"
                           "- {name: tcp, namespace: shop, protocol: TCP, workloadIps: [10.9.0.4]}\n"
                           "services:\n"
                           "- name: cart\n"
                           "  namespace: shop\n"
                           "  hostname: cart.shop.svc.cluster.local\n"
                           "  vips: [\"/10.96.0.20\"]\n"
                           "  ports: {80: 8080}\n"
                           "  canonical: true\n"
                           "  loadBalancer: {routingPreferences: [Network, Region, Zone], mode: Failover,\n"
                           "                 healthPolicy: OnlyHealthy}\n"
                           "policies:\n"
                           "- name: only-web\n"
                           "  namespace: shop\n"
                           "  scope: WorkloadSelector\n"
                           "  action: Allow\n"
                           "  dryRun: false\n"
                           "  rules:\n"
                           "  - - - principals: [!Exact cluster.local/ns/shop/sa/web,\n"
                           "                     {Prefix: cluster.local/ns/lab/}]\n"
                           "        notDestinationPorts: [9090]\n";

static const struct workload *by_address(const char *text)
{
    struct addr a = sample_addr(text);

    return state_workload_by_address(state, &a);
}

static bool allowed(const char *identity, uint16_t port)
{
    struct policy_request request = {.destination = {sample_addr("10.9.0.2"), port}, .identity = identity};
    struct policy_verdict verdict;

    request.source.addr = sample_addr("10.9.0.9");
    policy_check(state, by_address("10.9.0.2"), &request, &verdict);
    return verdict.allowed;
}

static void check_mesh(void)
{
    const struct workload *cart = by_address("fd09::2");
    struct endpoint vip = {sample_addr("10.96.0.20"), 80};
    uint64_t random = 1;
    struct route route;

    cr_assert(cart && cart == by_address("10.9.0.2"));
    cr_expect_str_eq(cart->identity, "spiffe://cluster.local/ns/shop/sa/cart");
    cr_expect(cart->protocol == TUNNEL_HBONE && cart->capacity == 2);
    cr_expect_str_eq(by_address("10.9.0.3")->identity, "spiffe://td/ns/shop/sa/default");
    cr_expect(by_address("10.9.0.3")->protocol == TUNNEL_NONE &&
              by_address("10.9.0.4")->protocol == TUNNEL_NONE);
    route_outbound(state, by_address("10.9.0.3"), &vip, &random, NULL, &route);
    cr_expect(route.kind == ROUTE_HBONE && route.upstream == cart);
    route_release(&route);
    state_set_unknown_policy(state, false);
    cr_expect(allowed("spiffe://cluster.local/ns/shop/sa/web", 8080));
    cr_expect(allowed("spiffe://cluster.local/ns/lab/sa/any", 8080));
    cr_expect(!allowed("spiffe://cluster.local/ns/shop/sa/web", 9090));
    cr_expect(!allowed("spiffe://cluster.local/ns/shop/sa/other", 8080));
}

Test(local_xds, a_file_and_a_text)
{
    cr_assert(load_file(mesh) == 0, "%s", error);
    check_mesh();
    state_free(&state);
    state = sample_state();
    cr_assert(load_text(mesh) == 0, "%s", error);
    check_mesh();
    cr_expect(state_workload_count(state) == 3 && state_service_count(state) == 1 &&
              state_policy_count(state) == 1);
}

Test(local_xds, none_is_given)
{
    cr_expect(load_text("") == 0);
    cr_expect(state_workload_count(state) == 0 && sample_changes.all == 0);
}

Test(local_xds, a_policy_that_nobody_has_told_denies)
{
    cr_assert(load_text(mesh) == 0, "%s", error);
    cr_expect(!allowed("spiffe://cluster.local/ns/shop/sa/web", 8080),
              "shop/of-the-control-plane is unknown");
}

/* What the control plane says of the same name counts, and what it takes back is gone. */
Test(local_xds, beside_the_control_plane)
{
    cr_assert(load_text(mesh) == 0, "%s", error);
    cr_assert(WORKLOAD(state, .name = "more", .addresses = {"10.9.0.7"}) == 0);
    cr_assert(WORKLOAD(state, .name = "cart-0", .uid = "lab//Pod/shop/cart-0", .addresses = {"10.9.0.8"}) ==
              0);
    state_commit(state);
    cr_expect(by_address("10.9.0.7") && by_address("10.9.0.8") && !by_address("10.9.0.2"));
    cr_expect(by_address("10.9.0.3") != NULL);
    state_remove(state, STATE_ADDRESS, "lab//Pod/shop/cart-0");
    state_commit(state);
    cr_expect(!by_address("10.9.0.8") && by_address("10.9.0.3"));
}

Test(local_xds, errors_name_the_variable_and_the_place)
{
    static const struct {
        const char *text, *error;
    } wrongs[] = {
        {"workloads:\n- nmae: a\n", "2:3: workloads[0]: unknown field \"nmae\""},
        {"stagedServices: {}\n", "1:1: unknown field \"stagedServices\""},
        {"workloads: {}\n", "1:12: workloads: expected a list, found a map"},
        {"- a\n", "1:1: expected a map with the keys"},
        {"text", "1:1: expected a map"},
        {"workloads: [\n", "not YAML"},
        {"{}\n---\n{}\n", "a second document"},
        {"workloads:\n- {name: a, namespace: n, workloadIps: [10.1]}\n",
         "2:41: workloads[0].workloadIps[0]: \"10.1\" is not an IP address"},
        {"workloads:\n- {name: a, namespace: n, services: {n/h: {http: 1}}}\n", "\"http\" is not a port"},
        {"workloads:\n- {name: a, namespace: n, services: {h: {80: 1}}}\n",
         "\"h\" is not NAMESPACE/HOSTNAME"},
        {"workloads:\n- {name: a, namespace: n, protocol: hbone}\n", "\"hbone\" is not one of HBONE, TCP"},
        {"workloads:\n- {namespace: n}\n", "workloads[0]: \"name\" is missing"},
        {"workloads:\n- {name: a, namespace: n}\n- {name: a, namespace: n}\n", "is already at line 2"},
        {"services:\n- {name: a, namespace: n, ports: {}}\n", "services[0]: \"hostname\" is missing"},
        {"services:\n- {name: a, namespace: n, hostname: h, ports: {}, vips: [a/b]}\n",
         "is not an IP address"},
        {"services:\n- {name: a, namespace: n, hostname: h, ports: {}, loadBalancer: {}}\n",
         "\"mode\" is missing"},
        {"policies:\n- {name: a, namespace: n, scope: Global, action: Log, rules: []}\n",
         "\"Log\" is not one of Allow, Deny"},
        {"policies:\n- {name: a, namespace: n, scope: Global, action: Allow, dryRun: no, rules: []}\n",
         "\"no\" is neither true nor false"},
        {"policies:\n- name: a\n  namespace: n\n  scope: Global\n  action: Allow\n"
         "  rules: [[[{principals: [!Regex a]}]]]\n",
         "6:27: policies[0].rules[0][0][0].principals[0]: \"Regex\" is not one of"},
        {"policies:\n- name: a\n  namespace: n\n  scope: Global\n  action: Allow\n"
         "  rules: [[[{principals: [{Exact: a, Suffix: b}]}]]]\n",
         "principals[0]: expected a match"},
    };

    for (size_t i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
        char begin[100];

        cr_expect(load_text(wrongs[i].text) == -EBADMSG, "%s", wrongs[i].text);
        cr_expect(!strncmp(error, "LOCAL_XDS:", 10) && strstr(error, wrongs[i].error), "%s\n  says %s",
                  wrongs[i].text, error);
        cr_expect(load_file(wrongs[i].text) == -EBADMSG, "%s", wrongs[i].text);
        snprintf(begin, sizeof(begin), "LOCAL_XDS_PATH: %s:", path);
        cr_expect(!strncmp(error, begin, strlen(begin)) && strstr(error, wrongs[i].error), "%s\n  says %s",
                  wrongs[i].text, error);
    }
    cr_expect(sample_changes.all == 0 && state_workload_count(state) == 0);
}

Test(local_xds, a_file_that_cannot_be_read)
{
    cr_expect(local_xds_load(state, &(struct local_xds){"/nowhere/mesh.yaml", "", "td"}, error,
                             sizeof(error)) == -ENOENT);
    cr_expect_str_eq(error, "LOCAL_XDS_PATH: /nowhere/mesh.yaml: No such file or directory");
    cr_expect(local_xds_load(state, &(struct local_xds){"/tmp", "", "td"}, error, sizeof(error)) == -EINVAL);
    cr_expect_str_eq(error, "LOCAL_XDS_PATH: /tmp: is not a regular file");
    cr_expect(load_file("") == -EBADMSG && strstr(error, "the file is empty"), "%s", error);
}
