/* SPDX-License-Identifier: Apache-2.0 */
/* Questions by UDP. */
#define LOG_SCOPE "dns"
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "bruma/mesh.h"
#include "lib/log.h"
#include "lib/reasons.h"
#include "proxy/dns/dns_private.h"
#include "proxy/socket/route_device.h"

#define DATAGRAMS_PER_TURN 64
#define DATAGRAMS_AT_END   1024 /* about what a socket holds by default; a pod may send without end */

int dns_pod_new(struct worker_pod *wp, struct dns_pod **ret)
{
    struct dns_pod *d = calloc(1, sizeof(*d));

    if (!d)
        return -ENOMEM;
    d->wp = wp;
    d->fd = d->watch.fd = -1;
    d->sender = DATAGRAM_SENDER_NONE;
    list_init(&d->questions);
    list_init(&d->streams);
    *ret = d;
    return 0;
}

void dns_pod_free(struct dns_pod **pod)
{
    struct dns_pod *d = *pod;

    if (!d)
        return;
    dns_pod_set_socket(d, -1);
    questions_end(d);
    dns_streams_end(d);
    datagram_sender_close(&d->sender);
    route_device_close(&d->conntrack);
    loop_free_later(d->wp->worker->loop, d);
    *pod = NULL;
}

bool dns_pod_serves(const struct dns_pod *d)
{
    return d && d->fd >= 0;
}

void dns_pod_stop(struct dns_pod *d)
{
    loop_watch_remove(d->wp->worker->loop, &d->watch);
    d->watch.fd = -1;
}

/* ---- questions ---- */

static bool read_arrival(struct msghdr *m, struct addr *ret)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        struct in6_pktinfo info6;
        struct in_pktinfo info4;

        if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
            memcpy(&info6, CMSG_DATA(c), sizeof(info6));
            return addr_from_bytes(info6.ipi6_addr.s6_addr, 16, ret) == 0;
        }
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            memcpy(&info4, CMSG_DATA(c), sizeof(info4));
            return addr_from_bytes((const uint8_t *)&info4.ipi_addr, 4, ret) == 0;
        }
    }
    return false;
}

/* Captured by our programs, the datagram has the address that was asked. */
static int find_server(struct dns_pod *d, const struct endpoint *client, const struct endpoint *arrival,
                       struct endpoint *ret)
{
    if (d->wp->pod->redirected)
        return conntrack_original(d, client, arrival, ret);
    /* A process of the pod that sends to our own port has asked nobody. */
    if (addr_is_loopback(&arrival->addr) || pod_has_address(d->wp->pod, &arrival->addr))
        return -EADDRNOTAVAIL;
    *ret = (struct endpoint){.addr = arrival->addr, .port = BRUMA_PORT_DNS};
    return 0;
}

static void answer_failure(struct dns_pod *d, const struct endpoint *client, const struct endpoint *arrival,
                           const uint8_t *data, size_t len)
{
    uint8_t *answer;
    size_t answer_len;

    if (decide_failure(data, len, &answer, &answer_len) < 0)
        return;
    dns_pod_answer(d, client, arrival, arrival, answer, answer_len);
    free(answer);
}

static void take(struct dns_pod *d, const struct endpoint *client, const struct endpoint *arrival,
                 const uint8_t *data, size_t len)
{
    struct endpoint server = *arrival;
    struct decided decided;
    int r = find_server(d, client, arrival, &server);

    if (r == -EADDRNOTAVAIL)
        return;
    decide(d->wp, data, len, false, &decided);
    switch (decided.what) {
    case DECISION_IGNORE:
        break;
    case DECISION_ANSWER:
        dns_pod_answer(d, client, &server, arrival, decided.answer, decided.answer_len);
        free(decided.answer);
        break;
    case DECISION_FORWARD:
        if (r < 0)
            answer_failure(d, client, arrival, data, len);
        else
            question_ask(d, client, &server, arrival, decided.series, data, len);
        break;
    }
}

/* False: there is no more now. */
static bool take_one(struct dns_pod *d)
{
    union {
        struct cmsghdr header;
        char bytes[256];
    } control;
    uint8_t buf[DATAGRAM_MAX];
    struct iovec iov = {buf, sizeof(buf)};
    struct sockaddr_storage from;
    struct msghdr m = {.msg_name = &from,
                       .msg_namelen = sizeof(from),
                       .msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(d->fd, &m, MSG_DONTWAIT);
    struct endpoint client, arrival = {.port = BRUMA_PORT_DNS_LISTEN};

    if (n < 0)
        return errno == EINTR;
    if (endpoint_from_sockaddr((struct sockaddr *)&from, &client) == 0 && read_arrival(&m, &arrival.addr))
        take(d, &client, &arrival, buf, (size_t)n);
    return true;
}

static void on_question(struct loop_watch *watch, uint32_t events)
{
    struct dns_pod *d = container_of(watch, struct dns_pod, watch);

    (void)events;
    for (int i = 0; i < DATAGRAMS_PER_TURN && d->fd >= 0 && take_one(d); i++)
        ;
}

static void close_socket(struct dns_pod *d)
{
    if (d->fd < 0)
        return;
    if (d->watch.fd >= 0) {
        dns_pod_stop(d);
        /* what came before another socket took its place */
        for (int i = 0; i < DATAGRAMS_AT_END && take_one(d); i++)
            ;
    }
    close(d->fd);
    d->fd = -1;
}

void dns_pod_set_socket(struct dns_pod *d, int fd)
{
    close_socket(d);
    d->fd = fd;
}

void dns_pod_start(struct dns_pod *d)
{
    int r;

    if (d->fd < 0 || d->watch.fd >= 0)
        return;
    r = loop_watch_add(d->wp->worker->loop, &d->watch, d->fd, EPOLLIN | EPOLLEXCLUSIVE, on_question);
    if (r < 0)
        log_error_errno(r, "questions of a pod cannot be taken\tpod=\"%s/%s\"", d->wp->pod->namespace,
                        d->wp->pod->name);
}
