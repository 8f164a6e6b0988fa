/* SPDX-License-Identifier: Apache-2.0 */
/* Keyed hashes (SipHash-1-3 with a key of this process), so that names from outside cannot be made to
 * collide. */
#ifndef PROXY_STATE_HASH_H
#define PROXY_STATE_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A hash of len bytes, another one in each process. Any thread. */
uint64_t hash_bytes(const void *bytes, size_t len);

/* As hash_bytes() of the text without its NUL. */
static inline uint64_t hash_text(const char *text)
{
    return hash_bytes(text, strlen(text));
}

/* The hash of a pair of hashes; not symmetric. */
static inline uint64_t hash_pair(uint64_t a, uint64_t b)
{
    uint64_t h = (a ^ (b << 31 | b >> 33)) * 0x9e3779b97f4a7c15u + b;

    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93u;
    return h ^ h >> 32;
}

#endif
