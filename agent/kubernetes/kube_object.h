/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the Kubernetes API says, taken out of its JSON. Nothing here trusts its input; results point into the
 * JSON that they were taken from.
 */
#ifndef AGENT_KUBERNETES_KUBE_OBJECT_H
#define AGENT_KUBERNETES_KUBE_OBJECT_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

#include "agent/enroll/exclusion_rules.h"
#include "bruma/maps.h"
#include "lib/addr.h"
#include "lib/direct_ways.h"
#include "lib/outbound_policy.h"

#define KUBE_VERSION_MAX  128  /* bytes of a resourceVersion */
#define KUBE_PROBES_MAX   64   /* ports of one pod */
#define KUBE_CONTINUE_MAX 1024 /* bytes of a list's token */

/* A line of a watch. */
enum kube_line_type {
    KUBE_LINE_CHANGED, /* added or modified */
    KUBE_LINE_DELETED,
    KUBE_LINE_BOOKMARK, /* nothing but a newer version */
    KUBE_LINE_ERROR,    /* the object is a Status */
};

struct kube_line {
    enum kube_line_type type;
    cJSON *json; /* of the whole line; the caller frees it */
    const cJSON *object;
    const char *version; /* of the object; "" if it carries none */
    int code;            /* of an error: 410 and such */
    const char *message; /* of an error */
};

/* 0, or -EBADMSG with a sentence in why: nothing is left to free. */
int kube_line_decode(const char *line, size_t len, struct kube_line *ret, char *why, size_t why_size);

/* A page of a list. */
struct kube_list {
    cJSON *json; /* the caller frees it */
    const cJSON *items;
    const char *version, *continue_token; /* "" if there is none */
};

/* The same as kube_line_decode() for the body of a list: 0 or -EBADMSG. */
int kube_list_decode(const char *body, size_t len, struct kube_list *ret, char *why, size_t why_size);

/* The message of a Status, for the log; what is no Status is cut short. */
void kube_status_text(const char *body, size_t len, char *text, size_t size);

enum kube_dns { KUBE_DNS_UNSAID, KUBE_DNS_ON, KUBE_DNS_OFF };
enum kube_redirection {
    KUBE_REDIRECTION_NONE,
    KUBE_REDIRECTION_PENDING,
    KUBE_REDIRECTION_ENABLED,
    KUBE_REDIRECTION_OTHER, /* somebody else's value */
};

struct kube_pod_object {
    const char *uid;
    const char
        *runtime_uid; /* that the container runtime knows: of a static pod the one the kubelet made up */
    const char *namespace, *name, *service_account;
    const cJSON *labels; /* an object of strings, or NULL */
    struct addr addresses[BRUMA_POD_ADDRESSES];
    int addresses_len;
    bool host_network, sidecar, completed;
    bool deleting; /* in its grace period */
    enum kube_redirection redirection;
    bool bypass_inbound;
    enum kube_dns dns_capture;
    enum outbound_policy outbound_policy;          /* REGISTRY_ONLY also for a value that is none */
    struct direct_switches direct;                 /* the long way also for values that are none */
    uint16_t probe_ports[KUBE_PROBES_MAX];         /* that the kubelet may call: probes and lifecycle hooks */
    int probe_ports_len;                           /* more than KUBE_PROBES_MAX are left out */
    const char *exclusions[EXCLUSION_ANNOTATIONS]; /* values of those annotations, or NULL */
    const char *unknown_annotation; /* the key of one that asks for what Bruma does not do; NULL */
    char wrong_annotation[256];     /* about the first whose value is none; "": none is wrong */
};

/* 0, or -EBADMSG with a sentence in why. What ret points to is object's. */
int kube_pod_decode(const cJSON *object, struct kube_pod_object *ret, char *why, size_t why_size);
/* The same for a namespace: 0 or -EBADMSG. *ret_labels is NULL where it has none; both point into object and
 * are valid as long. */
int kube_namespace_decode(const cJSON *object, const char **ret_name, const cJSON **ret_labels, char *why,
                          size_t why_size);

/* Of a namespace's annotation: UNSAID if there is none. A value that is none is told in wrong, "" else, and
 * counts as REGISTRY_ONLY. */
enum outbound_policy kube_namespace_policy(const cJSON *object, char *wrong, size_t wrong_size);

/* The same of its annotations about direct ways; a value that is none counts as the long way. wrong may say
 * something already, which stays then. */
struct direct_switches kube_namespace_direct(const cJSON *object, char *wrong, size_t wrong_size);

/* The value of a label, which labels owns; NULL if there is none. */
const char *kube_label(const cJSON *labels, const char *key);

#endif
