/* SPDX-License-Identifier: Apache-2.0 */
/*
 * XDS_ON_DEMAND (contract 1.7): addresses and names that connections need are asked of the control plane on
 * first use, instead of everything. A key is "network/ip" or "namespace/hostname"; the table of them is
 * bounded. Workers look keys up; the control thread, which has the stream, asks for them, and for no longer
 * those that nobody has used for a while.
 */
#ifndef PROXY_XDS_ON_DEMAND_H
#define PROXY_XDS_ON_DEMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "lib/loop.h"

#define ON_DEMAND_KEY_MAX 512 /* bytes, with the NUL: a namespace and a hostname */

struct on_demand;

struct on_demand_config {
    struct loop *loop;    /* the control thread's */
    unsigned long max;    /* keys */
    unsigned long absent; /* milliseconds that "there is none" is good for */
    unsigned long fresh;  /* milliseconds after which what is used is asked for again; it stays known */
    unsigned long idle;   /* milliseconds without use, after which a key is forgotten */
    void (*changed)(void *data); /* control thread: keys are answered that were not */
    void *data;
};

enum on_demand_answer {
    ON_DEMAND_ANSWERED, /* the mesh state has what there is of it, or there is nothing */
    ON_DEMAND_ASKED,    /* changed() is called once it is answered */
    ON_DEMAND_AWAY,     /* the same, and the control plane is away now */
    ON_DEMAND_FULL,     /* all keys of the table wait for their answers */
};

/* Control thread. config is copied. 0 or -ENOMEM. */
int on_demand_new(const struct on_demand_config *config, struct on_demand **ret);
/* When nobody looks any more. */
void on_demand_free(struct on_demand **on_demand);

/* Any thread. here: the mesh state has something of that key now; where it has not, an old answer is none,
 * except while the control plane is away. now: loop_now(). */
enum on_demand_answer on_demand_look(struct on_demand *on_demand, const char *key, bool here, uint64_t now);

/* ---- the control plane's client: control thread ---- */

/* Called when there is something to tell the control plane, or to forget. */
void on_demand_serve(struct on_demand *on_demand, void (*wanted)(void *data), void *data);
/* Whether somebody has used the key lately. */
bool on_demand_wants(struct on_demand *on_demand, const char *key);
/* Calls left for each key that is wanted no more, and ask for each that the control plane is to be asked for;
 * told: it knows of the key already. They count as asked from here on. Neither may call back. */
void on_demand_take(struct on_demand *on_demand, void (*left)(void *data, const char *key),
                    void (*ask)(void *data, const char *key, bool told), void *data);
/* A stream begins: each() is called for each key, and whether it was told decides if it is asked with the
 * first request or after it. */
void on_demand_begin(struct on_demand *on_demand, bool (*each)(void *data, const char *key), void *data);
/* The stream is over: what was answered is good until the next one. */
void on_demand_ended(struct on_demand *on_demand);
/* The stream's first answer may leave out what has not changed: what waits still is asked for again. */
void on_demand_begun(struct on_demand *on_demand);
/* The control plane has spoken of these resources, aliases and removals: a DeltaDiscoveryResponse, of which
 * the mesh state has what can be used. */
void on_demand_take_response(struct on_demand *on_demand, const uint8_t *message, size_t len);
/* Forgets what has been idle. True: there was something. */
bool on_demand_expire(struct on_demand *on_demand);

/* Appends its families in OpenMetrics text. */
void on_demand_write_metrics(struct on_demand *on_demand, FILE *out);

#endif
