/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/worker/delivery_ports.h"

#include <stdlib.h>

/* The clock of TCP timestamps ticks once a millisecond; sequence numbers alone may be behind after a fast
 * connection. */
#define REST_MILLISECONDS 100
#define RING_MIN          64
#define RING_MAX          65536

uint16_t delivery_ports_take(struct delivery_ports *p, uint64_t now)
{
    const struct delivery_port *oldest;

    if (!p->len)
        return 0;
    oldest = &p->ring[p->first];
    if (now - oldest->since < REST_MILLISECONDS)
        return 0;
    p->first = (p->first + 1) & (p->size - 1);
    p->len--;
    return oldest->port;
}

static int grow(struct delivery_ports *p)
{
    uint32_t size = p->size ? p->size * 2 : RING_MIN;
    struct delivery_port *ring;

    if (size > RING_MAX || !(ring = malloc(size * sizeof(*ring))))
        return -1;
    for (uint32_t i = 0; i < p->len; i++)
        ring[i] = p->ring[(p->first + i) & (p->size - 1)];
    free(p->ring);
    p->ring = ring;
    p->first = 0;
    p->size = size;
    return 0;
}

void delivery_ports_give(struct delivery_ports *p, uint16_t port, uint64_t now)
{
    if (!port || (p->len == p->size && grow(p) < 0))
        return;
    p->ring[(p->first + p->len++) & (p->size - 1)] = (struct delivery_port){port, now};
}

void delivery_ports_free(struct delivery_ports *p)
{
    free(p->ring);
    *p = (struct delivery_ports){};
}
