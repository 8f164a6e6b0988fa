/* SPDX-License-Identifier: Apache-2.0 */
/* Private to the HTTP server: the body of an answer that is made piece by piece, and compressed if that is
 * wanted. */
#ifndef LIB_RPC_HTTP_PIECES_H
#define LIB_RPC_HTTP_PIECES_H

#include "lib/rpc/http_server.h"

struct http_pieces;

/* Takes the source, also on failure: 0 or -ENOMEM. */
int http_pieces_new(const struct http_source *source, bool gzip, struct http_pieces **ret);
void http_pieces_free(struct http_pieces **pieces);
/* 1: a piece (it may be empty: the compressor holds it), there is more; 0: the last one; -errno. The piece is
 * the caller's to free, also on failure. */
int http_pieces_next(struct http_pieces *pieces, char **ret, size_t *ret_len);

#endif
