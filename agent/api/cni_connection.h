/* SPDX-License-Identifier: Apache-2.0 */
/* One connection of the plugin. Shared by cni_server.c, cni_add.c and cni_answer.c, on the loop's thread. */
#ifndef AGENT_API_CNI_CONNECTION_H
#define AGENT_API_CNI_CONNECTION_H

#include "agent/agent.h"
#include "agent/api/address_watch.h"
#include "agent/enroll/source.h"
#include "agent/local/server.h"

struct add_request {
    const cJSON *message; /* whose text it is */
    const char *container_id, *netns, *ifname, *network, *namespace, *name, *uid;
    struct addr addresses[BRUMA_POD_ADDRESSES];
    int addresses_len;
    uint64_t cookie;
};

/* One connection of the plugin. */
struct cni {
    struct agent *agent;
    struct local_connection *connection;
    struct pod *pod; /* of the enrollment that this connection has begun; NULL otherwise */

    /* an ADD that waits: the source has not told of the pod yet, or its address cannot be used yet */
    bool waits;
    cJSON *kept; /* its message; NULL: none */
    struct add_request request;
    int netns_fd;
    uint64_t waits_until; /* loop time in milliseconds; for the source; 0: not for that */
    struct source_waiter waiter;
    struct address_watch address;
    struct loop_timer timer; /* it is tried again, or its wait ends */
};

/* ---- cni_add.c ---- */

/* No ADD waits. */
void cni_add_init(struct cni *cni);
/* cni-add: answers it, now or once what it waits for has come. Descriptors that are taken are set to -1. */
void cni_add(struct cni *cni, const cJSON *m, int *fds, size_t fds_len);
/* The ADD that waits does not any more. */
void cni_add_forget(struct cni *cni);

/* ---- cni_answer.c: each is counted, as a success or an error ---- */

/* What was asked for is done. */
void cni_answer_done(struct cni *cni);
/* It cannot be done; the text is for people. */
void cni_answer_error(struct cni *cni, enum bruma_reason reason, const char *text);
/* The plugin has nothing to do for the pod, which is enrolled already, or does not belong to the mesh. */
void cni_answer_pass(struct cni *cni, bool enrolled);

#endif
