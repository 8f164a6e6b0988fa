/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Follows one kind of object: a list, in pages, then a watch from the list's version on. A stream that ends
 * goes on from the last version that was seen; a version that the server no longer has (410), and a line that
 * cannot be understood, lead to a new list. Objects are told one by one; those that a whole list has not
 * named are gone.
 */
#ifndef AGENT_KUBERNETES_KUBE_WATCH_H
#define AGENT_KUBERNETES_KUBE_WATCH_H

#include <cjson/cJSON.h>
#include <stdbool.h>

#include "agent/kubernetes/kube_http.h"

#define KUBE_LINE_MAX (4u * 1024 * 1024)  /* bytes of one line of a watch */
#define KUBE_PAGE_MAX (64u * 1024 * 1024) /* bytes of one page of a list */

struct kube_watch;

struct kube_watch_config {
    const char *what;     /* for the log: "pods" */
    const char *path;     /* "/api/v1/pods" */
    const char *selector; /* of fields, such as "spec.nodeName=n1"; NULL: all */
    unsigned page;        /* objects of a page */
};

/* All are called on the loop's thread. */
struct kube_watch_events {
    void (*list_begins)(void *data); /* called when a list begins, also anew */
    /* Called for each object of a list, and once it changes or goes; object is valid during the call. */
    void (*object)(void *data, const cJSON *object, bool deleted);
    void (*list_complete)(void *data); /* called once all objects of a list were told */
    void *data;
};

struct kube_watch_report {
    bool synced; /* a list was complete at some time; what is known is served on while the server is away */
    bool following;           /* a watch is established just now */
    int64_t since;            /* CLOCK_REALTIME seconds at which following last changed */
    unsigned lists, restarts; /* lists that were begun, watches that were begun */
    char error[256];          /* of the last failure; "" after a success */
};

/* config's texts and the client outlive the watch. 0 or -ENOMEM. */
int kube_watch_new(struct loop *loop, struct kube_client *client, const struct kube_watch_config *config,
                   const struct kube_watch_events *events, struct kube_watch **ret);
void kube_watch_free(struct kube_watch **watch);
/* How it goes, as of now: the watch's, never NULL. */
const struct kube_watch_report *kube_watch_report(const struct kube_watch *watch);

#endif
