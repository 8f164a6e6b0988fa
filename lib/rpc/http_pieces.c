/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/rpc/http_pieces.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "lib/cleanup.h"

/* 64 KiB for each client that takes a compressed answer: a smaller window than for a whole one. */
#define LEVEL  1
#define WINDOW (13 + 16) /* 8 KiB, and the gzip wrapper */
#define MEMORY 6

struct http_pieces {
    struct http_source source;
    bool gzip;
    z_stream z;
};

int http_pieces_new(const struct http_source *source, bool gzip, struct http_pieces **ret)
{
    struct http_pieces *p = calloc(1, sizeof(*p));

    if (!p || (gzip && deflateInit2(&p->z, LEVEL, Z_DEFLATED, WINDOW, MEMORY, Z_DEFAULT_STRATEGY) != Z_OK)) {
        free(p);
        source->done(source->data);
        return -ENOMEM;
    }
    p->source = *source;
    p->gzip = gzip;
    *ret = p;
    return 0;
}

void http_pieces_free(struct http_pieces **pieces)
{
    struct http_pieces *p = *pieces;

    if (!p)
        return;
    *pieces = NULL;
    p->source.done(p->source.data);
    if (p->gzip)
        deflateEnd(&p->z);
    free(p);
}

static int compress_into(struct http_pieces *p, const char *text, size_t len, bool last, FILE *out)
{
    unsigned char buf[16 * 1024];
    int r;

    p->z.next_in = (Bytef *)(uintptr_t)text;
    p->z.avail_in = (uInt)len;
    do {
        p->z.next_out = buf;
        p->z.avail_out = sizeof(buf);
        r = deflate(&p->z, last ? Z_FINISH : Z_NO_FLUSH);
        if (r != Z_OK && r != Z_STREAM_END && r != Z_BUF_ERROR)
            return -EIO;
        fwrite(buf, 1, sizeof(buf) - p->z.avail_out, out);
    } while (p->z.avail_out == 0);
    return 0;
}

static int compressed(struct http_pieces *p, char **text, size_t *len, bool last)
{
    _cleanup_free_ char *plain = *text;
    size_t plain_len = *len;
    FILE *out;
    int r;

    *text = NULL;
    *len = 0;
    out = open_memstream(text, len);
    if (!out)
        return -ENOMEM;
    r = compress_into(p, plain, plain_len, last, out);
    if (ferror(out))
        r = -ENOMEM;
    return fclose(out) == 0 ? r : -ENOMEM;
}

int http_pieces_next(struct http_pieces *p, char **ret, size_t *ret_len)
{
    FILE *out = open_memstream(ret, ret_len);
    bool failed;
    int more, r;

    if (!out)
        return -ENOMEM;
    more = p->source.next(p->source.data, out);
    failed = ferror(out) != 0;
    failed |= fclose(out) != 0;
    if (failed || more < 0)
        return more < 0 ? more : -ENOMEM;
    r = p->gzip ? compressed(p, ret, ret_len, more == 0) : 0;
    return r < 0 ? r : more;
}
