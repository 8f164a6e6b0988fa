/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/route/authority.h"

#include <ctype.h>
#include <errno.h>

/* Digits only, 1 to 65535. */
static int parse_port(const char *text, size_t len, uint16_t *ret)
{
    unsigned port = 0;

    if (!len)
        return -EINVAL;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -EINVAL;
        port = port * 10 + (unsigned)(text[i] - '0');
        if (port > UINT16_MAX)
            return -EINVAL;
    }
    if (!port)
        return -EINVAL;
    *ret = (uint16_t)port;
    return 0;
}

/* The text inside the brackets. */
static int parse_v6(const char *text, size_t len, struct addr *ret)
{
    char buf[INET6_ADDRSTRLEN];
    struct addr addr;

    if (len >= sizeof(buf) || !memchr(text, ':', len))
        return -EINVAL;
    memcpy(buf, text, len);
    buf[len] = '\0';
    if (strlen(buf) != len || addr_parse(buf, &addr) < 0 || addr_is_v4(&addr))
        return -EINVAL;
    *ret = addr;
    return 0;
}

static int parse_host(const char *text, size_t len, struct authority *ret)
{
    if (len >= sizeof(ret->host))
        return -EINVAL;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];

        if (!isascii(c) || !(isalnum(c) || strchr("-._~*", c)) || !c)
            return -EINVAL;
        ret->host[i] = (char)tolower(c);
    }
    ret->host[len] = '\0';
    ret->is_address = len && addr_parse(ret->host, &ret->addr) == 0;
    return 0;
}

int authority_parse(const char *text, size_t len, struct authority *ret)
{
    const char *colon = len ? memrchr(text, ':', len) : NULL;
    struct authority parsed = {};
    size_t host_len;
    int r;

    if (!colon || parse_port(colon + 1, len - (size_t)(colon - text) - 1, &parsed.port) < 0)
        return -EINVAL;
    host_len = (size_t)(colon - text);
    if (host_len >= 2 && text[0] == '[' && text[host_len - 1] == ']') {
        r = parse_v6(text + 1, host_len - 2, &parsed.addr);
        parsed.is_address = true;
    } else {
        r = parse_host(text, host_len, &parsed);
    }
    if (r == 0)
        *ret = parsed;
    return r;
}
