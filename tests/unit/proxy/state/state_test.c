/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding (contract section 1.2), keys and commits (1.7, 1.8). */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "proxy/state/intern.h"
#include "proxy/state/reclaim.h"
#include "tests/unit/proxy/mesh_samples.h"
#include "tests/unit/proxy/state/state_text.h"

#define CART "shop/cart.shop.svc.cluster.local"

static struct state *state;

static void setup(void)
{
    state = sample_state();
}

static void teardown(void)
{
    state_free(&state);
    cr_expect(intern_count() == 0, "%zu strings are left", intern_count());
}

TestSuite(state, .init = setup, .fini = teardown);

static const struct workload *by_address(const char *text)
{
    struct addr a = sample_addr(text);

    return state_workload_by_address(state, &a);
}

static cJSON *dump(void)
{
    cJSON *o = state_text(state);

    cr_assert(o != NULL);
    return o;
}

Test(state, one_bad_resource_does_not_harm_the_others)
{
    cr_expect(WORKLOAD(state, .name = "bad", .addresses = {"bad"}) == -EBADMSG);
    cr_expect(strstr(sample_error, "5 bytes") != NULL, "%s", sample_error);
    cr_expect(WORKLOAD(state, .name = "good", .addresses = {"10.1.0.9"}) == 0);
    state_commit(state);
    cr_expect(by_address("10.1.0.9") != NULL && state_workload_count(state) == 1);
    /* what was known stays when its new version is refused */
    cr_expect(WORKLOAD(state, .name = "good", .addresses = {"10.1.0.10", "bad"}) == -EBADMSG);
    state_commit(state);
    cr_expect(by_address("10.1.0.9") != NULL && by_address("10.1.0.10") == NULL);
    cr_expect(sample_changes.all == 1, "a refused resource changes nothing");
}

Test(state, refused_workloads)
{
    cr_expect(WORKLOAD(state, .name = "a", .protocol = 2) == -EBADMSG &&
              strstr(sample_error, "tunnel_protocol"));
    cr_expect(WORKLOAD(state, .name = "a", .services = {{"no-slash"}}) == -EBADMSG);
    cr_expect(WORKLOAD(state, .name = "a", .waypoint = "none") == -EBADMSG &&
              strstr(sample_error, "waypoint"));
    cr_expect(WORKLOAD(state, .name = "a", .gateway = "none") == -EBADMSG && strstr(sample_error, "gateway"));
    cr_expect(WORKLOAD(state, .name = "a", .waypoint = "@/bad:15008") == -EBADMSG);
    state_commit(state);
    cr_expect(state_workload_count(state) == 0);
}

Test(state, refused_services)
{
    cr_expect(SERVICE(state, .name = "a", .addresses = {"bad"}) == -EBADMSG);
    cr_expect(SERVICE(state, .name = "a", .addresses = {"10.0.0.0/33"}) == -EBADMSG);
    cr_expect(SERVICE(state, .name = "a", .addresses = {"fd00::/129"}) == -EBADMSG);
    cr_expect(SERVICE(state, .name = "a", .waypoint = "none") == -EBADMSG);
    cr_expect(SERVICE(state, .name = "a", .weighted = {{"none", 1}}) == -EBADMSG);
    cr_expect(SERVICE(state, .name = "a", .hostname = "") == -EBADMSG);
    cr_expect(SERVICE(state, .name = "a", .addresses = {"10.0.0.1/32", "fd00::1/128"}) == 0,
              "single addresses");
    cr_expect(state_service_count(state) == 1);
    state_commit(state);
}

Test(state, refused_bytes)
{
    static const uint8_t neither[] = {0x1a, 0x01, 0x00}, cut[] = {0x0a, 0x20, 0x0a, 0x05, 'a'};
    char error[128] = "";
    uint8_t *large = calloc(1, 5 << 20);

    cr_expect(state_apply(state, STATE_ADDRESS, "x", NULL, 0, error, sizeof(error)) == -EBADMSG);
    cr_expect(strstr(error, "neither") != NULL, "%s", error);
    cr_expect(state_apply(state, STATE_ADDRESS, "x", neither, sizeof(neither), error, sizeof(error)) ==
              -EBADMSG);
    cr_expect(state_apply(state, STATE_ADDRESS, "x", cut, sizeof(cut), error, sizeof(error)) == -EBADMSG);
    cr_expect(strstr(error, "istio.workload.Address") != NULL, "%s", error);
    cr_expect(state_apply(state, STATE_ADDRESS, "x", large, 5 << 20, error, sizeof(error)) == -EBADMSG);
    cr_expect(state_apply(state, STATE_AUTHORIZATION, "x", large, 5 << 20, error, sizeof(error)) == -EBADMSG);
    free(large);
}

Test(state, unknown_values_hide_nothing)
{
    const struct workload *w;

    cr_assert(WORKLOAD(state, .name = "a", .addresses = {"10.1.0.9"}, .protocol = 9, .status = 9, .mode = 9,
                       .type = 9, .tunnel = true, .tunnel_protocol = 9) == 0);
    w = by_address("10.1.0.9");
    cr_assert(w != NULL, "an unknown network mode does not take it out of the index");
    cr_expect(w->protocol == TUNNEL_HBONE, "never plaintext by mistake");
    cr_expect(!w->healthy && w->type == WORKLOAD_DEPLOYMENT && w->application_tunnel_protocol == 0);
    cr_expect(SERVICE(state, .name = "s", .families = 9, .visibility = 9, .mode = 9, .health = 9) == 0);
    state_commit(state);
}

Test(state, defaults)
{
    const struct workload *w;

    WORKLOAD(state, .name = "a", .account = "", .addresses = {"10.1.0.9"});
    w = by_address("10.1.0.9");
    cr_assert(w != NULL);
    cr_expect(!strcmp(w->identity, "spiffe://cluster.local/ns/shop/sa/default"), "%s", w->identity);
    cr_expect(!strcmp(w->service_account, "default") && !strcmp(w->trust_domain, "cluster.local"));
    cr_expect(!strcmp(w->cluster_id, "Kubernetes") && w->capacity == 1 && w->healthy);
    cr_expect(!strcmp(w->hostname, "") && !strcmp(w->region, "") && !strcmp(w->node, ""));
    cr_expect(!strcmp(w->name, "a") && !strcmp(w->uid, "Kubernetes//Pod/shop/a"));
    WORKLOAD(state, .name = "b", .uid = "something/else", .addresses = {"10.1.0.9"});
    cr_expect(by_address("10.1.0.9") == w, "a pod is preferred");
    state_commit(state);
}

Test(state, identities_that_are_none)
{
    const struct workload *w;
    char longest[600];

    memset(longest, 'n', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    WORKLOAD(state, .name = "a", .namespace = "", .addresses = {"10.1.0.9"});
    w = by_address("10.1.0.9");
    cr_expect(w && !*w->identity && !route_expects(w, NULL, NULL, "", "") &&
              !route_expects(w, NULL, NULL, "", NULL));
    WORKLOAD(state, .name = "b", .account = "x/y", .addresses = {"10.1.0.10"});
    w = by_address("10.1.0.10");
    cr_expect(w && !*w->identity);
    WORKLOAD(state, .name = "c", .namespace = longest, .addresses = {"10.1.0.11"});
    w = by_address("10.1.0.11");
    cr_expect(w && !*w->identity && !strcmp(w->namespace, longest));
    state_commit(state);
}

Test(state, replaced_and_removed_workloads)
{
    const struct workload *old;

    WORKLOAD(state, .name = "a", .node = "node-a", .addresses = {"10.1.0.9", "fd01::9"},
             .hostname = "a.example.com");
    state_commit(state);
    old = by_address("10.1.0.9");
    workload_ref(old);
    WORKLOAD(state, .name = "a", .node = "node-a", .addresses = {"10.1.0.10"});
    state_commit(state);
    cr_expect(!by_address("10.1.0.9") && !by_address("fd01::9") && by_address("10.1.0.10"));
    cr_expect(state_workload_count(state) == 1);
    state_remove(state, STATE_ADDRESS, "Kubernetes//Pod/shop/a");
    state_commit(state);
    cr_expect(!by_address("10.1.0.10") && state_workload_count(state) == 0);
    cr_expect(!state_find_local(state, "shop", "a", "a"));
    reclaim_wait();
    cr_expect(!strcmp(old->name, "a") && !strcmp(old->identity, "spiffe://cluster.local/ns/shop/sa/a"),
              "the referenced one lives on");
    workload_unref(old);
    workload_unref(NULL);
}

Test(state, names_of_removals)
{
    SERVICE(state, .name = "cart");
    WORKLOAD(state, .name = "odd", .uid = "shop/odd", .addresses = {"10.1.0.9"});
    state_commit(state);
    state_remove(state, STATE_ADDRESS, "cluster//Pod/shop/unknown");
    state_remove(state, STATE_ADDRESS, "nothing");
    state_remove(state, STATE_ADDRESS, "");
    state_remove(state, STATE_ADDRESS, "other/cart.shop.svc.cluster.local");
    state_remove(state, STATE_AUTHORIZATION, "shop/nothing");
    state_commit(state);
    cr_expect(state_service_count(state) == 1 && state_workload_count(state) == 1 && sample_changes.all == 1);
    state_remove(state, STATE_ADDRESS, "shop/odd");
    state_remove(state, STATE_ADDRESS, CART);
    state_commit(state);
    cr_expect(state_service_count(state) == 0 && state_workload_count(state) == 0 && sample_changes.all == 2);
    state_remove(state, STATE_ADDRESS, CART);
    state_commit(state);
    cr_expect(sample_changes.all == 2);
}

Test(state, local_workloads)
{
    WORKLOAD(state, .name = "a", .node = "node-a", .account = "sa1");
    WORKLOAD(state, .name = "b", .node = "node-b");
    state_commit(state);
    cr_expect(state_local_workload(state, "shop", "a", "sa1") && state_find_local(state, "shop", "a", ""));
    cr_expect(!state_find_local(state, "shop", "a", "sa2") && !state_find_local(state, "x", "a", ""));
    cr_expect(!state_find_local(state, "shop", "b", ""), "of another node");
}

Test(state, local_trust_domain)
{
    cr_expect(state_local_trust_domain(state) == NULL);
    WORKLOAD(state, .name = "far", .node = "node-b");
    state_commit(state);
    cr_expect(state_local_trust_domain(state) == NULL);
    WORKLOAD(state, .name = "near", .node = "node-a");
    state_commit(state);
    cr_expect(!strcmp(state_local_trust_domain(state), "cluster.local"));
}

Test(state, changes_that_concern_policies)
{
    WORKLOAD(state, .name = "a", .node = "node-a", .policies = {"shop/p"});
    WORKLOAD(state, .name = "b", .node = "node-b", .policies = {"shop/p"});
    state_commit(state);
    cr_expect(sample_changes.all == 1 && sample_changes.policies == 0);
    POLICY(state, .name = "p", .scope = 2);
    state_commit(state);
    cr_expect(sample_changes.policies == 1);
    WORKLOAD(state, .name = "a", .node = "node-a", .policies = {"shop/p"}, .status = 1);
    WORKLOAD(state, .name = "b", .node = "node-b", .policies = {"shop/q"});
    state_commit(state);
    cr_expect(sample_changes.all == 3 && sample_changes.policies == 1, "no list of a pod here changed");
    WORKLOAD(state, .name = "a", .node = "node-a", .policies = {"shop/p", "shop/q"});
    state_commit(state);
    cr_expect(sample_changes.policies == 2);
    state_remove(state, STATE_ADDRESS, "Kubernetes//Pod/shop/a");
    state_commit(state);
    cr_expect(sample_changes.policies == 3);
    state_remove(state, STATE_AUTHORIZATION, "shop/p");
    state_commit(state);
    cr_expect(sample_changes.policies == 4);
    state_commit(state);
    cr_expect(sample_changes.all == 6, "%d: nothing changed", sample_changes.all);
}

Test(state, without_node_name_all_are_local)
{
    struct state *all;

    cr_assert(state_new("", "net-1", NULL, NULL, &all) == 0);
    WORKLOAD(all, .name = "a", .node = "node-x", .network = "net-1", .addresses = {"10.1.0.9"});
    WORKLOAD(all, .name = "b", .addresses = {"10.1.0.10"});
    state_commit(all);
    cr_expect(state_find_local(all, "shop", "a", "a") && state_find_local(all, "shop", "b", ""));
    cr_expect(state_workload_by_address(all, &(struct addr[]){sample_addr("10.1.0.9")}[0]) != NULL);
    cr_expect(state_workload_by_address(all, &(struct addr[]){sample_addr("10.1.0.10")}[0]) == NULL,
              "of another network");
    state_free(&all);
    cr_expect(all == NULL);
    state_free(&all);
}

Test(state, endpoints_before_their_service)
{
    cJSON *o, *staged;

    WORKLOAD(state, .name = "cart-0", .addresses = {"10.1.0.9"}, .services = {{CART, {{80, 8080}}}});
    state_commit(state);
    o = dump();
    staged = cJSON_GetObjectItem(cJSON_GetObjectItem(o, "stagedServices"), CART);
    cr_expect(cJSON_GetArraySize(staged) == 1);
    cJSON_Delete(o);
    SERVICE(state, .name = "cart");
    state_commit(state);
    o = dump();
    cr_expect(cJSON_GetArraySize(cJSON_GetObjectItem(o, "stagedServices")) == 0);
    cr_expect(
        cJSON_GetArraySize(cJSON_GetObjectItem(cJSON_GetObjectItem(o, "services")->child, "endpoints")) == 1);
    cJSON_Delete(o);
    /* the service goes: its endpoints wait again; they go too: nothing is left */
    state_remove(state, STATE_ADDRESS, CART);
    state_commit(state);
    o = dump();
    cr_expect(cJSON_GetArraySize(cJSON_GetObjectItem(o, "stagedServices")) == 1);
    cJSON_Delete(o);
    state_remove(state, STATE_ADDRESS, "Kubernetes//Pod/shop/cart-0");
    state_commit(state);
    o = dump();
    cr_expect(cJSON_GetArraySize(cJSON_GetObjectItem(o, "stagedServices")) == 0);
    cJSON_Delete(o);
}

static const char *text_at(const cJSON *o, const char *key)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(o, key));

    return text ? text : "";
}

Test(state, dump_of_what_fixtures_do_not_have)
{
    cJSON *o, *w, *s, *part;

    WORKLOAD(state, .name = "wp", .addresses = {"10.1.0.9"}, .network = "net-2", .mode = 1, .tunnel = true,
             .tunnel_protocol = 1, .tunnel_port = 15088, .native = true, .hostname = "wp.example.com",
             .waypoint = "@net-2/10.1.0.1:15009", .gateway = "ns/gw.example.com:15010", .capacity = 5);
    SERVICE(state, .name = "cart", .addresses = {"net-2@10.0.0.0/8", "fd00::1"},
            .ports = {{80, 8080}, {80, 8081}}, .mode = 1, .health = 1, .preferences = {6, 5, 4, 3, 2, 1},
            .families = 1, .visibility = 1, .names = {"dns-name", "spiffe://a/ns/b/sa/c"},
            .weighted = {{"ns/gw.example.com:15010", 3}});
    POLICY(state, .name = "p", .dry_run = true, .rules_len = 1,
           .rules = {{.clauses_len = 1,
                      .clauses = {{.matches_len = 1,
                                   .matches = {{.accounts = {"a/b"},
                                                .not_destination_ips = {"fd00::/64", "bad"},
                                                .not_principals = {"*x", "?"}}}}}}});
    state_commit(state);
    o = dump();
    w = cJSON_GetObjectItem(o, "workloads")->child;
    cr_expect(!strcmp(text_at(w, "networkMode"), "HostNetwork") && !strcmp(text_at(w, "network"), "net-2"));
    cr_expect(cJSON_IsTrue(cJSON_GetObjectItem(w, "nativeTunnel")));
    cr_expect(!strcmp(text_at(cJSON_GetObjectItem(w, "waypoint"), "destination"), "net-2/10.1.0.1"));
    cr_expect(!strcmp(text_at(cJSON_GetObjectItem(w, "networkGateway"), "destination"), "ns/gw.example.com"));
    cr_expect(cJSON_GetObjectItem(cJSON_GetObjectItem(w, "networkGateway"), "hboneMtlsPort")->valueint ==
              15010);
    cr_expect(!strcmp(text_at(cJSON_GetObjectItem(w, "applicationTunnel"), "protocol"), "PROXY"));
    cr_expect(cJSON_GetObjectItem(w, "capacity")->valueint == 5);
    s = cJSON_GetObjectItem(o, "services")->child;
    part = cJSON_GetObjectItem(s, "cidrVips")->child;
    cr_expect(!strcmp(text_at(part, "network"), "net-2") && !strcmp(text_at(part, "cidr"), "10.0.0.0/8"));
    cr_expect(!strcmp(cJSON_GetObjectItem(s, "vips")->child->valuestring, "/fd00::1"));
    cr_expect(cJSON_GetArraySize(cJSON_GetObjectItem(s, "ports")) == 1);
    cr_expect(cJSON_GetObjectItem(cJSON_GetObjectItem(s, "ports"), "80")->valueint == 8081);
    cr_expect(cJSON_GetArraySize(cJSON_GetObjectItem(s, "subjectAltNames")) == 2);
    cr_expect(cJSON_GetObjectItem(s, "weightedWaypoints")->child->child->next->valueint == 3);
    cr_expect(!strcmp(text_at(s, "ipFamilies"), "IPv4") && !strcmp(text_at(s, "visibility"), "Namespace"));
    part = cJSON_GetObjectItem(s, "loadBalancer");
    cr_expect(!strcmp(text_at(part, "mode"), "Strict") && !strcmp(text_at(part, "healthPolicy"), "AllowAll"));
    cr_expect(!strcmp(cJSON_GetObjectItem(part, "routingPreferences")->child->valuestring, "Network"));
    part = cJSON_GetObjectItem(o, "policies")->child;
    cr_expect(cJSON_IsTrue(cJSON_GetObjectItem(part, "dryRun")));
    part = cJSON_GetObjectItem(part, "rules")->child->child->child;
    cr_expect(!strcmp(text_at(cJSON_GetObjectItem(part, "serviceAccounts")->child, "serviceAccount"), "b"));
    cr_expect(!strcmp(cJSON_GetObjectItem(part, "notDestinationIps")->child->valuestring, "fd00::/64"));
    cr_expect(!strcmp(text_at(cJSON_GetObjectItem(part, "notPrincipals")->child, "Suffix"), "x"));
    cJSON_Delete(o);
}

Test(state, many_come_and_go)
{
    char name[32], address[32], uid[64];

    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 2000; i++) {
            snprintf(name, sizeof(name), "w%d", i);
            snprintf(address, sizeof(address), "10.%d.%d.%d", round, i / 250, i % 250);
            WORKLOAD(state, .name = name, .node = i % 2 ? "node-a" : "b", .addresses = {address},
                     .services = {{i % 3 ? CART : "shop/other", {{80, 8080}}}});
        }
        state_commit(state);
        cr_expect(state_workload_count(state) == 2000);
        snprintf(address, sizeof(address), "10.%d.3.7", round);
        cr_expect(by_address(address) && !strcmp(by_address(address)->name, "w757"));
    }
    cr_expect(by_address("10.1.3.7") == NULL);
    for (int i = 0; i < 2000; i++) {
        snprintf(uid, sizeof(uid), "Kubernetes//Pod/shop/w%d", i);
        state_remove(state, STATE_ADDRESS, uid);
    }
    state_commit(state);
    cr_expect(state_workload_count(state) == 0 && by_address("10.2.3.7") == NULL);
    cr_expect(state_find_local(state, "shop", "w1", "") == NULL);
}
