/* SPDX-License-Identifier: Apache-2.0 */
/* Which addresses a commit leads elsewhere. Writer's side. */
#include "proxy/state/state_store.h"

void state_watch_routes(struct state *state, void (*touched)(void *data, const struct addr *addr), void *data)
{
    state->touched.fn = touched;
    state->touched.data = data;
}

static void touch(struct touched *t, const struct addr *addr)
{
    if (t->len < array_size(t->addresses))
        t->addresses[t->len++] = *addr;
    else
        t->any = true;
}

void touch_workload(struct state *state, const struct workload_full *w)
{
    for (size_t i = 0; w && i < w->addresses_len; i++)
        touch(&state->touched, &w->addresses[i].addr);
}

void touch_service(struct state *state, const struct service_full *s)
{
    for (size_t i = 0; s && i < s->addresses_len; i++) {
        if (s->addresses[i].cidr.length == 128)
            touch(&state->touched, &s->addresses[i].cidr.addr);
        else
            state->touched.any = true;
    }
}

void touched_commit(struct state *state)
{
    struct touched *t = &state->touched;

    if (t->fn && t->any)
        t->fn(t->data, NULL);
    for (size_t i = 0; t->fn && !t->any && i < t->len; i++)
        t->fn(t->data, &t->addresses[i]);
    t->any = false;
    t->len = 0;
}
