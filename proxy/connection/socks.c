/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "socks"
#include "proxy/connection/socks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/log.h"
#include "lib/reasons.h"
#include "proxy/connection/outbound.h"
#include "proxy/connection/socks_message.h"
#include "proxy/dns/names.h"
#include "proxy/resolve/resolver.h"
#include "proxy/route/endpoints.h"
#include "proxy/socket/socket.h"
#include "proxy/telemetry/telemetry.h"
#include "proxy/worker/connection.h"

#define DRAINED_MAX        65536 /* bytes of a refused client that are read, so that it sees the answer */
#define SLACK_MILLISECONDS 500   /* more than the resolver itself takes */

struct socks {
    struct list node; /* in worker_pod.socks, until it is given away */
    struct worker_pod *wp;
    struct loop_watch watch;
    struct loop_timer timer; /* the client's time to say where to */
    struct waiter waiter;    /* for the name */
    struct connection_news news;
    struct quota quota;
    struct endpoint client, target;
    int fd;
    bool names; /* it counts in pod.socks_names */
    struct socks_message message;
};

/*
 * What is being resolved is bounded for the whole proxy, and a pod can ask for names that nobody answers: it
 * has a part of it, on all workers, or others' names would be refused.
 */
#define NAMES_PART 4

static bool names_take(struct socks *s)
{
    atomic_int *names = &s->wp->pod->socks_names;
    unsigned long most = s->wp->worker->settings->max_name_queries / NAMES_PART;

    if (s->names)
        return true;
    if ((unsigned long)atomic_fetch_add_explicit(names, 1, memory_order_relaxed) >= (most ? most : 1)) {
        atomic_fetch_sub_explicit(names, 1, memory_order_relaxed);
        return false;
    }
    s->names = true;
    return true;
}

static void names_give(struct socks *s)
{
    if (s->names)
        atomic_fetch_sub_explicit(&s->wp->pod->socks_names, 1, memory_order_relaxed);
    s->names = false;
}

/* ---- ends ---- */

static void forget(struct socks *s)
{
    struct loop *loop = s->wp->worker->loop;

    names_give(s);
    loop_timer_cancel(&s->timer);
    worker_wait_cancel(&s->waiter);
    loop_watch_remove(loop, &s->watch);
    list_del(&s->node);
    quota_release(s->wp, NULL, &s->quota);
    loop_free_later(loop, s);
}

static bool say(const struct socks *s, const uint8_t *data, size_t len)
{
    return send(s->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len;
}

/* What it has sent already would make the kernel reset the connection, and the answer be lost. */
static void end_saying(struct socks *s, const uint8_t *data, size_t len)
{
    const struct linger usual = {};
    uint8_t rest[4096];
    size_t drained = 0;
    ssize_t n;

    setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &usual, sizeof(usual));
    if (say(s, data, len)) {
        shutdown(s->fd, SHUT_WR);
        while (drained < DRAINED_MAX && (n = recv(s->fd, rest, sizeof(rest), MSG_DONTWAIT)) > 0)
            drained += (size_t)n;
    }
    close(s->fd);
    forget(s);
}

static void end_with(struct socks *s, enum socks_status status)
{
    uint8_t reply[SOCKS_REPLY_LEN];

    socks_reply(status, reply);
    end_saying(s, reply, sizeof(reply));
}

static void cut_off(struct socks *s)
{
    socket_reset_on_close(s->fd);
    close(s->fd);
    forget(s);
}

static void refuse(struct socks *s, enum socks_status status, enum bruma_reason reason, const char *detail)
{
    telemetry_early_deny(s->wp->worker->telemetry, REPORTER_SOURCE, &s->client, &s->target, reason, detail);
    end_with(s, status);
}

/* ---- where to is known ---- */

static void served(struct connection_news *news)
{
    struct socks *s = container_of(news, struct socks, news);
    uint8_t reply[SOCKS_REPLY_LEN];

    socks_reply(SOCKS_SUCCEEDED, reply);
    (void)say(s, reply, sizeof(reply)); /* whoever has gone is noticed by who carries the bytes */
    close(s->fd);
    forget(s);
}

static void failed(struct connection_news *news, enum bruma_reason reason)
{
    end_with(container_of(news, struct socks, news), socks_status_of(reason));
}

/* The descriptor that is kept is for the answer. */
static void give_away(struct socks *s)
{
    int fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);

    names_give(s);
    loop_timer_cancel(&s->timer);
    list_del(&s->node);
    if (fd < 0) {
        refuse(s, SOCKS_FAILED, BRUMA_REASON_OUT_OF_RESOURCES, NULL);
        return;
    }
    outbound_accept_told(s->wp, fd, &s->client, &s->target, &s->news);
}

/* ---- names ---- */

static const struct addr *choose(const struct addr *addresses, size_t len, bool v4, uint64_t *random)
{
    size_t good = 0, i;

    for (i = 0; i < len; i++)
        good += addr_is_v4(&addresses[i]) == v4;
    if (!good)
        return len ? &addresses[random_below(random, len)] : NULL;
    good = (size_t)random_below(random, good);
    for (i = 0; addr_is_v4(&addresses[i]) != v4 || good--; i++)
        ;
    return &addresses[i];
}

/* 1: the mesh has an address for it; 0: it does not know it; -ENOENT: it has none; -ENOMEM. */
static int look_in_mesh(struct socks *s)
{
    struct worker_pod *wp = s->wp;
    const struct proxy_settings *set = wp->worker->settings;
    const struct names_asker asker = {.namespace = wp->pod->namespace,
                                      .network = worker_pod_source(wp)->network,
                                      .domain = set->cluster_domain,
                                      .preferred_namespace = set->preferred_namespace,
                                      .ipv6 = set->ipv6,
                                      .search = set->search_domains};
    bool v4_first = addr_is_v4(&s->client.addr);

    for (int i = 0; i < 2; i++) {
        struct names_found found;
        int r = names_find(wp->worker->state, &asker, s->message.host, (i == 0) != v4_first, &found);
        const struct addr *a;

        if (r <= 0)
            return r;
        a = choose(found.addresses, found.addresses_len, true, &wp->worker->random);
        if (a)
            s->target.addr = *a;
        names_release(&found);
        if (a)
            return 1;
    }
    return -ENOENT;
}

/* True: done with waiting. */
static bool resolve(struct socks *s, bool timed_out)
{
    struct worker *w = s->wp->worker;
    struct name_answer answer;
    int r = look_in_mesh(s);

    if (r < 0) {
        refuse(s, SOCKS_HOST_UNREACHABLE,
               r == -ENOENT ? BRUMA_REASON_NAME_NOT_FOUND : BRUMA_REASON_OUT_OF_RESOURCES, s->message.host);
        return true;
    }
    if (r == 0 && !names_take(s)) {
        refuse(s, SOCKS_FAILED, BRUMA_REASON_NAME_QUERIES, s->message.host);
        return true;
    }
    if (r == 0 && !resolver_look(w->proxy->resolver, s->message.host, loop_now(w->loop), &answer)) {
        if (!timed_out)
            return false;
        refuse(s, SOCKS_HOST_UNREACHABLE, BRUMA_REASON_NAME_TIMEOUT, s->message.host);
        return true;
    }
    if (r == 0 && answer.reason != BRUMA_REASON_NONE) {
        refuse(s, SOCKS_HOST_UNREACHABLE, answer.reason, s->message.host);
        return true;
    }
    if (r == 0)
        s->target.addr = *choose(answer.addresses, answer.len, addr_is_v4(&s->client.addr), &w->random);
    give_away(s);
    return true;
}

static bool check_name(struct waiter *waiter, bool timed_out)
{
    return resolve(container_of(waiter, struct socks, waiter), timed_out);
}

/* ---- what the client says ---- */

static void asked(struct socks *s)
{
    struct worker *w = s->wp->worker;

    loop_watch_remove(w->loop, &s->watch);
    s->watch.fd = -1;
    loop_timer_cancel(&s->timer);
    s->target.port = s->message.port;
    if (!*s->message.host) {
        s->target.addr = s->message.addr;
        give_away(s);
        return;
    }
    if (resolve(s, false))
        return;
    waiter_set_time(&s->waiter, w->settings->name_timeout + SLACK_MILLISECONDS);
    worker_wait(&s->waiter);
}

/* Not a byte more than the request is read: what follows is for the other side. */
static void on_client(struct loop_watch *watch, uint32_t events)
{
    struct socks *s = container_of(watch, struct socks, watch);
    struct socks_message *m = &s->message;

    (void)events;
    for (;;) {
        ssize_t n = recv(s->fd, m->bytes + m->len, m->need - m->len, MSG_DONTWAIT);
        enum socks_step step;

        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            cut_off(s);
            return;
        }
        m->len += (size_t)n;
        if (m->len < m->need)
            continue;
        step = socks_step(m);
        if (step == SOCKS_CHOOSE && !say(s, m->answer, sizeof(m->answer))) {
            cut_off(s);
            return;
        }
        if (step == SOCKS_ASKED) {
            asked(s);
            return;
        }
        if (step == SOCKS_WRONG) {
            log_debug("a SOCKS client is refused\tpod=\"%s/%s\" status=%d", s->wp->pod->namespace,
                      s->wp->pod->name, m->status);
            if (m->status == SOCKS_NO_METHOD)
                end_saying(s, m->answer, sizeof(m->answer));
            else
                end_with(s, m->status);
            return;
        }
    }
}

static void on_timer(struct loop_timer *timer)
{
    cut_off(container_of(timer, struct socks, timer));
}

void socks_accept(struct worker_pod *wp, int fd, const struct endpoint *client)
{
    struct worker *w = wp->worker;
    struct socks *s = calloc(1, sizeof(*s));
    enum bruma_reason reason;

    if (!s) {
        close(fd);
        return;
    }
    s->wp = wp;
    s->fd = fd;
    s->client = *client;
    s->watch.fd = -1;
    s->news = (struct connection_news){served, failed};
    socks_message_init(&s->message);
    list_add_tail(&wp->socks, &s->node);
    loop_timer_init(&s->timer, on_timer);
    waiter_init(&s->waiter, wp, check_name);
    quota_take(wp, NULL, &s->quota);
    if (!quota_allows(wp, &s->quota, &reason)) {
        refuse(s, SOCKS_FAILED, reason, NULL);
        return;
    }
    if (loop_watch_add(w->loop, &s->watch, fd, EPOLLIN, on_client) < 0) {
        s->watch.fd = -1;
        cut_off(s);
        return;
    }
    loop_timer_set(w->loop, &s->timer, w->settings->handshake_timeout);
}

void socks_end_all(struct worker_pod *wp)
{
    while (!list_empty(&wp->socks))
        cut_off(list_first(&wp->socks, struct socks, node));
}
