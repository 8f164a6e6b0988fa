/* SPDX-License-Identifier: Apache-2.0 */
/* The label set T of the TCP metrics (contract section 8.1). */
#ifndef PROXY_TELEMETRY_LABELS_H
#define PROXY_TELEMETRY_LABELS_H

#include "proxy/telemetry/telemetry.h"
#include "proxy/telemetry/text.h"

/* Room for the longest label set: 24 values of at most LABEL_VALUE_MAX bytes, each of which may become
 * three. */
#define LABELS_MAX      (40 * 1024)
#define LABEL_VALUE_MAX 512

/* Appends the labels of a flow, from reporter=" to the last quote, without the braces and without the value
 * of response_flags: that goes in at *ret_flags. */
void labels_format(const struct flow *flow, struct text *into, size_t *ret_flags);

#endif
