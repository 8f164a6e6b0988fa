/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A loop's thread as a reader of the mesh state: what a callback finds there is good until the end of the
 * loop's turn, and while the loop sleeps it holds nothing up. Around loop_run() the thread is registered by
 * reader_register() and reader_unregister() of rcu.h.
 */
#ifndef PROXY_STATE_READER_H
#define PROXY_STATE_READER_H

#include "lib/loop.h"

struct reader {
    loop_turn_fn turn_end; /* NULL: none */
    void *data;
};

/* Takes the loop's hooks, all of them; *reader lives as long as the loop. turn_end(data) is called at the end
 * of each turn on the loop's thread, and may still read; NULL if there is nothing to do then. */
void reader_loop(struct reader *reader, struct loop *loop, loop_turn_fn turn_end, void *data);

#endif
