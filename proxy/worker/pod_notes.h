/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the config dump says of pods and their connections ("workloadState", contract 9.3): noted down at once
 * and as small as can be, on the threads that have them, and written out as JSON in pieces later.
 */
#ifndef PROXY_WORKER_POD_NOTES_H
#define PROXY_WORKER_POD_NOTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "lib/addr.h"

/* Strings may be NULL. */
struct connection_note {
    struct endpoint client, destination, actual;
    uint64_t received, sent;
    const char *authority, *source_identity, *destination_identity;
    bool inbound, mutual_tls, same_node, gateway;
    bool direct; /* past the proxy */
};

struct endpoint_notes;
struct pod_notes;
struct pod_note;

/* One thread at a time. 0 or -ENOMEM. */
int pod_notes_new(struct pod_notes **ret);
void pod_notes_free(struct pod_notes **notes);
/* The pod's place, made if there is none yet; the notes own it. NULL without memory. */
struct pod_note *pod_notes_pod(struct pod_notes *notes, const char *uid);
/* state: static. What was said before is replaced. 0 or -ENOMEM */
int pod_note_describe(struct pod_note *pod, const char *state, const char *name, const char *namespace,
                      const char *service_account);
/* Its outbound traffic policy, a static text; of one that is not served there is none. */
void pod_note_policy(struct pod_note *pod, const char *policy);
/* It is served, with these connections or with none. */
void pod_note_serves(struct pod_note *pod);
/* One more of them, copied. 0 or -ENOMEM. */
int pod_note_connection(struct pod_note *pod, const struct connection_note *connection);

/* Endpoints of services that workers leave out just now: the notes' own, never NULL. */
struct endpoint_notes *pod_notes_endpoints(struct pod_notes *notes);

/* Where a reader is: zeroed at first. */
struct pod_notes_cursor {
    const struct pod_note *pod;
    size_t at;
    int part;
    bool begun, some;
};

/* Appends a piece of the object. 1: there is more; 0: that was all; -ENOMEM. */
int pod_notes_next(const struct pod_notes *notes, struct pod_notes_cursor *cursor, FILE *out);

#endif
