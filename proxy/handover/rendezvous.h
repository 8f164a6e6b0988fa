/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where no agent brings two proxies together (ZDS), they meet at a socket: the one that serves listens there,
 * the next one in its place once it is ready, and who is told to end connects and hands over what it carries
 * (bruma/handover.h). Only root and the user of the process are believed, on either side. Control thread.
 */
#ifndef PROXY_HANDOVER_RENDEZVOUS_H
#define PROXY_HANDOVER_RENDEZVOUS_H

#include <stdbool.h>

struct proxy;
struct rendezvous;

/* Both on the control thread. Given by who opens it. */
struct rendezvous_events {
    /* Called now and then until it is true: this one could take what another one carries. */
    bool (*ready)(const struct proxy *proxy);
    /* Called once after rendezvous_leave() where nothing is given: nobody was met, or not agreed with. */
    void (*alone)(struct proxy *proxy);
};

/* Listens at path once this proxy is ready. path and events: kept, not copied. 0 or -ENOMEM. */
int rendezvous_new(struct proxy *proxy, const char *path, const struct rendezvous_events *events,
                   struct rendezvous **ret);
void rendezvous_free(struct rendezvous **rendezvous);

/* This proxy ends: it takes nothing any more. gives: what it carries goes to the one that is met. Both may be
 * called with NULL. */
void rendezvous_leave(struct rendezvous *rendezvous, bool gives);
/* Nobody has been met yet, and it is still tried. */
bool rendezvous_is_leaving(const struct rendezvous *rendezvous);

#endif
