/* SPDX-License-Identifier: Apache-2.0 */
/* Contract section 6. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>

#include "tests/unit/proxy/mesh_samples.h"

enum { GLOBAL, NAMESPACE, WORKLOAD_ONLY };
enum { ALLOW, DENY };

#define WEB  "spiffe://cluster.local/ns/shop/sa/web"
#define EVIL "spiffe://cluster.local/ns/evil/sa/eve"
#define MATCH(...) \
    .rules_len = 1, .rules = {{.clauses_len = 1, .clauses = {{.matches_len = 1, .matches = {{__VA_ARGS__}}}}}}

static struct state *state;
static struct policy_verdict verdict;

static void local(const char *policy_a, const char *policy_b)
{
    WORKLOAD(state, .name = "cart", .node = "node-a", .addresses = {"10.1.0.9"},
             .policies = {policy_a, policy_b});
}

static void setup(void)
{
    state = sample_state();
    local("shop/p", NULL);
    POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = DENY);
}

static void teardown(void)
{
    state_free(&state);
}

TestSuite(policy, .init = setup, .fini = teardown);

/* A connection from 10.1.0.2 to port 8080 of shop/cart. */
static bool allowed(const char *identity)
{
    struct policy_request request = {.source = sample_endpoint("10.1.0.2:40000"),
                                     .destination = sample_endpoint("10.1.0.9:8080"),
                                     .identity = identity};
    const struct workload *w;

    state_commit(state);
    w = state_find_local(state, "shop", "cart", "");
    cr_assert(w != NULL);
    policy_check(state, w, &request, &verdict);
    cr_expect(verdict.allowed == (verdict.text[0] == '\0'), "\"%s\"", verdict.text);
    return verdict.allowed;
}

Test(policy, none)
{
    cr_expect(allowed(WEB) && allowed(NULL));
}

Test(policy, allow_and_deny)
{
    POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = ALLOW, MATCH(.namespaces = {"=shop"}));
    cr_expect(allowed(WEB));
    cr_expect(!allowed(EVIL) && !verdict.policy[0]);
    cr_expect(!strcmp(verdict.text, "ALLOW policies exist, none matched"), "%s", verdict.text);
    POLICY(state, .name = "d", .scope = NAMESPACE, .action = DENY, MATCH(.accounts = {"shop/web"}));
    cr_expect(!allowed(WEB) && !strcmp(verdict.policy, "shop/d"), "DENY wins");
    cr_expect(!strcmp(verdict.text, "denied by policy shop/d"), "%s", verdict.text);
    state_remove(state, STATE_AUTHORIZATION, "shop/d");
    cr_expect(allowed(WEB));
}

Test(policy, scopes)
{
    POLICY(state, .name = "d", .namespace = "root", .scope = GLOBAL, .action = DENY,
           MATCH(.namespaces = {"=evil"}));
    cr_expect(!allowed(EVIL) && !strcmp(verdict.policy, "root/d"));
    POLICY(state, .name = "d", .namespace = "root", .scope = NAMESPACE, .action = DENY,
           MATCH(.namespaces = {"=evil"}));
    cr_expect(allowed(EVIL), "of another namespace");
    POLICY(state, .name = "d", .scope = NAMESPACE, .action = DENY, MATCH(.namespaces = {"=evil"}));
    cr_expect(!allowed(EVIL));
    POLICY(state, .name = "d", .scope = WORKLOAD_ONLY, .action = DENY, MATCH(.namespaces = {"=evil"}));
    cr_expect(allowed(EVIL), "not named by the workload");
    local("shop/p", "shop/d");
    cr_expect(!allowed(EVIL));
}

Test(policy, unknown_names_deny)
{
    local("shop/p", "shop/late");
    cr_expect(!allowed(WEB) && !strcmp(verdict.text, "policy shop/late is not known yet"), "%s",
              verdict.text);
    cr_expect(!strcmp(verdict.policy, "shop/late") && verdict.unknown);
    POLICY(state, .name = "d", .scope = NAMESPACE, .action = DENY, MATCH(.principals = {"*"}));
    cr_expect(!allowed(WEB) && !strcmp(verdict.policy, "shop/d"), "a policy that denies is named first");
    cr_expect(!verdict.unknown, "nothing that may come would change that");
    state_remove(state, STATE_AUTHORIZATION, "shop/d");
    state_set_unknown_policy(state, false);
    cr_expect(allowed(WEB) && verdict.unknown);
    state_set_unknown_policy(state, true);
    POLICY(state, .name = "late", .scope = WORKLOAD_ONLY, .action = DENY);
    cr_expect(allowed(WEB));
    state_remove(state, STATE_AUTHORIZATION, "shop/late");
    cr_expect(!allowed(WEB));
}

Test(policy, empty_lists)
{
    POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = DENY, MATCH());
    cr_expect(allowed(WEB), "a match with all lists empty is not enforced");
    POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = ALLOW, MATCH());
    cr_expect(!allowed(WEB));
    POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = ALLOW);
    cr_expect(!allowed(WEB), "ALLOW with zero rules");
    POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = ALLOW, .rules_len = 1);
    cr_expect(allowed(WEB), "a rule without clauses holds");
    POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = DENY, .rules_len = 1,
           .rules = {{.clauses_len = 1}});
    cr_expect(!allowed(WEB), "a clause without matches holds");
}

Test(policy, logic)
{
    struct sample_match shop = {.namespaces = {"=shop"}}, port = {.destination_ports = {"8080"}},
                        other = {.destination_ports = {"9090"}};

    /* clauses: all */
    POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = ALLOW, .rules_len = 1,
           .rules = {
               {.clauses_len = 2,
                .clauses = {{.matches_len = 1, .matches = {shop}}, {.matches_len = 1, .matches = {port}}}}});
    cr_expect(allowed(WEB) && !allowed(EVIL));
    POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = ALLOW, .rules_len = 1,
           .rules = {
               {.clauses_len = 2,
                .clauses = {{.matches_len = 1, .matches = {shop}}, {.matches_len = 1, .matches = {other}}}}});
    cr_expect(!allowed(WEB));
    /* matches: any */
    POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = ALLOW, .rules_len = 1,
           .rules = {{.clauses_len = 1, .clauses = {{.matches_len = 2, .matches = {other, shop}}}}});
    cr_expect(allowed(WEB) && !allowed(EVIL));
    /* rules: any */
    POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = ALLOW, .rules_len = 2,
           .rules = {{.clauses_len = 1, .clauses = {{.matches_len = 1, .matches = {other}}}},
                     {.clauses_len = 1, .clauses = {{.matches_len = 1, .matches = {shop}}}}});
    cr_expect(allowed(WEB) && !allowed(EVIL));
    /* categories of one match: all; positive and negative of one category: both */
    POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = ALLOW,
           MATCH(.namespaces = {"=shop"}, .destination_ports = {"9090"}));
    cr_expect(!allowed(WEB));
    POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = ALLOW,
           MATCH(.namespaces = {"*"}, .not_namespaces = {"=evil"}));
    cr_expect(allowed(WEB) && !allowed(EVIL));
}

/* The answer of an ALLOW policy with one match. */
#define holds(identity, ...)                                                                  \
    (POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = ALLOW, MATCH(__VA_ARGS__)), \
     allowed(identity))

Test(policy, principals)
{
    cr_expect(holds(WEB, .principals = {"=cluster.local/ns/shop/sa/web"}), "without the scheme");
    cr_expect(!holds(WEB, .principals = {"=" WEB}));
    cr_expect(holds(WEB, .principals = {"cluster.local/ns/shop/*"}));
    cr_expect(!holds(WEB, .principals = {"cluster.local/ns/sho/*"}));
    cr_expect(holds(WEB, .principals = {"*/sa/web"}));
    cr_expect(!holds(WEB, .principals = {"*/sa/we"}));
    cr_expect(holds(WEB, .principals = {"*"}));
    cr_expect(!holds(NULL, .principals = {"*"}));
    cr_expect(!holds(NULL, .principals = {"=", "*"}), "nobody has no principal at all");
    cr_expect(holds(NULL, .not_principals = {"*"}), "STRICT");
    cr_expect(!holds(WEB, .not_principals = {"*"}));
    cr_expect(!holds("not-spiffe", .principals = {"*"}));
    cr_expect(holds("spiffe://cluster.local/ns/shop", .not_principals = {"*"}), "not an identity");
}

Test(policy, namespaces_and_accounts)
{
    cr_expect(holds(WEB, .namespaces = {"=other", "sh*"}));
    cr_expect(holds(WEB, .namespaces = {"*op"}));
    cr_expect(!holds(NULL, .namespaces = {"*"}));
    cr_expect(holds(NULL, .namespaces = {"="}), "without identity the namespace is empty");
    cr_expect(holds(NULL, .not_namespaces = {"=shop"}));
    cr_expect(holds(WEB, .accounts = {"shop/web"}));
    cr_expect(holds("spiffe://other.domain/ns/shop/sa/web", .accounts = {"shop/web"}), "any trust domain");
    cr_expect(!holds(WEB, .accounts = {"shop/we", "sho/web", "web/shop"}));
    cr_expect(!holds(NULL, .accounts = {"shop/web"}));
    cr_expect(holds(NULL, .not_accounts = {"shop/web"}));
    cr_expect(!holds(WEB, .not_accounts = {"shop/web"}));
}

Test(policy, addresses_and_ports)
{
    cr_expect(holds(NULL, .source_ips = {"10.1.0.0/24"}));
    cr_expect(holds(NULL, .source_ips = {"0.0.0.0/0"}));
    cr_expect(!holds(NULL, .source_ips = {"::/0"}), "of the other family");
    cr_expect(!holds(NULL, .source_ips = {"10.1.0.9/32"}));
    cr_expect(!holds(NULL, .not_source_ips = {"10.1.0.2/32"}));
    cr_expect(holds(NULL, .not_source_ips = {"::/0"}));
    cr_expect(holds(NULL, .destination_ips = {"10.1.0.9/32"}));
    cr_expect(!holds(NULL, .destination_ips = {"10.1.0.2/32"}));
    cr_expect(!holds(NULL, .not_destination_ips = {"10.1.0.8/31"}));
    cr_expect(holds(NULL, .destination_ports = {"80", "8080"}));
    cr_expect(!holds(NULL, .destination_ports = {"73616"}), "no port of 16 bits is 65536 + 8080");
    cr_expect(!holds(NULL, .not_destination_ports = {"8080"}));
    cr_expect(holds(NULL, .not_destination_ports = {"9090"}));
}

/* The answer of a DENY policy with one match: true if it lets through. */
#define passes(identity, ...)                                                                \
    (POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = DENY, MATCH(__VA_ARGS__)), \
     allowed(identity))

Test(policy, what_is_not_understood_denies)
{
    /* an entry that cannot be used must not let more through: the rest of its list counts */
    cr_expect(!holds(WEB, .principals = {"?"}));
    cr_expect(holds(WEB, .principals = {"?", "*/sa/web"}));
    cr_expect(!holds(WEB, .not_principals = {"?"}));
    cr_expect(!passes(WEB, .principals = {"?"}) && !passes(NULL, .principals = {"?"}));
    cr_expect(!passes(WEB, .not_principals = {"?"}));
    cr_expect(passes(WEB, .not_principals = {"?", "*/sa/web"}));
    cr_expect(!holds(WEB, .source_ips = {"bad"}));
    cr_expect(!holds(WEB, .source_ips = {"10.1.0.2/33"}));
    cr_expect(!holds(WEB, .not_source_ips = {"bad"}));
    cr_expect(!passes(WEB, .source_ips = {"bad"}));
    cr_expect(!passes(WEB, .not_source_ips = {"bad"}));
    cr_expect(!holds(WEB, .namespaces = {"?"}) && !passes(WEB, .namespaces = {"?"}));
    /* unknown enum values: the action denies, the scope is that of the workloads that name it */
    POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = 7, MATCH(.namespaces = {"=shop"}));
    cr_expect(!allowed(WEB) && allowed(EVIL));
    POLICY(state, .name = "p", .scope = 7, .action = DENY, MATCH(.namespaces = {"=shop"}));
    cr_expect(!allowed(WEB));
}

Test(policy, strict)
{
    /* as a control plane sends PeerAuthentication STRICT with an exception for one port */
    struct sample_match nobody = {.not_principals = {"*"}}, exception = {.not_destination_ports = {"8080"}};

    POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = DENY, .rules_len = 1,
           .rules = {{.clauses_len = 1, .clauses = {{.matches_len = 1, .matches = {nobody}}}}});
    cr_expect(!allowed(NULL) && allowed(WEB));
    POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = DENY, .rules_len = 1,
           .rules = {{.clauses_len = 2,
                      .clauses = {{.matches_len = 1, .matches = {nobody}},
                                  {.matches_len = 1, .matches = {exception}}}}});
    cr_expect(allowed(NULL) && allowed(WEB));
}

Test(policy, dry_run_has_no_effect)
{
    POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = DENY, .dry_run = true,
           MATCH(.namespaces = {"*"}));
    POLICY(state, .name = "a", .scope = NAMESPACE, .action = ALLOW, .dry_run = true,
           MATCH(.namespaces = {"=x"}));
    cr_expect(allowed(WEB) && allowed(NULL));
}

/* What the dry-run policies say of a connection. */
static bool would_be(const char *identity, enum policy_dry_run wanted, const char *policy)
{
    allowed(identity);
    return verdict.dry_run == wanted && !strcmp(verdict.dry_run_policy, policy);
}

Test(policy, dry_run_is_told)
{
    cr_expect(would_be(WEB, POLICY_DRY_RUN_NONE, ""), "there is none");
    POLICY(state, .name = "a", .scope = NAMESPACE, .action = ALLOW, .dry_run = true,
           MATCH(.namespaces = {"=shop"}));
    cr_expect(would_be(WEB, POLICY_DRY_RUN_ALLOWED, "shop/a") && verdict.allowed);
    cr_expect(would_be(EVIL, POLICY_DRY_RUN_UNMATCHED, "") && verdict.allowed);
    POLICY(state, .name = "d", .scope = NAMESPACE, .action = DENY, .dry_run = true,
           MATCH(.accounts = {"shop/web"}));
    cr_expect(would_be(WEB, POLICY_DRY_RUN_DENIED, "shop/d") && verdict.allowed, "DENY counts for more");
    cr_expect(would_be(EVIL, POLICY_DRY_RUN_UNMATCHED, ""));
    /* ALLOW policies in force decide whether one must match: the dry-run ones change nothing then */
    POLICY(state, .name = "real", .scope = NAMESPACE, .action = ALLOW, MATCH(.namespaces = {"=evil"}));
    cr_expect(would_be(EVIL, POLICY_DRY_RUN_NONE, "") && verdict.allowed);
    cr_expect(would_be(WEB, POLICY_DRY_RUN_DENIED, "shop/d") && !verdict.allowed);
    state_remove(state, STATE_AUTHORIZATION, "shop/d");
    cr_expect(would_be(WEB, POLICY_DRY_RUN_ALLOWED, "shop/a") && !verdict.allowed);
    /* a decision in force ends the reading of policies, not that of the dry-run ones behind it */
    POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = DENY, .dry_run = true,
           MATCH(.namespaces = {"=evil"}));
    POLICY(state, .name = "0", .scope = GLOBAL, .namespace = "root", .action = DENY,
           MATCH(.namespaces = {"=evil"}));
    cr_expect(would_be(EVIL, POLICY_DRY_RUN_DENIED, "shop/p") && !verdict.allowed);
}

Test(policy, trust_domain_aliases)
{
    struct trust_domains aliases = {};

    cr_assert(trust_domains_parse("old.example,older.example", &aliases) == 0);
    POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = ALLOW,
           MATCH(.principals = {"=old.example/ns/shop/sa/web"}));
    cr_expect(!allowed(WEB), "without aliases another trust domain is another identity");
    state_set_trust_domains(state, &aliases);
    cr_expect(allowed(WEB) && allowed("spiffe://old.example/ns/shop/sa/web"));
    cr_expect(allowed("spiffe://older.example/ns/shop/sa/web"));
    cr_expect(!allowed("spiffe://other/ns/shop/sa/web") && !allowed("spiffe://old.example/ns/shop/sa/eve"));
    cr_expect(!allowed(NULL));
    POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = ALLOW,
           MATCH(.principals = {"=cluster.local/ns/shop/sa/web"}));
    cr_expect(allowed(WEB) && allowed("spiffe://old.example/ns/shop/sa/web"), "the own one is one of them");
    POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = ALLOW,
           MATCH(.principals = {"old.example/ns/shop/*"}));
    cr_expect(allowed(WEB) && !allowed(EVIL));
    POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = DENY,
           MATCH(.not_principals = {"=old.example/ns/shop/sa/web"}));
    cr_expect(allowed(WEB) && allowed("spiffe://older.example/ns/shop/sa/web"));
    cr_expect(!allowed(EVIL) && !allowed("spiffe://other/ns/shop/sa/web"));
    trust_domains_free(&aliases);
}

Test(policy, many_in_one_namespace)
{
    for (int i = 0; i < 100; i++) {
        char name[20];

        snprintf(name, sizeof(name), "n%d", i);
        POLICY(state, .name = name, .scope = NAMESPACE, .action = DENY, MATCH(.namespaces = {"=evil"}));
    }
    cr_expect(allowed(WEB) && !allowed(EVIL));
    cr_expect(state_policy_count(state) == 101);
    for (int i = 0; i < 100; i++) {
        char name[30];

        cr_expect(!allowed(EVIL));
        snprintf(name, sizeof(name), "shop/n%d", i);
        state_remove(state, STATE_AUTHORIZATION, name);
    }
    cr_expect(allowed(EVIL) && state_policy_count(state) == 1);
}

Test(policy, refused)
{
    uint8_t junk[] = {0xff, 0xff, 0xff};
    char error[128] = "";

    cr_expect(POLICY(state, .name = "") == -EBADMSG && strstr(sample_error, "name"));
    cr_expect(state_apply(state, STATE_AUTHORIZATION, "x", junk, sizeof(junk), error, sizeof(error)) ==
              -EBADMSG);
    cr_expect(strstr(error, "Authorization") != NULL);
    cr_expect(state_apply(state, STATE_AUTHORIZATION, "x", NULL, 0, error, sizeof(error)) == -EBADMSG);
    cr_expect(state_policy_count(state) == 1 && allowed(WEB));
}
