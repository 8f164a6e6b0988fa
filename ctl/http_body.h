/* SPDX-License-Identifier: Apache-2.0 */
/* The body of an answer, as libcurl hands it over in pieces. */
#ifndef CTL_HTTP_BODY_H
#define CTL_HTTP_BODY_H

#include <stdbool.h>
#include <stddef.h>

struct received_body {
    size_t max; /* bytes, set by who asks: a longer body is an error */
    char *data; /* the caller frees it; with a NUL behind, or NULL where len is 0 */
    size_t len;
    bool too_long;
};

/* CURLOPT_WRITEFUNCTION with a struct received_body as its data: bytes taken, 0 if they are too many (then
 * too_long is set) or there is no memory. */
size_t http_body_take(char *data, size_t size, size_t count, void *body);

#endif
