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
#include "proxy/direct/socket_destroy.h"
#include "proxy/route/policy.h"
#include "proxy/verdicts/node_verdicts.h"

#define LOOK_SOON         20             /* milliseconds: many changes are one look */
#define SWEEP             10000          /* milliseconds */
#define CLOSED_FOR        10000000000ull /* nanoseconds for what is on its way still */
#define ENDED_AT_ONCE     256
#define ENTRIES_AT_A_TIME 256

/* A handshake may have been under way while its pods were judged. */
static const uint64_t looks[] = {LOOK_SOON, 300, 1000, 4000, 16000, 64000, 135000};

struct node_judge {
    struct proxy *proxy;
    struct loop_timer timer, sweep;
    uint64_t number; /* 0: somebody else is in charge */
    size_t look;     /* index in looks of the next one */
    uint64_t swept_generation;
};

/* ---- maps ---- */

static long call(enum bpf_cmd command, int map, void *key, void *value)
{
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr));
    attr.map_fd = (uint32_t)map;
    attr.key = (uint64_t)(uintptr_t)key;
    if (command == BPF_MAP_GET_NEXT_KEY)
        attr.next_key = (uint64_t)(uintptr_t)value;
    else if (command != BPF_MAP_DELETE_ELEM)
        attr.value = (uint64_t)(uintptr_t)value;
    return syscall(SYS_bpf, command, &attr, sizeof(attr));
}

/* All keys, as they are now: what is deleted meanwhile must not make the walk begin anew. Returns how many.
 */
static size_t keys_of(int map, size_t key_size, size_t max, void **ret)
{
    char *keys = NULL;
    size_t len = 0, room = 0;

    while (len < max) {
        if (len == room) {
            char *grown = reallocarray(keys, room = room ? 2 * room : ENTRIES_AT_A_TIME, key_size);

            if (!grown)
                break;
            keys = grown;
        }
        if (call(BPF_MAP_GET_NEXT_KEY, map, len ? keys + (len - 1) * key_size : NULL, keys + len * key_size))
            break;
        len++;
    }
    *ret = keys;
    return len;
}

static uint64_t now_nanoseconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static int map_of(const struct node_judge *j, enum bruma_node_fd which)
{
    return node_verdicts_map(j->proxy->node_verdicts, which);
}

static void remove_tuple(struct node_judge *j, struct bruma_tuple *tuple)
{
    struct bruma_node_control *control = node_verdicts_control(j->proxy->node_verdicts);

    if (call(BPF_MAP_DELETE_ELEM, map_of(j, BRUMA_NODE_FD_TUPLES), tuple, NULL) == 0)
        __atomic_fetch_sub(&control->tuples, 1, __ATOMIC_SEQ_CST);
}

/* ---- whether it may live ---- */

static struct pod *pod_of(const struct proxy *proxy, uint64_t cookie)
{
    struct pod *pod;

    list_for_each (pod, &proxy->pods, node) {
        if (pod->cookie == cookie)
            return pod;
    }
    return NULL;
}

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

static bool takes_part(const struct node_judge *j, const struct pod *pod)
{
    struct bruma_node_device device;
    uint64_t cookie = pod->cookie;

    return !pod->deleted && !pod->draining &&
           atomic_load_explicit(&pod->same_node, memory_order_relaxed) == SAME_NODE_KERNEL &&
           call(BPF_MAP_LOOKUP_ELEM, map_of(j, BRUMA_NODE_FD_DEVICES), &cookie, &device) == 0;
}

static bool may_live(const struct node_judge *j, const struct bruma_tuple *tuple, const struct pod *source,
                     const struct pod *destination)
{
    const struct workload *from = source ? workload_of(source) : NULL,
                          *to = destination ? workload_of(destination) : NULL;
    struct policy_request request = {.identity = from ? from->identity : NULL};
    struct policy_verdict verdict;

    if (atomic_load_explicit(&j->proxy->same_node, memory_order_relaxed) != SAME_NODE_KERNEL || !from ||
        !to || !*from->identity || !takes_part(j, source) || !takes_part(j, destination))
        return false;
    read_endpoint(&request.source, &tuple->remote_address, tuple->remote_port);
    read_endpoint(&request.destination, &tuple->local_address, tuple->local_port);
    if (!pod_has_address(source, &request.source.addr) ||
        !pod_has_address(destination, &request.destination.addr))
        return false;
    policy_check(j->proxy->state, to, &request, &verdict);
    return verdict.allowed && !verdict.unknown;
}

/* ---- its end ---- */

static int end_socket(const struct pod *pod, const struct bruma_tuple *tuple, uint64_t cookie)
{
    struct socket_destroyer *destroyer;
    int r = socket_destroyer_new(pod->fds[BRUMA_POD_FD_NETNS], &destroyer);

    if (r < 0)
        return r;
    r = socket_destroy(destroyer, tuple, cookie);
    socket_destroyer_free(&destroyer);
    return r;
}

/* Either end's reset reaches the other in the way that the connection goes. False: neither end is there any
 * more, or the kernel does not end it now; a later look may. */
static bool end_tuple(const struct pod *source, const struct pod *destination,
                      const struct bruma_tuple *tuple, const struct bruma_node_tuple *t)
{
    const struct bruma_tuple own = {.remote_address = tuple->local_address,
                                    .local_address = tuple->remote_address,
                                    .remote_port = tuple->local_port,
                                    .local_port = tuple->remote_port};
    int r = source && !t->source_closed ? end_socket(source, &own, t->socket_cookie) : -ENOENT;

    /* The source's may have just ended. */
    if ((r == 0 || r == -ENOENT) && destination && t->accepted_cookie && !t->destination_closed) {
        int other = end_socket(destination, tuple, t->accepted_cookie);

        if (other != -ENOENT)
            r = other;
    }
    if (r < 0 && r != -ENOENT)
        log_warn_errno(r, "a connection between two pods that is not allowed any more cannot be ended now");
    return r == 0;
}

/* Returns whether there is more to be ended. */
static bool judge_all(struct node_judge *j)
{
    _cleanup_free_ struct bruma_tuple *tuples = NULL;
    unsigned ended = 0;
    size_t len =
        keys_of(map_of(j, BRUMA_NODE_FD_TUPLES), sizeof(*tuples), BRUMA_MAX_NODE_TUPLES, (void **)&tuples);

    for (size_t i = 0; tuples && i < len && ended < ENDED_AT_ONCE; i++) {
        const struct pod *source, *destination;
        struct bruma_node_tuple t;

        if (call(BPF_MAP_LOOKUP_ELEM, map_of(j, BRUMA_NODE_FD_TUPLES), &tuples[i], &t) < 0 ||
            (t.source_closed && (!t.accepted_cookie || t.destination_closed)))
            continue;
        source = pod_of(j->proxy, t.source_cookie);
        destination = pod_of(j->proxy, t.destination_cookie);
        if (may_live(j, &tuples[i], source, destination))
            continue;
        if (end_tuple(source, destination, &tuples[i], &t))
            ended++;
    }
    if (ended)
        log_info("connections between two pods that are not allowed any more were ended\tconnections=%u "
                 "reason=%s",
                 ended, reason_name(BRUMA_REASON_POLICY_CHANGED));
    return ended == ENDED_AT_ONCE;
}

static void on_look(struct loop_timer *timer)
{
    struct node_judge *j = container_of(timer, struct node_judge, timer);

    if (judge_all(j)) {
        loop_timer_set(j->proxy->loop, timer, 1);
        return;
    }
    if (++j->look < array_size(looks))
        loop_timer_set(j->proxy->loop, timer, looks[j->look]);
}

void node_judge_changed(struct node_judge *j)
{
    if (!j)
        return;
    node_verdicts_change(j->proxy->node_verdicts);
    if (!j->number || !node_verdicts_control(j->proxy->node_verdicts))
        return;
    if (loop_timer_armed(&j->timer) && !j->look)
        return;
    j->look = 0;
    loop_timer_set(j->proxy->loop, &j->timer, LOOK_SOON);
}

/* ---- what is left ---- */

static void sweep_tuples(struct node_judge *j, uint64_t now)
{
    _cleanup_free_ struct bruma_tuple *tuples = NULL;
    size_t len =
        keys_of(map_of(j, BRUMA_NODE_FD_TUPLES), sizeof(*tuples), BRUMA_MAX_NODE_TUPLES, (void **)&tuples);

    for (size_t i = 0; tuples && i < len; i++) {
        struct bruma_node_tuple t;

        if (call(BPF_MAP_LOOKUP_ELEM, map_of(j, BRUMA_NODE_FD_TUPLES), &tuples[i], &t) < 0)
            continue;
        /* A pod that is gone closes nothing any more. */
        if (!pod_of(j->proxy, t.source_cookie) ||
            (t.source_closed && now - t.closed_nanoseconds > CLOSED_FOR &&
             (!t.accepted_cookie || t.destination_closed || !pod_of(j->proxy, t.destination_cookie))))
            remove_tuple(j, &tuples[i]);
    }
}

static void sweep_pending(struct node_judge *j, uint64_t now)
{
    _cleanup_free_ struct bruma_node_key *keys = NULL;
    int map = map_of(j, BRUMA_NODE_FD_PENDING);
    size_t len = keys_of(map, sizeof(*keys), BRUMA_MAX_NODE_VERDICTS, (void **)&keys);

    for (size_t i = 0; keys && i < len; i++) {
        struct bruma_node_pending p;

        if (call(BPF_MAP_LOOKUP_ELEM, map, &keys[i], &p) == 0 && now > p.connected_nanoseconds &&
            now - p.connected_nanoseconds > 2 * BRUMA_NODE_PENDING_NANOSECONDS)
            (void)call(BPF_MAP_DELETE_ELEM, map, &keys[i], NULL);
    }
}

static void sweep_verdicts(struct node_judge *j)
{
    _cleanup_free_ struct bruma_node_key *keys = NULL;
    uint64_t generation =
        __atomic_load_n(&node_verdicts_control(j->proxy->node_verdicts)->generation, __ATOMIC_SEQ_CST);
    int map = map_of(j, BRUMA_NODE_FD_VERDICTS);
    size_t len;

    if (generation == j->swept_generation)
        return;
    len = keys_of(map, sizeof(*keys), BRUMA_MAX_NODE_VERDICTS, (void **)&keys);
    for (size_t i = 0; keys && i < len; i++) {
        struct bruma_node_verdict v;

        if (call(BPF_MAP_LOOKUP_ELEM, map, &keys[i], &v) == 0 && v.generation < generation)
            (void)call(BPF_MAP_DELETE_ELEM, map, &keys[i], NULL);
    }
    j->swept_generation = generation;
}

static void on_sweep(struct loop_timer *timer)
{
    struct node_judge *j = container_of(timer, struct node_judge, sweep);
    uint64_t now = now_nanoseconds();

    sweep_tuples(j, now);
    sweep_pending(j, now);
    sweep_verdicts(j);
    loop_timer_set(j->proxy->loop, timer, SWEEP);
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
    *ret = j;
    return 0;
}

void node_judge_free(struct node_judge **ptr)
{
    if (!*ptr)
        return;
    loop_timer_cancel(&(*ptr)->timer);
    loop_timer_cancel(&(*ptr)->sweep);
    free(*ptr);
    *ptr = NULL;
}

int node_judge_take_maps(struct node_judge *j, int fds[BRUMA_NODE_FD_COUNT])
{
    int r = node_verdicts_take_maps(j->proxy->node_verdicts, fds);

    if (r == 0)
        node_judge_in_charge(j, j->number);
    return r;
}

void node_judge_in_charge(struct node_judge *j, uint64_t number)
{
    if (!j)
        return;
    /* Switched off, and nobody else will end them. */
    if (j->number && !number &&
        atomic_load_explicit(&j->proxy->same_node, memory_order_relaxed) != SAME_NODE_KERNEL) {
        for (int i = 0; i <= BRUMA_MAX_NODE_TUPLES / ENDED_AT_ONCE && judge_all(j); i++)
            ;
    }
    j->number = number;
    node_verdicts_set_number(j->proxy->node_verdicts, number);
    loop_timer_cancel(&j->timer);
    loop_timer_cancel(&j->sweep);
    if (!number || !node_verdicts_control(j->proxy->node_verdicts))
        return;
    node_judge_changed(j);
    loop_timer_set(j->proxy->loop, &j->sweep, SWEEP);
}
