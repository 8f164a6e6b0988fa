/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "direct"
#include "proxy/direct/node_tuples.h"

#include <errno.h>
#include <linux/bpf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/log.h"
#include "proxy/pod/pod.h"
#include "proxy/route/policy.h"
#include "proxy/verdicts/node_verdicts.h"

/* ---- a turn ---- */

static int by_cookie(const void *a, const void *b)
{
    uint64_t x = (*(struct pod *const *)a)->cookie, y = (*(struct pod *const *)b)->cookie;

    return x < y ? -1 : x > y;
}

int node_tuples_begin(struct node_tuples *t, struct proxy *proxy)
{
    struct timespec ts;
    struct pod *pod;
    size_t len = 0;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    *t = (struct node_tuples){.proxy = proxy, .now = (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec};
    list_for_each (pod, &proxy->pods, node)
        len++;
    t->pods = calloc(len ? len : 1, sizeof(struct pod *));
    if (!t->pods)
        return -ENOMEM;
    list_for_each (pod, &proxy->pods, node)
        t->pods[t->pods_len++] = pod;
    qsort(t->pods, t->pods_len, sizeof(struct pod *), by_cookie);
    return 0;
}

void node_tuples_end(struct node_tuples *t)
{
    if (t->destroyer)
        socket_destroyer_free(&t->destroyer);
    free(t->pods);
    t->pods = NULL;
    t->pods_len = 0;
}

struct pod *node_tuples_pod(const struct node_tuples *t, uint64_t cookie)
{
    size_t low = 0, high = t->pods_len;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (t->pods[middle]->cookie == cookie)
            return t->pods[middle];
        if (t->pods[middle]->cookie < cookie)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static long call(enum bpf_cmd command, int map, const void *key, void *value)
{
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr));
    attr.map_fd = (uint32_t)map;
    attr.key = (uint64_t)(uintptr_t)key;
    attr.value = (uint64_t)(uintptr_t)value;
    return syscall(SYS_bpf, command, &attr, sizeof(attr));
}

static int map_of(const struct node_tuples *t, enum bruma_node_fd which)
{
    return node_verdicts_map(t->proxy->node_verdicts, which);
}

/* ---- whether it may live ---- */

/* As the mesh knows it, or as the agent says until then. */
static const struct workload *workload_of(const struct pod *pod)
{
    const struct workload *w =
        state_local_workload(pod->proxy->state, pod->namespace, pod->name, pod->service_account);

    return w ? w : pod->placeholder;
}

static void read_endpoint(struct endpoint *to, const struct bruma_address *address, uint32_t port)
{
    memcpy(to->addr.bytes, address->bytes, sizeof(to->addr.bytes));
    to->port = (uint16_t)port;
}

bool node_tuples_takes_part(const struct node_tuples *t, const struct pod *pod)
{
    struct bruma_node_device device;
    uint64_t cookie = pod->cookie;

    return !pod->deleted && !pod->draining &&
           atomic_load_explicit(&pod->same_node, memory_order_relaxed) == SAME_NODE_KERNEL &&
           call(BPF_MAP_LOOKUP_ELEM, map_of(t, BRUMA_NODE_FD_DEVICES), &cookie, &device) == 0;
}

static bool is_switched_off(const struct node_tuples *t)
{
    return atomic_load_explicit(&t->proxy->same_node, memory_order_relaxed) != SAME_NODE_KERNEL;
}

static bool may_live(const struct node_tuples *t, const struct bruma_tuple *tuple, const struct pod *source,
                     const struct pod *destination)
{
    const struct workload *from = source ? workload_of(source) : NULL,
                          *to = destination ? workload_of(destination) : NULL;
    struct policy_request request = {.identity = from ? from->identity : NULL};
    struct policy_verdict verdict;

    if (is_switched_off(t) || !from || !to || !*from->identity || !node_tuples_takes_part(t, source) ||
        !node_tuples_takes_part(t, destination))
        return false;
    read_endpoint(&request.source, &tuple->remote_address, tuple->remote_port);
    read_endpoint(&request.destination, &tuple->local_address, tuple->local_port);
    if (!pod_has_address(source, &request.source.addr) ||
        !pod_has_address(destination, &request.destination.addr))
        return false;
    policy_check(t->proxy->state, to, &request, &verdict);
    return verdict.allowed && !verdict.unknown;
}

/* ---- its end ---- */

static int destroyer_of(struct node_tuples *t, const struct pod *pod)
{
    int r;

    if (t->destroyer && t->destroyer_cookie == pod->cookie)
        return 0;
    if (t->destroyer)
        socket_destroyer_free(&t->destroyer);
    r = socket_destroyer_new(pod->fds[BRUMA_POD_FD_NETNS], &t->destroyer);
    t->destroyer_cookie = pod->cookie;
    return r;
}

static int end_source(struct node_tuples *t, const struct pod *pod, const struct bruma_tuple *tuple,
                      uint64_t cookie)
{
    const struct bruma_tuple own = {.remote_address = tuple->local_address,
                                    .local_address = tuple->remote_address,
                                    .remote_port = tuple->local_port,
                                    .local_port = tuple->remote_port};
    int r = destroyer_of(t, pod);

    return r < 0 ? r : socket_destroy(t->destroyer, &own, cookie);
}

/* A connection, or a SYN that it has answered: who knows its numbers could go on with either. */
static int end_destination(struct node_tuples *t, const struct pod *pod, const struct bruma_tuple *tuple)
{
    int r = destroyer_of(t, pod);

    return r < 0 ? r : socket_destroy_any(t->destroyer, tuple);
}

/* Either end's reset reaches the other in the way that the connection goes. True: nothing is left of it. */
static bool end_tuple(struct node_tuples *t, const struct pod *source, const struct pod *destination,
                      const struct bruma_tuple *tuple, const struct bruma_node_tuple *value)
{
    int r = source && !value->source_closed ? end_source(t, source, tuple, value->socket_cookie) : -ENOENT,
        other = -ENOENT, failed;

    if (destination && !value->destination_closed)
        other = end_destination(t, destination, tuple);
    if (r == 0 || other == 0)
        t->ended++;
    failed = r < 0 && r != -ENOENT ? r : other < 0 && other != -ENOENT ? other : 0;
    if (failed) {
        t->kept++;
        log_warn_errno(failed,
                       "a connection between two pods that is not allowed any more cannot be ended now");
    }
    return !failed;
}

/* ---- forgetting it ---- */

static void forget(struct node_tuples *t, const struct bruma_tuple *tuple,
                   const struct bruma_node_tuple *value)
{
    if (call(BPF_MAP_DELETE_ELEM, map_of(t, BRUMA_NODE_FD_TUPLES), tuple, NULL) == 0)
        node_verdicts_tuple_gone(t->proxy->node_verdicts, value->source_cookie);
}

/* Nothing comes from the source any more: its pod is gone, and closes nothing, or its end was closed long
 * enough ago. */
static bool is_over(const struct node_tuples *t, const struct pod *source,
                    const struct bruma_node_tuple *value)
{
    uint64_t since = value->accepted_cookie || value->refused ? NODE_TUPLES_CLOSED_NANOSECONDS
                                                              : NODE_TUPLES_UNANSWERED_NANOSECONDS;

    return !source || (value->source_closed && t->now > value->closed_nanoseconds &&
                       t->now - value->closed_nanoseconds > since);
}

/* What the destination sends would go to whoever has the source's address, or says so, once the tuple is
 * gone: so nothing may be left there. An application that has accepted it may take its time to close it. */
static bool nothing_is_left(struct node_tuples *t, const struct pod *source, const struct pod *destination,
                            const struct bruma_tuple *tuple, const struct bruma_node_tuple *value)
{
    uint64_t cookie;
    int r;

    if (!destination || (value->accepted_cookie && value->destination_closed))
        return true;
    if (source && value->accepted_cookie) {
        r = destroyer_of(t, destination);
        return r == 0 && socket_find(t->destroyer, tuple, &cookie) == -ENOENT;
    }
    r = end_destination(t, destination, tuple);
    return r == 0 || r == -ENOENT;
}

void node_tuples_look(struct node_tuples *t, const struct bruma_tuple *tuple,
                      const struct bruma_node_tuple *seen, bool judge)
{
    struct pod *source = node_tuples_pod(t, seen->source_cookie),
               *destination = node_tuples_pod(t, seen->destination_cookie);
    bool over = is_over(t, source, seen);
    struct bruma_node_tuple value;

    if (!over && (!judge || may_live(t, tuple, source, destination)))
        return;
    /* Another one may have its place since. */
    if (call(BPF_MAP_LOOKUP_ELEM, map_of(t, BRUMA_NODE_FD_TUPLES), tuple, &value) < 0 ||
        value.socket_cookie != seen->socket_cookie)
        return;
    if (!over) {
        if (end_tuple(t, source, destination, tuple, &value) && is_switched_off(t))
            forget(t, tuple, &value);
        return;
    }
    if (nothing_is_left(t, source, destination, tuple, &value))
        forget(t, tuple, &value);
    else
        t->kept++;
}
