/* SPDX-License-Identifier: Apache-2.0 */
/* How the process ends, and takes that back. Control thread. */
#ifndef PROXY_DRAIN_H
#define PROXY_DRAIN_H

#include <stdint.h>

struct proxy;

/* Once the loop is there, before anything else. */
void drain_init(struct proxy *proxy);
/* Stop accepting, end when idle or after the deadline. */
void proxy_drain(struct proxy *proxy, uint64_t deadline_milliseconds);
/* The same, because another proxy has taken over; see --replaced-linger. */
void proxy_replaced(struct proxy *proxy, uint64_t deadline_milliseconds);
/* What could go to that proxy has gone; peers are told that the rest ends. */
void proxy_gave(struct proxy *proxy);
/* The other proxy is gone: accept again, unless somebody else has told this one to end. */
void proxy_resume(struct proxy *proxy);

#endif
