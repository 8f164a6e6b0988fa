/* SPDX-License-Identifier: Apache-2.0 */
/* What the access log says of a connection, as messages of OTLP. */
#ifndef PROXY_TELEMETRY_ACCESS_RECORD_H
#define PROXY_TELEMETRY_ACCESS_RECORD_H

#include "proxy/otlp/otlp_queue.h"
#include "proxy/telemetry/access_log.h"

/* A LogRecord with the line's message as body and its fields as attributes, under the same names; what is a
 * number is one, and "duration" is "duration_ms". An error has its reason as "error.type" too. The caller
 * owns it; NULL without memory. */
struct otlp_record *access_record_log(const struct access_line *line);
/* The Span of a connection that is complete and has one, with the same attributes. The caller owns it; NULL
 * without memory. */
struct otlp_record *access_record_span(const struct access_line *line);

#endif
