/* SPDX-License-Identifier: Apache-2.0 */
/* One answer for all connections without identity: what the kernel is told of a pod must be what the proxy
 * would say of each of them. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "tests/unit/proxy/mesh_samples.h"

enum { GLOBAL, NAMESPACE, WORKLOAD_ONLY };
enum { ALLOW, DENY };

#define MATCH(...) \
    .rules_len = 1, .rules = {{.clauses_len = 1, .clauses = {{.matches_len = 1, .matches = {{__VA_ARGS__}}}}}}

static struct state *state;
static struct policy_anyone anyone;

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

TestSuite(policy_anyone, .init = setup, .fini = teardown);

static const struct workload *cart(void)
{
    const struct workload *w = state_find_local(state, "shop", "cart", "");

    cr_assert(w != NULL);
    return w;
}

/* The answer, and the policy that made it. */
static bool is(enum policy_answer answer, const char *policy)
{
    state_commit(state);
    policy_check_anyone(state, cart(), &anyone);
    return anyone.answer == answer && !strcmp(anyone.policy, policy);
}

/* The answer with one policy of that action and one match. */
#define deny_is(answer, policy, ...)                                                         \
    (POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = DENY, MATCH(__VA_ARGS__)), \
     is(POLICY_ANSWER_##answer, policy))
#define allow_is(answer, policy, ...)                                                         \
    (POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = ALLOW, MATCH(__VA_ARGS__)), \
     is(POLICY_ANSWER_##answer, policy))

Test(policy_anyone, none_and_strict)
{
    struct sample_match nobody = {.not_principals = {"*"}}, exception = {.not_destination_ports = {"8080"}};

    cr_expect(is(POLICY_ANSWER_ALLOWED, ""), "a DENY policy without rules");
    cr_expect(deny_is(DENIED, "shop/p", .not_principals = {"*"}));
    POLICY(state, .name = "p", .scope = WORKLOAD_ONLY, .action = DENY, .rules_len = 1,
           .rules = {{.clauses_len = 2,
                      .clauses = {{.matches_len = 1, .matches = {nobody}},
                                  {.matches_len = 1, .matches = {exception}}}}});
    cr_expect(is(POLICY_ANSWER_DEPENDS, "shop/p"), "STRICT but for a port");
}

Test(policy_anyone, identity_alone_decides)
{
    cr_expect(deny_is(ALLOWED, "", .principals = {"*"}), "nobody has no principal");
    cr_expect(deny_is(ALLOWED, "", .namespaces = {"=evil"}) &&
              deny_is(ALLOWED, "", .accounts = {"shop/web"}));
    cr_expect(deny_is(DENIED, "shop/p", .not_namespaces = {"=evil"}));
    cr_expect(deny_is(DENIED, "shop/p", .not_accounts = {"shop/web"}));
    cr_expect(allow_is(DENIED, "", .principals = {"*"}));
    cr_expect(allow_is(ALLOWED, "", .namespaces = {"="}));
    cr_expect(allow_is(DENIED, "", ), "an empty match never holds");
}

Test(policy_anyone, addresses_and_ports_depend)
{
    cr_expect(deny_is(DEPENDS, "shop/p", .source_ips = {"10.0.0.0/8"}));
    cr_expect(deny_is(DEPENDS, "shop/p", .not_source_ips = {"10.0.0.0/8"}));
    cr_expect(deny_is(DEPENDS, "shop/p", .destination_ips = {"10.1.0.9/32"}));
    cr_expect(deny_is(DEPENDS, "shop/p", .destination_ports = {"8080"}));
    cr_expect(allow_is(DEPENDS, "shop/p", .not_destination_ports = {"8080"}));
    cr_expect(deny_is(ALLOWED, "", .source_ips = {"10.0.0.0/8"}, .principals = {"*"}));
    cr_expect(deny_is(ALLOWED, "", .destination_ports = {"65536", "73616"}), "no port has that number");
    cr_expect(allow_is(ALLOWED, "", .not_destination_ports = {"65536"}));
    cr_expect(deny_is(DEPENDS, "shop/p", .destination_ports = {"65535"}));
    /* an entry that is not understood denies */
    cr_expect(deny_is(DENIED, "shop/p", .source_ips = {"bad"}) &&
              allow_is(DENIED, "", .source_ips = {"bad"}));
    cr_expect(allow_is(DEPENDS, "shop/p", .source_ips = {"bad", "10.0.0.0/8"}));
}

Test(policy_anyone, of_several_the_surest_counts)
{
    POLICY(state, .name = "b", .scope = NAMESPACE, .action = ALLOW, MATCH(.destination_ports = {"80"}));
    cr_expect(is(POLICY_ANSWER_DEPENDS, "shop/b"));
    POLICY(state, .name = "c", .scope = NAMESPACE, .action = ALLOW, MATCH(.not_principals = {"*"}));
    cr_expect(is(POLICY_ANSWER_ALLOWED, ""));
    POLICY(state, .name = "d", .scope = NAMESPACE, .action = DENY, MATCH(.source_ips = {"10.0.0.0/8"}));
    cr_expect(is(POLICY_ANSWER_DEPENDS, "shop/d"));
    POLICY(state, .name = "e", .scope = GLOBAL, .namespace = "root", .action = DENY,
           MATCH(.not_principals = {"*"}));
    cr_expect(is(POLICY_ANSWER_DENIED, "root/e"));
    POLICY(state, .name = "f", .scope = NAMESPACE, .action = DENY, .dry_run = true,
           MATCH(.principals = {"*"}));
    cr_expect(is(POLICY_ANSWER_DRY_RUN, "shop/f"));
}

Test(policy_anyone, missing)
{
    local("shop/p", "shop/late");
    cr_expect(is(POLICY_ANSWER_MISSING, "shop/late"));
    state_set_unknown_policy(state, false);
    cr_expect(is(POLICY_ANSWER_MISSING, "shop/late"), "it is waited for all the same");
    state_set_unknown_policy(state, true);
    cr_expect(deny_is(DENIED, "shop/p", .not_principals = {"*"}), "whatever may come");
    cr_expect(allow_is(MISSING, "shop/late", .not_principals = {"*"}));
}

/* ---- any policies, any requests ---- */

static uint64_t seed;

static unsigned below(unsigned n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(seed >> 33) % n;
}

#define ONE_OF(...)                                     \
    ({                                                  \
        static const char *const _of[] = {__VA_ARGS__}; \
        _of[below(sizeof(_of) / sizeof(const char *))]; \
    })
/* Mostly an empty list, as in real policies. */
#define FILL(list, ...)                            \
    do {                                           \
        unsigned _n = below(5) ? 0 : 1 + below(2); \
        for (unsigned _i = 0; _i < _n; _i++)       \
            (list)[_i] = ONE_OF(__VA_ARGS__);      \
    } while (0)
#define CIDRS      "10.0.0.0/8", "10.1.0.2/32", "0.0.0.0/0", "::/0", "fd00::/8", "192.168.0.0/16", "bad"
#define PORTS      "80", "8080", "65535", "65536", "0"
#define TEXTS      "*", "=", "=shop", "sh*", "*op", "?"
#define PRINCIPALS "*", "=", "*/sa/web", "cluster.local/*", "?"

static struct sample_match random_match(void)
{
    struct sample_match m = {};

    FILL(m.namespaces, TEXTS);
    FILL(m.not_namespaces, TEXTS);
    FILL(m.principals, PRINCIPALS);
    FILL(m.not_principals, PRINCIPALS);
    FILL(m.source_ips, CIDRS);
    FILL(m.not_source_ips, CIDRS);
    FILL(m.destination_ips, CIDRS);
    FILL(m.not_destination_ips, CIDRS);
    FILL(m.destination_ports, PORTS);
    FILL(m.not_destination_ports, PORTS);
    FILL(m.accounts, "shop/web", "evil/eve");
    FILL(m.not_accounts, "shop/web", "evil/eve");
    return m;
}

static void random_policy(const char *name)
{
    struct sample_policy p = {.name = name,
                              .scope = below(4),
                              .action = below(3),
                              .dry_run = !below(20),
                              .rules_len = (int)below(3)};

    for (int r = 0; r < p.rules_len; r++) {
        p.rules[r].clauses_len = (int)below(3);
        for (int c = 0; c < p.rules[r].clauses_len; c++) {
            p.rules[r].clauses[c].matches_len = (int)below(3);
            for (int m = 0; m < p.rules[r].clauses[c].matches_len; m++)
                p.rules[r].clauses[c].matches[m] = random_match();
        }
    }
    cr_assert(apply_policy(state, &p) == 0, "%s", sample_error);
}

static struct policy_request random_request(void)
{
    return (struct policy_request){
        .source = sample_endpoint(ONE_OF("10.1.0.2:40000", "10.9.9.9:1", "192.168.3.4:80", "8.8.8.8:53",
                                         "[fd00::7]:8080", "[2001:db8::1]:9")),
        .destination = sample_endpoint(ONE_OF("10.1.0.9:80", "10.1.0.9:8080", "10.1.0.9:65535",
                                              "[fd00::9]:80", "[fd00::9]:9090", "10.1.0.9:1")),
    };
}

/* What is wrong: takes the answer to one for that to all. */
static void check_one(const struct state *s, const struct workload *w, struct policy_anyone *ret)
{
    const struct policy_request request = random_request();
    struct policy_verdict v;

    policy_check(s, w, &request, &v);
    *ret = (struct policy_anyone){.answer = v.allowed ? POLICY_ANSWER_ALLOWED : POLICY_ANSWER_DENIED};
}

/* Returns for how many requests the answer to all was another one than theirs. */
static unsigned differences(void (*check)(const struct state *, const struct workload *,
                                          struct policy_anyone *),
                            unsigned rounds, unsigned answers[5])
{
    unsigned wrong = 0;

    for (unsigned i = 0; i < rounds; i++) {
        unsigned n = below(4);

        for (unsigned p = 0; p < 3; p++) {
            char name[] = {(char)('a' + p), '\0'}, key[] = {'s', 'h', 'o', 'p', '/', name[0], '\0'};

            state_remove(state, STATE_AUTHORIZATION, key);
            if (p < n)
                random_policy(name);
        }
        local(below(3) ? NULL : "shop/a", NULL);
        state_set_unknown_policy(state, below(2));
        state_commit(state);
        check(state, cart(), &anyone);
        answers[anyone.answer]++;
        if (anyone.answer != POLICY_ANSWER_ALLOWED && anyone.answer != POLICY_ANSWER_DENIED)
            continue;
        for (unsigned r = 0; r < 20; r++) {
            const struct policy_request request = random_request();
            struct policy_verdict v;

            policy_check(state, cart(), &request, &v);
            wrong += v.unknown || v.dry_run || v.allowed != (anyone.answer == POLICY_ANSWER_ALLOWED);
        }
    }
    return wrong;
}

Test(policy_anyone, is_what_each_is_told)
{
    unsigned answers[5] = {}, ignored[5] = {};

    seed = 1;
    cr_expect(differences(policy_check_anyone, 3000, answers) == 0);
    for (int i = 0; i < 5; i++)
        cr_expect(answers[i] >= 30, "answer %d: %u times", i, answers[i]);
    cr_expect(differences(check_one, 300, ignored) > 0, "a wrong one is found");
}
