/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/enroll/exclusion_rules.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/log.h"

#define V4_BITS  96 /* of a mapped address, before the IPv4 one */
#define LIST_MAX 256

/* ---- values ---- */

/* What an annotation says. all: "*"; given: it is there, and can be used. */
struct value {
    bool given, all;
    struct cidr ranges[LIST_MAX];
    uint16_t ports[LIST_MAX];
    size_t len;
};

struct values {
    struct value of[EXCLUSION_ANNOTATIONS];
};

static bool is_range_list(enum exclusion_annotation a)
{
    return a == EXCLUDE_OUTBOUND_RANGES || a == INCLUDE_OUTBOUND_RANGES;
}

static int parse_port(const char *text, uint16_t *ret)
{
    char *end;
    unsigned long port = strtoul(text, &end, 10);

    if (*text < '0' || *text > '9' || *end || port < 1 || port > UINT16_MAX)
        return -EINVAL;
    *ret = (uint16_t)port;
    return 0;
}

static int take_item(enum exclusion_annotation a, const char *item, struct value *v)
{
    int r = v->len == LIST_MAX ? -E2BIG : 0;

    if (r == 0)
        r = is_range_list(a) ? cidr_parse(item, &v->ranges[v->len]) : parse_port(item, &v->ports[v->len]);
    if (r == 0)
        v->len++;
    return r;
}

static void say_wrong(char *wrong, size_t size, const char *key, const char *item, int r)
{
    char shown[120];

    if (*wrong)
        return;
    if (r == -E2BIG)
        snprintf(wrong, size, "%s: more than %d entries", key, LIST_MAX);
    else
        snprintf(wrong, size, "%s: %s cannot be used", key, log_quote(shown, sizeof(shown), item));
}

/* "*" is for those that include: everything, as without them, but for ports of destinations, which are
 * included beside ranges. */
static int parse_value(enum exclusion_annotation a, const char *text, struct value *v, char *wrong,
                       size_t wrong_size)
{
    _cleanup_free_ char *copy = strdup(text);
    char *rest = copy, *item;

    if (!copy)
        return -ENOMEM;
    while ((item = strsep(&rest, ","))) {
        int r = 0;

        item += strspn(item, " ");
        item[strcspn(item, " ")] = '\0';
        if (!*item)
            continue;
        if (!strcmp(item, "*") && (a == INCLUDE_OUTBOUND_RANGES || a == INCLUDE_INBOUND_PORTS))
            v->all = true;
        else
            r = take_item(a, item, v);
        if (r < 0) {
            say_wrong(wrong, wrong_size, exclusion_annotation_key(a), item, r);
            return 0;
        }
    }
    v->given = true;
    return 0;
}

/* ---- tables ---- */

static bool covers(const struct cidr *a, const struct cidr *b)
{
    return a->length <= b->length && cidr_contains(a, &b->addr);
}

static void add_range(struct steer_exclusions *e, const struct cidr *cidr, enum bruma_exclusion exclusion)
{
    for (size_t i = 0; i < e->ranges_len; i++) {
        if (e->ranges[i].cidr.length == cidr->length && addr_equal(&e->ranges[i].cidr.addr, &cidr->addr))
            return; /* who came first */
    }
    if (e->ranges_len < STEER_EXCLUSIONS_MAX)
        e->ranges[e->ranges_len++] = (struct steer_range){*cidr, exclusion};
}

/*
 * Excluded ranges first, since the longest prefix decides: an included one inside an excluded one must not be
 * there. The roots of both families come last, and the one of IPv4 in any case: its addresses are a part of
 * what short IPv6 prefixes have.
 */
static void make_ranges(const struct values *values, struct steer_exclusions *e)
{
    const struct value *exclude = &values->of[EXCLUDE_OUTBOUND_RANGES],
                       *include = &values->of[INCLUDE_OUTBOUND_RANGES];
    bool alone = include->given && !include->all;
    enum bruma_exclusion others = alone ? BRUMA_NOT_INCLUDED : BRUMA_INCLUDED;
    struct cidr all6 = {.length = 0}, all4 = {.length = V4_BITS};

    (void)cidr_parse("0.0.0.0/0", &all4);
    if (!alone && !(exclude->given && exclude->len))
        return;
    for (size_t i = 0; exclude->given && i < exclude->len; i++)
        add_range(e, &exclude->ranges[i], BRUMA_EXCLUDED);
    for (size_t i = 0; alone && i < include->len; i++) {
        bool excluded = false;

        for (size_t k = 0; exclude->given && k < exclude->len; k++)
            excluded = excluded || covers(&exclude->ranges[k], &include->ranges[i]);
        if (!excluded)
            add_range(e, &include->ranges[i], BRUMA_INCLUDED);
    }
    add_range(e, &all4, others);
    add_range(e, &all6, others);
}

static void add_port(struct steer_exclusions *e, uint16_t port, bool inbound, enum bruma_exclusion exclusion)
{
    for (size_t i = 0; i < e->ports_len; i++) {
        if (e->ports[i].port == port && e->ports[i].inbound == inbound)
            return; /* who came first */
    }
    if (e->ports_len < STEER_EXCLUSIONS_MAX)
        e->ports[e->ports_len++] = (struct steer_port){port, inbound, exclusion};
}

static void add_ports(struct steer_exclusions *e, const struct value *v, bool inbound,
                      enum bruma_exclusion exclusion)
{
    for (size_t i = 0; v->given && i < v->len; i++)
        add_port(e, v->ports[i], inbound, exclusion);
}

/* Inbound, a list of what is included leaves nothing to exclude. */
static void make_ports(const struct values *values, struct steer_exclusions *e)
{
    const struct value *include = &values->of[INCLUDE_INBOUND_PORTS];

    add_ports(e, &values->of[EXCLUDE_OUTBOUND_PORTS], false, BRUMA_EXCLUDED);
    if (e->ranges_len)
        add_ports(e, &values->of[INCLUDE_OUTBOUND_PORTS], false, BRUMA_INCLUDED);
    if (include->given && !include->all) {
        add_ports(e, include, true, BRUMA_INCLUDED);
        add_port(e, 0, true, BRUMA_EXCLUDED);
    } else {
        add_ports(e, &values->of[EXCLUDE_INBOUND_PORTS], true, BRUMA_EXCLUDED);
    }
}

int exclusion_rules_parse(const char *const texts[EXCLUSION_ANNOTATIONS], struct steer_exclusions **ret,
                          char *wrong, size_t wrong_size)
{
    _cleanup_free_ struct steer_exclusions *e = NULL;
    _cleanup_free_ struct values *values = NULL;
    bool any = false;

    wrong[0] = '\0';
    for (int i = 0; i < EXCLUSION_ANNOTATIONS; i++)
        any = any || texts[i];
    if (!any) {
        *ret = NULL;
        return 0;
    }
    values = calloc(1, sizeof(*values));
    e = calloc(1, sizeof(*e));
    if (!values || !e)
        return -ENOMEM;
    for (int i = 0; i < EXCLUSION_ANNOTATIONS; i++) {
        int r = texts[i]
                    ? parse_value((enum exclusion_annotation)i, texts[i], &values->of[i], wrong, wrong_size)
                    : 0;

        if (r < 0)
            return r;
    }
    make_ranges(values, e);
    make_ports(values, e);
    *ret = e->ranges_len || e->ports_len ? take_pointer(e) : NULL;
    return 0;
}

bool exclusion_rules_equal(const struct steer_exclusions *a, const struct steer_exclusions *b)
{
    if (!a || !b)
        return a == b;
    if (a->ranges_len != b->ranges_len || a->ports_len != b->ports_len)
        return false;
    for (size_t i = 0; i < a->ranges_len; i++) {
        if (a->ranges[i].exclusion != b->ranges[i].exclusion ||
            a->ranges[i].cidr.length != b->ranges[i].cidr.length ||
            !addr_equal(&a->ranges[i].cidr.addr, &b->ranges[i].cidr.addr))
            return false;
    }
    for (size_t i = 0; i < a->ports_len; i++) {
        if (a->ports[i].port != b->ports[i].port || a->ports[i].inbound != b->ports[i].inbound ||
            a->ports[i].exclusion != b->ports[i].exclusion)
            return false;
    }
    return true;
}
