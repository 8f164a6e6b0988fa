/* SPDX-License-Identifier: Apache-2.0 */
/* For a line that the same trouble would write again and again: it is written once in LOG_REST milliseconds,
 * with how many times it was not. Zeroed at first; not thread-safe. */
#ifndef LIB_LOG_REST_H
#define LIB_LOG_REST_H

#include <stdbool.h>
#include <stdint.h>

#define LOG_REST 30000 /* milliseconds */

/* Of one kind of line. */
struct log_rest {
    uint64_t until;  /* of the caller's clock, in milliseconds; 0: it was never written */
    uint64_t unsaid; /* lines since then */
};

/* True if the line is to be written at now (milliseconds, the same clock each time); *ret_unsaid: how
 * many were not since the last one. It is not written if false. */
static inline bool log_rest_over(struct log_rest *rest, uint64_t now, uint64_t *ret_unsaid)
{
    if (rest->until && now < rest->until) {
        rest->unsaid++;
        return false;
    }
    *ret_unsaid = rest->unsaid;
    rest->unsaid = 0;
    rest->until = now + LOG_REST;
    return true;
}

#endif
