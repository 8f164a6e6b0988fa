/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/say.h"

#include <stdarg.h>
#include <stdio.h>

void say(cJSON *lines, const char *check, const enum bruma_reason *reason, const char *format, ...)
{
    cJSON *line = cJSON_CreateObject();
    char detail[1024];
    va_list ap;

    va_start(ap, format);
    vsnprintf(detail, sizeof(detail), format, ap);
    va_end(ap);
    cJSON_AddStringToObject(line, "check", check);
    cJSON_AddBoolToObject(line, "ok", !reason);
    cJSON_AddStringToObject(line, "detail", detail);
    if (reason) {
        cJSON_AddStringToObject(line, "reason", reason_name(*reason));
        cJSON_AddStringToObject(line, "advice", reason_check(*reason));
    }
    cJSON_AddItemToArray(lines, line);
}
