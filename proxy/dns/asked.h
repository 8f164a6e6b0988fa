/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a connection of a pod has asked its server and has no answer to yet: so that the pod is told of a
 * server that says nothing, and metrics know how long one takes. Worker's thread.
 */
#ifndef PROXY_DNS_ASKED_H
#define PROXY_DNS_ASKED_H

#include "proxy/dns/dns_private.h"

struct asked {
    struct list waiting;  /* struct asked_question, the oldest first */
    struct list given_up; /* the client was told; an answer comes too late. The last ones */
    size_t given_up_len;
    size_t bytes; /* that all of them hold */
};

/* Nothing was asked. asked has been zeroed. */
void asked_init(struct asked *asked);
/* All are forgotten. */
void asked_end(struct dns_pod *pod, struct asked *asked);

/* One more was sent to the server. message: without its length, at least MESSAGE_HEADER bytes; it is copied.
 * 0, -ENOMEM, or -ENOBUFS: there are too many, and *ret_reason says of what. */
int asked_add(struct dns_pod *pod, struct asked *asked, struct dns_series *series, const uint8_t *message,
              size_t len, enum bruma_reason *ret_reason);

/* The server has said this; it counts as an answer once, if it is one. False: it is one that comes too late,
 * and the client has another. */
bool asked_answered(struct dns_pod *pod, struct asked *asked, const uint8_t *message, size_t len);

/* Whether one waits; *ret is the milliseconds until the oldest has waited for `timeout` milliseconds, 0: it
 * has. */
bool asked_waits(const struct asked *asked, unsigned long timeout, uint64_t *ret);

/* Called with the answer that says that a question has failed; answer stays the caller's. */
typedef void (*asked_tell_fn)(void *data, const uint8_t *answer, size_t len);

/* Gives up those that have waited for `timeout` milliseconds (0: all), counts and logs them with the reason,
 * and calls tell for each whose failure can be told. */
void asked_give_up(struct dns_pod *pod, struct asked *asked, const struct endpoint *server,
                   unsigned long timeout, enum bruma_reason reason, const char *detail, asked_tell_fn tell,
                   void *data);

#endif
