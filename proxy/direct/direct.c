/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "direct"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "lib/log.h"
#include "lib/seqpacket.h"
#include "proxy/direct/charge.h"
#include "proxy/direct/direct_private.h"
#include "proxy/direct/node_judge.h"
#include "proxy/proxy.h"

#define BEATS_BETWEEN_LOOKS 20

/* ---- what holds ---- */

/* The agent has it that this proxy serves. */
static bool serves(const struct direct *d)
{
    return d->control && d->pods_named && d->mesh_known && !d->draining;
}

/* What was let go must be possible to end, whichever way it went. */
static bool can_end(const struct direct *d)
{
    return d->cutter && !d->unable;
}

static bool wants_outside(const struct direct *d)
{
    return d->outside && !d->proxy->settings.xds_on_demand && can_end(d);
}

/* Those that the kernel may take now; why: why not all that are switched on. */
static uint32_t possible_ways(const struct direct *d, enum bruma_long_way *ret_why)
{
    uint32_t ways = 0;

    *ret_why = BRUMA_LONG_WAY_NONE;
    if (d->proxy->settings.xds_on_demand) {
        *ret_why = BRUMA_LONG_WAY_ON_DEMAND;
        return 0;
    }
    if (!can_end(d)) {
        *ret_why = BRUMA_LONG_WAY_NO_KERNEL;
        return 0;
    }
    if (d->outside && d->copy.phase == MESH_COPY_COMPLETE)
        ways |= DIRECT_OUTSIDE_WAYS;
    else
        *ret_why = d->outside ? BRUMA_LONG_WAY_SET_INCOMPLETE : BRUMA_LONG_WAY_SWITCHED_OFF;
    if (d->inbound)
        ways |= DIRECT_INBOUND_WAYS;
    if (d->node)
        ways |= BRUMA_DIRECT_NODE;
    return ways;
}

static uint64_t valid_until(const struct direct *d)
{
    return heartbeat_proven(&d->heartbeat) + BRUMA_DIRECT_VALID_NANOSECONDS;
}

/* ---- being in charge ---- */

static void give_back(struct direct *d, enum bruma_long_way why)
{
    if (d->control)
        charge_drop(d->control, d->number, why);
    if (d->in_charge)
        log_info("direct ways: not in charge any more\tnumber=%llu why=%s", (unsigned long long)d->number,
                 direct_long_way_name(why));
    d->in_charge = false;
    d->ways = 0;
    node_judge_in_charge(d->proxy->node_judge, 0);
}

/* The kernel sees by its socket whether a process lives. */
static bool lives(const struct direct *d, uint64_t number)
{
    uint64_t socket;

    return d->maps.ops.find(d->maps.ops.data, BRUMA_DIRECT_FD_PROXIES, &number, &socket) != -ENOENT;
}

static bool show_life(struct direct *d)
{
    uint64_t socket;
    int r = 0;

    if (d->alive)
        return true;
    if (d->socket < 0)
        d->socket = r = alive_socket_open();
    if (r >= 0) {
        socket = (uint64_t)d->socket;
        r = d->maps.ops.update(d->maps.ops.data, BRUMA_DIRECT_FD_PROXIES, &d->number, &socket);
    }
    if (r < 0) {
        d->alive_failures++;
        if (d->alive_error != r)
            log_error_errno(r, "direct ways: the kernel cannot be shown that this process lives");
        d->alive_error = r;
        return false;
    }
    d->alive = true;
    d->alive_error = 0;
    return true;
}

/* Another one that lives may be the younger: the agent will say so by a drain, or that this one serves. */
static bool may_take(const struct direct *d)
{
    uint64_t holder = charge_holder(d->control);

    return d->urgent || !holder || holder == d->number || !lives(d, holder);
}

static void take(struct direct *d, uint32_t ways, enum bruma_long_way why)
{
    give_back(d, why);
    if (!direct_pods_write(d, ways, DIRECT_TAKEN)) {
        d->lost++;
        return;
    }
    if (!charge_take(d->control, d->number, ways, mesh_copy_prefixes(&d->copy), valid_until(d), why))
        return;
    d->in_charge = true;
    d->urgent = d->deposed = false;
    d->ways = ways;
    d->taken++;
    log_info("direct ways: in charge\tnumber=%llu outside=%s inbound=%s node=%s",
             (unsigned long long)d->number, ways & DIRECT_OUTSIDE_WAYS ? "on" : "off",
             ways & DIRECT_INBOUND_WAYS ? "on" : "off", ways & BRUMA_DIRECT_NODE ? "on" : "off");
    node_judge_in_charge(d->proxy->node_judge, ways & BRUMA_DIRECT_NODE ? d->number : 0);
    sweep_start(&d->sweep);
}

/* None of those that are switched on is possible, nor will be soon. */
static void stand_aside(struct direct *d, enum bruma_long_way why)
{
    if (d->urgent || d->in_charge)
        charge_clear(d->control, why);
    d->urgent = d->in_charge = false;
    d->ways = 0;
    node_judge_in_charge(d->proxy->node_judge, 0);
    heartbeat_stop(&d->heartbeat);
}

/* At first, while all is on its way to the maps, who was in charge before goes on. */
static bool waits_for_mesh(const struct direct *d)
{
    return wants_outside(d) && d->copy.phase == MESH_COPY_FILLING && !d->copy.rebuilds;
}

/* Brings all in line with what holds; called after each change, and at each heartbeat. */
static void look(struct direct *d)
{
    enum bruma_long_way why;
    uint32_t ways;

    if (!serves(d)) {
        give_back(d, BRUMA_LONG_WAY_ENDING);
        heartbeat_stop(&d->heartbeat);
        if (d->control && d->draining)
            mesh_copy_stop(&d->copy);
        return;
    }
    ways = possible_ways(d, &why);
    if (d->ways & ~ways)
        give_back(d, why);
    if (!wants_outside(d)) {
        mesh_copy_stop(&d->copy);
    } else if (show_life(d)) {
        mesh_copy_start(&d->copy);
    } else {
        /* Who is in charge takes entries of a number that has no socket for those of a dead process. */
        heartbeat_start(&d->heartbeat);
        return;
    }
    if (!ways && why != BRUMA_LONG_WAY_SET_INCOMPLETE) {
        stand_aside(d, why);
        return;
    }
    heartbeat_start(&d->heartbeat); /* also to try again */
    if (!show_life(d) || !ways || waits_for_mesh(d) || !heartbeat_proven(&d->heartbeat) ||
        (d->in_charge && d->ways == ways) || !may_take(d))
        return;
    take(d, ways, why);
}

/* ---- heartbeat ---- */

static void look_at_others(struct direct *d)
{
    uint64_t numbers[BRUMA_MAX_DIRECT_PROXIES], key, *previous = NULL;
    bool gone = false;
    unsigned len = 0;

    direct_pods_repair(d);
    while (len < BRUMA_MAX_DIRECT_PROXIES &&
           d->maps.ops.next(d->maps.ops.data, BRUMA_DIRECT_FD_PROXIES, previous, &key) == 0) {
        numbers[len] = key;
        previous = &numbers[len++];
    }
    for (unsigned i = 0; i < d->others_len; i++) {
        bool there = false;

        for (unsigned n = 0; n < len; n++)
            there |= numbers[n] == d->others[i];
        gone |= !there;
    }
    memcpy(d->others, numbers, len * sizeof(numbers[0]));
    d->others_len = len;
    if (gone)
        sweep_start(&d->sweep);
}

static void on_beat(void *data)
{
    struct direct *d = data;

    if (d->in_charge && !charge_renew(d->control, d->number, valid_until(d))) {
        d->in_charge = false;
        d->ways = 0;
        node_judge_in_charge(d->proxy->node_judge, 0);
    }
    if (d->in_charge) {
        if (++d->beats % BEATS_BETWEEN_LOOKS == 1)
            look_at_others(d);
        return;
    }
    if (serves(d) && !may_take(d) && !d->deposed) {
        log_info("direct ways: another proxy is in charge\tnumber=%llu",
                 (unsigned long long)charge_holder(d->control));
        d->deposed = true;
    }
    look(d);
}

/* ---- the mesh in the maps ---- */

static void on_complete(void *data)
{
    look(data);
}

static void on_incomplete(void *data, int error)
{
    struct direct *d = data;

    (void)error;
    /* First of all, and whatever else is to be done: readers are about to find what is missing. */
    if (d->ways & DIRECT_OUTSIDE_WAYS) {
        d->lost++;
        give_back(d, BRUMA_LONG_WAY_SET_INCOMPLETE);
    }
}

static void on_prefixes(void *data, size_t entries)
{
    struct direct *d = data;

    charge_set_prefixes(d->control, d->number, entries);
}

/* ---- what is told ---- */

int direct_new(struct proxy *proxy, struct direct **ret)
{
    struct direct *d = calloc(1, sizeof(*d));

    if (!d)
        return -ENOMEM;
    do {
        if (getrandom(&d->number, sizeof(d->number), 0) != (ssize_t)sizeof(d->number)) {
            free(d);
            return -EIO;
        }
    } while (!d->number);
    d->proxy = proxy;
    pthread_mutex_init(&d->cutter_lock, NULL);
    d->socket = -1;
    for (int i = 0; i < BRUMA_DIRECT_FD_COUNT; i++)
        d->maps.fds[i] = -1;
    heartbeat_init(&d->heartbeat, proxy, on_beat, d);
    state_watch_policies(proxy->state, direct_policies_changing, d);
    *ret = d;
    return 0;
}

static void on_unable(void *data)
{
    struct direct *d = data;

    d->unable = true;
    look(d);
}

/* On the cutter's thread. */
static void cutter_unable(void *data, int error)
{
    struct direct *d = data;

    (void)error;
    loop_post(d->proxy->loop, on_unable, d);
}

/* Returns the one of before. */
static struct cutter *set_cutter(struct direct *d, struct cutter *cutter)
{
    struct cutter *old = d->cutter;

    pthread_mutex_lock(&d->cutter_lock);
    d->cutter = cutter;
    pthread_mutex_unlock(&d->cutter_lock);
    return old;
}

static void open_cutter(struct direct *d)
{
    const struct cutter_config config = {
        .state = d->proxy->state,
        .policy_timeout = d->proxy->settings.policy_timeout,
        .flows_fd = d->maps.fds[BRUMA_DIRECT_FD_FLOWS],
        .unable = cutter_unable,
        .data = d,
    };
    struct cutter *cutter = NULL;
    int r = cutter_new(&config, &cutter);

    set_cutter(d, cutter);
    d->unable = r < 0;
    if (r < 0)
        log_error_errno(r, "direct ways: connections cannot be ended, so none goes directly\twhy=%s",
                        direct_long_way_name(BRUMA_LONG_WAY_NO_KERNEL));
}

static void forget_maps(struct direct *d)
{
    struct cutter *cutter;

    give_back(d, BRUMA_LONG_WAY_ENDING);
    heartbeat_stop(&d->heartbeat);
    if (!d->control)
        return;
    sweep_stop(&d->sweep);
    mesh_copy_close(&d->copy);
    cutter = set_cutter(d, NULL);
    cutter_free(&cutter);
    while (loop_unpost(d->proxy->loop, on_unable, d))
        ;
    direct_control_unmap(&d->control);
    direct_maps_close(&d->maps);
    d->alive = false;
    d->others_len = 0;
}

void direct_free(struct direct **direct)
{
    struct direct *d = *direct;

    if (!d)
        return;
    *direct = NULL;
    forget_maps(d);
    state_watch_policies(d->proxy->state, NULL, NULL);
    if (d->socket >= 0)
        close(d->socket);
    pthread_mutex_destroy(&d->cutter_lock);
    free(d);
}

int direct_take_maps(struct direct *direct, const struct direct_switches *switches,
                     int fds[BRUMA_DIRECT_FD_COUNT])
{
    const struct mesh_copy_events events = {
        .complete = on_complete, .incomplete = on_incomplete, .prefixes = on_prefixes, .data = direct};
    int r;

    direct->outside = switches->outside == DIRECT_ON;
    direct->inbound = switches->inbound == DIRECT_ON;
    direct->node = switches->same_node == SAME_NODE_KERNEL;
    atomic_store(&direct->proxy->same_node, (int)switches->same_node);
    if (!fds) {
        forget_maps(direct);
        return 0;
    }
    if (direct->control && direct_maps_same(&direct->maps, fds)) {
        close_fds(fds, BRUMA_DIRECT_FD_COUNT);
    } else {
        forget_maps(direct);
        r = direct_control_map(fds[BRUMA_DIRECT_FD_CONTROL], &direct->control);
        if (r < 0) {
            close_fds(fds, BRUMA_DIRECT_FD_COUNT);
            return log_error_errno(r, "direct ways: the word of who is in charge cannot be mapped");
        }
        direct_maps_init(&direct->maps, fds);
        mesh_copy_init(&direct->copy, direct->proxy->loop, direct->proxy->state, &direct->maps.ops,
                       direct->number, &events);
        open_cutter(direct);
        sweep_init(&direct->sweep, direct->proxy->loop, &direct->maps.ops, direct->number);
        direct->urgent = true;
    }
    look(direct);
    return 0;
}

void direct_pods_named(struct direct *direct)
{
    direct->urgent |= !direct->pods_named;
    direct->pods_named = true;
    look(direct);
}

void direct_pods_taken(struct direct *direct)
{
    direct->pods_named = false;
    look(direct);
}

void direct_mesh_known(struct direct *direct)
{
    direct->urgent |= !direct->mesh_known;
    direct->mesh_known = true;
    look(direct);
}

void direct_drain(struct direct *direct)
{
    direct->draining = true;
    look(direct);
}

void direct_resume(struct direct *direct)
{
    direct->draining = false;
    direct->urgent = true;
    look(direct);
}

void direct_passed(struct direct *direct, const struct bruma_flow *flow)
{
    pthread_mutex_lock(&direct->cutter_lock);
    if (direct->cutter)
        cutter_look_again(direct->cutter, flow->netns_cookie);
    pthread_mutex_unlock(&direct->cutter_lock);
}

void direct_condemned(struct direct *direct, int netns_fd, uint64_t socket_cookie,
                      const struct bruma_flow *flow)
{
    int r = 0;

    pthread_mutex_lock(&direct->cutter_lock);
    if (direct->cutter)
        r = cutter_end(direct->cutter, netns_fd, socket_cookie, &flow->tuple);
    pthread_mutex_unlock(&direct->cutter_lock);
    if (r < 0)
        log_warn_errno(r, "a direct connection that was cut off from the network is not ended");
}

uint64_t direct_number(const struct direct *direct)
{
    return direct->number;
}

bool direct_in_charge(const struct direct *direct)
{
    return direct->in_charge;
}
