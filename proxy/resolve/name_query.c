/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/resolve/name_query.h"

#include <ares.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/cleanup.h"

#define TRIES      3
#define TRY_MIN    250 /* milliseconds */
#define FAMILIES   2
#define FAMILY_MAX (NAME_ADDRESSES_MAX / FAMILIES)

struct family {
    struct name_query *query;
    bool over;
    int status; /* of c-ares, once it is over */
    uint32_t len;
    struct addr addresses[FAMILY_MAX];
};

struct name_query {
    struct loop *loop;
    ares_channel channel; /* its own: each query has ports of its own, and the servers of this moment */
    struct family families[FAMILIES];
    unsigned under_way;
    bool refused; /* an address that nothing is connected to was among the answers */
    uint32_t ttl;
    struct list sockets; /* struct query_socket */
    struct loop_timer retry, deadline, end;
    void (*done)(void *data, const struct name_answer *answer, uint32_t ttl);
    void *data;
};

struct query_socket {
    struct list node;
    struct loop_watch watch;
    struct name_query *query;
};

int name_query_library_init(void)
{
    return ares_library_init(ARES_LIB_INIT_ALL) == ARES_SUCCESS ? 0 : -ENOMEM;
}

/* Of anything else there is no way to somebody else: this pod's own programs, all or none. */
static bool addr_is_usable(const struct addr *a)
{
    static const struct addr broadcast = {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};

    if (addr_is_none(a) || addr_is_loopback(a) || addr_equal(a, &broadcast))
        return false;
    if (addr_is_v4(a))
        return a->bytes[12] != 0 && (a->bytes[12] & 0xf0) != 0xe0;
    /* a link of which nobody has said which, or a group */
    return a->bytes[0] != 0xff && !(a->bytes[0] == 0xfe && (a->bytes[1] & 0xc0) == 0x80);
}

/* ---- the answer ---- */

static void say(struct name_answer *a, enum bruma_reason reason, const char *detail)
{
    a->reason = reason;
    a->len = 0;
    snprintf(a->detail, sizeof(a->detail), "%s", detail);
}

static bool says_no(int status)
{
    return status == ARES_SUCCESS || status == ARES_ENOTFOUND || status == ARES_ENODATA ||
           status == ARES_EBADNAME;
}

/* Neither family has an address. That there is none counts only if it was said of both. */
static void explain_failure(const struct name_query *q, struct name_answer *a)
{
    for (int i = 0; i < FAMILIES; i++) {
        int status = q->families[i].status;

        if (!q->families[i].query || says_no(status))
            continue;
        if (status == ARES_ETIMEOUT || status == ARES_ECANCELLED || status == ARES_EDESTRUCTION)
            say(a, BRUMA_REASON_NAME_TIMEOUT, "no DNS server answered in time");
        else if (status == ARES_ENOMEM)
            say(a, BRUMA_REASON_OUT_OF_RESOURCES, "no memory for a DNS query");
        else
            say(a, BRUMA_REASON_NAME_SERVER_FAILED, ares_strerror(status));
        return;
    }
    if (q->refused)
        say(a, BRUMA_REASON_NAME_ADDRESS_REFUSED, "it has loopback, link-local or group addresses only");
    else if (q->families[0].status == ARES_ENODATA || q->families[1].status == ARES_ENODATA)
        say(a, BRUMA_REASON_NAME_NOT_FOUND, "it has no address");
    else
        say(a, BRUMA_REASON_NAME_NOT_FOUND, "it does not exist");
}

static void on_end(struct loop_timer *timer)
{
    struct name_query *q = container_of(timer, struct name_query, end);
    struct name_answer a = {.reason = BRUMA_REASON_NONE};

    for (int i = 0; i < FAMILIES; i++) {
        for (uint32_t j = 0; j < q->families[i].len; j++)
            a.addresses[a.len++] = q->families[i].addresses[j];
    }
    if (!a.len)
        explain_failure(q, &a);
    q->done(q->data, &a, q->ttl);
}

static void shorten(struct name_query *q, int ttl)
{
    uint32_t seconds = ttl > 0 ? (uint32_t)ttl : 0;

    if (seconds < q->ttl)
        q->ttl = seconds;
}

static void add_addresses(struct family *f, const struct ares_addrinfo *found)
{
    for (const struct ares_addrinfo_node *n = found->nodes; n; n = n->ai_next) {
        struct endpoint e;

        if (endpoint_from_sockaddr(n->ai_addr, &e) < 0)
            continue;
        shorten(f->query, n->ai_ttl);
        if (!addr_is_usable(&e.addr))
            f->query->refused = true;
        else if (f->len < FAMILY_MAX)
            f->addresses[f->len++] = e.addr;
    }
    for (const struct ares_addrinfo_cname *c = found->cnames; c; c = c->next)
        shorten(f->query, c->ttl);
}

static void on_family(void *data, int status, int timeouts, struct ares_addrinfo *found)
{
    struct family *f = data;
    struct name_query *q = f->query;

    (void)timeouts;
    f->status = status;
    f->over = true;
    if (status == ARES_SUCCESS && found)
        add_addresses(f, found);
    ares_freeaddrinfo(found);
    if (--q->under_way == 0) {
        loop_timer_cancel(&q->deadline);
        loop_timer_set(q->loop, &q->end, 0); /* not in the library's own call */
    }
}

/* ---- the library on our loop ---- */

static void set_retry(struct name_query *q)
{
    struct timeval tv;

    if (q->under_way && ares_timeout(q->channel, NULL, &tv))
        loop_timer_set(q->loop, &q->retry, (uint64_t)tv.tv_sec * 1000 + (uint64_t)tv.tv_usec / 1000 + 1);
    else
        loop_timer_cancel(&q->retry);
}

static void on_socket(struct loop_watch *watch, uint32_t events)
{
    struct query_socket *s = container_of(watch, struct query_socket, watch);
    struct name_query *q = s->query;
    int fd = watch->fd;
    bool in = events & (EPOLLIN | EPOLLERR | EPOLLHUP), out = events & (EPOLLOUT | EPOLLERR | EPOLLHUP);

    ares_process_fd(q->channel, in ? fd : ARES_SOCKET_BAD, out ? fd : ARES_SOCKET_BAD);
    set_retry(q);
}

static void on_retry(struct loop_timer *timer)
{
    struct name_query *q = container_of(timer, struct name_query, retry);

    ares_process_fd(q->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
    set_retry(q);
}

static void on_deadline(struct loop_timer *timer)
{
    struct name_query *q = container_of(timer, struct name_query, deadline);

    loop_timer_cancel(&q->retry);
    ares_cancel(q->channel);
}

static struct query_socket *find_socket(struct name_query *q, int fd)
{
    struct query_socket *s;

    list_for_each (s, &q->sockets, node) {
        if (s->watch.fd == fd)
            return s;
    }
    return NULL;
}

/* What the library wants to know of a socket; nothing: it is about to close it. Without memory, the query
 * ends by its time. */
static void on_socket_state(void *data, ares_socket_t fd, int readable, int writable)
{
    struct name_query *q = data;
    struct query_socket *s = find_socket(q, fd);
    uint32_t events = (readable ? EPOLLIN : 0u) | (writable ? EPOLLOUT : 0u);

    if (!events) {
        if (!s)
            return;
        loop_watch_remove(q->loop, &s->watch);
        list_del(&s->node);
        loop_free_later(q->loop, s);
        return;
    }
    if (s) {
        loop_watch_modify(q->loop, &s->watch, events);
        return;
    }
    s = calloc(1, sizeof(*s));
    if (!s)
        return;
    s->query = q;
    if (loop_watch_add(q->loop, &s->watch, fd, events, on_socket) < 0)
        free(s);
    else
        list_add_tail(&q->sockets, &s->node);
}

/* ---- begin and end ---- */

static int open_channel(struct name_query *q, const struct name_query_options *options, bool search)
{
    struct ares_options o = {
        .flags = search ? 0 : ARES_FLAG_NOSEARCH,
        .tries = TRIES,
        .sock_state_cb = on_socket_state,
        .sock_state_cb_data = q,
    };
    int r;

    o.timeout =
        (int)(options->timeout / 4); /* a second try waits longer; the deadline comes before the last */
    if (o.timeout < TRY_MIN)
        o.timeout = TRY_MIN;
    r = ares_init_options(&q->channel, &o,
                          ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB);
    if (r != ARES_SUCCESS)
        return r == ARES_ENOMEM ? -ENOMEM : -EIO;
    if (*options->servers && ares_set_servers_ports_csv(q->channel, options->servers) != ARES_SUCCESS)
        return -EIO;
    return 0;
}

bool name_query_servers_good(const char *servers)
{
    ares_channel channel = NULL;
    bool good;

    if (!*servers)
        return true;
    if (ares_init_options(&channel, NULL, 0) != ARES_SUCCESS)
        return false;
    good = ares_set_servers_ports_csv(channel, servers) == ARES_SUCCESS;
    ares_destroy(channel);
    return good;
}

static void ask(struct name_query *q, struct family *f, const char *name, int family)
{
    const struct ares_addrinfo_hints hints = {
        .ai_family = family, .ai_socktype = SOCK_STREAM, .ai_flags = ARES_AI_NOSORT};

    f->query = q;
    ares_getaddrinfo(q->channel, name, NULL, &hints, on_family, f);
}

static void ask_families(struct name_query *q, const struct name_query_options *options, const char *name)
{
    struct addr literal;
    bool is_address = addr_parse(name, &literal) == 0; /* which the library knows without asking */
    bool ipv4 = !is_address || addr_is_v4(&literal);
    bool ipv6 = is_address ? !ipv4 : options->ipv6;

    q->under_way = (unsigned)ipv4 + (unsigned)ipv6;
    if (ipv4)
        ask(q, &q->families[0], name, AF_INET);
    if (ipv6)
        ask(q, &q->families[1], name, AF_INET6);
}

int name_query_new(struct loop *loop, const struct name_query_options *options, const char *name,
                   void (*done)(void *, const struct name_answer *, uint32_t), void *data,
                   struct name_query **ret)
{
    struct name_query *q = calloc(1, sizeof(*q));
    int r;

    if (!q)
        return -ENOMEM;
    q->loop = loop;
    q->done = done;
    q->data = data;
    q->ttl = UINT32_MAX;
    list_init(&q->sockets);
    loop_timer_init(&q->retry, on_retry);
    loop_timer_init(&q->deadline, on_deadline);
    loop_timer_init(&q->end, on_end);
    /* a hostname is a whole one; search domains are for those that cannot be */
    r = open_channel(q, options, !strchr(name, '.'));
    if (r < 0) {
        name_query_free(&q);
        return r;
    }
    loop_timer_set(loop, &q->deadline, options->timeout);
    ask_families(q, options, name);
    set_retry(q);
    *ret = q;
    return 0;
}

void name_query_free(struct name_query **query)
{
    struct name_query *q = *query;

    if (!q)
        return;
    if (q->channel)
        ares_destroy(q->channel); /* tells of each socket, and of what was under way */
    loop_timer_cancel(&q->retry);
    loop_timer_cancel(&q->deadline);
    loop_timer_cancel(&q->end);
    loop_free_later(q->loop, q);
    *query = NULL;
}
