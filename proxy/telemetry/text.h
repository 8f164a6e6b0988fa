/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text put together piece by piece in a buffer of fixed size, without printf: log lines and label sets. What
 * does not fit is left out; the buffer is never NUL-terminated.
 *
 * Names come from the control plane, from certificates and from peers, so nothing is taken for granted about
 * their bytes: what is not UTF-8 and control characters become U+FFFD, so that no name can break a line, a
 * JSON object or a whole scrape.
 */
#ifndef PROXY_TELEMETRY_TEXT_H
#define PROXY_TELEMETRY_TEXT_H

#include <stdint.h>
#include <string.h>

#include "lib/addr.h"
#include "lib/utf8.h"

/* The buffer is the caller's. */
struct text {
    char *at;
    size_t len, size;
};

/* Appends bytes as they are. */
static inline void text_put(struct text *t, const char *bytes, size_t len)
{
    if (len > t->size - t->len)
        len = t->size - t->len;
    memcpy(t->at + t->len, bytes, len);
    t->len += len;
}

/* A literal. */
#define text_literal(t, literal) text_put(t, literal, sizeof(literal) - 1)

/* Appends a string as it is. */
static inline void text_string(struct text *t, const char *string)
{
    text_put(t, string, strlen(string));
}

/* Appends it in decimal. */
void text_number(struct text *t, uint64_t number);

/* "10.0.0.1:80" or "[fd00::1]:80" */
void text_endpoint(struct text *t, const struct endpoint *endpoint);

/* At most limit bytes of the string with \, " and newline escaped: fit for labels, JSON and our own quoted
 * values. */
void text_escaped(struct text *t, const char *string, size_t limit);

/* The same with nothing escaped but what is not UTF-8, and control characters: for forms that need no
 * quotes. */
void text_utf8(struct text *t, const char *string, size_t limit);

/* text_escaped() in double quotes. */
void text_quoted(struct text *t, const char *string, size_t limit);

#endif
