/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Something of a worker that is about to go to another process, and not touched meanwhile: the sockets are
 * watched by nobody. Either it is released, or it goes on here. What ends it before that says so.
 */
#ifndef PROXY_WORKER_MOVING_H
#define PROXY_WORKER_MOVING_H

#include <stdbool.h>
#include <stddef.h>

struct moving {
    /* Called on the worker's own thread when it has ended here, for whatever reason: it is not to be moved
     * any more, and is about to be freed. */
    void (*gone)(struct moving *moving);
    bool late; /* what is not decided yet is not waited for any longer */
};

/* What is at *moving, if anything, is told; once. */
static inline void moving_gone(struct moving **moving)
{
    struct moving *told = *moving;

    *moving = NULL;
    if (told)
        told->gone(told);
}

#endif
