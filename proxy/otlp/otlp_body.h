/* SPDX-License-Identifier: Apache-2.0 */
/* Bodies of requests, made of packed messages. */
#ifndef PROXY_OTLP_OTLP_BODY_H
#define PROXY_OTLP_OTLP_BODY_H

#include "proxy/otlp/otlp_config.h"
#include "proxy/otlp/otlp_queue.h"

/* As it is sent. */
struct otlp_body {
    char *data;
    size_t len;
};

/* LogsRequest, MetricsRequest or TracesRequest with the records of the batch, which have the same form up to
 * these; compressed, if the configuration says so. The data is the caller's to free. 0 or -ENOMEM. */
int otlp_body_make(const struct otlp_config *config, const struct otlp_batch *batch, struct otlp_body *ret);

#endif
