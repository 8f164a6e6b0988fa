/* SPDX-License-Identifier: Apache-2.0 */
/* What the proxy has to say to the agent of itself. */
#include "lib/message.h"
#include "proxy/handover/handover.h"
#include "proxy/pods/agent_client_internal.h"

void agent_client_serves(struct agent_client *client)
{
    if (!client || client->serves)
        return;
    client->serves = true;
    if (client->ready && agent_client_send(client, message_new("ready"), NULL, 0) < 0)
        agent_client_disconnect(client);
}

void agent_client_ending(struct agent_client *client)
{
    if (!client)
        return;
    client->ending = true;
    if (client->watch.fd >= 0 && agent_client_send(client, message_new("ending"), NULL, 0) < 0)
        agent_client_disconnect(client);
}

void agent_client_handed_over(struct agent_client *client, const struct handed_over *told)
{
    cJSON *m;

    if (!client)
        return;
    m = message_new("handed-over");
    cJSON_AddNumberToObject(m, "moved", (double)told->moved);
    cJSON_AddNumberToObject(m, "left", (double)told->left);
    cJSON_AddNumberToObject(m, "milliseconds", (double)told->milliseconds);
    cJSON_AddNumberToObject(m, "pauseMicroseconds", (double)told->pause);
    cJSON_AddStringToObject(m, "why", told->why);
    cJSON_Delete(client->handed_over);
    client->handed_over = m;
    /* Not connected, or about to be: it is in the next proxy-hello. */
    if (client->ready && agent_client_send(client, cJSON_Duplicate(m, true), NULL, 0) < 0)
        agent_client_disconnect(client);
}

static void report_pod(struct agent_client *client, const char *op, const char *uid)
{
    cJSON *m;

    if (!client || client->watch.fd < 0)
        return;
    m = message_new(op);
    cJSON_AddStringToObject(m, "uid", uid);
    if (agent_client_send(client, m, NULL, 0) < 0)
        agent_client_disconnect(client);
}

void agent_client_pod_drained(struct agent_client *client, const char *uid)
{
    /* Not connected: the agent hears it by not being offered the pod when the connection is back. */
    report_pod(client, "pod-drained", uid);
}

void agent_client_listener_closed(struct agent_client *client, const char *uid)
{
    /* Not connected: an agent that starts verifies every pod. */
    report_pod(client, "listener-closed", uid);
}
