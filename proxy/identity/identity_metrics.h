/* SPDX-License-Identifier: Apache-2.0 */
/* How many certificates there are, and when the first of them ends. */
#ifndef PROXY_IDENTITY_IDENTITY_METRICS_H
#define PROXY_IDENTITY_IDENTITY_METRICS_H

#include <stdio.h>

#include "proxy/identity/identity.h"

/* Appends OpenMetrics text. Control thread. Errors stay in out. */
void identity_write_metrics(const struct identity_store *store, FILE *out);

#endif
