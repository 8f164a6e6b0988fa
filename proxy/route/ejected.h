/* SPDX-License-Identifier: Apache-2.0 */
/* Endpoints of services that have failed, and are left out of the choice for a moment (outlier ejection).
 * Each worker has its own; its own thread. */
#ifndef PROXY_ROUTE_EJECTED_H
#define PROXY_ROUTE_EJECTED_H

#include <stdbool.h>
#include <stdint.h>

#include "bruma/reasons.h"
#include "lib/addr.h"

#define EJECTED_BITS     6
#define EJECTED_WAYS     4
#define EJECTED_MAX      (EJECTED_WAYS << EJECTED_BITS)
#define EJECTED_TIME_MAX 30000 /* milliseconds; a setting above is kept */

struct ejected_endpoint {
    struct endpoint endpoint; /* port 0: none */
    uint64_t time;            /* milliseconds that it is out this time */
    uint64_t until;           /* loop_now(); other threads may read it */
    enum bruma_reason reason; /* why */
};

/* Zeroed: none. In a full bucket the newest takes the place of the one that would be back first. */
struct ejected {
    struct ejected_endpoint slots[1 << EJECTED_BITS][EJECTED_WAYS];
    uint64_t until; /* loop_now(): all are back by then */
};

/* It has failed, or leaves: out for time milliseconds (0: not at all), twice as long as the last time if it
 * fails again soon after it came back. now: loop_now(). True: it was not out already. */
bool ejected_add(struct ejected *ejected, const struct endpoint *endpoint, uint64_t now, uint64_t time,
                 enum bruma_reason reason);
/* It serves: in again, and what was is forgotten. */
void ejected_forget(struct ejected *ejected, const struct endpoint *endpoint);
/* What stands for all endpoints at an address. */
struct endpoint ejected_host(const struct addr *addr);
/* Whether it is out. now: loop_now(). */
bool ejected_has(const struct ejected *ejected, const struct endpoint *endpoint, uint64_t now);
/* One of EJECTED_MAX places, the table's; it may be empty, or its endpoint back. Never NULL, as long as
 * ejected. */
const struct ejected_endpoint *ejected_at(const struct ejected *ejected, unsigned index);
/* How many are out. Any thread. now: loop_now(). */
unsigned ejected_count(const struct ejected *ejected, uint64_t now);

#endif
