/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/pod/dns_servers.h"

#include <string.h>

void dns_servers_init(struct dns_servers *s)
{
    *s = (struct dns_servers){};
    pthread_mutex_init(&s->lock, NULL);
}

void dns_servers_destroy(struct dns_servers *s)
{
    pthread_mutex_destroy(&s->lock);
}

/* The list is in the order of the last query. */
void dns_servers_note(struct dns_servers *s, const struct endpoint *address, uint64_t now)
{
    struct dns_server found = {.address = *address};
    size_t at = 0;

    pthread_mutex_lock(&s->lock);
    while (at < s->len && !endpoint_equal(&s->list[at].address, address))
        at++;
    if (at < s->len)
        found = s->list[at];
    else if (s->len < DNS_SERVERS_MAX)
        s->len++;
    else
        at--;
    memmove(&s->list[1], &s->list[0], at * sizeof(s->list[0]));
    found.queries++;
    found.last = now;
    s->list[0] = found;
    pthread_mutex_unlock(&s->lock);
}

size_t dns_servers_list(struct dns_servers *s, struct dns_server ret[DNS_SERVERS_MAX])
{
    size_t len;

    pthread_mutex_lock(&s->lock);
    len = s->len;
    memcpy(ret, s->list, sizeof(s->list));
    pthread_mutex_unlock(&s->lock);
    return len;
}
