/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/trust_domains.h"

static bool same(const struct trust_domains *aliases, const char *a, const char *b)
{
    return trust_domains_same(aliases, "new.example", a, strlen(a), b, strlen(b));
}

Test(trust_domains, parse)
{
    struct trust_domains t = {};
    char many[TRUST_DOMAINS_MAX * 4 + 8] = "";

    cr_assert(trust_domains_parse("", &t) == 0 && t.len == 0);
    trust_domains_free(&t);
    cr_assert(trust_domains_parse(" old.example,older_1-x, ", &t) == 0 && t.len == 2);
    cr_expect_str_eq(t.names[0], "old.example");
    cr_expect_str_eq(t.names[1], "older_1-x");
    trust_domains_free(&t);
    trust_domains_free(&t);
    cr_expect(trust_domains_parse("a,b/ns", &t) == -EINVAL && trust_domains_parse("*", &t) == -EINVAL);
    cr_expect(t.len == 0, "not written");
    for (int i = 0; i <= TRUST_DOMAINS_MAX; i++)
        snprintf(many + strlen(many), sizeof(many) - strlen(many), "t%d,", i);
    cr_expect(trust_domains_parse(many, &t) == -EINVAL);
}

Test(trust_domains, same)
{
    struct trust_domains t = {};

    cr_assert(trust_domains_parse("old.example,older", &t) == 0);
    cr_expect(same(&t, "new.example", "old.example") && same(&t, "old.example", "new.example"));
    cr_expect(same(&t, "old.example", "older") && same(&t, "other", "other"));
    cr_expect(!same(&t, "other", "new.example") && !same(&t, "old.example", "other"));
    cr_expect(!same(&t, "old", "older") && !same(&t, "old.example.x", "old.example"), "whole names count");
    cr_expect(!same(NULL, "new.example", "old.example") && same(NULL, "a", "a"));
    trust_domains_free(&t);
    cr_expect(!same(&t, "new.example", "old.example"));
}

Test(trust_domains, identities)
{
    struct trust_domains t = {};
    const char *new = "spiffe://new.example/ns/a/sa/b";

    cr_assert(trust_domains_parse("old.example", &t) == 0);
    cr_expect(trust_domains_same_identity(&t, "new.example", new, "spiffe://old.example/ns/a/sa/b"));
    cr_expect(!trust_domains_same_identity(&t, "new.example", new, "spiffe://old.example/ns/a/sa/c"));
    cr_expect(!trust_domains_same_identity(&t, "new.example", new, "spiffe://old.example/ns/b/sa/b"));
    cr_expect(!trust_domains_same_identity(&t, "new.example", new, "spiffe://other/ns/a/sa/b"));
    cr_expect(!trust_domains_same_identity(&t, "new.example", new, "spiffe://old.example/ns/a/sa/b/x"));
    cr_expect(!trust_domains_same_identity(&t, "new.example", new, ""));
    cr_expect(!trust_domains_same_identity(NULL, "new.example", new, "spiffe://old.example/ns/a/sa/b"));
    cr_expect(trust_domains_same_identity(NULL, "", new, new));
    trust_domains_free(&t);
}
