/* SPDX-License-Identifier: Apache-2.0 */
/* What annotations exclude from capture: their values, and that the table decides as istio-iptables' rules
 * would, one after another. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/enroll/exclusion_rules.h"
#include "lib/cleanup.h"

static char wrong[256];

static struct steer_exclusions *parse(const char *const texts[EXCLUSION_ANNOTATIONS])
{
    struct steer_exclusions *e = NULL;

    cr_assert(exclusion_rules_parse(texts, &e, wrong, sizeof(wrong)) == 0);
    return e;
}

/* ---- as the programs decide: bpf/exclusions.h ---- */

static enum bruma_exclusion of_range(const struct steer_exclusions *e, const struct addr *to)
{
    enum bruma_exclusion found = BRUMA_EXCLUSION_NONE;
    int best = -1;

    for (size_t i = 0; i < e->ranges_len; i++) {
        const struct cidr *c = &e->ranges[i].cidr;
        bool matches = true;

        /* bits, whatever the family, as the trie has them */
        for (int bit = 0; bit < c->length; bit++)
            matches = matches && ((c->addr.bytes[bit / 8] ^ to->bytes[bit / 8]) & 0x80 >> bit % 8) == 0;
        if (matches && c->length > best) {
            best = c->length;
            found = e->ranges[i].exclusion;
        }
    }
    return found;
}

static enum bruma_exclusion of_port(const struct steer_exclusions *e, uint16_t port, bool inbound)
{
    for (size_t i = 0; i < e->ports_len; i++) {
        if (e->ports[i].port == port && e->ports[i].inbound == inbound)
            return e->ports[i].exclusion;
    }
    return BRUMA_EXCLUSION_NONE;
}

static bool captured_out(const struct steer_exclusions *e, const struct endpoint *to)
{
    return !e || bruma_outbound_decide(of_range(e, &to->addr), of_port(e, to->port, false), 1, 0) !=
                     BRUMA_OUTBOUND_EXCLUDED;
}

static bool captured_in(const struct steer_exclusions *e, uint16_t port)
{
    enum bruma_exclusion exclusion = e ? of_port(e, port, true) : BRUMA_EXCLUSION_NONE;

    if (e && exclusion == BRUMA_EXCLUSION_NONE)
        exclusion = of_port(e, 0, true);
    return exclusion != BRUMA_EXCLUDED;
}

static bool out(const struct steer_exclusions *e, const char *to)
{
    struct endpoint endpoint;

    cr_assert(endpoint_parse(to, &endpoint) == 0);
    return captured_out(e, &endpoint);
}

/* ---- values ---- */

Test(exclusion_rules, nothing_is_excluded)
{
    static const char *const cases[][EXCLUSION_ANNOTATIONS] = {
        {NULL},
        {[EXCLUDE_OUTBOUND_RANGES] = ""},
        {[EXCLUDE_OUTBOUND_PORTS] = " , "},
        {[INCLUDE_OUTBOUND_RANGES] = "*", [INCLUDE_INBOUND_PORTS] = "*"},
        {[INCLUDE_OUTBOUND_PORTS] = "80"},
    };

    for (size_t i = 0; i < array_size(cases); i++)
        cr_expect(parse(cases[i]) == NULL && !*wrong, "case %zu: %s", i, wrong);
}

Test(exclusion_rules, of_destinations)
{
    const char *texts[EXCLUSION_ANNOTATIONS] = {[EXCLUDE_OUTBOUND_RANGES] =
                                                    "10.0.0.0/8, 192.0.2.7/32,fd00::/8",
                                                [EXCLUDE_OUTBOUND_PORTS] = "3306,5432"};
    _cleanup_free_ struct steer_exclusions *e = parse(texts);

    cr_assert(e && !*wrong);
    cr_expect(!out(e, "10.1.2.3:80") && !out(e, "192.0.2.7:80") && !out(e, "[fd12::1]:80"));
    cr_expect(out(e, "11.1.2.3:80") && out(e, "192.0.2.8:80") && out(e, "[2001:db8::1]:80"));
    cr_expect(!out(e, "11.1.2.3:3306") && !out(e, "[2001:db8::1]:5432"));
}

Test(exclusion_rules, only_some_destinations)
{
    const char *texts[EXCLUSION_ANNOTATIONS] = {[INCLUDE_OUTBOUND_RANGES] = "10.0.0.0/8",
                                                [EXCLUDE_OUTBOUND_RANGES] = "10.1.0.0/16",
                                                [INCLUDE_OUTBOUND_PORTS] = "443"};
    _cleanup_free_ struct steer_exclusions *e = parse(texts);

    cr_assert(e && !*wrong);
    cr_expect(out(e, "10.2.0.1:80") && !out(e, "10.1.0.1:80") && !out(e, "192.0.2.1:80"));
    cr_expect(out(e, "192.0.2.1:443") && out(e, "[2001:db8::1]:443"), "whatever the address");
    cr_expect(!out(e, "10.1.0.1:443"), "what is excluded comes before");
    cr_expect(!out(e, "[2001:db8::1]:80"));
}

Test(exclusion_rules, no_destination_at_all)
{
    const char *texts[EXCLUSION_ANNOTATIONS] = {[INCLUDE_OUTBOUND_RANGES] = ""};
    _cleanup_free_ struct steer_exclusions *e = parse(texts);

    cr_expect(!out(e, "10.2.0.1:80") && !out(e, "[fd00::1]:80"));
}

/* ::/0 has all IPv4 addresses in the form in which they are kept. */
Test(exclusion_rules, the_whole_of_one_family)
{
    const char *six[EXCLUSION_ANNOTATIONS] = {[EXCLUDE_OUTBOUND_RANGES] = "::/0"};
    const char *four[EXCLUSION_ANNOTATIONS] = {[EXCLUDE_OUTBOUND_RANGES] = "0.0.0.0/0"};
    _cleanup_free_ struct steer_exclusions *e6 = parse(six), *e4 = parse(four);

    cr_expect(!out(e6, "[fd00::1]:80") && out(e6, "10.0.0.1:80"));
    cr_expect(out(e4, "[fd00::1]:80") && !out(e4, "10.0.0.1:80"));
}

Test(exclusion_rules, of_the_pods_own_ports)
{
    const char *exclude[EXCLUSION_ANNOTATIONS] = {[EXCLUDE_INBOUND_PORTS] = "9090, 22"};
    const char *include[EXCLUSION_ANNOTATIONS] = {
        [INCLUDE_INBOUND_PORTS] = "80,443", [EXCLUDE_INBOUND_PORTS] = "443"};
    const char *none[EXCLUSION_ANNOTATIONS] = {[INCLUDE_INBOUND_PORTS] = ""};
    _cleanup_free_ struct steer_exclusions *a = parse(exclude), *b = parse(include), *c = parse(none);

    cr_expect(!captured_in(a, 9090) && !captured_in(a, 22) && captured_in(a, 80));
    cr_expect(captured_in(b, 80) && !captured_in(b, 22));
    cr_expect(captured_in(b, 443), "a list of what is included leaves nothing to exclude");
    cr_expect(!captured_in(c, 80));
    cr_expect(out(a, "10.0.0.1:9090"), "they are the pod's, and not those of destinations");
}

/* All of a value counts or nothing of it: half of a list would exclude what nobody has thought of. */
Test(exclusion_rules, values_that_cannot_be_used)
{
    static const struct {
        enum exclusion_annotation annotation;
        const char *text;
    } cases[] = {
        {EXCLUDE_OUTBOUND_RANGES, "10.0.0.0/8,10.0.0.300/8"},
        {EXCLUDE_OUTBOUND_RANGES, "*"},
        {EXCLUDE_OUTBOUND_RANGES, "10.0.0.0/33"},
        {EXCLUDE_OUTBOUND_RANGES, "example.com"},
        {INCLUDE_OUTBOUND_RANGES, "10.0.0.0/8,x"},
        {EXCLUDE_OUTBOUND_PORTS, "80,http"},
        {EXCLUDE_OUTBOUND_PORTS, "0"},
        {EXCLUDE_OUTBOUND_PORTS, "65536"},
        {EXCLUDE_OUTBOUND_PORTS, "-1"},
        {EXCLUDE_OUTBOUND_PORTS, "+80"},
        {EXCLUDE_OUTBOUND_PORTS, "*"},
        {EXCLUDE_INBOUND_PORTS, "80-90"},
        {INCLUDE_INBOUND_PORTS, "80;90"},
    };

    for (size_t i = 0; i < array_size(cases); i++) {
        const char *texts[EXCLUSION_ANNOTATIONS] = {[EXCLUDE_OUTBOUND_PORTS] = "4444"};
        _cleanup_free_ struct steer_exclusions *e = NULL;

        texts[cases[i].annotation] = cases[i].text;
        e = parse(texts);
        cr_expect(strstr(wrong, exclusion_annotation_key(cases[i].annotation)) != NULL, "%s: \"%s\"",
                  cases[i].text, wrong);
        cr_expect(out(e, "10.0.0.1:80") && captured_in(e, 80) && captured_in(e, 22), "%s", cases[i].text);
        if (cases[i].annotation != EXCLUDE_OUTBOUND_PORTS)
            cr_expect(e && !out(e, "10.0.0.1:4444"), "the others count: %s", cases[i].text);
    }
}

Test(exclusion_rules, lists_that_are_too_long)
{
    const char *texts[EXCLUSION_ANNOTATIONS] = {NULL};
    _cleanup_free_ struct steer_exclusions *most = NULL, *more = NULL;
    char text[4000] = "";
    size_t len = 0;

    for (int i = 1; i <= 256; i++)
        len += (size_t)snprintf(text + len, sizeof(text) - len, "%d,", 1000 + i);
    texts[EXCLUDE_OUTBOUND_PORTS] = text;
    most = parse(texts);
    cr_expect(most && most->ports_len == 256 && !*wrong);
    snprintf(text + len, sizeof(text) - len, "999");
    more = parse(texts);
    cr_expect(!more && strstr(wrong, "more than 256"), "%s", wrong);
}

/* ---- any rules ---- */

struct list {
    bool given;
    struct cidr ranges[4];
    uint16_t ports[4];
    int len;
};

/* The rules of istio-iptables, in their order; "*" is what is included if nothing is. */
static bool in_ranges(const struct list *list, const struct addr *a)
{
    for (int i = 0; i < list->len; i++) {
        if (cidr_contains(&list->ranges[i], a))
            return true;
    }
    return false;
}

static bool in_ports(const struct list *list, uint16_t port)
{
    for (int i = 0; i < list->len; i++) {
        if (list->ports[i] == port)
            return true;
    }
    return false;
}

static bool expected_out(const struct list *lists, const struct endpoint *to)
{
    if (in_ports(&lists[EXCLUDE_OUTBOUND_PORTS], to->port) ||
        in_ranges(&lists[EXCLUDE_OUTBOUND_RANGES], &to->addr))
        return false;
    if (in_ports(&lists[INCLUDE_OUTBOUND_PORTS], to->port) || !lists[INCLUDE_OUTBOUND_RANGES].given)
        return true;
    return in_ranges(&lists[INCLUDE_OUTBOUND_RANGES], &to->addr);
}

static bool expected_in(const struct list *lists, uint16_t port)
{
    if (lists[INCLUDE_INBOUND_PORTS].given)
        return in_ports(&lists[INCLUDE_INBOUND_PORTS], port);
    return !in_ports(&lists[EXCLUDE_INBOUND_PORTS], port);
}

/* Few bits, so that ranges and addresses meet; short prefixes of both families too. */
static void random_addr(unsigned *seed, struct addr *ret)
{
    char text[64];

    if (rand_r(seed) % 2)
        snprintf(text, sizeof(text), "10.%d.0.%d", rand_r(seed) % 4, rand_r(seed) % 4);
    else
        snprintf(text, sizeof(text), "%s%d::%d", rand_r(seed) % 2 ? "fd0" : "", rand_r(seed) % 4,
                 rand_r(seed) % 4);
    cr_assert(addr_parse(text, ret) == 0, "%s", text);
}

static void random_list(unsigned *seed, bool ranges, struct list *list, char *text, size_t size)
{
    static const unsigned lengths4[] = {0, 8, 14, 15, 16, 30, 31, 32},
                          lengths6[] = {0, 1, 8, 15, 16, 96, 127, 128};
    size_t len = 0;

    *list = (struct list){.given = rand_r(seed) % 2};
    text[0] = '\0';
    if (!list->given)
        return;
    list->len = rand_r(seed) % 5;
    for (int i = 0; i < list->len; i++) {
        char one[ADDR_TEXT_LEN + 4];
        struct addr a;

        random_addr(seed, &a);
        list->ports[i] = (uint16_t)(1 + rand_r(seed) % 6);
        snprintf(one, sizeof(one), "%u", list->ports[i]);
        if (ranges) {
            unsigned length = (addr_is_v4(&a) ? lengths4 : lengths6)[rand_r(seed) % 8];

            cr_assert(cidr_make(&a, length, &list->ranges[i]) == 0);
            cidr_format(&list->ranges[i], one, sizeof(one));
        }
        len += (size_t)snprintf(text + len, size - len, "%s%s", i ? "," : "", one);
    }
}

Test(exclusion_rules, any_table_decides_as_the_rules_would)
{
    unsigned seed = 10;
    int excluded = 0, captured = 0;

    for (int round = 0; round < 3000; round++) {
        struct list lists[EXCLUSION_ANNOTATIONS];
        const char *texts[EXCLUSION_ANNOTATIONS] = {NULL};
        char text[EXCLUSION_ANNOTATIONS][300];
        _cleanup_free_ struct steer_exclusions *e = NULL;

        for (int i = 0; i < EXCLUSION_ANNOTATIONS; i++) {
            random_list(&seed, i == EXCLUDE_OUTBOUND_RANGES || i == INCLUDE_OUTBOUND_RANGES, &lists[i],
                        text[i], sizeof(text[i]));
            texts[i] = lists[i].given ? text[i] : NULL;
        }
        e = parse(texts);
        cr_assert(!*wrong, "%s", wrong);
        for (int i = 0; i < 40; i++) {
            struct endpoint to = {.port = (uint16_t)(1 + rand_r(&seed) % 7)};
            char shown[ENDPOINT_TEXT_LEN];
            bool wanted;

            random_addr(&seed, &to.addr);
            wanted = expected_out(lists, &to);
            cr_assert(captured_out(e, &to) == wanted,
                      "%s should %sbe captured: exclude %s, include %s, ports exclude %s, include %s",
                      endpoint_format(&to, shown), wanted ? "" : "not ", text[EXCLUDE_OUTBOUND_RANGES],
                      texts[INCLUDE_OUTBOUND_RANGES] ? text[INCLUDE_OUTBOUND_RANGES] : "*",
                      text[EXCLUDE_OUTBOUND_PORTS], text[INCLUDE_OUTBOUND_PORTS]);
            cr_assert(captured_in(e, to.port) == expected_in(lists, to.port), "port %u", to.port);
            excluded += !wanted;
            captured += wanted;
        }
    }
    cr_expect(excluded > 10000 && captured > 10000, "%d and %d: both are tried", excluded, captured);
}

/* ---- the decision itself ---- */

Test(exclusion_rules, registry_only_is_for_what_is_captured)
{
    for (int range = BRUMA_EXCLUSION_NONE; range <= BRUMA_INCLUDED; range++) {
        for (int port = BRUMA_EXCLUSION_NONE; port <= BRUMA_INCLUDED; port++) {
            enum bruma_outbound known = bruma_outbound_decide(range, port, 1, 1),
                                allowed = bruma_outbound_decide(range, port, 0, 0),
                                refused = bruma_outbound_decide(range, port, 0, 1);

            cr_expect(known == bruma_outbound_decide(range, port, 1, 0), "what is known asks for no policy");
            cr_expect((known == BRUMA_OUTBOUND_EXCLUDED) == (refused == BRUMA_OUTBOUND_EXCLUDED));
            cr_expect((known == BRUMA_OUTBOUND_EXCLUDED) == (allowed == BRUMA_OUTBOUND_EXCLUDED));
            if (known != BRUMA_OUTBOUND_EXCLUDED)
                cr_expect(known == BRUMA_OUTBOUND_MESH && allowed == BRUMA_OUTBOUND_OUTSIDE &&
                          refused == BRUMA_OUTBOUND_REFUSED);
        }
    }
}
