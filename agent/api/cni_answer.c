/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/api/cni_connection.h"
#include "lib/message.h"
#include "lib/reasons.h"

#define LOG_SCOPE "cni"
#include "lib/log.h"

void cni_answer_done(struct cni *cni)
{
    cni->agent->plugin_successes++;
    connection_send(cni->connection, message_new("done"), NULL, 0);
}

void cni_answer_error(struct cni *cni, enum bruma_reason reason, const char *text)
{
    cni->agent->plugin_errors++;
    log_warn("the plugin gets an error\treason=%s error=\"%s\"", reason_name(reason), text);
    connection_send_error(cni->connection, reason, text);
}

void cni_answer_pass(struct cni *cni, bool enrolled)
{
    cJSON *m = message_new("decision");

    cJSON_AddStringToObject(m, "decision", "pass");
    cJSON_AddBoolToObject(m, "enrolled", enrolled);
    cni->agent->plugin_successes++;
    connection_send(cni->connection, m, NULL, 0);
}
