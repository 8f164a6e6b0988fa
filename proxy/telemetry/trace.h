/* SPDX-License-Identifier: Apache-2.0 */
/* Which trace a connection belongs to (W3C Trace Context): each sampled connection is a span, and CONNECT
 * carries its IDs to the other side's proxy, whose span is its child. */
#ifndef PROXY_TELEMETRY_TRACE_H
#define PROXY_TELEMETRY_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRACEPARENT_LEN 55                     /* bytes of the header's value, without a NUL */
#define TRACE_TEXT_LEN  (TRACEPARENT_LEN + 17) /* the same with the parent's ID behind it */

/* IDs as numbers, of which the first byte is the highest. */
struct trace {
    uint64_t high, low;    /* the trace's */
    uint64_t span, parent; /* parent 0: there is none */
};

/* What a traceparent says. */
struct trace_parent {
    uint64_t high, low, span;
    bool sampled;
};

/* Of a header's value of len bytes. False, and ret is not written: it is none, which is as if there were no
 * header. */
bool trace_parent_read(const char *text, size_t len, struct trace_parent *ret);
/* Writes the header's value, with a NUL. */
void trace_parent_write(const struct trace *trace, bool sampled, char buf[TRACEPARENT_LEN + 1]);

/* All of it as text, for the process that takes the connection over, with a NUL. */
void trace_write(const struct trace *trace, char buf[TRACE_TEXT_LEN + 1]);
/* The same back. False, and ret is not written: it is no such text. */
bool trace_read(const char *text, struct trace *ret);

/* Writes an ID's bytes. */
void trace_id_bytes(uint64_t id, uint8_t bytes[8]);

#endif
