/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/route/policy.h"

#include <stdio.h>

#include "lib/spiffe.h"
#include "proxy/state/state_store.h"

#define SCHEME_LEN 9 /* "spiffe://" */

/* What can be said of a condition: of a connection whose addresses are not known, not always enough. */
enum truth { NO, YES, DEPENDS };

/* The request in the words of the policies. */
struct subject {
    const struct policy_request *request; /* NULL: some connection without identity, from and to anywhere */
    const char *principal;                /* identity without the scheme; "" without identity */
    size_t principal_len;
    bool identified;
    struct spiffe parts; /* identified */
    /* identified, and in a trust domain that counts as one with others: NULL otherwise */
    const struct trust_domains *aliases;
    const char *own; /* with aliases: the mesh's own trust domain */
};

static enum truth truth(bool value)
{
    return value ? YES : NO;
}

static enum truth negate(enum truth t)
{
    return t == DEPENDS ? DEPENDS : truth(t == NO);
}

static void describe(struct subject *s, const struct policy_request *request,
                     const struct trust_domains *aliases, const char *own)
{
    size_t len = request->identity ? strlen(request->identity) : 0;

    *s = (struct subject){.request = request, .principal = ""};
    if (!len || spiffe_parse(request->identity, len, &s->parts) < 0)
        return;
    s->identified = true;
    s->principal = request->identity + SCHEME_LEN;
    s->principal_len = len - SCHEME_LEN;
    s->own = own;
    if (aliases &&
        trust_domains_same(aliases, own, s->parts.trust_domain, s->parts.trust_domain_len, own, strlen(own)))
        s->aliases = aliases;
}

static bool string_matches(const struct string_match *m, const char *text, size_t len)
{
    switch (m->kind) {
    case STRING_EXACT:
        return len == m->len && !memcmp(text, m->text, len);
    case STRING_PREFIX:
        return len >= m->len && !memcmp(text, m->text, m->len);
    case STRING_SUFFIX:
        return len >= m->len && !memcmp(text + len - m->len, m->text, m->len);
    case STRING_PRESENCE:
        return len > 0;
    case STRING_ALWAYS:
        return true;
    default:
        return false;
    }
}

static bool any_string(const struct match *m, enum match_list list, const char *text, size_t len)
{
    for (uint32_t i = 0; i < m->len[list]; i++) {
        if (string_matches(&m->list[list].strings[i], text, len))
            return true;
    }
    return false;
}

/* The same principal, but in that trust domain. */
static bool matches_in(const struct string_match *wanted, const struct subject *s, const char *trust_domain)
{
    char text[2 * SPIFFE_MAX];
    int len = snprintf(text, sizeof(text), "%s%s", trust_domain, s->principal + s->parts.trust_domain_len);

    return len > 0 && (size_t)len < sizeof(text) && string_matches(wanted, text, (size_t)len);
}

static bool principal_matches(const struct string_match *wanted, const struct subject *s)
{
    if (string_matches(wanted, s->principal, s->principal_len))
        return true;
    if (!s->aliases)
        return false;
    for (size_t i = 0; i < s->aliases->len; i++) {
        if (matches_in(wanted, s, s->aliases->names[i]))
            return true;
    }
    return matches_in(wanted, s, s->own);
}

static bool any_principal(const struct match *m, enum match_list list, const struct subject *s)
{
    for (uint32_t i = 0; i < m->len[list]; i++) {
        const struct string_match *wanted = &m->list[list].strings[i];

        /* nobody has no principal, whatever is asked of it */
        if ((s->identified || wanted->kind == STRING_ALWAYS) && principal_matches(wanted, s))
            return true;
    }
    return false;
}

/* endpoint NULL: of an address that is not known. */
static enum truth any_cidr(const struct match *m, enum match_list list, const struct endpoint *endpoint)
{
    enum truth t = NO;

    for (uint32_t i = 0; i < m->len[list]; i++) {
        const struct cidr_match *wanted = &m->list[list].cidrs[i];

        if (wanted->kind == STRING_ALWAYS ||
            (wanted->kind == STRING_EXACT && endpoint && cidr_contains(&wanted->cidr, &endpoint->addr)))
            return YES;
        if (wanted->kind == STRING_EXACT && !endpoint)
            t = DEPENDS;
    }
    return t;
}

/* The same for its port. A policy may name numbers that no port has. */
static enum truth any_port(const struct match *m, enum match_list list, const struct endpoint *endpoint)
{
    enum truth t = NO;

    for (uint32_t i = 0; i < m->len[list]; i++) {
        uint32_t wanted = m->list[list].ports[i];

        if (endpoint && wanted == endpoint->port)
            return YES;
        if (!endpoint && wanted <= UINT16_MAX)
            t = DEPENDS;
    }
    return t;
}

static bool part_equals(const char *part, size_t len, const char *text)
{
    return strlen(text) == len && !memcmp(part, text, len);
}

static bool any_account(const struct match *m, enum match_list list, const struct subject *s)
{
    for (uint32_t i = 0; s->identified && i < m->len[list]; i++) {
        const struct account_match *wanted = &m->list[list].accounts[i];

        if (part_equals(s->parts.namespace, s->parts.namespace_len, wanted->namespace) &&
            part_equals(s->parts.service_account, s->parts.service_account_len, wanted->name))
            return true;
    }
    return false;
}

static enum truth any(const struct match *m, enum match_list list, const struct subject *s)
{
    const struct policy_request *r = s->request;

    switch (list) {
    case MATCH_NAMESPACES:
    case MATCH_NOT_NAMESPACES:
        return truth(any_string(m, list, s->identified ? s->parts.namespace : "",
                                s->identified ? s->parts.namespace_len : 0));
    case MATCH_PRINCIPALS:
    case MATCH_NOT_PRINCIPALS:
        return truth(any_principal(m, list, s));
    case MATCH_SOURCE_IPS:
    case MATCH_NOT_SOURCE_IPS:
        return any_cidr(m, list, r ? &r->source : NULL);
    case MATCH_DESTINATION_IPS:
    case MATCH_NOT_DESTINATION_IPS:
        return any_cidr(m, list, r ? &r->destination : NULL);
    case MATCH_DESTINATION_PORTS:
    case MATCH_NOT_DESTINATION_PORTS:
        return any_port(m, list, r ? &r->destination : NULL);
    default:
        return truth(any_account(m, list, s));
    }
}

static enum truth match_holds(const struct match *m, const struct subject *s)
{
    enum truth all = YES;
    bool empty = true;

    for (int list = 0; list < MATCH_LISTS; list++) {
        bool negative = list % 2;
        enum truth t;

        if (!m->len[list])
            continue;
        empty = false;
        t = any(m, (enum match_list)list, s);
        if (negative)
            t = negate(t);
        if (t == NO)
            return NO;
        if (t == DEPENDS)
            all = DEPENDS;
    }
    return empty ? NO : all;
}

static enum truth clause_holds(const struct clause *c, const struct subject *s)
{
    enum truth some = NO;

    for (uint32_t i = 0; i < c->len && some != YES; i++) {
        enum truth t = match_holds(&c->matches[i], s);

        if (t != NO)
            some = t;
    }
    return c->len ? some : YES;
}

static enum truth rule_holds(const struct rule *rule, const struct subject *s)
{
    enum truth all = YES;

    for (uint32_t i = 0; i < rule->len && all != NO; i++) {
        enum truth t = clause_holds(&rule->clauses[i], s);

        if (t != YES)
            all = t;
    }
    return all;
}

static enum truth policy_holds(const struct policy *p, const struct subject *s)
{
    enum truth some = NO;

    for (uint32_t i = 0; i < p->len && some != YES; i++) {
        enum truth t = rule_holds(&p->rules[i], s);

        if (t != NO)
            some = t;
    }
    return some;
}

/* What the policies seen so far say. */
struct tally {
    const struct policy *denied_by;
    const char *unknown; /* key of a policy that has not arrived */
    bool allow_exists, allowed;
    bool dry_allow_exists;
    const struct policy *dry_denied_by, *dry_allowed_by; /* of the dry-run ones */
    /* Without a request: the first that there is of the kind. */
    const struct policy *dry_run, *deny_depends, *allow_depends;
};

static void weigh_dry_run(struct tally *t, const struct policy *p, const struct subject *s)
{
    const struct policy **matched = p->deny ? &t->dry_denied_by : &t->dry_allowed_by;

    t->dry_allow_exists |= !p->deny;
    if (!*matched && policy_holds(p, s) == YES)
        *matched = p;
}

static void first(const struct policy **ret, const struct policy *p)
{
    if (!*ret)
        *ret = p;
}

static void weigh(struct tally *t, const struct policy *p, const struct subject *s)
{
    enum truth holds;

    if (p->dry_run) {
        first(&t->dry_run, p);
        weigh_dry_run(t, p, s);
        return;
    }
    /* a decision that stands needs no more reading */
    if (t->denied_by || (!p->deny && t->allowed))
        return;
    holds = policy_holds(p, s);
    if (holds == DEPENDS)
        first(p->deny ? &t->deny_depends : &t->allow_depends, p);
    if (p->deny) {
        t->denied_by = holds == YES ? p : NULL;
    } else {
        t->allow_exists = true;
        t->allowed = holds == YES;
    }
}

static void weigh_list(struct tally *t, const struct policy_list *list, const struct subject *s)
{
    for (size_t i = 0; list && i < list->len; i++)
        weigh(t, list->items[i], s);
}

static void deny(struct policy_verdict *ret, const char *policy, const char *text)
{
    ret->allowed = false;
    snprintf(ret->policy, sizeof(ret->policy), "%s", policy);
    snprintf(ret->text, sizeof(ret->text), "%s", text);
}

const char *policy_dry_run_name(enum policy_dry_run dry_run)
{
    static const char *const names[POLICY_DRY_RUN_COUNT] = {
        [POLICY_DRY_RUN_NONE] = "",
        [POLICY_DRY_RUN_ALLOWED] = "allowed",
        [POLICY_DRY_RUN_DENIED] = "denied",
        [POLICY_DRY_RUN_UNMATCHED] = "unmatched",
    };

    return names[dry_run];
}

const char *policy_dry_run_text(enum policy_dry_run dry_run)
{
    static const char *const texts[POLICY_DRY_RUN_COUNT] = {
        [POLICY_DRY_RUN_NONE] = "",
        [POLICY_DRY_RUN_ALLOWED] = "an ALLOW policy matches the connection",
        [POLICY_DRY_RUN_DENIED] = "a DENY policy matches: the connection would be denied",
        [POLICY_DRY_RUN_UNMATCHED] = "no ALLOW policy matches: the connection would be denied",
    };

    return texts[dry_run];
}

static void conclude_dry_run(const struct tally *t, struct policy_verdict *ret)
{
    const struct policy *matched = t->dry_denied_by ? t->dry_denied_by : t->dry_allowed_by;

    if (t->dry_denied_by)
        ret->dry_run = POLICY_DRY_RUN_DENIED;
    else if (t->dry_allowed_by)
        ret->dry_run = POLICY_DRY_RUN_ALLOWED;
    else if (t->dry_allow_exists && !t->allow_exists)
        ret->dry_run = POLICY_DRY_RUN_UNMATCHED;
    if (matched)
        snprintf(ret->dry_run_policy, sizeof(ret->dry_run_policy), "%s", matched->key);
}

static void conclude(const struct state *state, const struct tally *t, struct policy_verdict *ret)
{
    char text[sizeof(ret->text)];

    *ret = (struct policy_verdict){.allowed = true};
    conclude_dry_run(t, ret);
    if (t->denied_by) {
        snprintf(text, sizeof(text), "denied by policy %.200s", t->denied_by->key);
        deny(ret, t->denied_by->key, text);
        return;
    }
    ret->unknown = t->unknown != NULL;
    if (t->unknown && __atomic_load_n(&state->unknown_policy_denies, __ATOMIC_RELAXED)) {
        snprintf(text, sizeof(text), "policy %.200s is not known yet", t->unknown);
        deny(ret, t->unknown, text);
    } else if (t->allow_exists && !t->allowed) {
        deny(ret, "", "ALLOW policies exist, none matched");
    }
}

static void weigh_all(const struct state *state, const struct workload *local, struct tally *t,
                      const struct subject *s)
{
    const struct workload_full *w = workload_full(local);

    weigh_list(t, find_policies(state, ""), s);
    if (*local->namespace)
        weigh_list(t, find_policies(state, local->namespace), s);
    for (size_t i = 0; i < w->policies_len; i++) {
        const struct policy *p = find_policy(state, w->policies[i]);

        if (p)
            weigh(t, p, s);
        else
            t->unknown = w->policies[i];
    }
}

void policy_check(const struct state *state, const struct workload *local,
                  const struct policy_request *request, struct policy_verdict *ret)
{
    struct tally tally = {};
    struct subject subject;

    describe(&subject, request, state->trust_domains, local->trust_domain);
    weigh_all(state, local, &tally, &subject);
    conclude(state, &tally, ret);
}

static void answer(struct policy_anyone *ret, enum policy_answer answer, const char *policy)
{
    ret->answer = answer;
    snprintf(ret->policy, sizeof(ret->policy), "%s", policy);
}

/* A policy that has not arrived may deny, and is waited for. So it counts for more than all that would let
 * through, and for less than what refuses in any case. */
void policy_check_anyone(const struct state *state, const struct workload *local, struct policy_anyone *ret)
{
    const struct subject subject = {.principal = ""};
    struct tally t = {};

    weigh_all(state, local, &t, &subject);
    if (t.dry_run)
        answer(ret, POLICY_ANSWER_DRY_RUN, t.dry_run->key);
    else if (t.denied_by)
        answer(ret, POLICY_ANSWER_DENIED, t.denied_by->key);
    else if (t.unknown)
        answer(ret, POLICY_ANSWER_MISSING, t.unknown);
    else if (t.deny_depends)
        answer(ret, POLICY_ANSWER_DEPENDS, t.deny_depends->key);
    else if (!t.allow_exists || t.allowed)
        answer(ret, POLICY_ANSWER_ALLOWED, "");
    else if (t.allow_depends)
        answer(ret, POLICY_ANSWER_DEPENDS, t.allow_depends->key);
    else
        answer(ret, POLICY_ANSWER_DENIED, "");
}

static uint64_t list_inputs(const struct policy_list *list, uint64_t hash)
{
    for (size_t i = 0; list && i < list->len; i++)
        hash = hash_pair(hash, list->items[i]->sequence);
    return hash_pair(hash, list ? list->len : 0);
}

uint64_t policy_inputs(const struct state *state, const struct workload *local)
{
    const struct workload_full *w = workload_full(local);
    uint64_t hash = list_inputs(find_policies(state, ""), hash_text(local->namespace));

    if (*local->namespace)
        hash = list_inputs(find_policies(state, local->namespace), hash);
    for (size_t i = 0; i < w->policies_len; i++) {
        const struct policy *p = find_policy(state, w->policies[i]);

        hash = hash_pair(hash, p ? p->sequence : 0);
    }
    return hash;
}
