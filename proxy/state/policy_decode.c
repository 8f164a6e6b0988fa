/* SPDX-License-Identifier: Apache-2.0 */
/*
 * istio.security.Authorization (contract section 1.3).
 *
 * What is not understood must not let more through: an unknown action counts as DENY, an unknown scope as
 * WORKLOAD_SELECTOR, and an entry of a list that cannot be used (a string match without a known kind, an
 * address with a bad length) counts as matching or not matching, whichever denies more.
 */
#include "lib/proto/authorization.pb-c.h"
#include "proxy/state/decode.h"
#include "proxy/state/intern.h"
#include "proxy/state/state_objects.h"

#include <stdio.h>
#include <stdlib.h>

typedef Istio__Security__Authorization Message;

static uint8_t unusable(bool deny, bool negative)
{
    return deny != negative ? STRING_ALWAYS : STRING_NEVER;
}

static struct string_match string_of(struct layout *l, const Istio__Security__StringMatch *m,
                                     uint8_t otherwise)
{
    const char *text = "";
    enum string_kind kind;

    switch ((int)m->match_type_case) {
    case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_EXACT:
        kind = STRING_EXACT;
        text = m->exact;
        break;
    case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PREFIX:
        kind = STRING_PREFIX;
        text = m->prefix;
        break;
    case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_SUFFIX:
        kind = STRING_SUFFIX;
        text = m->suffix;
        break;
    case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PRESENCE:
        kind = STRING_PRESENCE;
        break;
    default:
        kind = (enum string_kind)otherwise;
    }
    return (struct string_match){.text = layout_text(l, text), .len = (uint32_t)strlen(text), .kind = kind};
}

/* Texts are placed behind all arrays: they need no alignment. */
struct places {
    struct layout *arrays, *texts;
    bool deny;
};

static void place_strings(struct places *p, struct match *to, enum match_list list,
                          Istio__Security__StringMatch **from, size_t n)
{
    struct string_match *array = layout_take(p->arrays, n * sizeof(*array));

    for (size_t i = 0; i < n; i++) {
        struct string_match m = string_of(p->texts, from[i], unusable(p->deny, list % 2));

        if (array)
            array[i] = m;
    }
    to->list[list].strings = array;
    to->len[list] = (uint32_t)n;
}

static void place_cidrs(struct places *p, struct match *to, enum match_list list,
                        Istio__Security__Address **from, size_t n)
{
    struct cidr_match *array = layout_take(p->arrays, n * sizeof(*array));

    for (size_t i = 0; array && i < n; i++) {
        array[i].kind = STRING_EXACT;
        if (prefix_decode(&from[i]->address, from[i]->length, &array[i].cidr) < 0)
            array[i].kind = unusable(p->deny, list % 2);
    }
    to->list[list].cidrs = array;
    to->len[list] = (uint32_t)n;
}

static void place_ports(struct places *p, struct match *to, enum match_list list, const uint32_t *from,
                        size_t n)
{
    uint32_t *array = layout_take(p->arrays, n * sizeof(*array));

    if (array && n)
        memcpy(array, from, n * sizeof(*array));
    to->list[list].ports = array;
    to->len[list] = (uint32_t)n;
}

static void place_accounts(struct places *p, struct match *to, enum match_list list,
                           Istio__Security__ServiceAccountMatch **from, size_t n)
{
    struct account_match *array = layout_take(p->arrays, n * sizeof(*array));

    for (size_t i = 0; i < n; i++) {
        struct account_match m = {layout_text(p->texts, from[i]->namespace_),
                                  layout_text(p->texts, from[i]->service_account)};

        if (array)
            array[i] = m;
    }
    to->list[list].accounts = array;
    to->len[list] = (uint32_t)n;
}

static void place_match(struct places *p, struct match *to, const Istio__Security__Match *m)
{
    place_strings(p, to, MATCH_NAMESPACES, m->namespaces, m->n_namespaces);
    place_strings(p, to, MATCH_NOT_NAMESPACES, m->not_namespaces, m->n_not_namespaces);
    place_strings(p, to, MATCH_PRINCIPALS, m->principals, m->n_principals);
    place_strings(p, to, MATCH_NOT_PRINCIPALS, m->not_principals, m->n_not_principals);
    place_cidrs(p, to, MATCH_SOURCE_IPS, m->source_ips, m->n_source_ips);
    place_cidrs(p, to, MATCH_NOT_SOURCE_IPS, m->not_source_ips, m->n_not_source_ips);
    place_cidrs(p, to, MATCH_DESTINATION_IPS, m->destination_ips, m->n_destination_ips);
    place_cidrs(p, to, MATCH_NOT_DESTINATION_IPS, m->not_destination_ips, m->n_not_destination_ips);
    place_ports(p, to, MATCH_DESTINATION_PORTS, m->destination_ports, m->n_destination_ports);
    place_ports(p, to, MATCH_NOT_DESTINATION_PORTS, m->not_destination_ports, m->n_not_destination_ports);
    place_accounts(p, to, MATCH_ACCOUNTS, m->service_accounts, m->n_service_accounts);
    place_accounts(p, to, MATCH_NOT_ACCOUNTS, m->not_service_accounts, m->n_not_service_accounts);
}

static void place_clause(struct places *p, struct clause *to, const Istio__Security__Clause *m)
{
    struct match *matches = layout_take(p->arrays, m->n_matches * sizeof(*matches)), scratch;

    for (size_t i = 0; i < m->n_matches; i++)
        place_match(p, matches ? &matches[i] : &scratch, m->matches[i]);
    to->matches = matches;
    to->len = (uint32_t)m->n_matches;
}

static void place_rule(struct places *p, struct rule *to, const Istio__Security__Rule *m)
{
    struct clause *clauses = layout_take(p->arrays, m->n_clauses * sizeof(*clauses)), scratch;

    for (size_t i = 0; i < m->n_clauses; i++)
        place_clause(p, clauses ? &clauses[i] : &scratch, m->clauses[i]);
    to->clauses = clauses;
    to->len = (uint32_t)m->n_clauses;
}

/* With policy NULL it counts; else the arrays take arrays_len bytes and the texts follow. */
static void place(const Message *m, struct policy *policy, struct layout *arrays, struct layout *texts,
                  bool deny)
{
    struct places p = {.arrays = arrays, .texts = texts, .deny = deny};
    struct policy scratch, *to = policy ? policy : &scratch;
    struct rule *rules, scratch_rule;

    layout_take(arrays, sizeof(*policy));
    rules = layout_take(arrays, m->n_rules * sizeof(*rules));
    for (size_t i = 0; i < m->n_rules; i++)
        place_rule(&p, rules ? &rules[i] : &scratch_rule, m->rules[i]);
    to->rules = rules;
    to->len = (uint32_t)m->n_rules;
    to->name = layout_text(texts, m->name);
    to->namespace = layout_text(texts, m->namespace_);
}

static const char *key_of(const char *namespace, const char *name)
{
    char buf[512], *key = buf;
    const char *shared;

    if (snprintf(buf, sizeof(buf), "%s/%s", namespace, name) >= (int)sizeof(buf) &&
        asprintf(&key, "%s/%s", namespace, name) < 0)
        return NULL;
    shared = intern_get(key);
    if (key != buf)
        free(key);
    return shared;
}

static int decode(const Message *m, struct policy **ret, char *error, size_t error_size)
{
    static bool warned_scope, warned_action;
    bool deny = m->action != ISTIO__SECURITY__ACTION__ALLOW;
    struct layout arrays = {}, texts = {};
    struct policy *policy;

    if (!*m->name)
        return refuse(error, error_size, "a policy without name");
    place(m, NULL, &arrays, &texts, deny);
    policy = calloc(1, arrays.len + texts.len);
    if (!policy)
        return -ENOMEM;
    texts = (struct layout){.base = (char *)policy + arrays.len};
    arrays = (struct layout){.base = (char *)policy};
    place(m, policy, &arrays, &texts, deny);
    policy->deny = deny;
    policy->dry_run = m->dry_run;
    policy->scope = (unsigned)m->scope <= POLICY_WORKLOAD ? (enum policy_scope)m->scope : POLICY_WORKLOAD;
    if ((unsigned)m->scope > POLICY_WORKLOAD)
        warn_unknown(&warned_scope, "policy.scope", (int)m->scope, "WORKLOAD_SELECTOR");
    if ((unsigned)m->action > ISTIO__SECURITY__ACTION__DENY)
        warn_unknown(&warned_action, "policy.action", (int)m->action, "DENY");
    policy->key = key_of(m->namespace_, m->name);
    if (!policy->key) {
        policy_free(policy);
        return -ENOMEM;
    }
    *ret = policy;
    return 0;
}

void policy_free(void *policy)
{
    struct policy *p = policy;

    if (p)
        intern_put(p->key);
    free(p);
}

int policy_decode(const char *name, const uint8_t *value, size_t len, struct policy **ret, char *error,
                  size_t error_size)
{
    const Message *m;
    struct decode_arena arena;
    int r;

    if (len > STATE_RESOURCE_MAX)
        return refuse(error, error_size, "%zu bytes are more than %u", len, STATE_RESOURCE_MAX);
    arena_init(&arena);
    m = (void *)arena_decode(&arena, &istio__security__authorization__descriptor, value, len);
    r = m ? decode(m, ret, error, error_size)
          : refuse(error, error_size, "not an istio.security.Authorization");
    arena_release(&arena);
    if (r == -ENOMEM)
        snprintf(error, error_size, "out of memory");
    return r;
}
