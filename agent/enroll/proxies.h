/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The node proxies as the rest of the agent sees them. Which pods each of them serves is told to it by one of
 * two implementations; the settings say which one:
 *
 *   proxy_server.h   bruma-proxy. The agent opens the listeners and hands them over, so a pod can be enrolled
 *                    while no proxy runs: its connections wait in the backlog.
 *   zds_server.h     a stock node proxy (ztunnel). It opens the listeners itself, so a pod is enrolled once a
 *                    proxy has said that it serves it.
 */
#ifndef AGENT_ENROLL_PROXIES_H
#define AGENT_ENROLL_PROXIES_H

#include <cjson/cJSON.h>
#include <stdbool.h>

#include "agent/agent_settings.h"
#include "agent/enroll/enrollment.h"

struct proxies;

/* What a proxy offers in pod-held. Descriptors that are taken are set to -1. */
struct offered_pod {
    const char *uid;
    uint64_t cookie;
    uint32_t generation;
    bool draining;
    int *fds; /* enum bruma_pod_fd */
};

/* What proxies have to say. All are called on the loop's thread. */
struct proxies_events {
    /* Called for each pod that a proxy holds: returns the one that the offer belongs to, the agent's, or NULL
     * if there is none. */
    struct pod *(*offered)(void *data, const struct offered_pod *offer);
    /* Called once all offers of one proxy were taken; what is still missing will not come from it. */
    void (*offers_end)(void *data);
    /* Called when a proxy has opened listeners in the pod and shall serve it by them; the descriptors stay
     * with the caller. 0, or -errno with *error. */
    int (*listeners_opened)(void *data, struct pod *pod, const int listeners[BRUMA_LISTENER_COUNT],
                            struct steer_error *error);
    /* Called when the serving proxy has answered for the pod's last pod-add; error is NULL if it serves
     * it. */
    void (*answered)(void *data, struct pod *pod, enum bruma_reason reason, const char *error);
    /* Called when something that proxies_busy() looks at has changed for the pod. */
    void (*drained)(void *data, struct pod *pod);
    /* Called when a proxy has found that one of the pod's listeners is closed. */
    void (*listener_closed)(void *data, struct pod *pod);
    /* Called when pods that waited for a proxy need not wait any more. May be NULL. */
    void (*serves)(void *data);
    /* Called when a proxy is gone. */
    void (*gone)(void *data);
    void *data;
};

/* One implementation. */
struct proxies_ops {
    const char *kind;     /* "bruma-proxy", "ztunnel" */
    bool opens_listeners; /* the proxy does, not the agent */
    /* Each is called on the loop's thread by the function below that has its name, and returns what that
     * says: true or false, or a static text; what it makes is the caller's. */
    bool (*serving)(const struct proxies *proxies);
    bool (*answer_pending)(const struct proxies *proxies, const struct pod *pod);
    const char *(*pod_state)(const struct proxies *proxies, const struct pod *pod);
    bool (*busy)(const struct proxies *proxies, const struct pod *pod);
    void (*pod_add)(struct proxies *proxies, struct pod *pod);
    void (*pod_retry)(struct proxies *proxies, struct pod *pod);
    void (*pod_drain)(struct proxies *proxies, struct pod *pod);
    void (*pod_delete)(struct proxies *proxies, struct pod *pod);
    void (*pod_ending)(struct proxies *proxies, struct pod *pod); /* NULL: they cannot be told */
    bool (*take_dns)(const struct proxies *proxies);              /* NULL: never, and pod_dns too */
    void (*pod_dns)(struct proxies *proxies, struct pod *pod);
    void (*pod_reopen)(struct proxies *proxies, struct pod *pod); /* or NULL unless opens_listeners */
    void (*direct)(struct proxies *proxies, bool able);           /* NULL: they know nothing of direct ways */
    cJSON *(*report)(const struct proxies *proxies);
    void (*free)(struct proxies *proxies);
};

struct proxies {
    const struct proxies_ops *ops;
};

/* "bruma-proxy" or "ztunnel": static, never NULL. */
static inline const char *proxies_kind(const struct proxies *proxies)
{
    return proxies->ops->kind;
}

/* Whether proxies open the listeners in pods, and not the agent. */
static inline bool proxies_open_listeners(const struct proxies *proxies)
{
    return proxies->ops->opens_listeners;
}

/* Whether a proxy has acknowledged its snapshot and serves. */
static inline bool proxies_serving(const struct proxies *proxies)
{
    return proxies->ops->serving(proxies);
}

/* Whether the serving proxy has not answered for this pod yet. */
static inline bool proxies_answer_pending(const struct proxies *proxies, const struct pod *pod)
{
    return proxies->ops->answer_pending(proxies, pod);
}

/* "serving", "pending", "failed", "draining", or "not_connected": static, never NULL. */
static inline const char *proxies_pod_state(const struct proxies *proxies, const struct pod *pod)
{
    return proxies->ops->pod_state(proxies, pod);
}

/* Whether some proxy still holds live connections of the draining pod, as far as anybody knows. */
static inline bool proxies_busy(const struct proxies *proxies, const struct pod *pod)
{
    return proxies->ops->busy(proxies, pod);
}

/* To all proxies that are not being replaced; again: with the pod's listeners of now. */
static inline void proxies_pod_add(struct proxies *proxies, struct pod *pod)
{
    proxies->ops->pod_add(proxies, pod);
}

/* Whether connections that go past a proxy are accounted for; those who want to know are told if that has
 * changed. */
static inline void proxies_direct(struct proxies *proxies, bool able)
{
    if (proxies->ops->direct)
        proxies->ops->direct(proxies, able);
}

/* Tells of the pod again where it was refused. */
static inline void proxies_pod_retry(struct proxies *proxies, struct pod *pod)
{
    proxies->ops->pod_retry(proxies, pod);
}

/* The pod leaves: live connections go on. */
static inline void proxies_pod_drain(struct proxies *proxies, struct pod *pod)
{
    proxies->ops->pod_drain(proxies, pod);
}

/* The pod is gone: everything of it goes. */
static inline void proxies_pod_delete(struct proxies *proxies, struct pod *pod)
{
    proxies->ops->pod_delete(proxies, pod);
}

/* The pod was told to end: peers shall go elsewhere, and all of it is served until it is gone. */
static inline void proxies_pod_ending(struct proxies *proxies, struct pod *pod)
{
    if (proxies->ops->pod_ending)
        proxies->ops->pod_ending(proxies, pod);
}

/* Whether pods' DNS queries may be captured: the proxy that serves answers them, or there is none just
 * now. */
static inline bool proxies_take_dns(const struct proxies *proxies)
{
    return proxies->ops->take_dns && proxies->ops->take_dns(proxies);
}

/* The pod's socket for DNS queries is another one, or none any more. */
static inline void proxies_pod_dns(struct proxies *proxies, struct pod *pod)
{
    if (proxies->ops->pod_dns)
        proxies->ops->pod_dns(proxies, pod);
}

/* Listeners that proxies have opened are no longer in the pod's slots, or no longer open. */
static inline void proxies_pod_reopen(struct proxies *proxies, struct pod *pod)
{
    proxies->ops->pod_reopen(proxies, pod);
}

/* An array with an object for each proxy, for `brumactl status`; the caller owns it. NULL without memory. */
static inline cJSON *proxies_report(const struct proxies *proxies)
{
    return proxies->ops->report(proxies);
}

static inline void proxies_free(struct proxies **proxies)
{
    if (*proxies)
        (*proxies)->ops->free(*proxies);
    *proxies = NULL;
}

#endif
