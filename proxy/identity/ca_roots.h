/* SPDX-License-Identifier: Apache-2.0 */
/* The roots by which the CA is known, where they are a file: whether that has changed. Control thread. */
#ifndef PROXY_IDENTITY_CA_ROOTS_H
#define PROXY_IDENTITY_CA_ROOTS_H

#include "lib/loop.h"

struct ca_roots {
    struct loop *loop;
    const char *setting; /* as roots_load() has it */
    struct loop_timer timer;
    char *text;                  /* as they were read last; NULL: not yet, or the system's */
    void (*changed)(void *data); /* called on the control thread when they are others than before */
    void *data;
};

/* Reads them soon, and every few seconds. setting must live as long. changed is called on the control thread
 * when they are others than before. */
void ca_roots_follow(struct ca_roots *roots, struct loop *loop, const char *setting,
                     void (*changed)(void *data), void *data);
/* Ends that; may be followed again. */
void ca_roots_clear(struct ca_roots *roots);

#endif
