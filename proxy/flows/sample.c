/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/flows/sample.h"

#include <errno.h>
#include <linux/bpf.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bruma/mesh.h"
#include "lib/cleanup.h"
#include "lib/netns.h"

#define BATCH         64   /* questions at once: their answers fit a socket's buffer */
#define ANSWER_SIZE   1024 /* bytes of one answer */
#define DEVICES_MAX   4    /* of a pod, that are tried: to which a socket is bound is part of the question */
#define LIST_BATCH    1024 /* entries of the map at once */
#define ENDED_MISSING 2

/* Of the kernel's enum, which <linux/tcp.h> lacks. */
enum {
    STATE_FIN_WAIT2 = 5,
    STATE_TIME_WAIT = 6,
    STATE_CLOSE_WAIT = 8,
    STATE_LAST_ACK = 9,
    STATE_CLOSING = 11
};

void sample_bytes(const struct tcp_sample *s, bool inbound, uint64_t *ret_sent, uint64_t *ret_received)
{
    bool fin_sent = s->state == STATE_FIN_WAIT2 || s->state == STATE_TIME_WAIT;
    bool fin_received =
        s->state == STATE_CLOSE_WAIT || s->state == STATE_LAST_ACK || s->state == STATE_CLOSING;
    uint64_t extra = (inbound ? 0 : 1) + (fin_sent ? 1 : 0);

    *ret_sent = s->bytes_acked > extra ? s->bytes_acked - extra : 0;
    *ret_received = s->bytes_received > fin_received ? s->bytes_received - fin_received : 0;
}

/* ---- one network namespace ---- */

struct questions {
    int fd;
    struct flow_record *records[BATCH];
    bool answered[BATCH];
    size_t len;
    struct {
        struct nlmsghdr header;
        struct inet_diag_req_v2 request;
    } out[BATCH];
    char in[BATCH][ANSWER_SIZE];
    struct mmsghdr messages[BATCH];
    struct iovec pieces[BATCH];
};

static void put_address(const struct endpoint *e, bool v4, __be32 *address, __be16 *port)
{
    memcpy(address, e->addr.bytes + (v4 ? 12 : 0), v4 ? 4 : 16);
    *port = htons(e->port);
}

static void ask(struct questions *q, size_t i, unsigned device)
{
    const struct flow_record *r = q->records[i];
    const struct flow *f = &r->flow;
    const struct endpoint *local = r->inbound ? &f->destination_address : &f->source_address;
    const struct endpoint *remote = r->inbound ? &f->source_address : &f->destination_address;
    bool v4 = addr_is_v4(&local->addr);
    struct inet_diag_req_v2 *request = &q->out[i].request;

    memset(&q->out[i], 0, sizeof(q->out[i]));
    q->out[i].header = (struct nlmsghdr){
        .nlmsg_len = sizeof(q->out[i]),
        .nlmsg_type = SOCK_DIAG_BY_FAMILY,
        .nlmsg_flags = NLM_F_REQUEST,
        .nlmsg_seq = (uint32_t)i,
    };
    request->sdiag_family = v4 ? AF_INET : AF_INET6; /* the first finds sockets of the second too */
    request->sdiag_protocol = IPPROTO_TCP;
    request->idiag_ext = 1 << (INET_DIAG_INFO - 1);
    put_address(local, v4, request->id.idiag_src, &request->id.idiag_sport);
    put_address(remote, v4, request->id.idiag_dst, &request->id.idiag_dport);
    request->id.idiag_if = device;
    request->id.idiag_cookie[0] = (uint32_t)r->socket_cookie;
    request->id.idiag_cookie[1] = (uint32_t)(r->socket_cookie >> 32);
}

static void take(struct flow_record *r, uint8_t state, const struct rtattr *attribute)
{
    const struct tcp_info *info = RTA_DATA(attribute);
    struct tcp_sample s = {.state = state};
    uint64_t sent, received;

    memcpy(&s.bytes_acked, &info->tcpi_bytes_acked, sizeof(s.bytes_acked));
    memcpy(&s.bytes_received, &info->tcpi_bytes_received, sizeof(s.bytes_received));
    sample_bytes(&s, r->inbound, &sent, &received);
    account_progress(r, sent, received);
    r->missed = 0;
}

static void answer(struct questions *q, const struct nlmsghdr *h, size_t len)
{
    const size_t needed = offsetof(struct tcp_info, tcpi_bytes_received) + sizeof(uint64_t);
    const struct inet_diag_msg *m = NLMSG_DATA(h);

    if (!NLMSG_OK(h, len) || h->nlmsg_type != SOCK_DIAG_BY_FAMILY || h->nlmsg_seq >= q->len ||
        h->nlmsg_len < NLMSG_LENGTH(sizeof(*m)))
        return;
    len = h->nlmsg_len - NLMSG_LENGTH(sizeof(*m));
    for (const struct rtattr *a = (const struct rtattr *)(m + 1); RTA_OK(a, len); a = RTA_NEXT(a, len)) {
        if (a->rta_type == INET_DIAG_INFO && RTA_PAYLOAD(a) >= needed) {
            take(q->records[h->nlmsg_seq], m->idiag_state, a);
            q->answered[h->nlmsg_seq] = true;
        }
    }
}

/* The kernel answers while it is asked: all of it is there then. */
static void ask_all(struct questions *q, unsigned device)
{
    struct iovec out[BATCH];
    struct msghdr message = {.msg_iov = out};
    int n;

    for (size_t i = 0; i < q->len; i++) {
        if (q->answered[i])
            continue;
        ask(q, i, device);
        out[message.msg_iovlen++] = (struct iovec){&q->out[i], sizeof(q->out[i])};
        q->pieces[i] = (struct iovec){q->in[i], ANSWER_SIZE};
    }
    for (size_t i = 0; i < BATCH; i++) {
        q->pieces[i] = (struct iovec){q->in[i], ANSWER_SIZE};
        q->messages[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &q->pieces[i], .msg_iovlen = 1}};
    }
    if (!message.msg_iovlen || sendmsg(q->fd, &message, 0) < 0)
        return;
    n = recvmmsg(q->fd, q->messages, (unsigned)message.msg_iovlen, MSG_DONTWAIT, NULL);
    for (int i = 0; i < n; i++)
        answer(q, (const struct nlmsghdr *)(const void *)q->in[i], q->messages[i].msg_len);
}

/* Those of the pod, lo behind the others; and none: of a socket that is bound to none, any is right. */
static size_t devices_of_pod(unsigned ret[DEVICES_MAX])
{
    struct if_nameindex *all = if_nameindex();
    size_t n = 0;

    for (size_t i = 0; all && all[i].if_index && n < DEVICES_MAX - 1; i++) {
        if (all[i].if_index != BRUMA_LOOPBACK_IFINDEX)
            ret[n++] = all[i].if_index;
    }
    if (all)
        if_freenameindex(all);
    ret[n++] = BRUMA_LOOPBACK_IFINDEX;
    return n;
}

static void flush(struct questions *q, const unsigned *devices, size_t devices_len)
{
    memset(q->answered, 0, sizeof(q->answered));
    for (size_t i = 0; i < devices_len; i++)
        ask_all(q, devices[i]);
    q->len = 0;
}

/* A live one by its numbers: events that are read meanwhile may end it. */
struct live {
    uint64_t netns_cookie, socket_cookie;
};

/* All of them are of one pod. */
static void sample_pod(struct questions *q, struct account *a, const struct live *all, size_t len,
                       const struct sample_pause *pause)
{
    struct pod *pod = flow_pods_find(a->pods, all[0].netns_cookie);
    _cleanup_netns_ int home = pod ? netns_visit(pod->fds[BRUMA_POD_FD_NETNS]) : -1;
    unsigned devices[DEVICES_MAX];
    size_t devices_len;

    if (home >= 0) {
        devices_len = devices_of_pod(devices);
        q->fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
        for (size_t i = 0; q->fd >= 0 && i < len; i++) {
            q->records[q->len] = account_find(a, all[i].socket_cookie);
            if (q->records[q->len])
                q->len++;
            if (q->len < BATCH && i + 1 < len)
                continue;
            flush(q, devices, devices_len);
            if (pause)
                pause->fn(pause->data);
        }
        if (q->fd >= 0)
            close(q->fd);
    }
    if (pod)
        pod_unref(pod);
}

/* ---- the map ---- */

static long bpf(int command, union bpf_attr *attr)
{
    return syscall(SYS_bpf, command, attr, sizeof(*attr));
}

static bool is_listed(int flows, uint64_t socket_cookie)
{
    struct bruma_flow flow;
    union bpf_attr attr = {
        .map_fd = (uint32_t)flows,
        .key = (uint64_t)(uintptr_t)&socket_cookie,
        .value = (uint64_t)(uintptr_t)&flow,
    };

    return bpf(BPF_MAP_LOOKUP_ELEM, &attr) == 0 || errno != ENOENT;
}

int sample_list(int flows, void (*fn)(void *data, uint64_t socket_cookie, const struct bruma_flow *flow),
                void *data)
{
    _cleanup_free_ uint64_t *keys = calloc(LIST_BATCH, sizeof(*keys));
    _cleanup_free_ struct bruma_flow *values = calloc(LIST_BATCH, sizeof(*values));
    uint32_t at = 0;
    bool begun = false;

    if (!keys || !values)
        return -ENOMEM;
    for (unsigned n = 0; n <= 2 * BRUMA_MAX_FLOWS / LIST_BATCH + 1024; n++) {
        union bpf_attr attr = {
            .batch = {.in_batch = begun ? (uint64_t)(uintptr_t)&at : 0,
                      .out_batch = (uint64_t)(uintptr_t)&at,
                      .keys = (uint64_t)(uintptr_t)keys,
                      .values = (uint64_t)(uintptr_t)values,
                      .count = LIST_BATCH,
                      .map_fd = (uint32_t)flows},
        };
        int e = bpf(BPF_MAP_LOOKUP_BATCH, &attr) < 0 ? errno : 0;

        if (e && e != ENOENT)
            return -e;
        for (uint32_t i = 0; i < attr.batch.count && i < LIST_BATCH; i++)
            fn(data, keys[i], &values[i]);
        if (e)
            return 0; /* the last ones */
        begun = true;
    }
    return -E2BIG;
}

/* ---- all of them ---- */

struct gathered {
    struct live *all;
    size_t len;
};

static void gather(void *data, struct flow_record *r)
{
    struct gathered *g = data;

    r->missed++;
    g->all[g->len++] = (struct live){r->netns_cookie, r->socket_cookie};
}

static int by_pod(const void *a, const void *b)
{
    const struct live *x = a, *y = b;

    return (x->netns_cookie > y->netns_cookie) - (x->netns_cookie < y->netns_cookie);
}

int sample_all(struct account *a, int flows, const struct sample_pause *pause)
{
    _cleanup_free_ struct live *all = malloc((a->live + 1) * sizeof(*all));
    _cleanup_free_ struct questions *q = calloc(1, sizeof(*q));
    struct gathered g = {all, 0};
    size_t end;

    if (!all || !q)
        return -ENOMEM;
    account_each(a, gather, &g);
    qsort(all, g.len, sizeof(*all), by_pod);
    for (size_t i = 0; i < g.len; i = end) {
        for (end = i + 1; end < g.len && all[end].netns_cookie == all[i].netns_cookie;)
            end++;
        sample_pod(q, a, all + i, end - i, pause);
    }
    for (size_t i = 0; i < g.len; i++) {
        struct flow_record *r = account_find(a, all[i].socket_cookie);

        if (r && r->missed && is_listed(flows, r->socket_cookie))
            r->missed = 0;
        if (r && r->missed >= ENDED_MISSING)
            account_lost(a, r);
    }
    return 0;
}
