/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "verdicts"
#include "proxy/verdicts/node_verdicts.h"

#include <errno.h>
#include <linux/bpf.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "bruma/mesh.h"
#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/map_number.h"
#include "lib/seqpacket.h"
#include "proxy/state/rcu.h"

/* Workers follow the pointer to it, so it never changes. */
struct node_maps {
    int fds[BRUMA_NODE_FD_COUNT];
    struct bruma_node_control *control;
    struct bruma_node_place *places;
    struct rcu_head retired;
};

struct node_verdicts {
    struct node_maps *maps; /* RCU; NULL: there are none */
    atomic_uint_fast64_t number;
    atomic_ulong pod_verdicts_full, verdicts_full;
};

int node_verdicts_new(struct node_verdicts **ret)
{
    struct node_verdicts *v = calloc(1, sizeof(*v));

    if (!v)
        return -ENOMEM;
    *ret = v;
    return 0;
}

/* ---- maps ---- */

#define PLACES_SIZE (BRUMA_NODE_PLACES * sizeof(struct bruma_node_place))

static size_t control_size(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    return (sizeof(struct bruma_node_control) + page - 1) / page * page;
}

/* NULL with errno. */
static void *map_memory(int fd, size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

static void free_maps(struct node_maps *m)
{
    if (!m)
        return;
    if (m->control)
        munmap(m->control, control_size());
    if (m->places)
        munmap(m->places, PLACES_SIZE);
    close_fds(m->fds, BRUMA_NODE_FD_COUNT);
    free(m);
}

static void free_retired(struct rcu_head *head)
{
    rcu_deferred();
    free_maps(container_of(head, struct node_maps, retired));
}

void node_verdicts_free(struct node_verdicts **ptr)
{
    struct node_verdicts *v = *ptr;

    if (!v)
        return;
    free_maps(v->maps);
    free(v);
    *ptr = NULL;
}

/* Takes the descriptors. NULL with errno. */
static struct node_maps *new_maps(int fds[BRUMA_NODE_FD_COUNT])
{
    struct node_maps *m = calloc(1, sizeof(*m));
    int e;

    if (!m) {
        close_fds(fds, BRUMA_NODE_FD_COUNT);
        errno = ENOMEM;
        return NULL;
    }
    for (int i = 0; i < BRUMA_NODE_FD_COUNT; i++)
        m->fds[i] = take_fd(&fds[i]);
    m->control = map_memory(m->fds[BRUMA_NODE_FD_CONTROL], control_size());
    if (m->control)
        m->places = map_memory(m->fds[BRUMA_NODE_FD_PLACES], PLACES_SIZE);
    if (m->places)
        return m;
    e = errno;
    free_maps(m);
    errno = e;
    return NULL;
}

int node_verdicts_take_maps(struct node_verdicts *v, int fds[BRUMA_NODE_FD_COUNT])
{
    struct node_maps *old = v->maps, *new;

    if (old && same_maps(old->fds, fds, BRUMA_NODE_FD_COUNT)) {
        close_fds(fds, BRUMA_NODE_FD_COUNT);
        return 0;
    }
    new = new_maps(fds);
    if (!new)
        return -errno;
    rcu_publish(v->maps, new);
    if (old)
        rcu_defer(&old->retired, free_retired);
    return 1;
}

void node_verdicts_set_number(struct node_verdicts *v, uint64_t number)
{
    atomic_store(&v->number, number);
}

int node_verdicts_map(const struct node_verdicts *v, enum bruma_node_fd which)
{
    return v->maps ? v->maps->fds[which] : -1;
}

struct bruma_node_control *node_verdicts_control(const struct node_verdicts *v)
{
    return v->maps ? v->maps->control : NULL;
}

void node_verdicts_tuple_gone(const struct node_verdicts *v, uint64_t source_cookie)
{
    __atomic_fetch_sub(&v->maps->control->tuples, 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_sub(&v->maps->places[bruma_node_place(source_cookie)].tuples, 1, __ATOMIC_SEQ_CST);
}

/* ---- verdicts ---- */

static void set_address(struct bruma_address *to, const struct addr *from)
{
    memcpy(to->bytes, from->bytes, sizeof(to->bytes));
}

static uint64_t changes_at(const struct node_maps *m, uint32_t place)
{
    return __atomic_load_n(&m->places[place].changes, __ATOMIC_SEQ_CST);
}

/* As node_generation() of the programs. */
static uint64_t generation(const struct node_maps *m, uint64_t source, uint64_t destination,
                           const struct bruma_address *asked)
{
    return __atomic_load_n(&m->control->generation, __ATOMIC_SEQ_CST) +
           changes_at(m, bruma_node_place(source)) + changes_at(m, bruma_node_place(destination)) +
           changes_at(m, bruma_node_place_of_address(asked));
}

bool node_verdicts_begin(const struct node_verdicts *v, struct node_permission *p)
{
    const struct node_maps *maps = v ? rcu_read(v->maps) : NULL;
    struct bruma_address asked;

    if (!maps || !atomic_load(&v->number))
        return false;
    set_address(&asked, &p->asked.addr);
    p->ticket = (struct node_ticket){
        .maps = maps, .generation = generation(maps, p->source->cookie, p->destination->cookie, &asked)};
    return true;
}

void node_verdicts_change(struct node_verdicts *v)
{
    const struct node_maps *maps = v ? rcu_read(v->maps) : NULL;

    if (maps)
        __atomic_fetch_add(&maps->control->generation, 1, __ATOMIC_SEQ_CST);
}

void node_verdicts_change_pod(struct node_verdicts *v, uint64_t cookie)
{
    const struct node_maps *maps = v ? rcu_read(v->maps) : NULL;

    if (maps)
        __atomic_fetch_add(&maps->places[bruma_node_place(cookie)].changes, 1, __ATOMIC_SEQ_CST);
}

void node_verdicts_change_address(struct node_verdicts *v, const struct addr *addr)
{
    const struct node_maps *maps = v ? rcu_read(v->maps) : NULL;
    struct bruma_address address;

    set_address(&address, addr);
    if (maps)
        __atomic_fetch_add(&maps->places[bruma_node_place_of_address(&address)].changes, 1, __ATOMIC_SEQ_CST);
}

bool node_verdicts_stand(const struct node_verdicts *v, const struct bruma_node_key *key,
                         const struct bruma_node_verdict *verdict)
{
    const struct node_maps *maps = rcu_read(v->maps);

    return maps && verdict->generation ==
                       generation(maps, key->source_cookie, verdict->destination_cookie, &key->destination);
}

/* Tunnels to there are the proxy's own business. */
static bool is_plain(const struct node_permission *p)
{
    return p->asked.port && p->endpoint.port && p->endpoint.port != BRUMA_PORT_HBONE &&
           addr_is_v4(&p->asked.addr) == addr_is_v4(&p->endpoint.addr) &&
           addr_is_v4(&p->source_address) == addr_is_v4(&p->endpoint.addr);
}

/* The wall clock's time by the clock that goes on while the machine sleeps and that nobody sets. Who sets the
 * wall clock makes all verdicts void. 0: it is over. */
static uint64_t boot_nanoseconds(int64_t wall_seconds)
{
    struct timespec wall, boot;
    int64_t left;

    clock_gettime(CLOCK_REALTIME, &wall);
    clock_gettime(CLOCK_BOOTTIME, &boot);
    left = wall_seconds - wall.tv_sec - 1; /* of which a part is over */
    if (left <= 0)
        return 0;
    if (left > INT32_MAX)
        left = INT32_MAX;
    return ((uint64_t)boot.tv_sec + (uint64_t)left) * 1000000000 + (uint64_t)boot.tv_nsec;
}

static int update(const struct node_maps *m, const struct bruma_node_key *key,
                  const struct bruma_node_verdict *value, uint64_t flags)
{
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr));
    attr.map_fd = (uint32_t)m->fds[BRUMA_NODE_FD_VERDICTS];
    attr.key = (uint64_t)(uintptr_t)key;
    attr.value = (uint64_t)(uintptr_t)value;
    attr.flags = flags;
    return syscall(SYS_bpf, BPF_MAP_UPDATE_ELEM, &attr, sizeof(attr)) < 0 ? -errno : 0;
}

/* A new one is of the source's share, which is counted anew as the map is swept. */
static void write_verdict(struct node_verdicts *v, struct pod *source, const struct node_maps *maps,
                          const struct bruma_node_key *key, const struct bruma_node_verdict *value)
{
    int r = update(maps, key, value, BPF_EXIST);

    if (r != -ENOENT)
        return;
    if (atomic_fetch_add(&source->node_verdicts, 1) >= BRUMA_MAX_NODE_VERDICTS_OF_POD) {
        atomic_fetch_sub(&source->node_verdicts, 1);
        atomic_fetch_add_explicit(&v->pod_verdicts_full, 1, memory_order_relaxed);
        return;
    }
    r = update(maps, key, value, BPF_ANY);
    if (r < 0) {
        atomic_fetch_sub(&source->node_verdicts, 1);
        atomic_fetch_add_explicit(&v->verdicts_full, 1, memory_order_relaxed);
        log_debug("a verdict between two pods of the node could not be written\terror=%d", -r);
    }
}

void node_verdicts_allow(struct node_verdicts *v, const struct node_permission *p)
{
    struct bruma_node_key key = {.source_cookie = p->source->cookie, .port = p->asked.port};
    struct bruma_node_verdict value = {.proxy = atomic_load(&v->number),
                                       .generation = p->ticket.generation,
                                       .destination_cookie = p->destination->cookie,
                                       .valid_until_nanoseconds = boot_nanoseconds(p->until),
                                       .source_generation = p->source->generation,
                                       .destination_generation = p->destination->generation,
                                       .endpoint_port = p->endpoint.port};

    if (!value.proxy || !value.valid_until_nanoseconds || !is_plain(p))
        return;
    set_address(&key.destination, &p->asked.addr);
    set_address(&value.source, &p->source_address);
    set_address(&value.endpoint, &p->endpoint.addr);
    write_verdict(v, p->source, p->ticket.maps, &key, &value);
}

struct node_refusals node_verdicts_refused(const struct node_verdicts *v)
{
    return (struct node_refusals){
        .pod_verdicts_full = atomic_load_explicit(&v->pod_verdicts_full, memory_order_relaxed),
        .verdicts_full = atomic_load_explicit(&v->verdicts_full, memory_order_relaxed)};
}
