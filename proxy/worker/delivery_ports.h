/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ports that deliveries to a pod's application have used and that are free again, the one that has been free
 * for the longest first. Taking those before new ones keeps what TIME_WAIT holds as small as the number of
 * connections that live at a time, however many there are in a minute.
 */
#ifndef PROXY_WORKER_DELIVERY_PORTS_H
#define PROXY_WORKER_DELIVERY_PORTS_H

#include <stdint.h>

struct delivery_port {
    uint16_t port;
    uint64_t since; /* milliseconds */
};

struct delivery_ports {
    struct delivery_port *ring;
    uint32_t first, len, size; /* size: a power of two, or 0 */
};

/* A port that has rested for long enough that its next connection is newer than its last by every clock of
 * TCP; 0: none. now: loop_now(). */
uint16_t delivery_ports_take(struct delivery_ports *ports, uint64_t now);
/* The connection of that port is over on both sides. Without memory for it the port is forgotten. now:
 * loop_now(). */
void delivery_ports_give(struct delivery_ports *ports, uint16_t port, uint64_t now);
/* Frees the ring, and leaves none. */
void delivery_ports_free(struct delivery_ports *ports);

#endif
