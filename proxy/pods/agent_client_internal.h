/* SPDX-License-Identifier: Apache-2.0 */
/* The connection to the agent, to the files agent_*.c. Control thread. */
#ifndef PROXY_PODS_AGENT_CLIENT_INTERNAL_H
#define PROXY_PODS_AGENT_CLIENT_INTERNAL_H

#include <cjson/cJSON.h>

#include "lib/outbox.h"
#include "proxy/pods/agent_client.h"
#include "proxy/pods/name_set.h"

struct agent_client {
    struct loop *loop;
    struct proxy *proxy;
    const struct agent_client_events *events;
    char *path;
    struct loop_watch watch; /* fd -1 while not connected */
    struct loop_timer retry;
    uint64_t retry_after; /* milliseconds */
    bool complained;      /* that the agent is away; said once */
    bool ready;
    bool in_charge;     /* an agent has said so, and none has said that another one is */
    bool draining;      /* another proxy has taken over */
    bool ending;        /* this one was told to end */
    bool serves;        /* the mesh is known */
    cJSON *handed_over; /* what came from the proxy before, as it was told last; NULL: nothing yet */
    struct outbox outbox;
    struct name_set named; /* uids since the connection began, until snapshot-end */
    char buf[BRUMA_MESSAGE_MAX + 1];
};

/* Sends it, or queues it; the message is taken, and descriptors stay the caller's. 0, or -errno: the
 * connection is of no use any more. */
int agent_client_send(struct agent_client *client, cJSON *message, const int *fds, size_t fds_len);
/* What the agent has told stays in force; only the connection is lost. Harmless a second time. */
void agent_client_disconnect(struct agent_client *client);

#endif
