/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of this room share. Worker's thread. */
#ifndef PROXY_DNS_DNS_PRIVATE_H
#define PROXY_DNS_DNS_PRIVATE_H

#include "proxy/dns/decide.h"
#include "proxy/dns/dns.h"
#include "proxy/socket/datagram.h"

struct mnl_socket;

struct dns_pod {
    struct worker_pod *wp;
    struct loop_watch watch; /* of the socket that questions come to */
    int fd;                  /* the same; -1: none */
    struct datagram_sender sender;
    struct mnl_socket *conntrack; /* NULL until it is needed */
    struct list questions;        /* struct dns_question */
    struct list streams;          /* struct dns_stream */
};

/* Sends an answer to a client as from the server that it has asked. What cannot be sent is lost, as datagrams
 * are. */
void dns_pod_answer(struct dns_pod *pod, const struct endpoint *client, const struct endpoint *server,
                    const struct endpoint *arrival, const uint8_t *data, size_t len);

/* Counts a question that failed, and says so in the log at debug level. */
void dns_pod_failed(struct dns_pod *pod, const struct endpoint *server, enum bruma_reason reason,
                    const char *detail);

/*
 * question.c: sends the question, and its answer to the client. arrival: the address that it came to at our
 * own socket. Where it cannot be sent, or is not answered, the client is told.
 */
void question_ask(struct dns_pod *pod, const struct endpoint *client, const struct endpoint *server,
                  const struct endpoint *arrival, struct dns_series *series, const uint8_t *data, size_t len);
/* All that are on their way are forgotten. */
void questions_end(struct dns_pod *pod);

/* dns_stream.c: all are closed. */
void dns_streams_end(struct dns_pod *pod);

/*
 * flight.c: a question is on its way to a server, until flight_end(). False: there are as many as there may
 * be, and *ret_reason says whose.
 */
bool flight_begin(struct dns_pod *pod, enum bruma_reason *ret_reason);
void flight_end(struct dns_pod *pod);
/* Of CLOCK_MONOTONIC. */
uint64_t dns_nanoseconds(void);

/*
 * conntrack.c: which server the sender of a datagram that netfilter has redirected to arrival had asked. 0,
 * -ENOENT: conntrack knows no such datagram; another -errno.
 */
int conntrack_original(struct dns_pod *pod, const struct endpoint *client, const struct endpoint *arrival,
                       struct endpoint *ret);

#endif
