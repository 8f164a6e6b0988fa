/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The form of a log line. Names in it come from control planes, certificates and peers: whatever their bytes
 * are, one event stays one line, and a JSON object stays one.
 */
#ifndef LIB_LOG_LINE_H
#define LIB_LOG_LINE_H

#include <stdbool.h>
#include <stddef.h>

struct log_line {
    const char *when, *level, *scope;
    const char *message; /* with its key=value pairs behind a tab, if it has any */
    const char *error;   /* one more pair, or NULL */
};

/* Writes the line with its newline, cut if it does not fit; returns its length. size: at least 512. As JSON
 * the pairs become members of the object, numbers as numbers. */
size_t log_line_format(const struct log_line *line, bool json, char *buf, size_t size);

/* Appends at most limit bytes of text with the escapes that JSON and our own quoted values share. Returns the
 * new length. */
size_t log_line_escape(char *buf, size_t size, size_t len, const char *text, size_t limit);

#endif
