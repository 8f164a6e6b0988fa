/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "direct"
#include "proxy/direct/mesh_copy.h"

#include <errno.h>

#include "bruma/direct.h"
#include "lib/cleanup.h"
#include "lib/log.h"

#define PER_TURN           4096 /* entries: some milliseconds */
#define GRACE_MILLISECONDS 50   /* between looks at what waits for its grace period */

static void fail(struct mesh_copy *copy, int error)
{
    copy->failures++;
    copy->error = error;
    copy->phase = MESH_COPY_FAILED;
    if (copy->set)
        mesh_set_stop(copy->set);
    /* first of all: readers may be about to find what is missing */
    copy->events.incomplete(copy->events.data, error);
    if (copy->said != error)
        log_error_errno(error,
                        "not all of the mesh could be written to the kernel's maps: all connections take the "
                        "long way\taddresses=%zu of=%u prefixes=%zu of=%u retry-milliseconds=%llu",
                        mesh_copy_addresses(copy), BRUMA_MAX_MESH_ADDRESSES, mesh_copy_prefixes(copy),
                        BRUMA_MAX_MESH_PREFIXES, (unsigned long long)copy->retry_after);
    copy->said = error;
    loop_timer_set(copy->loop, &copy->retry, copy->retry_after);
    copy->retry_after =
        copy->retry_after < MESH_COPY_RETRY_MAX / 2 ? copy->retry_after * 2 : MESH_COPY_RETRY_MAX;
}

static void work_soon(struct mesh_copy *copy)
{
    if (!loop_timer_armed(&copy->work))
        loop_timer_set(copy->loop, &copy->work, 0);
}

/* ---- what the state tells ---- */

static void enters(void *data, const struct cidr *range)
{
    struct mesh_copy *copy = data;
    int r;

    if (range->length < 128)
        copy->events.prefixes(copy->events.data, mesh_set_prefixes(copy->set) + 1);
    r = mesh_set_add(copy->set, range);
    if (r < 0 && copy->phase == MESH_COPY_COMPLETE)
        fail(copy, r);
    work_soon(copy);
}

static void leaves(void *data, const struct cidr *range)
{
    struct mesh_copy *copy = data;

    (void)departures_add(&copy->departures, range);
    work_soon(copy);
}

static void is_over(void *data, const struct cidr *range)
{
    mesh_set_remove(((struct mesh_copy *)data)->set, range);
}

/* ---- in turns ---- */

static void forget_set(struct mesh_copy *copy)
{
    state_watch_ranges(copy->state, NULL);
    departures_forget(&copy->departures);
    mesh_set_free(&copy->set);
    copy->phase = MESH_COPY_NONE;
}

static void is_flushed(struct mesh_copy *copy)
{
    if (copy->phase == MESH_COPY_CLEARING) {
        forget_set(copy);
    } else if (copy->phase == MESH_COPY_FILLING) {
        if (mesh_set_is_lost(copy->set)) {
            fail(copy, -ENOMEM);
            return;
        }
        copy->phase = MESH_COPY_COMPLETE;
        copy->retry_after = MESH_COPY_RETRY_MIN;
        copy->said = 0;
        mesh_set_go_live(copy->set);
        log_info("the mesh is in the kernel's maps\taddresses=%zu prefixes=%zu", mesh_copy_addresses(copy),
                 mesh_copy_prefixes(copy));
        copy->events.complete(copy->events.data);
    }
}

static void on_work(struct loop_timer *timer)
{
    struct mesh_copy *copy = container_of(timer, struct mesh_copy, work);
    bool waits;
    int r;

    departures_close(&copy->departures);
    waits = departures_over(&copy->departures, is_over, copy);
    if (waits)
        loop_timer_set(copy->loop, timer, GRACE_MILLISECONDS);
    if (!copy->set || copy->phase == MESH_COPY_FAILED)
        return;
    r = mesh_set_flush(copy->set, copy->per_turn);
    if (r > 0)
        loop_timer_set(copy->loop, timer, 0);
    else if (r == 0)
        is_flushed(copy);
    else if (copy->phase == MESH_COPY_CLEARING)
        forget_set(copy); /* others sweep what is left */
    else
        fail(copy, r);
}

static void fill(struct mesh_copy *copy)
{
    int r = copy->set ? 0 : mesh_set_new(copy->ops, copy->number, &copy->set);

    if (r < 0) {
        fail(copy, r);
        return;
    }
    copy->phase = MESH_COPY_FILLING;
    departures_forget(&copy->departures);
    mesh_set_recount(copy->set);
    state_each_range(copy->state, enters, copy);
    state_watch_ranges(copy->state, &copy->watch);
    work_soon(copy);
}

static void on_retry(struct loop_timer *timer)
{
    struct mesh_copy *copy = container_of(timer, struct mesh_copy, retry);

    copy->rebuilds++;
    fill(copy);
}

/* ---- from outside ---- */

void mesh_copy_init(struct mesh_copy *copy, struct loop *loop, struct state *state, const struct map_ops *ops,
                    uint64_t number, const struct mesh_copy_events *events)
{
    *copy = (struct mesh_copy){
        .loop = loop,
        .state = state,
        .ops = ops,
        .number = number,
        .events = *events,
        .watch = {.enters = enters, .leaves = leaves, .data = copy},
        .retry_after = MESH_COPY_RETRY_MIN,
        .per_turn = PER_TURN,
    };
    loop_timer_init(&copy->work, on_work);
    loop_timer_init(&copy->retry, on_retry);
}

void mesh_copy_start(struct mesh_copy *copy)
{
    if (copy->phase == MESH_COPY_NONE || copy->phase == MESH_COPY_CLEARING)
        fill(copy);
}

void mesh_copy_stop(struct mesh_copy *copy)
{
    loop_timer_cancel(&copy->retry);
    copy->retry_after = MESH_COPY_RETRY_MIN;
    state_watch_ranges(copy->state, NULL);
    departures_forget(&copy->departures);
    if (!copy->set) {
        copy->phase = MESH_COPY_NONE;
        return;
    }
    copy->phase = MESH_COPY_CLEARING;
    mesh_set_recount(copy->set);
    work_soon(copy);
}

void mesh_copy_close(struct mesh_copy *copy)
{
    if (!copy->loop)
        return;
    loop_timer_cancel(&copy->work);
    loop_timer_cancel(&copy->retry);
    forget_set(copy);
    departures_free(&copy->departures);
}

size_t mesh_copy_addresses(const struct mesh_copy *copy)
{
    return copy->set ? mesh_set_addresses(copy->set) : 0;
}

size_t mesh_copy_prefixes(const struct mesh_copy *copy)
{
    return copy->set ? mesh_set_prefixes(copy->set) : 0;
}

const char *mesh_copy_phase_name(enum mesh_copy_phase phase)
{
    static const char *const names[] = {"none", "filling", "complete", "failed", "clearing"};

    return names[phase];
}
