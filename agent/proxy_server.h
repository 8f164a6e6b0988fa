/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's side of the proxies: takes back the listeners they hold, tells each which pods it serves, and
 * lets the newest one take over from the one before. What a proxy should know is kept as a wish for each pod
 * (a view) and sent whenever its socket takes it, so a slow proxy delays nobody and a later wish replaces an
 * unsent one.
 */
#ifndef AGENT_PROXY_SERVER_H
#define AGENT_PROXY_SERVER_H

#include <cjson/cJSON.h>
#include <stdbool.h>

#include "config.h"
#include "pods.h"
#include "server.h"

struct proxies;

/* What a proxy offers in pod-held. Descriptors that are taken are set to -1. */
struct held_pod {
    const char *uid;
    uint64_t cookie;
    uint32_t generation;
    bool draining;
    int *fds; /* enum bruma_pod_fd */
};

struct proxies_events {
    /* Returns the pod that the offer belongs to, or NULL if there is none. */
    struct pod *(*held)(void *data, const struct held_pod *offer);
    /* All offers of one proxy were taken; what is still missing will not come from it. */
    void (*held_end)(void *data);
    /* The serving proxy answered for the pod's last pod-add; error is NULL if it serves it. */
    void (*answered)(void *data, struct pod *pod, enum bruma_reason reason, const char *error);
    /* Something that proxies_busy() looks at has changed for the pod. */
    void (*drained)(void *data, struct pod *pod);
    /* A proxy has found that one of the pod's listeners is closed. */
    void (*listener_closed)(void *data, struct pod *pod);
    /* A proxy is gone. */
    void (*gone)(void *data);
    void *data;
};

int proxies_new(struct loop *loop, const struct agent_config *config, const struct pods *pods,
                int proxy_sockets_fd, const struct proxies_events *events, struct proxies **ret);
void proxies_free(struct proxies **proxies);
extern const struct server_role proxies_role;
/* Data of a connection that begins with proxy-hello, or NULL if there is no memory. */
void *proxies_accept(struct proxies *proxies);

/* A proxy has acknowledged its snapshot and serves. */
bool proxies_serving(const struct proxies *proxies);
/* The serving proxy has not answered for this pod yet. */
bool proxies_answer_pending(const struct proxies *proxies, const struct pod *pod);
/* "serving", "pending", "failed", "draining", or "not_connected". */
const char *proxies_pod_state(const struct proxies *proxies, const struct pod *pod);
/* Some proxy still holds live connections of the draining pod, as far as anybody knows. */
bool proxies_busy(const struct proxies *proxies, const struct pod *pod);

/* To all proxies that are not being replaced; again: with the pod's listeners of now. */
void proxies_pod_add(struct proxies *proxies, struct pod *pod);
/* Sends pod-add again where it was refused. */
void proxies_pod_retry(struct proxies *proxies, struct pod *pod);
void proxies_pod_drain(struct proxies *proxies, struct pod *pod);
void proxies_pod_delete(struct proxies *proxies, struct pod *pod);

/* An array with an object for each proxy, for `brumactl status`. */
cJSON *proxies_report(const struct proxies *proxies);

#endif
