/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared strings: each text is held once in the process and counted, so that 100,000 workloads of one
 * namespace hold one copy of its name. Two shared strings are equal if and only if their pointers are. Any
 * thread.
 */
#ifndef PROXY_STATE_INTERN_H
#define PROXY_STATE_INTERN_H

#include <stddef.h>
#include <stdint.h>

/* Both: a reference on the shared form of text, which the caller gives back, or NULL without memory. */
const char *intern_get(const char *text);
const char *intern_get_len(const char *text, size_t len); /* the same; the text has no NUL inside */
/* One more reference; text is a shared string, and returned (never NULL). */
const char *intern_ref(const char *text);
void intern_put(const char *text); /* NULL is fine */

/* The hash of a shared string, as hash_text(), without computing it. */
uint64_t intern_hash(const char *text);

/* How many texts are held; for tests and measurements. */
size_t intern_count(void);

#endif
