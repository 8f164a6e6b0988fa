/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "lib/addr.h"

static struct addr addr(const char *text)
{
    struct addr a;

    cr_assert(addr_parse(text, &a) == 0, "%s", text);
    return a;
}

Test(addr, parses_and_formats_both_families)
{
    static const char *const texts[] = {"10.1.2.3", "0.0.0.0", "255.255.255.255",
                                        "fd00::1",  "::1",     "2001:db8::ff00:42"};
    char buf[ADDR_TEXT_LEN];

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct addr a = addr(texts[i]);

        cr_expect(strcmp(addr_format(&a, buf), texts[i]) == 0);
    }
}

Test(addr, mapped_form_is_ipv4)
{
    struct addr mapped = addr("::ffff:10.1.2.3"), plain = addr("10.1.2.3");

    cr_expect(addr_equal(&mapped, &plain));
    cr_expect(addr_is_v4(&mapped));
}

Test(addr, refuses_what_is_no_address)
{
    static const char *const texts[] = {"",     "10.1.2", "10.1.2.3.4", "10.1.2.256",
                                        "host", "::g",    "10.1.2.3 ",  "[::1]"};
    struct addr a;

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        cr_expect(addr_parse(texts[i], &a) == -EINVAL, "%s", texts[i]);
    cr_expect(addr_from_bytes((const uint8_t *)"12345", 5, &a) == -EINVAL);
    cr_expect(addr_from_bytes((const uint8_t *)"", 0, &a) == -EINVAL);
}

Test(addr, loopback_of_both_families)
{
    struct addr a = addr("127.9.9.9"), b = addr("::1"), c = addr("128.0.0.1"), d = addr("::2");

    cr_expect(addr_is_loopback(&a) && addr_is_loopback(&b));
    cr_expect(!addr_is_loopback(&c) && !addr_is_loopback(&d));
}

Test(cidr, holds_only_its_own_family)
{
    struct cidr all4, all6, net, odd;
    struct addr v4 = addr("10.1.2.3"), v6 = addr("fd00::1");
    char buf[64];

    cr_assert(cidr_parse("0.0.0.0/0", &all4) == 0);
    cr_assert(cidr_parse("::/0", &all6) == 0);
    cr_assert(cidr_parse("10.1.0.0/16", &net) == 0);
    cr_assert(cidr_parse("10.1.2.200/25", &odd) == 0);
    cr_expect(cidr_contains(&all4, &v4) && !cidr_contains(&all4, &v6));
    cr_expect(cidr_contains(&all6, &v6) && !cidr_contains(&all6, &v4));
    cr_expect(cidr_contains(&net, &v4));
    cr_expect(!cidr_contains(&odd, &v4));
    cr_expect(strcmp(cidr_format(&odd, buf, sizeof(buf)), "10.1.2.128/25") == 0);
}

Test(cidr, refuses_bad_lengths)
{
    static const char *const texts[] = {"10.0.0.0/33", "fd00::/129",  "10.0.0.0/",   "10.0.0.0/x",
                                        "/8",          "10.0.0.0/-1", "10.0.0.0/8/8"};
    struct cidr c;

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        cr_expect(cidr_parse(texts[i], &c) == -EINVAL, "%s", texts[i]);
}

Test(endpoint, parses_and_formats_both_families)
{
    static const char *const texts[] = {"10.1.2.3:80", "[fd00::1]:65535", "127.0.0.1:0"};
    char buf[ENDPOINT_TEXT_LEN];
    struct endpoint e;

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        cr_assert(endpoint_parse(texts[i], &e) == 0, "%s", texts[i]);
        cr_expect(strcmp(endpoint_format(&e, buf), texts[i]) == 0);
    }
}

Test(endpoint, refuses_what_is_no_endpoint)
{
    static const char *const texts[] = {
        "",           ":80",       "10.1.2.3",    "10.1.2.3:",     "10.1.2.3:65536", "10.1.2.3:99999999999",
        "fd00::1:80", "[fd00::1]", "[fd00::1]80", "[10.1.2.3]:80", "10.1.2.3:8x",    "[]:80",
        "[:80"};
    struct endpoint e;

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        cr_expect(endpoint_parse(texts[i], &e) == -EINVAL, "%s", texts[i]);
}

Test(endpoint, survives_the_way_through_a_sockaddr)
{
    struct sockaddr_storage sa;
    struct endpoint e, back;

    cr_assert(endpoint_parse("10.1.2.3:80", &e) == 0);
    cr_expect(endpoint_to_sockaddr(&e, AF_INET6, &sa) == sizeof(struct sockaddr_in6));
    cr_expect(endpoint_from_sockaddr((struct sockaddr *)&sa, &back) == 0);
    cr_expect(endpoint_equal(&e, &back));
    cr_expect(endpoint_to_sockaddr(&e, AF_UNSPEC, &sa) == sizeof(struct sockaddr_in));
    cr_assert(endpoint_parse("[fd00::1]:80", &e) == 0);
    cr_expect(endpoint_to_sockaddr(&e, AF_INET, &sa) == -EAFNOSUPPORT);
}

static struct addr parsed(const char *text)
{
    struct addr a;

    cr_assert(addr_parse(text, &a) == 0, "%s", text);
    return a;
}

Test(addr, list_is_bounded_and_knows_both_families)
{
    struct addr list[3], a = parsed("10.0.0.1"), b = parsed("10.0.0.2"), c = parsed("10.0.0.3"),
                         d = parsed("10.0.0.4"), six = parsed("fd00::1"), more = parsed("fd00::2");
    int len = 0;

    cr_expect(addr_list_add(list, &len, 3, &a) == 1 && addr_list_add(list, &len, 3, &b) == 1);
    cr_expect(addr_list_add(list, &len, 3, &a) == 0 && len == 2);
    cr_expect(addr_list_add(list, &len, 3, &c) == 1 && addr_list_add(list, &len, 3, &d) == -E2BIG &&
              len == 3);
    cr_expect(addr_list_add(list, &len, 3, &six) == 1 && len == 3);
    cr_expect(addr_equal(&list[0], &a) && addr_equal(&list[1], &b) && addr_equal(&list[2], &six));
    cr_expect(addr_list_add(list, &len, 3, &more) == -E2BIG && addr_list_add(list, &len, 3, &six) == 0);
}
