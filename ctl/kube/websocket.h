/* SPDX-License-Identifier: Apache-2.0 */
/* Frames of WebSocket (RFC 6455), as a client has to read and write them. Knows nothing of sockets. */
#ifndef CTL_KUBE_WEBSOCKET_H
#define CTL_KUBE_WEBSOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WEBSOCKET_HEADER_MAX  14                  /* bytes before a frame's payload, with the mask */
#define WEBSOCKET_PAYLOAD_MAX (16u * 1024 * 1024) /* bytes of a frame that is believed */
#define WEBSOCKET_KEY_LEN     25                  /* of Sec-WebSocket-Key, with the NUL */
#define WEBSOCKET_ACCEPT_LEN  29                  /* of Sec-WebSocket-Accept, with the NUL */

enum websocket_opcode {
    WEBSOCKET_CONTINUATION = 0,
    WEBSOCKET_TEXT = 1,
    WEBSOCKET_BINARY = 2,
    WEBSOCKET_CLOSE = 8,
    WEBSOCKET_PING = 9,
    WEBSOCKET_PONG = 10,
};

struct websocket_frame {
    enum websocket_opcode opcode;
    bool final;
    size_t header, payload; /* bytes */
};

/* Of what a server sends, the first frame's header. 1: it is there; 0: there must be more bytes; -EBADMSG: it
 * is none, or a client must not be sent such a one. */
int websocket_header_read(const unsigned char *bytes, size_t len, struct websocket_frame *ret);
/* Header of a client's final frame with the mask in its last 4 bytes; returns its length. */
size_t websocket_header_write(enum websocket_opcode opcode, size_t payload, const unsigned char mask[4],
                              unsigned char buf[WEBSOCKET_HEADER_MAX]);
/* Applies the mask; at: offset of the bytes in the payload. */
void websocket_mask(unsigned char *bytes, size_t len, const unsigned char mask[4], size_t at);

/* A key at random. */
void websocket_key(char buf[WEBSOCKET_KEY_LEN]);
/* What a server has to answer to it. */
void websocket_accept(const char *key, char buf[WEBSOCKET_ACCEPT_LEN]);

#endif
