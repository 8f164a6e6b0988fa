/* SPDX-License-Identifier: Apache-2.0 */
/* What to do with one message of a pod. Worker's thread. */
#ifndef PROXY_DNS_DECIDE_H
#define PROXY_DNS_DECIDE_H

#include "proxy/dns/message.h"
#include "proxy/telemetry/dns_metrics.h"
#include "proxy/worker/worker.h"

enum decision {
    DECISION_IGNORE,  /* no question, or no memory */
    DECISION_ANSWER,  /* answer is it */
    DECISION_FORWARD, /* to the server, as it is */
};

struct decided {
    enum decision what;
    struct dns_series *series; /* of the worker, where it counts; NULL: IGNORE */
    uint8_t *answer;           /* ANSWER: to be freed by the caller */
    size_t answer_len;         /* bytes */
};

/* tcp: the message came by a stream, whose answers need not be cut. Counts the question. *ret is always
 * written. */
void decide(struct worker_pod *wp, const uint8_t *data, size_t len, bool tcp, struct decided *ret);

/* The answer for a question that the server does not answer. *ret is the caller's. 0, -ENOMEM, or -EINVAL:
 * the question cannot be read, and nobody could read an answer either. */
int decide_failure(const uint8_t *data, size_t len, uint8_t **ret, size_t *ret_len);

#endif
