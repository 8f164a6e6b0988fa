/* SPDX-License-Identifier: Apache-2.0 */
/* What a collector says of a request. */
#ifndef PROXY_OTLP_OTLP_ANSWER_H
#define PROXY_OTLP_OTLP_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OTLP_ANSWER_MAX (64u * 1024) /* bytes of a body; one that is longer is not read */
#define OTLP_SAID_MAX   200          /* bytes of the collector's words that are shown, with the NUL */

#define OTLP_RETRY_FIRST 1000u            /* milliseconds before the second attempt; then twice as long */
#define OTLP_RETRY_LAST  30000u           /* milliseconds, the longest of those */
#define OTLP_RETRY_TOTAL (5 * 60 * 1000u) /* milliseconds that a batch is tried for */

enum otlp_outcome {
    OTLP_TAKEN,
    OTLP_AGAIN,   /* later it may be taken */
    OTLP_REFUSED, /* it never will be */
};

struct otlp_answer {
    enum otlp_outcome outcome;
    uint64_t rejected;        /* of what was taken, so many items were not */
    char said[OTLP_SAID_MAX]; /* the collector's words, of printable ASCII; "": none */
};

/* What a status of HTTP and a body amount to. items: of the request, more of them cannot be rejected.
 * ret is always written. */
void otlp_answer_read(long status, const uint8_t *body, size_t len, uint64_t items, struct otlp_answer *ret);

/* Milliseconds until the next attempt. attempt: how many there were, from 1 on; retry_after: seconds that the
 * collector asks for, 0: it does not; random: any number, so that not all come back at once. */
uint64_t otlp_answer_wait(unsigned attempt, uint64_t retry_after, uint64_t random);

#endif
