/* SPDX-License-Identifier: Apache-2.0 */
/* Messages to the control plane: DeltaDiscoveryRequest (contract 1.6). Control thread. */
#ifndef PROXY_XDS_XDS_REQUEST_H
#define PROXY_XDS_XDS_REQUEST_H

#include "lib/rpc/grpc.h"
#include "proxy/state/state.h"
#include "proxy/wire/wire.h"
#include "proxy/xds/xds_client.h"
#include "proxy/xds/xds_versions.h"

/* By enum state_type. */
extern const char *const xds_type_urls[STATE_TYPES];

/* Writes more of a first request, within bound bytes. Called before xds_request_first() returns. */
typedef void (*xds_request_more_fn)(void *data, struct wire_writer *writer, size_t bound);

/*
 * The first one of a stream: subscribes to everything of the type, or to what more() says, and names what is
 * held. Servers take no messages of any length (istiod's default is 4 MiB), so only what fits into bound
 * bytes is named; the rest, which xds_versions_unsent() counts, comes anew, or is swept out. more: NULL for
 * none. *ret_len: bytes. 0 or -errno.
 */
int xds_request_first(struct grpc_call *call, const struct xds_config *config, enum state_type type,
                      struct xds_versions *versions, size_t bound, xds_request_more_fn more, void *data,
                      size_t *ret_len);
/* For it: a resource or key and its version. False, and nothing is written: it would be longer than bound. */
bool xds_request_put_version(struct wire_writer *writer, size_t bound, const char *name, size_t name_len,
                             const char *version, size_t version_len);
/* For it: subscribes to nothing, where no names mean everything. */
void xds_request_put_nothing(struct wire_writer *writer);

/* Looks like a key, and neither an address nor a hostname is it. */
#define XDS_NO_NAME "/nothing"

/* Subscribes to these addresses, or to them no longer, and to XDS_NO_NAME instead. 0 or -errno. */
int xds_request_names(struct grpc_call *call, bool subscribe, char *const names[], size_t len);

/* Answers a response of that type and nonce, with what was wrong in it; "": nothing. 0 or -errno. */
int xds_request_acknowledge(struct grpc_call *call, const struct wire_field *type,
                            const struct wire_field *nonce, const char *error);

#endif
