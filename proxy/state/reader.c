/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/state/reader.h"

#include "proxy/state/rcu.h"

static void turn_end(void *data)
{
    struct reader *reader = data;

    if (reader->turn_end)
        reader->turn_end(reader->data);
    reader_quiescent();
}

static void before_sleep(void *data)
{
    (void)data;
    reader_offline();
}

static void after_sleep(void *data)
{
    (void)data;
    reader_online();
}

void reader_loop(struct reader *reader, struct loop *loop, loop_turn_fn fn, void *data)
{
    reader->turn_end = fn;
    reader->data = data;
    loop_set_turn_end(loop, turn_end, reader);
    loop_set_sleep_hooks(loop, before_sleep, after_sleep, reader);
}
