/* SPDX-License-Identifier: Apache-2.0 */
/* Lines of what brumactl explains, for print_checks(). */
#ifndef CTL_SAY_H
#define CTL_SAY_H

#include <cjson/cJSON.h>

#include "lib/reasons.h"

/* Appends one line. reason NULL: nothing is wrong; else its name and advice are added. A detail is cut after
 * 1023 bytes. */
__attribute__((format(printf, 4, 5))) void say(cJSON *lines, const char *check,
                                               const enum bruma_reason *reason, const char *format, ...);
/* The same of what is wrong and has no reason. */
__attribute__((format(printf, 3, 4))) void say_wrong(cJSON *lines, const char *check, const char *format,
                                                     ...);

#endif
