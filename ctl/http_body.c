/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/http_body.h"

#include <stdlib.h>
#include <string.h>

size_t http_body_take(char *data, size_t size, size_t count, void *user)
{
    struct received_body *b = user;
    size_t n = size * count;
    char *grown;

    b->too_long = n > b->max - b->len;
    grown = b->too_long ? NULL : realloc(b->data, b->len + n + 1);
    if (!grown)
        return 0;
    b->data = grown;
    memcpy(grown + b->len, data, n);
    b->len += n;
    grown[b->len] = '\0';
    return n;
}
