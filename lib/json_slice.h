/* SPDX-License-Identifier: Apache-2.0 */
/* Where the value of a key stands in a JSON text. */
#ifndef LIB_JSON_SLICE_H
#define LIB_JSON_SLICE_H

#include <stddef.h>

/* text: a JSON object that a parser has accepted. Finds the raw text of the value of a top-level key (whose
 * name has no escapes); *ret points into text. 0 or -ENOENT. */
int json_slice_find(const char *text, size_t len, const char *key, const char **ret, size_t *ret_len);

/* text: an array that a parser has accepted, from '[' to ']'. Calls each(data, begin, len) for its elements,
 * in order, before it returns. */
void json_slice_elements(const char *text, size_t len,
                         void (*each)(void *data, const char *begin, size_t len), void *data);

#endif
