/* SPDX-License-Identifier: Apache-2.0 */
/* Values of a JSON object. */
#ifndef CTL_JSON_TEXT_H
#define CTL_JSON_TEXT_H

#include <cjson/cJSON.h>

/* Text of a key, "" where there is none (never NULL); the object owns it. */
const char *text_of(const cJSON *object, const char *key);
/* Number of a key, 0 where there is none. */
double number_of(const cJSON *object, const char *key);

#endif
