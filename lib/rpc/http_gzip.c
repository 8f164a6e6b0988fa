/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/rpc/http_gzip.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <zlib.h>

#define LEVEL         1  /* the fastest: it runs on a thread that has other work */
#define GZIP_WINDOW   31 /* 15 bits and the gzip wrapper */
#define MEMORY        8
#define LARGEST_INPUT (1u << 30)

int http_gzip(const char *body, size_t len, char **ret, size_t *ret_len)
{
    z_stream z = {};
    uLong bound;
    char *out;
    int r;

    if (len > LARGEST_INPUT ||
        deflateInit2(&z, LEVEL, Z_DEFLATED, GZIP_WINDOW, MEMORY, Z_DEFAULT_STRATEGY) != Z_OK)
        return -ENOMEM;
    bound = deflateBound(&z, (uLong)len);
    out = malloc(bound);
    if (!out) {
        deflateEnd(&z);
        return -ENOMEM;
    }
    z.next_in = (Bytef *)(uintptr_t)body;
    z.avail_in = (uInt)len;
    z.next_out = (Bytef *)out;
    z.avail_out = (uInt)bound;
    r = deflate(&z, Z_FINISH);
    *ret_len = z.total_out;
    deflateEnd(&z);
    if (r != Z_STREAM_END) {
        free(out);
        return -ENOMEM;
    }
    *ret = out;
    return 0;
}
