/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Questions on their way to a server, each from a socket of its own: the kernel chooses its port at random,
 * takes nothing but what comes from that server, and tells what ICMP says.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/dns/dns_private.h"
#include "proxy/worker/connection.h"

#define FOREIGN_PER_TURN 16 /* datagrams that are no answer: others have their turn too */

struct dns_question {
    struct list node; /* in dns_pod.questions */
    struct dns_pod *pod;
    struct loop_watch watch;
    struct loop_timer timer;
    int fd;
    struct endpoint client, server, arrival;
    struct dns_series *series;
    struct quota quota;
    struct budget_account account;
    bool in_flight;
    uint64_t sent; /* dns_nanoseconds() */
    size_t len;
    uint8_t data[]; /* to say that it has failed */
};

static void question_end(struct dns_question *q)
{
    struct worker_pod *wp = q->pod->wp;

    list_del(&q->node);
    loop_timer_cancel(&q->timer);
    loop_watch_remove(wp->worker->loop, &q->watch);
    if (q->fd >= 0)
        close(q->fd);
    quota_release(wp, NULL, &q->quota);
    budget_give_all(&q->account);
    if (q->in_flight)
        flight_end(q->pod);
    worker_connection_end(wp);
    loop_free_later(wp->worker->loop, q);
}

static void fail(struct dns_question *q, enum bruma_reason reason, const char *detail)
{
    uint8_t *answer;
    size_t len;

    dns_metrics_failed(q->series);
    dns_pod_failed(q->pod, &q->server, reason, detail);
    if (decide_failure(q->data, q->len, &answer, &len) == 0) {
        dns_pod_answer(q->pod, &q->client, &q->server, &q->arrival, answer, len);
        free(answer);
    }
    question_end(q);
}

static void fail_errno(struct dns_question *q, int error)
{
    char buf[128];

    fail(q,
         error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS
             ? BRUMA_REASON_OUT_OF_RESOURCES
             : BRUMA_REASON_DNS_SERVER_UNREACHABLE,
         strerror_r(error, buf, sizeof(buf)));
}

static void on_timeout(struct loop_timer *timer)
{
    fail(container_of(timer, struct dns_question, timer), BRUMA_REASON_DNS_SERVER_SILENT, "");
}

/* What is no answer to this question is not waited for any less. */
static void on_answer(struct loop_watch *watch, uint32_t events)
{
    struct dns_question *q = container_of(watch, struct dns_question, watch);
    uint8_t buf[DATAGRAM_MAX];
    ssize_t n;

    (void)events;
    for (int i = 0; i < FOREIGN_PER_TURN; i++) {
        n = recv(q->fd, buf, sizeof(buf), MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            fail_errno(q, errno);
        if (n < 0)
            return;
        if (!message_answers(buf, (size_t)n, message_id(q->data)))
            continue;
        dns_metrics_answered(q->series, dns_nanoseconds() - q->sent);
        dns_pod_answer(q->pod, &q->client, &q->server, &q->arrival, buf, (size_t)n);
        question_end(q);
        return;
    }
}

/* Taken together they bound descriptors and memory, whoever asks how much. */
static bool has_room(struct dns_question *q, enum bruma_reason *ret)
{
    q->in_flight = flight_begin(q->pod, ret);
    if (!q->in_flight || !quota_allows(q->pod->wp, &q->quota, ret))
        return false;
    if (budget_take(&q->account, sizeof(*q) + q->len) == 0)
        return true;
    *ret = BRUMA_REASON_MEMORY_BUDGET;
    return false;
}

void question_ask(struct dns_pod *d, const struct endpoint *client, const struct endpoint *server,
                  const struct endpoint *arrival, struct dns_series *series, const uint8_t *data, size_t len)
{
    struct worker *w = d->wp->worker;
    size_t kept = message_kept(len);
    struct dns_question *q = calloc(1, sizeof(*q) + kept);
    enum bruma_reason reason;
    int r;

    if (!q) {
        dns_pod_failed(d, server, BRUMA_REASON_OUT_OF_RESOURCES, "");
        return;
    }
    *q = (struct dns_question){.pod = d,
                               .client = *client,
                               .server = *server,
                               .arrival = *arrival,
                               .series = series,
                               .fd = -1,
                               .watch.fd = -1,
                               .sent = dns_nanoseconds(),
                               .account.share = &d->wp->memory,
                               .len = kept};
    memcpy(q->data, data, kept);
    loop_timer_init(&q->timer, on_timeout);
    list_add_tail(&d->questions, &q->node);
    worker_connection_begin(d->wp);
    quota_take(d->wp, NULL, &q->quota);
    if (!has_room(q, &reason)) {
        fail(q, reason, "");
        return;
    }
    dns_metrics_upstream(series);
    dns_servers_note(&d->wp->pod->dns_servers, server, q->sent);
    q->fd = datagram_dial(w, d->wp->pod, server);
    if (q->fd < 0) {
        fail_errno(q, -q->fd);
        return;
    }
    r = loop_watch_add(w->loop, &q->watch, q->fd, EPOLLIN, on_answer);
    if (r == 0 && send(q->fd, data, len, MSG_DONTWAIT) < 0)
        r = -errno;
    if (r < 0)
        fail_errno(q, -r);
    else
        loop_timer_set(w->loop, &q->timer, w->settings->dns_timeout);
}

void questions_end(struct dns_pod *d)
{
    while (!list_empty(&d->questions))
        question_end(list_first(&d->questions, struct dns_question, node));
}
