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

#endif
