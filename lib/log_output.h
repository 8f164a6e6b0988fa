/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where log lines go without anybody's waiting: written at once where the reader keeps up; else up to
 * LOG_OUTPUT_LIMIT bytes of them are kept, which a thread of its own writes once they are read. Lines beyond
 * that are dropped and counted, and a line tells of it when there is room again.
 */
#ifndef LIB_LOG_OUTPUT_H
#define LIB_LOG_OUTPUT_H

#include <stddef.h>
#include <stdint.h>

#define LOG_OUTPUT_LIMIT (256 * 1024) /* bytes */

/* So many lines were dropped, and there is room again: for a line that tells of it. From a thread of
 * its own, without a lock. */
typedef void (*log_output_dropped_fn)(uint64_t lines);

/* From now on lines go to a duplicate of fd, which stays the caller's. Before threads start. 0 or
 * -errno: there is no output that never waits, log_output() says -EBADF, and the caller writes lines by
 * itself. */
int log_output_open(int fd, log_output_dropped_fn dropped);
/* One line with its newline; at most LOG_FD_LINE bytes. Any thread; never waits. 0, also if the line
 * had to be dropped; -EBADF: not open. */
int log_output(const char *line, size_t len);
/* Writes what is kept; gives a reader that is behind so many milliseconds (in steps of 50). Any thread. */
void log_output_flush(int milliseconds);

uint64_t log_output_dropped(void); /* lines since the start; any thread */

#endif
