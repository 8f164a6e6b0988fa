/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "lib/spiffe.h"

Test(spiffe, parses_the_five_parts)
{
    const char *uri = "spiffe://cluster.local/ns/shop/sa/cart";
    struct spiffe s;

    cr_assert(spiffe_parse(uri, strlen(uri), &s) == 0);
    cr_expect(strncmp(s.trust_domain, "cluster.local", s.trust_domain_len) == 0);
    cr_expect(strncmp(s.namespace, "shop", s.namespace_len) == 0);
    cr_expect(strncmp(s.service_account, "cart", s.service_account_len) == 0);
    cr_expect(s.trust_domain_len == 13 && s.namespace_len == 4 && s.service_account_len == 4);
}

Test(spiffe, refuses_everything_else)
{
    static const char *const uris[] = {
        "",
        "spiffe://",
        "spiffe://td",
        "spiffe://td/ns/a/sa",
        "spiffe://td/ns/a/sa/",
        "spiffe://td/ns//sa/b",
        "spiffe:///ns/a/sa/b",
        "spiffe://td/ns/a/sa/b/c",
        "spiffe://td/sa/a/ns/b",
        "https://td/ns/a/sa/b",
        "SPIFFE://td/ns/a/sa/b",
        " spiffe://td/ns/a/sa/b",
    };
    struct spiffe s;

    for (size_t i = 0; i < sizeof(uris) / sizeof(uris[0]); i++)
        cr_expect(spiffe_parse(uris[i], strlen(uris[i]), &s) == -EINVAL, "%s", uris[i]);
    cr_expect(spiffe_parse("spiffe://td/ns/a\0b/sa/c", 23, &s) == -EINVAL, "NUL inside");
}

Test(spiffe, formats_or_says_that_it_does_not_fit)
{
    char buf[64];

    cr_expect(spiffe_format(buf, sizeof(buf), "td", "a", "b") == 21);
    cr_expect(strcmp(buf, "spiffe://td/ns/a/sa/b") == 0);
    cr_expect(spiffe_format(buf, 21, "td", "a", "b") == -ENAMETOOLONG);
}
