/* SPDX-License-Identifier: Apache-2.0 */
/* The PROXY protocol header, version 2, that applications with a PROXY tunnel get (contract 5.4). */
#ifndef PROXY_CONNECTION_PROXY_HEADER_H
#define PROXY_CONNECTION_PROXY_HEADER_H

#include <stddef.h>
#include <stdint.h>

#include "lib/addr.h"
#include "lib/spiffe.h"

#define PROXY_HEADER_MAX (16 + 36 + 3 + SPIFFE_MAX)

/* identity: SPIFFE URI of the peer (TLV 0xD0), or NULL. Returns the length. */
size_t proxy_header_format(const struct endpoint *source, const struct endpoint *destination,
                           const char *identity, uint8_t buf[PROXY_HEADER_MAX]);

#endif
