/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/api/ctl_finding.h"

#include <stdarg.h>
#include <stdio.h>

#include "lib/message.h"
#include "lib/reasons.h"

bool ctl_finding(struct ctl_answer *answer, const char *check, bool ok, enum bruma_reason reason,
                 const char *format, ...)
{
    cJSON *item = message_new("item");
    char detail[1024];
    va_list ap;

    va_start(ap, format);
    vsnprintf(detail, sizeof(detail), format, ap);
    va_end(ap);
    cJSON_AddStringToObject(item, "check", check);
    cJSON_AddBoolToObject(item, "ok", ok);
    cJSON_AddStringToObject(item, "detail", detail);
    if (reason != BRUMA_REASON_NONE) {
        cJSON_AddStringToObject(item, "reason", reason_name(reason));
        cJSON_AddStringToObject(item, "advice", reason_check(reason));
    }
    ctl_answer_item(answer, item);
    return ok;
}
