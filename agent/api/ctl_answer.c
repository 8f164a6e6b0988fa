/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/api/ctl_answer.h"

#include "lib/reasons.h"

void ctl_answer_item(struct ctl_answer *answer, cJSON *item)
{
    if (answer->connection) {
        connection_send(answer->connection, item, NULL, 0);
        return;
    }
    cJSON_DeleteItemFromObjectCaseSensitive(item, "op");
    if (!cJSON_AddItemToArray(answer->items, item))
        cJSON_Delete(item);
}

void ctl_answer_error(struct ctl_answer *answer, enum bruma_reason reason, const char *text)
{
    if (answer->connection) {
        connection_send_error(answer->connection, reason, text);
        return;
    }
    cJSON_Delete(answer->items);
    answer->items = cJSON_CreateObject();
    cJSON_AddStringToObject(answer->items, "reason", reason_name(reason));
    cJSON_AddStringToObject(answer->items, "error", text);
}
