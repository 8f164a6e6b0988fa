/* SPDX-License-Identifier: Apache-2.0 */
/* Requests to the certificate authority (contract 1.5) over one connection, which is closed while there are
 * none: the next one reads the CA's roots again. Control thread. */
#ifndef PROXY_IDENTITY_CA_CLIENT_H
#define PROXY_IDENTITY_CA_CLIENT_H

#include <openssl/evp.h>

#include "lib/rpc/grpc.h"
#include "proxy/identity/credentials.h"
#include "proxy/identity/identity.h"

struct ca_client {
    struct loop *loop;
    const struct identity_config *config;
    struct server_address address;
    struct grpc_channel *channel; /* NULL: none just now */
    struct loop_timer idle;
    unsigned requests; /* under way */
};

/* config must live as long. 0 or -EINVAL: its address is none. */
int ca_client_init(struct ca_client *client, struct loop *loop, const struct identity_config *config);
/* All requests are done or cancelled. */
void ca_client_close(struct ca_client *client);

/* Asks for a certificate of that identity, for a new key, which is the caller's. After the call has ended, or
 * was cancelled: ca_client_done(). 0 or -errno, and nothing is under way. */
int ca_client_request(struct ca_client *client, const char *identity, const struct grpc_call_events *events,
                      void *data, EVP_PKEY **ret_key, struct grpc_call **ret_call);
void ca_client_done(struct ca_client *client);

#endif
