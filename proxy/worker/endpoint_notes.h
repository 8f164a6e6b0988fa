/* SPDX-License-Identifier: Apache-2.0 */
/* What the config dump and the metrics say of endpoints that workers leave out of their choice for a moment
 * (proxy/route/ejected.h). */
#ifndef PROXY_WORKER_ENDPOINT_NOTES_H
#define PROXY_WORKER_ENDPOINT_NOTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "bruma/reasons.h"
#include "lib/addr.h"

struct proxy;
struct worker;

struct endpoint_note {
    struct endpoint endpoint; /* leaving: any port of its address */
    bool leaving;             /* it has said GOAWAY; else it has failed, for this reason */
    enum bruma_reason reason;
    uint64_t milliseconds; /* until it is back */
    unsigned worker;       /* its number */
};

/* Zeroed: none. */
struct endpoint_notes {
    struct endpoint_note *all;
    size_t len;
};

/* One more, copied. 0 or -ENOMEM. */
int endpoint_notes_add(struct endpoint_notes *notes, const struct endpoint_note *note);
/* Those of one worker, on its own thread. 0, or -ENOMEM: some are missing. */
int endpoint_notes_take(struct endpoint_notes *notes, const struct worker *worker);
/* As an array of JSON, one object a line. 0 or -ENOMEM. */
int endpoint_notes_print(const struct endpoint_notes *notes, FILE *out);
/* Frees what they have. */
void endpoint_notes_clear(struct endpoint_notes *notes);

/* How many there are just now, of all workers. Any thread, while there are workers. */
void endpoint_write_metrics(const struct proxy *proxy, FILE *out);

#endif
