/* SPDX-License-Identifier: Apache-2.0 */
/* Sends what is in a queue to a collector, on a thread of its own: one request at a time, again after a while
 * if it has failed. */
#ifndef PROXY_OTLP_OTLP_SENDER_H
#define PROXY_OTLP_OTLP_SENDER_H

#include "proxy/otlp/otlp_config.h"
#include "proxy/otlp/otlp_queue.h"

struct otlp_sender;

/* Of what has been sent since the start. */
struct otlp_sender_counts {
    uint64_t exported; /* items that the collector has taken */
    uint64_t failures; /* requests that it has not */
};

/* Starts the thread. config and queue must outlive it. 0, -ENOMEM, -EAGAIN without a thread, or -ENOTSUP: the
 * URL is https, and this libcurl's TLS is not OpenSSL's, so that it cannot be held to what TLS may be here
 * (lib/tls_policy.h). */
int otlp_sender_new(const struct otlp_config *config, enum otlp_signal signal, struct otlp_queue *queue,
                    struct otlp_sender **ret);
/* Waits for the thread, which ends with its queue. */
void otlp_sender_free(struct otlp_sender **sender);

/* Fills ret. Any thread. */
void otlp_sender_count(const struct otlp_sender *sender, struct otlp_sender_counts *ret);

#endif
