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
#include <unistd.h>

#include "bruma/mesh.h"
#include "lib/cleanup.h"
#include "lib/log.h"

struct node_verdicts {
    int maps[BRUMA_NODE_FD_COUNT];              /* before control is set */
    struct bruma_node_control *_Atomic control; /* NULL: there are no maps */
    atomic_uint_fast64_t number;
};

int node_verdicts_new(struct node_verdicts **ret)
{
    struct node_verdicts *v = calloc(1, sizeof(*v));

    if (!v)
        return -ENOMEM;
    for (int i = 0; i < BRUMA_NODE_FD_COUNT; i++)
        v->maps[i] = -1;
    *ret = v;
    return 0;
}

static void close_all(int fds[BRUMA_NODE_FD_COUNT])
{
    for (int i = 0; i < BRUMA_NODE_FD_COUNT; i++) {
        if (fds[i] >= 0)
            close(take_fd(&fds[i]));
    }
}

void node_verdicts_free(struct node_verdicts **ptr)
{
    struct node_verdicts *v = *ptr;

    if (!v)
        return;
    if (atomic_load(&v->control))
        munmap(atomic_load(&v->control), sizeof(struct bruma_node_control));
    close_all(v->maps);
    free(v);
    *ptr = NULL;
}

int node_verdicts_take_maps(struct node_verdicts *v, int fds[BRUMA_NODE_FD_COUNT])
{
    struct bruma_node_control *control;

    if (atomic_load(&v->control)) {
        close_all(fds);
        return 0;
    }
    control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fds[BRUMA_NODE_FD_CONTROL], 0);
    if (control == MAP_FAILED) {
        int r = -errno;

        close_all(fds);
        return r;
    }
    for (int i = 0; i < BRUMA_NODE_FD_COUNT; i++)
        v->maps[i] = take_fd(&fds[i]);
    atomic_store(&v->control, control);
    return 0;
}

void node_verdicts_set_number(struct node_verdicts *v, uint64_t number)
{
    atomic_store(&v->number, number);
}

int node_verdicts_map(const struct node_verdicts *v, enum bruma_node_fd which)
{
    return v->maps[which];
}

struct bruma_node_control *node_verdicts_control(const struct node_verdicts *v)
{
    return atomic_load(&v->control);
}

bool node_verdicts_begin(const struct node_verdicts *v, uint64_t *ret_generation)
{
    struct bruma_node_control *control = v ? atomic_load(&v->control) : NULL;

    if (!control || !atomic_load(&v->number))
        return false;
    *ret_generation = __atomic_load_n(&control->generation, __ATOMIC_SEQ_CST);
    return true;
}

void node_verdicts_change(struct node_verdicts *v)
{
    struct bruma_node_control *control = atomic_load(&v->control);

    if (control)
        __atomic_fetch_add(&control->generation, 1, __ATOMIC_SEQ_CST);
}

static void set_address(struct bruma_address *to, const struct addr *from)
{
    memcpy(to->bytes, from->bytes, sizeof(to->bytes));
}

/* Tunnels to there are the proxy's own business. */
static bool is_plain(const struct node_permission *p)
{
    return p->asked.port && p->endpoint.port && p->endpoint.port != BRUMA_PORT_HBONE &&
           addr_is_v4(&p->asked.addr) == addr_is_v4(&p->endpoint.addr) &&
           addr_is_v4(&p->source_address) == addr_is_v4(&p->endpoint.addr);
}

void node_verdicts_allow(struct node_verdicts *v, const struct node_permission *p)
{
    struct bruma_node_key key = {.source_cookie = p->source->cookie, .port = p->asked.port};
    struct bruma_node_verdict value = {.proxy = atomic_load(&v->number),
                                       .generation = p->generation,
                                       .destination_cookie = p->destination->cookie,
                                       .source_generation = p->source->generation,
                                       .destination_generation = p->destination->generation,
                                       .endpoint_port = p->endpoint.port};
    union bpf_attr attr;

    if (!value.proxy || !is_plain(p))
        return;
    set_address(&key.destination, &p->asked.addr);
    set_address(&value.source, &p->source_address);
    set_address(&value.endpoint, &p->endpoint.addr);
    memset(&attr, 0, sizeof(attr));
    attr.map_fd = (uint32_t)v->maps[BRUMA_NODE_FD_VERDICTS];
    attr.key = (uint64_t)(uintptr_t)&key;
    attr.value = (uint64_t)(uintptr_t)&value;
    if (syscall(SYS_bpf, BPF_MAP_UPDATE_ELEM, &attr, sizeof(attr)) < 0)
        log_debug("a verdict between two pods of the node could not be written\terror=%d", errno);
}
