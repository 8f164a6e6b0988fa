/* SPDX-License-Identifier: Apache-2.0 */
/* Takes a page of metrics now and then, and gives it to the export (proxy/otlp/otlp.h). Control thread. */
#ifndef PROXY_METRICS_EXPORT_H
#define PROXY_METRICS_EXPORT_H

struct proxy;

/* Once the admin pages are open. Nothing where metrics are not exported. */
void metrics_export_start(struct proxy *proxy);
/* The last page, while all that counts is still there, but the admin pages may be closed. */
void metrics_export_end(struct proxy *proxy);

#endif
