/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static const uint8_t mapped_prefix[12] = {[10] = 0xff, [11] = 0xff};

bool addr_is_none(const struct addr *a)
{
    static const struct addr none;

    return addr_equal(a, &none);
}

bool addr_is_v4(const struct addr *a)
{
    return !memcmp(a->bytes, mapped_prefix, sizeof(mapped_prefix));
}

bool addr_is_loopback(const struct addr *a)
{
    static const struct addr loopback6 = {.bytes = {[15] = 1}};

    return addr_is_v4(a) ? a->bytes[12] == 127 : addr_equal(a, &loopback6);
}

int addr_from_bytes(const uint8_t *bytes, size_t len, struct addr *ret)
{
    if (len == 4) {
        memcpy(ret->bytes, mapped_prefix, 12);
        memcpy(ret->bytes + 12, bytes, 4);
        return 0;
    }
    if (len != 16)
        return -EINVAL;
    memcpy(ret->bytes, bytes, 16);
    return 0;
}

size_t addr_to_bytes(const struct addr *a, uint8_t bytes[16])
{
    if (addr_is_v4(a)) {
        memcpy(bytes, a->bytes + 12, 4);
        return 4;
    }
    memcpy(bytes, a->bytes, 16);
    return 16;
}

int addr_parse(const char *text, struct addr *ret)
{
    uint8_t raw[16];

    if (inet_pton(AF_INET, text, raw) == 1)
        return addr_from_bytes(raw, 4, ret);
    if (inet_pton(AF_INET6, text, raw) == 1)
        return addr_from_bytes(raw, 16, ret);
    return -EINVAL;
}

const char *addr_format(const struct addr *a, char buf[ADDR_TEXT_LEN])
{
    if (addr_is_v4(a))
        inet_ntop(AF_INET, a->bytes + 12, buf, ADDR_TEXT_LEN);
    else
        inet_ntop(AF_INET6, a->bytes, buf, ADDR_TEXT_LEN);
    return buf;
}

int cidr_make(const struct addr *addr, unsigned length, struct cidr *ret)
{
    struct cidr c = {.addr = *addr};

    if (length > (addr_is_v4(addr) ? 32u : 128u))
        return -EINVAL;
    c.length = (uint8_t)(addr_is_v4(addr) ? length + 96 : length);
    for (unsigned bit = c.length; bit < 128; bit++)
        c.addr.bytes[bit / 8] &= (uint8_t) ~(0x80u >> (bit % 8));
    *ret = c;
    return 0;
}

/* Decimal number without sign or spaces, at most max. */
static int parse_number(const char *text, unsigned long max, unsigned long *ret)
{
    unsigned long n = 0;

    if (!*text || strlen(text) > 6)
        return -EINVAL;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return -EINVAL;
        n = n * 10 + (unsigned long)(*text - '0');
    }
    if (n > max)
        return -EINVAL;
    *ret = n;
    return 0;
}

int cidr_parse(const char *text, struct cidr *ret)
{
    const char *slash = strchr(text, '/');
    char host[ADDR_TEXT_LEN];
    struct addr addr;
    unsigned long length;

    if (!slash) {
        if (addr_parse(text, &addr) < 0)
            return -EINVAL;
        return cidr_make(&addr, addr_is_v4(&addr) ? 32 : 128, ret);
    }
    if ((size_t)(slash - text) >= sizeof(host))
        return -EINVAL;
    memcpy(host, text, (size_t)(slash - text));
    host[slash - text] = '\0';
    if (addr_parse(host, &addr) < 0 || parse_number(slash + 1, 128, &length) < 0)
        return -EINVAL;
    return cidr_make(&addr, (unsigned)length, ret);
}

bool cidr_contains(const struct cidr *c, const struct addr *a)
{
    unsigned whole = c->length / 8, rest = c->length % 8;
    bool v4 = addr_is_v4(&c->addr) && c->length >= 96;

    if (v4 != addr_is_v4(a))
        return false;
    if (memcmp(c->addr.bytes, a->bytes, whole) != 0)
        return false;
    return !rest || !((c->addr.bytes[whole] ^ a->bytes[whole]) >> (8 - rest));
}

const char *cidr_format(const struct cidr *c, char *buf, size_t size)
{
    char text[ADDR_TEXT_LEN];
    bool v4 = addr_is_v4(&c->addr) && c->length >= 96;

    snprintf(buf, size, "%s/%d", addr_format(&c->addr, text), v4 ? c->length - 96 : c->length);
    return buf;
}

int endpoint_parse(const char *text, struct endpoint *ret)
{
    const char *colon = strrchr(text, ':'), *begin = text;
    char host[ADDR_TEXT_LEN];
    struct endpoint e;
    unsigned long port;
    size_t len;

    if (!colon)
        return -EINVAL;
    len = (size_t)(colon - text);
    if (*text == '[') {
        if (len < 2 || text[len - 1] != ']')
            return -EINVAL;
        begin++;
        len -= 2;
    } else if (memchr(text, ':', len)) {
        return -EINVAL; /* IPv6 needs its brackets */
    }
    if (!len || len >= sizeof(host) || parse_number(colon + 1, 65535, &port) < 0)
        return -EINVAL;
    memcpy(host, begin, len);
    host[len] = '\0';
    if ((*text == '[') != !!strchr(host, ':') || addr_parse(host, &e.addr) < 0)
        return -EINVAL;
    e.port = (uint16_t)port;
    *ret = e;
    return 0;
}

const char *endpoint_format(const struct endpoint *e, char buf[ENDPOINT_TEXT_LEN])
{
    char text[ADDR_TEXT_LEN];

    addr_format(&e->addr, text);
    snprintf(buf, ENDPOINT_TEXT_LEN, addr_is_v4(&e->addr) ? "%s:%u" : "[%s]:%u", text, e->port);
    return buf;
}

int endpoint_from_sockaddr(const struct sockaddr *sa, struct endpoint *ret)
{
    if (sa->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)sa;

        ret->port = ntohs(in->sin_port);
        return addr_from_bytes((const uint8_t *)&in->sin_addr, 4, &ret->addr);
    }
    if (sa->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)sa;

        ret->port = ntohs(in6->sin6_port);
        return addr_from_bytes((const uint8_t *)&in6->sin6_addr, 16, &ret->addr);
    }
    return -EAFNOSUPPORT;
}

int endpoint_to_sockaddr(const struct endpoint *e, int family, struct sockaddr_storage *ret)
{
    bool v4 = addr_is_v4(&e->addr);

    memset(ret, 0, sizeof(*ret));
    if (family == AF_UNSPEC)
        family = v4 ? AF_INET : AF_INET6;
    if (family == AF_INET6) {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret;

        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(e->port);
        memcpy(&in6->sin6_addr, e->addr.bytes, 16);
        return sizeof(*in6);
    }
    if (family == AF_INET && v4) {
        struct sockaddr_in *in = (struct sockaddr_in *)ret;

        in->sin_family = AF_INET;
        in->sin_port = htons(e->port);
        memcpy(&in->sin_addr, e->addr.bytes + 12, 4);
        return sizeof(*in);
    }
    return -EAFNOSUPPORT;
}

int addr_list_add(struct addr *list, int *len, int max, const struct addr *a)
{
    bool family_known = false;

    for (int i = 0; i < *len; i++) {
        if (addr_equal(&list[i], a))
            return 0;
        family_known |= addr_is_v4(&list[i]) == addr_is_v4(a);
    }
    if (*len < max) {
        list[(*len)++] = *a;
        return 1;
    }
    if (family_known || !max)
        return -E2BIG;
    list[max - 1] = *a;
    return 1;
}
