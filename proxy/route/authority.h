/* SPDX-License-Identifier: Apache-2.0 */
/* The :authority of a CONNECT request, as peers may send it: contract section 3.3. */
#ifndef PROXY_ROUTE_AUTHORITY_H
#define PROXY_ROUTE_AUTHORITY_H

#include "lib/addr.h"

#define AUTHORITY_HOST_LEN 256

struct authority {
    bool is_address;
    struct addr addr;              /* is_address */
    char host[AUTHORITY_HOST_LEN]; /* a hostname in lower case, maybe empty; not is_address */
    uint16_t port;
};

/* "10.0.0.1:80", "[fd00::1]:80" or "name:80". 0 or -EINVAL; an IPv4-mapped IPv6 address is not accepted. */
int authority_parse(const char *text, size_t len, struct authority *ret);

#endif
