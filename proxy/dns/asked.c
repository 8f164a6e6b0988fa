/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/dns/asked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define GIVEN_UP_MAX 32 /* answers that come later than those of so many others are passed on */

struct asked_question {
    struct list node; /* in asked.waiting or asked.given_up */
    struct dns_series *series;
    uint64_t sent; /* dns_nanoseconds() */
    size_t len;
    uint8_t data[]; /* to say that it has failed */
};

void asked_init(struct asked *a)
{
    list_init(&a->waiting);
    list_init(&a->given_up);
}

static size_t bytes_of(const struct asked_question *q)
{
    return sizeof(*q) + q->len;
}

static void forget(struct asked *a, struct asked_question *q)
{
    list_del(&q->node);
    a->bytes -= bytes_of(q);
    free(q);
}

static void arrived(struct dns_pod *d, struct asked *a, struct asked_question *q)
{
    flight_end(d);
    forget(a, q);
}

void asked_end(struct dns_pod *d, struct asked *a)
{
    while (!list_empty(&a->waiting))
        arrived(d, a, list_first(&a->waiting, struct asked_question, node));
    while (!list_empty(&a->given_up))
        forget(a, list_first(&a->given_up, struct asked_question, node));
}

int asked_add(struct dns_pod *d, struct asked *a, struct dns_series *series, const uint8_t *message,
              size_t len, enum bruma_reason *ret_reason)
{
    size_t kept = message_kept(len);
    struct asked_question *q = calloc(1, sizeof(*q) + kept);

    if (!q)
        return -ENOMEM;
    if (!flight_begin(d, ret_reason)) {
        free(q);
        return -ENOBUFS;
    }
    *q = (struct asked_question){.series = series, .sent = dns_nanoseconds(), .len = kept};
    memcpy(q->data, message, kept);
    list_add_tail(&a->waiting, &q->node);
    a->bytes += bytes_of(q);
    return 0;
}

static struct asked_question *find(struct list *list, const uint8_t *message)
{
    struct asked_question *q;

    list_for_each (q, list, node) {
        if (message_id(q->data) == message_id(message))
            return q;
    }
    return NULL;
}

/* A transfer of a zone has many messages: only the first finds its question. */
bool asked_answered(struct dns_pod *d, struct asked *a, const uint8_t *message, size_t len)
{
    struct asked_question *q;

    if (len < MESSAGE_HEADER)
        return true;
    q = find(&a->waiting, message);
    if (q) {
        dns_metrics_answered(q->series, dns_nanoseconds() - q->sent);
        arrived(d, a, q);
        return true;
    }
    q = find(&a->given_up, message);
    if (!q)
        return true;
    a->given_up_len--;
    forget(a, q);
    return false;
}

bool asked_waits(const struct asked *a, unsigned long timeout, uint64_t *ret)
{
    const struct asked_question *q;
    uint64_t waited;

    if (list_empty(&a->waiting))
        return false;
    q = list_first(&a->waiting, struct asked_question, node);
    waited = (dns_nanoseconds() - q->sent) / 1000000;
    *ret = waited < timeout ? timeout - waited : 0;
    return true;
}

static void give_up(struct dns_pod *d, struct asked *a, struct asked_question *q, asked_tell_fn tell,
                    void *data)
{
    uint8_t *answer;
    size_t len;

    dns_metrics_failed(q->series);
    if (decide_failure(q->data, q->len, &answer, &len) == 0) {
        tell(data, answer, len);
        free(answer);
    }
    flight_end(d);
    list_del(&q->node);
    list_add_tail(&a->given_up, &q->node);
    if (++a->given_up_len <= GIVEN_UP_MAX)
        return;
    a->given_up_len--;
    forget(a, list_first(&a->given_up, struct asked_question, node));
}

void asked_give_up(struct dns_pod *d, struct asked *a, const struct endpoint *server, unsigned long timeout,
                   enum bruma_reason reason, const char *detail, asked_tell_fn tell, void *data)
{
    uint64_t left;

    while (asked_waits(a, timeout, &left) && left == 0) {
        give_up(d, a, list_first(&a->waiting, struct asked_question, node), tell, data);
        dns_pod_failed(d, server, reason, detail);
    }
}
