/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/kube/port_channel.h"

#include <errno.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#define DATA     0
#define CHANNELS 2
#define PORT_LEN 2

int port_channel_feed(struct port_channel *c, const unsigned char *bytes, size_t len)
{
    if (c->begin) {
        memmove(c->bytes, c->bytes + c->begin, c->end - c->begin);
        c->end -= c->begin;
        c->begin = 0;
    }
    if (c->size - c->end < len) {
        size_t size = (c->end + len) * 2;
        unsigned char *grown = realloc(c->bytes, size);

        if (!grown)
            return -ENOMEM;
        c->bytes = grown;
        c->size = size;
    }
    if (len)
        memcpy(c->bytes + c->end, bytes, len);
    c->end += len;
    return 0;
}

void port_channel_free(struct port_channel *channel)
{
    free(channel->bytes);
    *channel = (struct port_channel){};
}

/* The first frame of a message names the channel. */
static int take_data(struct port_channel *c, const struct websocket_frame *frame, const unsigned char *bytes,
                     struct port_event *ret)
{
    size_t len = frame->payload;

    if (c->inside != (frame->opcode == WEBSOCKET_CONTINUATION))
        return -EBADMSG;
    if (!c->inside) {
        if (!len || bytes[0] >= CHANNELS)
            return -EBADMSG;
        c->current = bytes[0];
        bytes++;
        len--;
    }
    c->inside = !frame->final;
    for (; len && c->skip[c->current] < PORT_LEN; c->skip[c->current]++, bytes++, len--)
        ;
    *ret = (struct port_event){!len ? PORT_NOTHING : c->current == DATA ? PORT_DATA : PORT_ERROR, bytes, len};
    return 1;
}

int port_channel_next(struct port_channel *c, struct port_event *ret)
{
    struct websocket_frame frame;
    const unsigned char *payload;
    int r;

    if (c->begin == c->end)
        return 0;
    r = websocket_header_read(c->bytes + c->begin, c->end - c->begin, &frame);
    if (r <= 0)
        return r;
    if (c->end - c->begin < frame.header + frame.payload)
        return 0;
    payload = c->bytes + c->begin + frame.header;
    c->begin += frame.header + frame.payload;
    if (frame.opcode <= WEBSOCKET_BINARY)
        return take_data(c, &frame, payload, ret);
    *ret = (struct port_event){frame.opcode == WEBSOCKET_CLOSE  ? PORT_CLOSED
                               : frame.opcode == WEBSOCKET_PING ? PORT_PING
                                                                : PORT_NOTHING,
                               payload, frame.payload};
    return 1;
}

/* Masks hide nothing here: they keep what is sent from looking like something else to a proxy on the way. */
static void new_mask(unsigned char mask[4])
{
    memset(mask, 0, 4);
    (void)RAND_bytes(mask, 4);
}

unsigned char *port_channel_wrap(unsigned char *buf, size_t len, size_t *ret_len)
{
    unsigned char header[WEBSOCKET_HEADER_MAX], mask[4], *payload = buf + PORT_CHANNEL_OVERHEAD - 1;
    size_t header_len;

    new_mask(mask);
    header_len = websocket_header_write(WEBSOCKET_BINARY, len + 1, mask, header);
    payload[0] = DATA;
    websocket_mask(payload, len + 1, mask, 0);
    memcpy(payload - header_len, header, header_len);
    *ret_len = header_len + len + 1;
    return payload - header_len;
}

size_t port_channel_pong(const struct port_event *ping, unsigned char buf[PORT_CHANNEL_OVERHEAD + 125])
{
    unsigned char mask[4];
    size_t len;

    new_mask(mask);
    len = websocket_header_write(WEBSOCKET_PONG, ping->len, mask, buf);
    if (ping->len)
        memcpy(buf + len, ping->bytes, ping->len);
    websocket_mask(buf + len, ping->len, mask, 0);
    return len + ping->len;
}
