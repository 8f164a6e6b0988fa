/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/route/authority.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>

static int parse(const char *text, struct authority *ret)
{
    return authority_parse(text, strlen(text), ret);
}

Test(authority, addresses)
{
    struct authority a;
    struct addr addr;

    cr_assert(parse("10.9.0.9:8080", &a) == 0);
    addr_parse("10.9.0.9", &addr);
    cr_expect(a.is_address && a.port == 8080 && addr_equal(&a.addr, &addr));
    cr_assert(parse("[fd00::9]:1", &a) == 0);
    addr_parse("fd00::9", &addr);
    cr_expect(a.is_address && a.port == 1 && addr_equal(&a.addr, &addr));
    cr_assert(parse("1.2.3.4:65535", &a) == 0);
    cr_expect(a.port == 65535);
}

Test(authority, hostnames)
{
    struct authority a;

    cr_assert(parse("Cart.shop.svc:0080", &a) == 0);
    cr_expect(!a.is_address && a.port == 80 && !strcmp(a.host, "cart.shop.svc"), "%s", a.host);
    cr_assert(parse(":8080", &a) == 0, "an empty host is a hostname that nobody has");
    cr_expect(!a.is_address && !*a.host && a.port == 8080);
    cr_assert(parse("10.0.0.01:80", &a) == 0);
    cr_expect(!a.is_address);
}

Test(authority, refused)
{
    static const char *const bad[] = {
        "",
        "10.0.0.1",
        "10.0.0.1:",
        "10.0.0.1:99999",
        "10.0.0.1:65536",
        "name",
        "10.0.0.1:0",
        "10.0.0.1:+80",
        "10.0.0.1: 80",
        "10.0.0.1:80 ",
        "a b:80",
        "fd00::1:80",
        "[fd00::1]",
        "[fd00::1]80",
        "[fd00::1:80",
        "[]:80",
        "[10.0.0.1]:80",
        "[fd00::1%1]:80",
        "[::ffff:1.2.3.4]:80",
        "user@host:80",
        "host/x:80",
        "[::ffff:102:304]:80",
        ":",
        "[cart]:80",
        "h\\:80",
    };
    struct authority a = {.port = 7};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_expect(parse(bad[i], &a) == -EINVAL && a.port == 7, "%s", bad[i]);
    cr_expect(authority_parse("h\0x:80", 6, &a) == -EINVAL);
    cr_expect(authority_parse("10.0.0.1\0:80", 12, &a) == -EINVAL);
    cr_expect(authority_parse(NULL, 0, &a) == -EINVAL);
}

Test(authority, length)
{
    char text[400];
    struct authority a;

    memset(text, 'a', sizeof(text));
    memcpy(text + 255, ":80", 4);
    cr_expect(parse(text, &a) == 0 && strlen(a.host) == 255);
    memset(text, 'a', sizeof(text));
    memcpy(text + 256, ":80", 4);
    cr_expect(parse(text, &a) == -EINVAL);
    memset(text, '9', sizeof(text));
    memcpy(text, "host:", 5);
    cr_expect(authority_parse(text, sizeof(text), &a) == -EINVAL);
}
