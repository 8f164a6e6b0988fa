/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A buffer that the connections of one worker use in turns. While it holds something of one of them, that one
 * owns it, and nobody else may touch it: what one connection leaves behind would be taken for another's,
 * whoever that is. So each use says for whom it is, and the worker looks at the end of each turn that nobody
 * was forgotten. A breach ends the process: there is no telling whose bytes would go where.
 */
#ifndef PROXY_TLS_SHARED_BUFFER_H
#define PROXY_TLS_SHARED_BUFFER_H

#include <stddef.h>
#include <stdint.h>

/* Of one worker, and so of one thread. */
struct shared_buffer {
    uint8_t *data;
    size_t size, len;  /* bytes; of len the meaning is the owner's */
    const void *owner; /* NULL: nobody's, and empty */
    const char *name;
};

/* Of size bytes. 0 or -ENOMEM. name: a literal. */
int shared_buffer_init(struct shared_buffer *buffer, const char *name, size_t size);
/* Frees it, and empties the struct. */
void shared_buffer_destroy(struct shared_buffer *buffer);

/* Logs what was done to it, and aborts. */
_Noreturn void shared_buffer_breach(const struct shared_buffer *buffer, const char *what);

/* From here on it is owner's; it may be so already. */
static inline void shared_buffer_take(struct shared_buffer *buffer, const void *owner)
{
    if (__builtin_expect(buffer->owner != owner && buffer->owner != NULL, 0))
        shared_buffer_breach(buffer, "taken while it is another connection's");
    buffer->owner = owner;
}

/* Empties it, if it is owner's. */
static inline void shared_buffer_leave(struct shared_buffer *buffer, const void *owner)
{
    if (buffer->owner != owner)
        return;
    buffer->owner = NULL;
    buffer->len = 0;
}

/* At the end of a turn. */
static inline void shared_buffer_check_free(const struct shared_buffer *buffer)
{
    if (__builtin_expect(buffer->owner != NULL || buffer->len != 0, 0))
        shared_buffer_breach(buffer, "a connection left something in it");
}

#endif
