/* SPDX-License-Identifier: Apache-2.0 */
/* Whether the proxy turns: its control thread, and all of its workers. Control thread. */
#ifndef PROXY_DIRECT_HEARTBEAT_H
#define PROXY_DIRECT_HEARTBEAT_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/loop.h"

struct proxy;

struct heartbeat {
    struct proxy *proxy;
    struct loop_timer timer;
    uint64_t round, asked_at, proven_at; /* CLOCK_MONOTONIC, nanoseconds; 0: never */
    void (*beat)(void *data);            /* as heartbeat_init() says */
    void *data;
};

/* It does not beat. beat(data) is called about each BRUMA_DIRECT_RENEW_MILLISECONDS while it does, on the
 * control thread. */
void heartbeat_init(struct heartbeat *heartbeat, struct proxy *proxy, void (*beat)(void *data), void *data);
/* Harmless if it beats. */
void heartbeat_start(struct heartbeat *heartbeat);
/* Nothing is proven any more. */
void heartbeat_stop(struct heartbeat *heartbeat);

/* A moment since which all threads have been seen to turn; CLOCK_MONOTONIC, nanoseconds; 0: none yet. */
uint64_t heartbeat_proven(const struct heartbeat *heartbeat);

#endif
