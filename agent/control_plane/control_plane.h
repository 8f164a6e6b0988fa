/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control plane of one machine, on loopback: delta ADS and the CA call that a proxy would else have from
 * istiod, over TLS, for clients that hold the token. Its files are in RUN_DIR/control: token (0600),
 * root-cert.pem, and ca-key.pem (0600) unless the key is given.
 */
#ifndef AGENT_CONTROL_PLANE_CONTROL_PLANE_H
#define AGENT_CONTROL_PLANE_CONTROL_PLANE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/agent_settings.h"
#include "agent/control_plane/ca.h"
#include "agent/control_plane/xds_server.h"
#include "lib/loop.h"
#include "lib/spiffe.h"

#define CA_PATH "/istio.v1.auth.IstioCertificateService/CreateCertificate"

struct control_plane;

/* Called on the loop for each request: may this node have a certificate for identity? True, or a sentence in
 * why. */
typedef bool (*control_plane_allows_fn)(void *data, const struct spiffe *identity, char *why,
                                        size_t why_size);

/* 0 or -errno, logged. With settings->xds_port 0 nothing listens. */
int control_plane_open(struct loop *loop, const struct agent_settings *settings,
                       control_plane_allows_fn allows, void *data, struct control_plane **ret);
void control_plane_close(struct control_plane **plane);
/* Removes the files that control_plane_open() makes. A CA's key that was given stays where it is. */
void control_plane_uninstall(const struct agent_settings *settings);

/* Both are the plane's, and never NULL. */
struct xds_server *control_plane_xds(struct control_plane *plane);
const struct ca *control_plane_ca(const struct control_plane *plane);
/* How many connections were closed or refused because there were too many. */
uint64_t control_plane_turned_away(const struct control_plane *plane);
/* "127.0.0.1:15012", or "" if nothing listens (never NULL); the plane's. */
const char *control_plane_address(const struct control_plane *plane);

/* How many calls were reset since nothing moved (stall-timeout). */
uint64_t control_plane_stalls(const struct control_plane *plane);

/* What the CA answers to one request: GRPC_OK and an IstioCertificateResponse that the caller frees, or
 * another status and a sentence in text; then *ret and *ret_len are not written. */
enum grpc_status control_plane_sign(struct control_plane *plane, const uint8_t *message, size_t len,
                                    uint8_t **ret, size_t *ret_len, char *text, size_t text_size);

#endif
