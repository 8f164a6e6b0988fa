/* SPDX-License-Identifier: Apache-2.0 */
/* What the control plane's connections need from outside: addresses, roots, tokens, extra headers
 * (contract 1.7). */
#ifndef PROXY_IDENTITY_CREDENTIALS_H
#define PROXY_IDENTITY_CREDENTIALS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/rpc/grpc.h"

/* Where a server of the control plane is. */
struct server_address {
    char host[256];
    uint16_t port;
    bool plaintext;
};

/* "https://host:port", "http://host:port", or "host:port", which means https; without a port: 15012. 0 or
 * -EINVAL. */
int server_address_parse(const char *text, struct server_address *ret);

/* A path, literal PEM, or "SYSTEM". The caller frees *ret_pem (NULL for SYSTEM). 0, -ENOMEM, -EBADMSG: what
 * is there is no text, or -errno if the path cannot be read. */
int roots_load(const char *setting, char **ret_pem);

#define CREDENTIAL_HEADERS_MAX 20 /* headers */

/* Zeroed is none. */
struct credential_headers {
    struct grpc_header headers[CREDENTIAL_HEADERS_MAX];
    size_t len;
    char *authorization;
};

/* authorization and clusterid, and the environment's <prefix><name>=value ("XDS_HEADER_"). token: a path,
 * read now, or the token itself; "": neither header is sent; NULL: token_file, if there is such a file.
 * -errno if a token file cannot be read, -ENODATA if it is empty. */
int credential_headers_load(const char *token, const char *token_file, const char *cluster_id,
                            const char *prefix, struct credential_headers *ret);
/* Wipes the token. The other texts are the environment's. */
void credential_headers_free(struct credential_headers *headers);

#endif
