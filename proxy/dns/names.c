/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/dns/names.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/state/rcu.h"
#include "proxy/state/state_store.h"

/* ---- which of several services ---- */

struct name_choice {
    const struct names_asker *asker;
    const struct service_full *best;
    int best_score;
    struct names_passed_over *passed_over;
};

static bool has_address(const struct service_full *s)
{
    for (uint32_t i = 0; i < s->addresses_len; i++) {
        if (s->addresses[i].cidr.length == 128)
            return true;
    }
    return false;
}

static bool ends_with(const char *text, const char *end)
{
    size_t len = strlen(text), end_len = strlen(end);

    return len >= end_len && !strcmp(text + len - end_len, end);
}

/* A service of Kubernetes without an address is headless. Another one has nothing to say. */
static bool is_headless(const struct names_asker *asker, const struct service_full *s)
{
    char end[NAME_LEN];

    return !has_address(s) && snprintf(end, sizeof(end), ".svc.%s", asker->domain) < (int)sizeof(end) &&
           ends_with(s->public.hostname, end);
}

static bool consider(void *data, const struct service_full *s)
{
    struct name_choice *c = data;
    bool same = !strcmp(c->asker->namespace, s->public.namespace);
    int score = (same ? 4 : 0) + (s->canonical ? 2 : 0) +
                (!strcmp(c->asker->preferred_namespace, s->public.namespace) ? 1 : 0);

    bool hidden = s->namespace_only && !same;

    if (hidden || (!has_address(s) && !is_headless(c->asker, s))) {
        if (!c->passed_over->service)
            *c->passed_over = (struct names_passed_over){.service = &s->public, .hidden = hidden};
        return false;
    }
    if (!c->best || score > c->best_score || (score == c->best_score && s->serial < c->best->serial)) {
        c->best = s;
        c->best_score = score;
    }
    return false;
}

/* The name itself, then *.REST of it, without one label more each time. */
static const struct service_full *search(const struct state *state, const struct names_asker *asker,
                                         const char *name, bool *ret_wildcard,
                                         struct names_passed_over *passed_over)
{
    struct name_choice choice = {.asker = asker, .passed_over = passed_over};
    char wildcard[NAME_LEN + 2];
    const char *rest = name;

    each_service_by_hostname(state, name, consider, &choice);
    *ret_wildcard = !choice.best;
    while (!choice.best && (rest = strchr(rest, '.'))) {
        snprintf(wildcard, sizeof(wildcard), "*%s", rest);
        rest++;
        each_service_by_hostname(state, wildcard, consider, &choice);
    }
    return choice.best;
}

/* ---- forms of a name ---- */

struct candidate {
    const struct state *state;
    const struct names_asker *asker;
    struct names_found *found;
    struct names_passed_over *passed_over;
};

static bool try_name(const struct candidate *c, const char *name, enum names_form form)
{
    const struct service_full *s = search(c->state, c->asker, name, &c->found->wildcard, c->passed_over);

    if (!s)
        return false;
    c->found->service = &s->public;
    c->found->form = form;
    return true;
}

/* name.MIDDLE.DOMAIN, if that is a name. */
static bool try_longer(const struct candidate *c, const char *name, const char *middle, enum names_form form)
{
    char longer[NAME_LEN];
    int n = snprintf(longer, sizeof(longer), "%s.%s%s%s", name, middle, *middle ? "." : "", c->asker->domain);

    return n < (int)sizeof(longer) && try_name(c, longer, form);
}

static unsigned labels(const char *name)
{
    unsigned n = 1;

    for (; *name; name++)
        n += *name == '.';
    return n;
}

static bool try_expansions(const struct candidate *c, const char *name, enum names_form form)
{
    char own[NAME_LEN];
    unsigned n = labels(name);
    bool in_svc = ends_with(name, ".svc");

    snprintf(own, sizeof(own), "%s.svc", c->asker->namespace);
    switch (n) {
    case 1:
        return try_longer(c, name, own, form);
    case 2:
        return try_longer(c, name, "svc", form) || try_longer(c, name, own, form);
    case 3:
        return (in_svc && try_longer(c, name, "", form)) || try_longer(c, name, "svc", form);
    case 4:
        return in_svc && try_longer(c, name, "", form);
    default:
        return false;
    }
}

static bool try_search_domain(const struct candidate *c, const char *name, const char *domain)
{
    size_t len = strlen(name), end = strlen(domain);
    char *stripped = c->found->stripped;

    if (len <= end + 1 || name[len - end - 1] != '.' || strcmp(name + len - end, domain) != 0)
        return false;
    snprintf(stripped, NAME_LEN, "%.*s", (int)(len - end - 1), name);
    return try_name(c, stripped, NAMES_SEARCHED) || try_expansions(c, stripped, NAMES_SEARCHED);
}

static bool try_all(const struct candidate *c, const char *name)
{
    char domain[2 * NAME_LEN];
    bool found = try_name(c, name, NAMES_ASKED) || try_expansions(c, name, NAMES_EXPANDED);

    for (const char *const *s = c->asker->search; s && *s && !found; s++)
        found = try_search_domain(c, name, *s);
    if (c->asker->search)
        return found;
    snprintf(domain, sizeof(domain), "%s.svc.%s", c->asker->namespace, c->asker->domain);
    found = found || try_search_domain(c, name, domain);
    snprintf(domain, sizeof(domain), "svc.%s", c->asker->domain);
    return found || try_search_domain(c, name, domain) || try_search_domain(c, name, c->asker->domain);
}

/* ---- addresses ---- */

/* Is there room for one more? ret_addresses is made as large as it can get. */
static int collect(const struct names_asker *asker, const struct service_full *s, bool v6,
                   struct names_found *ret)
{
    const struct endpoints *e = has_address(s) ? NULL : rcu_read(s->node->endpoints);
    size_t most = e ? e->len : s->addresses_len;
    bool elsewhere = false;

    ret->addresses = calloc(most ? most : 1, sizeof(*ret->addresses));
    if (!ret->addresses)
        return -ENOMEM;
    for (uint32_t i = 0; !e && i < s->addresses_len; i++) {
        const struct service_address *a = &s->addresses[i];

        if (a->cidr.length != 128 || addr_is_v4(&a->cidr.addr) == v6)
            continue;
        if (!strcmp(a->network, asker->network))
            ret->addresses[ret->addresses_len++] = a->cidr.addr;
        else
            elsewhere = true;
    }
    /* An endpoint in another network cannot be reached by its address. */
    for (uint32_t i = 0; e && i < e->len; i++) {
        const struct workload_full *w = workload_of_service(e->items[i]);

        bool here = !strcmp(w->public.network, asker->network);

        for (size_t k = 0; k < w->addresses_len; k++) {
            if (addr_is_v4(&w->addresses[k].addr) == v6)
                continue;
            if (here)
                ret->addresses[ret->addresses_len++] = w->addresses[k].addr;
            elsewhere = elsewhere || !here;
            break;
        }
    }
    if (!ret->addresses_len)
        ret->empty = elsewhere ? NAMES_OTHER_NETWORK : NAMES_NO_ADDRESSES;
    return 0;
}

int names_explain(const struct state *state, const struct names_asker *asker, const char *name, bool ipv6,
                  struct names_found *ret, struct names_passed_over *ret_passed_over)
{
    struct names_found found = {};
    const struct candidate candidate = {
        .state = state, .asker = asker, .found = &found, .passed_over = ret_passed_over};
    const struct service_full *s;
    int r = 0;

    *ret_passed_over = (struct names_passed_over){};
    if (!try_all(&candidate, name))
        return 0;
    s = service_full(found.service);
    if (ipv6 && !asker->ipv6)
        found.empty = NAMES_IPV6_OFF;
    else if (s->families == (ipv6 ? FAMILIES_IPV4 : FAMILIES_IPV6))
        found.empty = NAMES_OTHER_FAMILY;
    else
        r = collect(asker, s, ipv6, &found);
    if (r < 0)
        return r;
    *ret = found;
    return 1;
}

int names_find(const struct state *state, const struct names_asker *asker, const char *name, bool ipv6,
               struct names_found *ret)
{
    struct names_passed_over passed_over;

    return names_explain(state, asker, name, ipv6, ret, &passed_over);
}

void names_release(struct names_found *found)
{
    free(found->addresses);
    found->addresses = NULL;
    found->addresses_len = 0;
}
