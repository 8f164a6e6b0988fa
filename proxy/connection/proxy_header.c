/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/connection/proxy_header.h"

#include <string.h>

#define TLV_PEER_IDENTITY 0xd0

static uint8_t *put16(uint8_t *at, unsigned value)
{
    *at++ = (uint8_t)(value >> 8);
    *at++ = (uint8_t)value;
    return at;
}

size_t proxy_header_format(const struct endpoint *source, const struct endpoint *destination,
                           const char *identity, uint8_t buf[PROXY_HEADER_MAX])
{
    static const uint8_t signature[12] = {0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d,
                                          0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a};
    bool same_family = addr_is_v4(&source->addr) == addr_is_v4(&destination->addr);
    uint8_t *at = buf + 16;

    memcpy(buf, signature, sizeof(signature));
    buf[12] = 0x21; /* version 2, PROXY */
    buf[13] = 0x01; /* unspecified family, stream: no addresses */
    if (same_family) {
        uint8_t raw[16];
        size_t n = addr_to_bytes(&source->addr, raw);

        buf[13] = n == 4 ? 0x11 : 0x21;
        memcpy(at, raw, n);
        at += n;
        addr_to_bytes(&destination->addr, raw);
        memcpy(at, raw, n);
        at = put16(put16(at + n, source->port), destination->port);
    }
    if (identity) {
        size_t n = strnlen(identity, SPIFFE_MAX);

        *at++ = TLV_PEER_IDENTITY;
        at = put16(at, (unsigned)n);
        memcpy(at, identity, n);
        at += n;
    }
    put16(buf + 14, (unsigned)(at - buf - 16));
    return (size_t)(at - buf);
}
