/* SPDX-License-Identifier: Apache-2.0 */
/* One question to DNS for the addresses of a hostname, both families at once, by c-ares. On its loop's
 * thread, in whose network namespace it opens its sockets. */
#ifndef PROXY_RESOLVE_NAME_QUERY_H
#define PROXY_RESOLVE_NAME_QUERY_H

#include <stdbool.h>

#include "lib/loop.h"
#include "proxy/resolve/name_answer.h"

struct name_query;

struct name_query_options {
    const char *servers; /* ADDRESS or ADDRESS:PORT, by commas; "": those of /etc/resolv.conf, as it is now */
    bool ipv6;           /* AAAA is asked too */
    unsigned long timeout; /* milliseconds, of all tries of all servers */
};

/* Once per program, before the others. 0 or -ENOMEM. */
int name_query_library_init(void);
/* Whether the servers can be understood. */
bool name_query_servers_good(const char *servers);

/*
 * done: called once, on the loop's thread and never from here, unless the query is freed before; it may free
 * the query. ttl: seconds, the shortest of all records, where there are addresses. 0, -ENOMEM, or -EIO: the
 * library cannot begin.
 */
int name_query_new(struct loop *loop, const struct name_query_options *options, const char *name,
                   void (*done)(void *data, const struct name_answer *answer, uint32_t ttl), void *data,
                   struct name_query **ret);
void name_query_free(struct name_query **query);

#endif
