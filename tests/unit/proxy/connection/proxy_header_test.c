/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <string.h>

#include "proxy/connection/proxy_header.h"

static const uint8_t signature[12] = {0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a};

static struct endpoint endpoint(const char *text)
{
    struct endpoint e;

    cr_assert(endpoint_parse(text, &e) == 0);
    return e;
}

Test(proxy_header, ipv4_with_identity)
{
    static const char identity[] = "spiffe://td/ns/a/sa/b";
    struct endpoint from = endpoint("10.1.2.3:4660"), to = endpoint("10.9.8.7:80");
    const uint8_t addresses[] = {10, 1, 2, 3, 10, 9, 8, 7, 0x12, 0x34, 0, 80};
    uint8_t buf[PROXY_HEADER_MAX];
    size_t n = proxy_header_format(&from, &to, identity, buf), rest = n - 16;

    cr_assert(n == 16 + 12 + 3 + strlen(identity));
    cr_expect(!memcmp(buf, signature, 12) && buf[12] == 0x21 && buf[13] == 0x11);
    cr_expect((size_t)(buf[14] << 8 | buf[15]) == rest);
    cr_expect(!memcmp(buf + 16, addresses, 12));
    cr_expect(buf[28] == 0xd0 && (size_t)(buf[29] << 8 | buf[30]) == strlen(identity));
    cr_expect(!memcmp(buf + 31, identity, strlen(identity)));
}

Test(proxy_header, ipv6_without_identity)
{
    struct endpoint from = endpoint("[fd00::1]:1"), to = endpoint("[fd00::2]:2");
    uint8_t buf[PROXY_HEADER_MAX];

    cr_assert(proxy_header_format(&from, &to, NULL, buf) == 16 + 36);
    cr_expect(buf[13] == 0x21 && buf[15] == 36);
    cr_expect(buf[16] == 0xfd && buf[31] == 1 && buf[47] == 2 && buf[49] == 1 && buf[51] == 2);
}

Test(proxy_header, families_that_differ_carry_no_addresses)
{
    struct endpoint from = endpoint("10.1.2.3:1"), to = endpoint("[fd00::2]:2");
    uint8_t buf[PROXY_HEADER_MAX];

    cr_assert(proxy_header_format(&from, &to, NULL, buf) == 16);
    cr_expect(buf[13] == 0x01 && buf[14] == 0 && buf[15] == 0);
}
