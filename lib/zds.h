/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages between a CNI agent and a node proxy about pods (package istio.workload.zds): protobuf, one
 * message a datagram of a SOCK_SEQPACKET socket. The proxy is the client and greets first; each request is
 * answered by one response before the next is sent. The socket's side of it is lib/seqpacket.h.
 */
#ifndef LIB_ZDS_H
#define LIB_ZDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Both sides of stock parts read into buffers of this size, so no message may be longer. */
#define ZDS_MESSAGE_MAX 1024 /* bytes */
/* What a refusal may say. Far below the limit, and enough for a sentence. */
#define ZDS_ERROR_MAX 512 /* bytes, without the NUL */
#define ZDS_VERSION   1

/* What an add is accompanied by: the pod's network namespace. Other messages have no descriptor. */
#define ZDS_ADD_FDS 1

enum zds_request_kind { ZDS_ADD, ZDS_KEEP, ZDS_DEL, ZDS_SNAPSHOT_SENT };

struct zds_request {
    enum zds_request_kind kind;
    const char *uid; /* not with ZDS_SNAPSHOT_SENT */
    /* Only with ZDS_ADD. Decoded, has_info may be false: stock proxies take that for a protocol error. */
    bool has_info;
    const char *name, *namespace, *service_account;
    void *owner; /* of the texts, if decoded */
};

/*
 * Encoding: the length, or -EMSGSIZE if it is more than ZDS_MESSAGE_MAX (buf has at least that much room).
 * Decoding: 0; -EBADMSG for what is no such message, is too long, has no known payload, or text that is not
 * UTF-8 or has control characters or quotes; -ENOMEM.
 */
ssize_t zds_request_encode(const struct zds_request *request, uint8_t *buf);
int zds_request_decode(const void *data, size_t len, struct zds_request *ret);
/* Frees what a decoded request owns, and empties it; harmless for one that was never decoded. */
void zds_request_clear(struct zds_request *request);

ssize_t zds_hello_encode(uint8_t *buf); /* the length, as zds_request_encode() */
/* 0, or -EBADMSG for what is no greeting or names no version. A later version than ours is no error. */
int zds_hello_decode(const void *data, size_t len, unsigned *ret_version);

/* The length, as zds_request_encode(). error: NULL or empty is success; it is cut at ZDS_ERROR_MAX
 * bytes, between characters. */
ssize_t zds_response_encode(const char *error, uint8_t *buf);
/* 0, or -EBADMSG for what is no answer. ret_error: empty if the answer was yes; cut at size - 1 bytes;
 * control characters become spaces. */
int zds_response_decode(const void *data, size_t len, char *ret_error, size_t size);

/* "add" and so on: a static text, never NULL. */
const char *zds_request_kind_name(enum zds_request_kind kind);

#define _cleanup_zds_request_ __attribute__((__cleanup__(zds_request_clear)))

#endif
