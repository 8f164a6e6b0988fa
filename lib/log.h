/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leveled logging to stderr or stdout, one line an event, fit for journald, kubectl logs and grep:
 *   2026-01-02T03:04:05.678901Z<TAB>info<TAB>scope<TAB>message<TAB>key=value key="value"
 * The message is plain text; the caller writes key=value pairs behind a tab where it has any.
 * log_error_errno() and friends log and return the negative errno they were given, so that a failure can be
 * reported and returned in one expression.
 */
#ifndef LIB_LOG_H
#define LIB_LOG_H

#include <stdbool.h>
#include <stdio.h>

enum log_level {
    LOG_LEVEL_OFF,
    LOG_LEVEL_ERROR,
    LOG_LEVEL_WARN,
    LOG_LEVEL_INFO,
    LOG_LEVEL_DEBUG,
    LOG_LEVEL_TRACE
};

/* fd: where lines go, without waiting for who reads there (log_output.h). json: one object a line instead of
 * plain text. Not thread-safe: call it before threads start. */
void log_setup(int fd, bool json);

/* "info", or "warn,xds=debug,agent::pod=trace": level for all, then for scopes that begin so; the
 * longest counts. Any thread. 0, or -EINVAL and the filter stays: no level, more than 16 scopes, or too
 * long. */
int log_set_filter(const char *filter);
/* Copies the filter in force; cut at size bytes with the NUL. Any thread. */
void log_get_filter(char *buf, size_t size);

/* Whether the filter lets such a line through. Any thread. */
bool log_enabled(enum log_level level, const char *scope);
/* "warn" and so on: a static text, never NULL. */
const char *log_level_name(enum log_level level);

/* Writes one line of at most 4096 bytes, cut if it is longer, if the filter lets it through. Any
 * thread; does not wait once log_setup() was called. */
void log_write(enum log_level level, const char *scope, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same; error: positive or negative errno, whose text is added as error="...". Returns -|error|. */
int log_write_errno(enum log_level level, const char *scope, int error, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Writes the timestamp of now in the form above (28 bytes with the NUL). */
void log_timestamp(char buf[28]);

/* Quotes and escapes text for use as a value, cut to what fits; returns buf, or a static "" in quotes
 * if size is under 12 bytes. */
const char *log_quote(char *buf, size_t size, const char *text);

/* A file defines LOG_SCOPE before it includes this header. */
#define log_error(...) log_write(LOG_LEVEL_ERROR, LOG_SCOPE, __VA_ARGS__)
#define log_warn(...)  log_write(LOG_LEVEL_WARN, LOG_SCOPE, __VA_ARGS__)
#define log_info(...)  log_write(LOG_LEVEL_INFO, LOG_SCOPE, __VA_ARGS__)
#define log_debug(...)                                          \
    do {                                                        \
        if (log_enabled(LOG_LEVEL_DEBUG, LOG_SCOPE))            \
            log_write(LOG_LEVEL_DEBUG, LOG_SCOPE, __VA_ARGS__); \
    } while (0)
#define log_error_errno(e, ...) log_write_errno(LOG_LEVEL_ERROR, LOG_SCOPE, e, __VA_ARGS__)
#define log_warn_errno(e, ...)  log_write_errno(LOG_LEVEL_WARN, LOG_SCOPE, e, __VA_ARGS__)

#endif
