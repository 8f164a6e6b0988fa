/* SPDX-License-Identifier: Apache-2.0 */
/* How long connections stood still on their way to another process. Any thread, one a struct. */
#ifndef PROXY_HANDOVER_PAUSES_H
#define PROXY_HANDOVER_PAUSES_H

#include <stdint.h>
#include <stdio.h>

#define PAUSES_BUCKETS 11

/* Zeroed is none. */
struct pauses {
    uint64_t in_bucket[PAUSES_BUCKETS], count;
    uint64_t sum, max; /* microseconds */
};

/* Nanoseconds of CLOCK_MONOTONIC: the same to two processes of a machine. */
uint64_t pauses_now(void);
/* From since, as told by pauses_now() in whichever process, until now. What cannot be so, as where the two
 * have clocks of their own, is not counted. */
void pauses_add(struct pauses *pauses, uint64_t since);
/* All of other too. */
void pauses_merge(struct pauses *pauses, const struct pauses *other);
/* Microseconds that 99 of 100 have not gone beyond: the end of a bucket, or the longest, if less. */
uint64_t pauses_of_most(const struct pauses *pauses);
/* Appends OpenMetrics text, nothing where there is none. Errors stay in out. */
void pauses_write(const struct pauses *pauses, FILE *out);

#endif
