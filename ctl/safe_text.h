/* SPDX-License-Identifier: Apache-2.0 */
/* Texts of others (names, messages, errors) on the way to a terminal, which control characters would drive:
 * C0, DEL, C1, and those of Unicode that end a line or change the direction of what follows. */
#ifndef CTL_SAFE_TEXT_H
#define CTL_SAFE_TEXT_H

#include <cjson/cJSON.h>
#include <stdbool.h>

/* Each of them, and each byte that is no UTF-8, becomes "?"; in place. */
void text_clean(char *text);
/* The same of all texts and keys of a value that was parsed; NULL is none. */
void json_clean(cJSON *json);
/* The value as JSON, in which they are escaped (and what is no UTF-8 is U+FFFD): the caller's; NULL without
 * memory. */
char *json_to_text(const cJSON *json, bool on_one_line);

#endif
