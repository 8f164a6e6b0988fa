/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gathers a worker's log lines and writes them in few system calls, without ever blocking the worker: at the
 * latest about 100 ms after the first of them, or as soon as 16 KiB are there. What cannot be written is
 * kept, up to 256 KiB; lines beyond that are dropped and counted. Nothing wakes up while there is nothing to
 * write.
 *
 * Lines of several workers share one stdout, which other processes may share as well (lib/log_fd.h): writes
 * are whole lines of at most PIPE_BUF bytes, which do not mix.
 */
#ifndef PROXY_TELEMETRY_LOG_SINK_H
#define PROXY_TELEMETRY_LOG_SINK_H

#include "lib/loop.h"

#define LOG_SINK_LINE  4096         /* longest line with its newline; PIPE_BUF */
#define LOG_SINK_LIMIT (256 * 1024) /* bytes that are kept */

struct log_sink;

/* fd stays the caller's. 0, -ENOMEM, or -errno of the descriptor. */
int log_sink_new(struct loop *loop, int fd, struct log_sink **ret);
/* Writes what is left; gives a reader that is behind half a second. */
void log_sink_free(struct log_sink **sink);

/* Room for LOG_SINK_LINE bytes in the sink's buffer, until log_sink_end(); or NULL: the line is dropped and
 * has been counted. */
char *log_sink_begin(struct log_sink *sink);
/* The line is there: len bytes, the last one a newline. */
void log_sink_end(struct log_sink *sink, size_t len);

uint64_t log_sink_dropped(const struct log_sink *sink); /* lines; any thread */

#endif
