/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/direct/sweep.h"

#include <errno.h>

#include "lib/cleanup.h"

#define PER_TURN 512 /* entries: about a millisecond */
/* Whose key somebody else has removed begins anew; not for ever. */
#define STEPS_MAX (4ul * (BRUMA_MAX_MESH_ADDRESSES + BRUMA_MAX_MESH_PREFIXES))

static const enum bruma_direct_fd stages[] = {BRUMA_DIRECT_FD_ADDRESSES, BRUMA_DIRECT_FD_PREFIXES,
                                              BRUMA_DIRECT_FD_PODS};

/* 0: not known. */
static uint64_t owner(const struct sweep *s)
{
    struct bruma_direct_pod pod;

    switch (stages[s->stage]) {
    case BRUMA_DIRECT_FD_ADDRESSES:
        return s->key.address.proxy;
    case BRUMA_DIRECT_FD_PREFIXES:
        return s->key.prefix.proxy;
    default:
        return s->ops->find(s->ops->data, BRUMA_DIRECT_FD_PODS, &s->key, &pod) == 0 ? pod.proxy : 0;
    }
}

static bool is_dead(struct sweep *s, uint64_t number)
{
    uint64_t socket;
    int r;

    if (!number || number == s->number || number == s->living)
        return false;
    for (unsigned i = 0; i < s->dead_len; i++) {
        if (s->dead[i] == number)
            return true;
    }
    r = s->ops->find(s->ops->data, BRUMA_DIRECT_FD_PROXIES, &number, &socket);
    if (r != -ENOENT) {
        s->living = r == 0 ? number : 0;
        return false;
    }
    /* one at random that has died does not come again */
    s->dead[s->dead_len < SWEEP_DEAD ? s->dead_len++ : 0] = number;
    return true;
}

bool sweep_step(struct sweep *s, unsigned entries)
{
    while (s->stage >= 0 && entries--) {
        enum bruma_direct_fd map = stages[s->stage];
        int r = 0;

        if (++s->steps > STEPS_MAX) {
            s->stage = -1;
            break;
        }
        if (!s->has_key)
            r = s->ops->next(s->ops->data, map, NULL, &s->key);
        if (r == 0) {
            r = s->ops->next(s->ops->data, map, &s->key, &s->following);
            if (is_dead(s, owner(s)) && s->ops->erase(s->ops->data, map, &s->key) == 0)
                s->removed++;
        }
        s->has_key = r == 0;
        if (r == 0)
            s->key = s->following;
        else
            s->stage = s->stage + 1 < (int)array_size(stages) ? s->stage + 1 : -1;
    }
    return s->stage >= 0;
}

static void on_timer(struct loop_timer *timer)
{
    struct sweep *s = container_of(timer, struct sweep, timer);

    s->living = 0; /* it may have died since the last turn */
    if (sweep_step(s, PER_TURN))
        loop_timer_set(s->loop, timer, 0);
}

void sweep_init(struct sweep *sweep, struct loop *loop, const struct map_ops *ops, uint64_t number)
{
    *sweep = (struct sweep){.loop = loop, .ops = ops, .number = number, .stage = -1};
    loop_timer_init(&sweep->timer, on_timer);
}

void sweep_start(struct sweep *sweep)
{
    sweep->stage = 0;
    sweep->has_key = false;
    sweep->steps = 0;
    loop_timer_set(sweep->loop, &sweep->timer, 0);
}

void sweep_stop(struct sweep *sweep)
{
    sweep->stage = -1;
    if (sweep->loop)
        loop_timer_cancel(&sweep->timer);
}
