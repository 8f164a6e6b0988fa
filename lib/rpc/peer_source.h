/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where an accepted connection comes from, for limits a source: of this machine (this network namespace) the
 * user whose socket it is, since an ordinary user has all of 127.0.0.0/8 to come from; else the address, of
 * IPv6 the first 64 bits.
 */
#ifndef LIB_RPC_PEER_SOURCE_H
#define LIB_RPC_PEER_SOURCE_H

#include <stdbool.h>
#include <sys/types.h>

#include "lib/addr.h"

struct peer_source {
    bool is_user;
    uid_t uid;        /* if is_user */
    struct addr addr; /* otherwise */
};

/* Asks the kernel about a socket of TCP or of AF_UNIX; does not wait. What cannot be found out leaves an
 * address (of loopback always the same one): it never makes somebody root, and ret is
 * always filled. */
void peer_source_get(int fd, struct peer_source *ret);
/* Whether they share a limit: the same user, or the same address. */
bool peer_source_equal(const struct peer_source *a, const struct peer_source *b);
/* "uid 1000" or an address; returns buf. */
const char *peer_source_format(const struct peer_source *source, char buf[ADDR_TEXT_LEN]);

#endif
