/* SPDX-License-Identifier: Apache-2.0 */
/* Which DNS servers a pod has queried of late: what its /etc/resolv.conf says, as far as the proxy can see.
 * Any thread. */
#ifndef PROXY_POD_DNS_SERVERS_H
#define PROXY_POD_DNS_SERVERS_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/addr.h"

#define DNS_SERVERS_MAX 4 /* servers; resolv.conf has three */

struct dns_server {
    struct endpoint address;
    uint64_t queries; /* that went on to it */
    uint64_t last;    /* nanoseconds of CLOCK_MONOTONIC */
};

/* Zeroed, but for its lock: none. */
struct dns_servers {
    pthread_mutex_t lock;
    struct dns_server list[DNS_SERVERS_MAX];
    size_t len;
};

/* None. What servers held before is lost. */
void dns_servers_init(struct dns_servers *servers);
/* Frees the lock; nobody uses servers any more. */
void dns_servers_destroy(struct dns_servers *servers);
/* A query goes on to the server at now, nanoseconds of CLOCK_MONOTONIC. Of more than there is room for, the
 * one that was queried longest ago is forgotten. */
void dns_servers_note(struct dns_servers *servers, const struct endpoint *address, uint64_t now);
/* Fills ret, the one last queried first, and returns how many there are. */
size_t dns_servers_list(struct dns_servers *servers, struct dns_server ret[DNS_SERVERS_MAX]);

#endif
