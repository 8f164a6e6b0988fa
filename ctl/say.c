/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/say.h"

#include <stdarg.h>
#include <stdio.h>

__attribute__((format(printf, 3, 0))) static cJSON *add_line(cJSON *lines, const char *check,
                                                             const char *format, va_list ap)
{
    cJSON *line = cJSON_CreateObject();
    char detail[1024];

    vsnprintf(detail, sizeof(detail), format, ap);
    cJSON_AddStringToObject(line, "check", check);
    cJSON_AddTrueToObject(line, "ok");
    cJSON_AddStringToObject(line, "detail", detail);
    cJSON_AddItemToArray(lines, line);
    return line;
}

void say(cJSON *lines, const char *check, const enum bruma_reason *reason, const char *format, ...)
{
    cJSON *line;
    va_list ap;

    va_start(ap, format);
    line = add_line(lines, check, format, ap);
    va_end(ap);
    if (!reason)
        return;
    cJSON_ReplaceItemInObjectCaseSensitive(line, "ok", cJSON_CreateFalse());
    cJSON_AddStringToObject(line, "reason", reason_name(*reason));
    cJSON_AddStringToObject(line, "advice", reason_check(*reason));
}

void say_wrong(cJSON *lines, const char *check, const char *format, ...)
{
    cJSON *line;
    va_list ap;

    va_start(ap, format);
    line = add_line(lines, check, format, ap);
    va_end(ap);
    cJSON_ReplaceItemInObjectCaseSensitive(line, "ok", cJSON_CreateFalse());
}
