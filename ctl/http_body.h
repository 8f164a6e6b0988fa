/* SPDX-License-Identifier: Apache-2.0 */
/* The body of an answer, as libcurl hands it over in pieces. */
#ifndef CTL_HTTP_BODY_H
#define CTL_HTTP_BODY_H

#include <stddef.h>

#define HTTP_BODY_MAX (512u * 1024 * 1024) /* bytes; longer is an error */

struct received_body {
    char *data; /* the caller frees it; with a NUL behind, or NULL where len is 0 */
    size_t len;
};

/* CURLOPT_WRITEFUNCTION with a struct received_body as its data: bytes taken, 0 if they are too many or there
 * is no memory. */
size_t http_body_take(char *data, size_t size, size_t count, void *body);

#endif
