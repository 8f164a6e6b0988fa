/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Addresses of workloads that have a hostname in their place (contract section 4.5), from DNS. Workers look a
 * name up; what is not known, or no longer, the control thread asks, once for all who want it, and then
 * tells. The servers are those of the proxy, and its sockets are in the proxy's network namespace, not in a
 * pod's.
 */
#ifndef PROXY_RESOLVE_RESOLVER_H
#define PROXY_RESOLVE_RESOLVER_H

#include <stdbool.h>
#include <stdio.h>

#include "lib/loop.h"
#include "proxy/resolve/name_answer.h"
#include "proxy/resolve/name_query.h"

struct resolver;

struct resolver_config {
    struct loop *loop; /* the control thread's */
    struct name_query_options query;
    unsigned long max_names;     /* that are remembered; more than queries */
    unsigned long max_queries;   /* on their way at once */
    void (*changed)(void *data); /* control thread: names are known that were not, or are known to fail */
    void *data;
};

/* Control thread. What the configuration points to is kept. 0, -ENOMEM, or -EINVAL: the servers cannot be
 * understood. */
int resolver_new(const struct resolver_config *config, struct resolver **ret);
/* When nobody looks any more. Control thread; its loop does not run again. */
void resolver_free(struct resolver **resolver);

/* Any thread. now: loop_now() of its loop. True: ret says what is known. False: the name is being asked;
 * changed is called after that, and ret is not written. */
bool resolver_look(struct resolver *resolver, const char *name, uint64_t now, struct name_answer *ret);

/* What is known of a name now, for who only wants to see: nobody is asked for it. Any thread. True: ret has
 * the answer, and *ret_left how many milliseconds it is good for. False: there is none, or it is too old;
 * neither is written. */
bool resolver_peek(struct resolver *resolver, const char *name, uint64_t now, struct name_answer *ret,
                   uint64_t *ret_left);

/* Appends its families in OpenMetrics text. Control thread. */
void resolver_write_metrics(struct resolver *resolver, FILE *out);

#endif
