/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The protocol v4.channel.k8s.io for one port: WebSocket frames, of which the first byte is the channel (0
 * bytes of the connection, 1 an error in words), and the first two bytes of each channel repeat the port.
 * Knows nothing of sockets.
 */
#ifndef CTL_KUBE_PORT_CHANNEL_H
#define CTL_KUBE_PORT_CHANNEL_H

#include "ctl/kube/websocket.h"

#define PORT_CHANNEL_OVERHEAD (WEBSOCKET_HEADER_MAX + 1) /* bytes before what is sent */

struct port_channel {
    unsigned char *bytes; /* received, and not taken yet */
    size_t begin, end, size;
    unsigned skip[2];      /* bytes of the port that have come, by channel */
    unsigned char current; /* channel of a message of several frames */
    bool inside;           /* such a message has begun */
};

enum port_event_type { PORT_NOTHING, PORT_DATA, PORT_ERROR, PORT_PING, PORT_CLOSED };

struct port_event {
    enum port_event_type type;
    const unsigned char *bytes; /* the channel's, until the next call */
    size_t len;
};

/* Keeps what was received. 0 or -ENOMEM. */
int port_channel_feed(struct port_channel *channel, const unsigned char *bytes, size_t len);
/* 1: an event (PORT_NOTHING: of no interest); 0: there must be more bytes; -EBADMSG: this is none of it. */
int port_channel_next(struct port_channel *channel, struct port_event *ret);
/* Frees what it holds, not the struct. */
void port_channel_free(struct port_channel *channel);

/* Makes a frame of len bytes, which are at buf + PORT_CHANNEL_OVERHEAD: where it begins in buf, never NULL
 * and the buffer's; its length is in *ret_len in any case. */
unsigned char *port_channel_wrap(unsigned char *buf, size_t len, size_t *ret_len);
/* Answer to a ping of at most 125 bytes: its length in buf. */
size_t port_channel_pong(const struct port_event *ping, unsigned char buf[PORT_CHANNEL_OVERHEAD + 125]);

#endif
