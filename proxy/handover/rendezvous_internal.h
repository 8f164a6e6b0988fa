/* SPDX-License-Identifier: Apache-2.0 */
/* The rendezvous, to the files rendezvous*.c: each side of the socket is a file. Control thread. */
#ifndef PROXY_HANDOVER_RENDEZVOUS_INTERNAL_H
#define PROXY_HANDOVER_RENDEZVOUS_INTERNAL_H

#include "lib/accept_rest.h"
#include "lib/log_rest.h"
#include "lib/seqpacket_listener.h"
#include "proxy/handover/lane.h"
#include "proxy/handover/rendezvous.h"

struct rendezvous {
    struct proxy *proxy;
    struct loop *loop;
    const struct rendezvous_events *events;
    const char *path;
    /* who takes */
    struct seqpacket_listener listener; /* path NULL: closed */
    struct accept_rest rest;
    struct loop_timer look;
    struct list guests;
    unsigned guests_len;
    struct log_rest unusable, refused; /* lines */
    /* who gives */
    struct lane lane;
    struct loop_timer timer; /* the next attempt, or the answer to this one */
    uint64_t begun;          /* loop_now(): the first attempt */
    bool leaving;
};

/* Whether the peer of a connected socket is root's or of this process's user; else the log says so, now and
 * then. */
bool rendezvous_trusts(struct rendezvous *rendezvous, int fd);
/* Connects to the next proxy, or has events->alone called. */
void rendezvous_visit(struct rendezvous *rendezvous);

#endif
