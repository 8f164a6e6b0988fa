/* SPDX-License-Identifier: Apache-2.0 */
/* Where agent and proxy of one node are asked: by their sockets on this machine, or through an API server. */
#ifndef CTL_PLACE_H
#define CTL_PLACE_H

#include <stdbool.h>

#include "ctl/kube/kubeconfig.h"

#define PLACE_COMPLAINT_MAX 640 /* bytes with the NUL */

/* Texts are somebody else's, and live as long. */
struct place {
    const char *run_dir;                       /* of this machine; NULL: through the API server */
    const char *node;                          /* its name; NULL for this machine */
    const struct kube_access *access;          /* NULL for this machine */
    const char *namespace;                     /* of the two pods */
    const char *agent, *proxy;                 /* names of the pods; NULL: there is none */
    unsigned agent_port, proxy_port;           /* on loopback in them; 0: none is served */
    const char *agent_version, *proxy_version; /* of the chart; "": not known */
    bool agent_ready, proxy_ready;             /* as the API server says */
    bool as_json;                              /* texts are to stay as they came: JSON is printed */
    const bool *stop;                          /* atomic: whether to end what is asked of pages; NULL: no */
    /* Takes why there was no answer; NULL: such words go to stderr. PLACE_COMPLAINT_MAX bytes. */
    char *complaint;
};

#endif
