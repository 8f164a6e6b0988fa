/* SPDX-License-Identifier: Apache-2.0 */
/* Lines of the access log (contract section 8.3), plain and JSON. */
#ifndef PROXY_TELEMETRY_ACCESS_LOG_H
#define PROXY_TELEMETRY_ACCESS_LOG_H

#include <time.h>

#include "lib/log.h"
#include "proxy/telemetry/telemetry.h"

#define ACCESS_SCOPE "access"

struct access_log {
    bool json;
    time_t second; /* whose text is in date */
    char date[20]; /* "2026-01-02T03:04:05" */
};

enum access_event { ACCESS_OPENED, ACCESS_COMPLETE, ACCESS_FAILED };

struct access_line {
    enum log_level level;
    enum access_event event;
    const struct flow *flow; /* of ACCESS_FAILED only reporter and the two addresses count */
    uint64_t lived;          /* nanoseconds, of ACCESS_COMPLETE */
    enum bruma_reason reason;
    const char *detail; /* or NULL: the reason's own words */
    struct timespec now;
};

/* Writes one line with its newline, at most size bytes (LOG_SINK_LINE); returns its length. */
size_t access_log_format(struct access_log *log, const struct access_line *line, char *buf, size_t size);

#endif
