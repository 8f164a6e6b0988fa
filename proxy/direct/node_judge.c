/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "direct"
#include "proxy/direct/node_judge.h"

#include <errno.h>
#include <linux/bpf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/reasons.h"
#include "proxy/direct/map_walk.h"
#include "proxy/direct/node_tuples.h"
#include "proxy/pod/pod.h"
#include "proxy/route/policy.h"
#include "proxy/state/hash.h"
#include "proxy/state/state_objects.h"
#include "proxy/verdicts/node_verdicts.h"

#define LOOK_SOON        20    /* milliseconds: many changes are one look */
#define SWEEP            10000 /* milliseconds */
#define TURN_NANOSECONDS 1000000ull

/* A handshake may have been under way while its pods were judged. */
static const uint64_t looks[] = {LOOK_SOON, 300, 1000, 4000, 16000, 64000, 135000};

/* What a pass goes through, in this order; all but the tuples only if it sweeps. */
enum stage { IDLE, TUPLES, PENDING, VERDICTS };

struct node_judge {
    struct proxy *proxy;
    struct loop_timer timer, sweep;
    uint64_t number; /* 0: somebody else is in charge */
    size_t look;     /* index in looks of the next one */
    enum stage stage;
    struct map_walk walk;
    bool judges, sweeps;           /* what the pass is for */
    bool wants_judge, wants_sweep; /* and what the next one is for */
    bool posted;
    unsigned ended; /* in this pass */
};

static int map_of(const struct node_judge *j, enum bruma_node_fd which)
{
    return node_verdicts_map(j->proxy->node_verdicts, which);
}

static void remove_entry(const struct node_judge *j, enum bruma_node_fd which, const void *key)
{
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr));
    attr.map_fd = (uint32_t)map_of(j, which);
    attr.key = (uint64_t)(uintptr_t)key;
    (void)syscall(SYS_bpf, BPF_MAP_DELETE_ELEM, &attr, sizeof(attr));
}

static uint64_t nanoseconds(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* ---- a piece of work ---- */

static void look_at_pending(const struct node_judge *j, const struct bruma_node_key *key,
                            const struct bruma_node_pending *value, uint64_t now)
{
    if (now > value->connected_nanoseconds &&
        now - value->connected_nanoseconds > 2 * BRUMA_NODE_PENDING_NANOSECONDS)
        remove_entry(j, BRUMA_NODE_FD_PENDING, key);
}

/* One that does not count any more will not do so again. */
static void look_at_verdict(const struct node_judge *j, const struct node_tuples *turn,
                            const struct bruma_node_key *key, const struct bruma_node_verdict *value)
{
    struct pod *source = node_tuples_pod(turn, key->source_cookie);

    if (!source || value->proxy != j->number || !node_verdicts_stand(j->proxy->node_verdicts, key, value) ||
        value->valid_until_nanoseconds <= nanoseconds(CLOCK_BOOTTIME))
        remove_entry(j, BRUMA_NODE_FD_VERDICTS, key);
    else
        source->node_verdicts_seen++;
}

static void begin_stage(struct node_judge *j, enum stage stage)
{
    struct pod *pod;

    j->stage = stage;
    switch (stage) {
    case TUPLES:
        map_walk_start(&j->walk, map_of(j, BRUMA_NODE_FD_TUPLES), sizeof(struct bruma_tuple),
                       sizeof(struct bruma_node_tuple));
        return;
    case PENDING:
        map_walk_start(&j->walk, map_of(j, BRUMA_NODE_FD_PENDING), sizeof(struct bruma_node_key),
                       sizeof(struct bruma_node_pending));
        return;
    case VERDICTS:
        list_for_each (pod, &j->proxy->pods, node)
            pod->node_verdicts_seen = 0;
        map_walk_start(&j->walk, map_of(j, BRUMA_NODE_FD_VERDICTS), sizeof(struct bruma_node_key),
                       sizeof(struct bruma_node_verdict));
        return;
    case IDLE:
        break;
    }
    map_walk_stop(&j->walk);
}

static void end_stage(struct node_judge *j)
{
    struct pod *pod;

    if (j->stage == TUPLES && j->ended)
        log_info("connections between two pods that are not allowed any more were ended\tconnections=%u "
                 "reason=%s",
                 j->ended, reason_name(BRUMA_REASON_POLICY_CHANGED));
    if (j->stage == VERDICTS) {
        list_for_each (pod, &j->proxy->pods, node)
            atomic_store(&pod->node_verdicts, pod->node_verdicts_seen);
    }
    begin_stage(j, j->stage == VERDICTS || !j->sweeps ? IDLE : j->stage + 1);
}

static void begin_pass(struct node_judge *j)
{
    if (j->stage != IDLE || !(j->wants_judge || j->wants_sweep))
        return;
    j->judges = j->wants_judge;
    j->sweeps = j->wants_sweep;
    j->wants_judge = j->wants_sweep = false;
    j->ended = 0;
    begin_stage(j, TUPLES);
}

/* One entry. False: there is no more to be done. */
static bool step(struct node_judge *j, struct node_tuples *turn)
{
    const void *key, *value;

    begin_pass(j);
    if (j->stage == IDLE)
        return false;
    if (map_walk_next(&j->walk, &key, &value) <= 0) {
        end_stage(j);
        return true;
    }
    if (j->stage == TUPLES)
        node_tuples_look(turn, key, value, j->judges);
    else if (j->stage == PENDING)
        look_at_pending(j, key, value, turn->now);
    else
        look_at_verdict(j, turn, key, value);
    return true;
}

static void on_turn(void *data);

static void go_on(struct node_judge *j)
{
    if (!j->posted && loop_post(j->proxy->loop, on_turn, j) == 0)
        j->posted = true;
}

/* Others of the control thread wait for no more than this. */
static void on_turn(void *data)
{
    struct node_judge *j = data;
    struct node_tuples turn;
    bool more = true;

    j->posted = false;
    if (!node_verdicts_control(j->proxy->node_verdicts) || node_tuples_begin(&turn, j->proxy) < 0)
        return;
    while (more && nanoseconds(CLOCK_MONOTONIC) - turn.now < TURN_NANOSECONDS)
        more = step(j, &turn);
    j->ended += turn.ended;
    node_tuples_end(&turn);
    if (more)
        go_on(j);
}

static void stop_pass(struct node_judge *j)
{
    begin_stage(j, IDLE);
    j->wants_judge = j->wants_sweep = false;
}

/* ---- when ---- */

static void on_look(struct loop_timer *timer)
{
    struct node_judge *j = container_of(timer, struct node_judge, timer);

    j->wants_judge = true;
    go_on(j);
    if (++j->look < array_size(looks))
        loop_timer_set(j->proxy->loop, timer, looks[j->look]);
}

static void on_sweep(struct loop_timer *timer)
{
    struct node_judge *j = container_of(timer, struct node_judge, sweep);

    j->wants_sweep = true;
    go_on(j);
    loop_timer_set(j->proxy->loop, timer, SWEEP);
}

static void look_soon(struct node_judge *j)
{
    if (loop_timer_armed(&j->timer) && !j->look)
        return;
    j->look = 0;
    loop_timer_set(j->proxy->loop, &j->timer, LOOK_SOON);
}

/* ---- what has changed ---- */

static void look_at_all(struct node_judge *j)
{
    if (j->number && node_verdicts_control(j->proxy->node_verdicts))
        look_soon(j);
}

void node_judge_changed(struct node_judge *j)
{
    if (!j)
        return;
    node_verdicts_change(j->proxy->node_verdicts);
    look_at_all(j);
}

/* What the mesh knows of it. */
static uint64_t inputs(const struct pod *pod)
{
    const struct state *state = pod->proxy->state;
    const struct workload *w = state_find_local(state, pod->namespace, pod->name, pod->service_account);

    if (!w)
        return pod->placeholder ? hash_text(pod->placeholder->identity) : 0;
    return hash_pair(workload_full(w)->sequence, policy_inputs(state, w));
}

void node_judge_pod_changed(struct node_judge *j, struct pod *pod)
{
    struct pod *other;

    if (!j)
        return;
    pod->node_inputs = inputs(pod);
    node_verdicts_change_pod(j->proxy->node_verdicts, pod->cookie);
    /* Whose address it is may be in doubt from now on. */
    list_for_each (other, &j->proxy->pods, node) {
        if (pod_shares_address(pod, other))
            node_verdicts_change_pod(j->proxy->node_verdicts, other->cookie);
    }
    look_at_all(j);
}

void node_judge_mesh_changed(struct node_judge *j)
{
    bool changed = false;
    struct pod *pod;

    if (!j)
        return;
    list_for_each (pod, &j->proxy->pods, node) {
        uint64_t now = inputs(pod);

        if (now == pod->node_inputs)
            continue;
        pod->node_inputs = now;
        node_verdicts_change_pod(j->proxy->node_verdicts, pod->cookie);
        changed = true;
    }
    if (changed)
        look_at_all(j);
}

void node_judge_identity_changed(struct node_judge *j, const struct identity *identity)
{
    struct pod *pod;

    if (!j)
        return;
    list_for_each (pod, &j->proxy->pods, node) {
        if (pod->identity == identity)
            node_verdicts_change_pod(j->proxy->node_verdicts, pod->cookie);
    }
    look_at_all(j);
}

/* Connections that live do not depend on it. */
static void on_touched(void *data, const struct addr *addr)
{
    struct node_judge *j = data;

    if (addr)
        node_verdicts_change_address(j->proxy->node_verdicts, addr);
    else
        node_verdicts_change(j->proxy->node_verdicts);
}

/* ---- its life ---- */

int node_judge_new(struct proxy *proxy, struct node_judge **ret)
{
    struct node_judge *j = calloc(1, sizeof(*j));

    if (!j)
        return -ENOMEM;
    j->proxy = proxy;
    loop_timer_init(&j->timer, on_look);
    loop_timer_init(&j->sweep, on_sweep);
    state_watch_routes(proxy->state, on_touched, j);
    *ret = j;
    return 0;
}

void node_judge_free(struct node_judge **ptr)
{
    struct node_judge *j = *ptr;

    if (!j)
        return;
    state_watch_routes(j->proxy->state, NULL, NULL);
    loop_timer_cancel(&j->timer);
    loop_timer_cancel(&j->sweep);
    while (loop_unpost(j->proxy->loop, on_turn, j))
        ;
    map_walk_stop(&j->walk);
    free(j);
    *ptr = NULL;
}

int node_judge_take_maps(struct node_judge *j, int fds[BRUMA_NODE_FD_COUNT])
{
    int r = node_verdicts_take_maps(j->proxy->node_verdicts, fds);

    if (r <= 0)
        return r;
    stop_pass(j);
    node_judge_in_charge(j, j->number);
    return 0;
}

void node_judge_in_charge(struct node_judge *j, uint64_t number)
{
    bool had;

    if (!j)
        return;
    had = j->number != 0;
    j->number = number;
    node_verdicts_set_number(j->proxy->node_verdicts, number);
    if (!node_verdicts_control(j->proxy->node_verdicts))
        return;
    if (number) {
        node_judge_changed(j);
        loop_timer_set(j->proxy->loop, &j->sweep, SWEEP);
    } else if (had) {
        loop_timer_cancel(&j->timer);
        loop_timer_cancel(&j->sweep);
        stop_pass(j);
        /* Switched off, and nobody else will end them. */
        if (atomic_load_explicit(&j->proxy->same_node, memory_order_relaxed) != SAME_NODE_KERNEL)
            look_soon(j);
    }
}
