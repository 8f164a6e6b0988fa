/* SPDX-License-Identifier: Apache-2.0 */
/* Frames of WebSocket, the channels in them, and the answer that comes before. */
#include "ctl/kube/port_channel.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "ctl/kube/upgrade_answer.h"

#define BYTES(text) (const unsigned char *)(text), sizeof(text) - 1

static struct port_channel channel;
static struct port_event event;

static void feed(const unsigned char *bytes, size_t len)
{
    cr_assert_eq(port_channel_feed(&channel, bytes, len), 0);
}

static void expect(enum port_event_type type, const char *text)
{
    cr_assert_eq(port_channel_next(&channel, &event), 1);
    cr_expect_eq(event.type, type);
    cr_expect_eq(event.len, strlen(text));
    cr_expect_eq(memcmp(event.bytes, text, event.len), 0);
}

Test(port_channel, the_port_is_left_out_and_data_is_told)
{
    feed(BYTES("\x82\x03\x00\x40\x1f\x82\x03\x01\x40\x1f\x82\x03\x00hi\x82\x04\x01oh!"));
    expect(PORT_NOTHING, "");
    expect(PORT_NOTHING, "");
    expect(PORT_DATA, "hi");
    expect(PORT_ERROR, "oh!");
    cr_expect_eq(port_channel_next(&channel, &event), 0);
    port_channel_free(&channel);
}

Test(port_channel, nothing_has_come)
{
    cr_expect_eq(port_channel_next(&channel, &event), 0);
    feed((const unsigned char *)"", 0);
    cr_expect_eq(port_channel_next(&channel, &event), 0);
    port_channel_free(&channel);
}

Test(port_channel, the_port_may_come_in_pieces)
{
    feed(BYTES("\x82\x02\x00\x40\x82\x04\x00\x1f"
               "ab"));
    expect(PORT_NOTHING, "");
    expect(PORT_DATA, "ab");
    port_channel_free(&channel);
}

Test(port_channel, byte_by_byte)
{
    static const char bytes[] = "\x82\x03\x00\x40\x1f\x82\x03\x00hi";
    int events = 0;

    for (size_t i = 0; i < sizeof(bytes) - 1; i++) {
        feed((const unsigned char *)bytes + i, 1);
        events += port_channel_next(&channel, &event);
    }
    cr_expect_eq(events, 2);
    cr_expect(event.type == PORT_DATA && event.len == 2);
    port_channel_free(&channel);
}

Test(port_channel, a_message_of_several_frames_with_a_ping_in_between)
{
    unsigned char pong[PORT_CHANNEL_OVERHEAD + 125];
    size_t len;

    feed(BYTES("\x82\x03\x00\x40\x1f\x02\x03\x00hi\x89\x02yo\x80\x02!!\x88\x00"));
    expect(PORT_NOTHING, "");
    expect(PORT_DATA, "hi");
    expect(PORT_PING, "yo");
    len = port_channel_pong(&event, pong);
    cr_expect(len == 8 && pong[0] == 0x8a && pong[1] == 0x82);
    websocket_mask(pong + 6, 2, pong + 2, 0);
    cr_expect_eq(memcmp(pong + 6, "yo", 2), 0);
    expect(PORT_DATA, "!!");
    expect(PORT_CLOSED, "");
    port_channel_free(&channel);
}

static void refuse(const unsigned char *bytes, size_t len)
{
    feed(bytes, len);
    cr_expect_eq(port_channel_next(&channel, &event), -EBADMSG);
    port_channel_free(&channel);
}

Test(port_channel, what_a_server_must_not_send)
{
    refuse(BYTES("\x82\x83\x00\x00\x00\x00\x00\x00\x00"));     /* masked */
    refuse(BYTES("\xc2\x01\x00"));                             /* a reserved bit */
    refuse(BYTES("\x83\x01\x00"));                             /* no opcode */
    refuse(BYTES("\x80\x01\x00"));                             /* continues nothing */
    refuse(BYTES("\x82\x00"));                                 /* of no channel */
    refuse(BYTES("\x82\x01\x02"));                             /* of another channel */
    refuse(BYTES("\x09\x00"));                                 /* a ping in pieces */
    refuse(BYTES("\x89\x7e\x00\x80"));                         /* a long ping */
    refuse(BYTES("\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff")); /* too long */
    feed(BYTES("\x02\x01\x00"));
    cr_expect_eq(port_channel_next(&channel, &event), 1);
    refuse(BYTES("\x82\x01\x00")); /* another message inside one */
}

Test(port_channel, long_frames)
{
    static unsigned char bytes[10 + 70000] = {0x82, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70};

    feed(bytes, sizeof(bytes) - 1);
    cr_expect_eq(port_channel_next(&channel, &event), 0);
    feed(bytes + sizeof(bytes) - 1, 1);
    cr_expect_eq(port_channel_next(&channel, &event), 1);
    cr_expect_eq(event.len, 70000u - 3);
    port_channel_free(&channel);
}

/* What it makes is read as RFC 6455 has it. */
Test(port_channel, what_is_sent)
{
    static const size_t lengths[] = {0, 1, 124, 125, 126, 65534, 65535, 70000};
    static unsigned char buf[PORT_CHANNEL_OVERHEAD + 70000];

    for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
        size_t n = lengths[i], total, header, len;
        unsigned char *from;

        memset(buf + PORT_CHANNEL_OVERHEAD, 'x', n);
        from = port_channel_wrap(buf, n, &total);
        cr_assert(from >= buf && from[0] == 0x82 && (from[1] & 0x80));
        len = from[1] & 0x7f;
        header = len == 127 ? 14 : len == 126 ? 8 : 6;
        if (len == 126)
            len = (size_t)from[2] << 8 | from[3];
        else if (len == 127)
            len = (size_t)from[7] << 16 | (size_t)from[8] << 8 | from[9];
        cr_expect(len == n + 1 && total == header + len);
        websocket_mask(from + header, len, from + header - 4, 0);
        cr_expect_eq(from[header], 0);
        for (size_t b = 1; b < len; b++)
            cr_assert_eq(from[header + b], 'x');
    }
}

/* The example of RFC 6455, section 1.3. */
Test(websocket, accept)
{
    char accept[WEBSOCKET_ACCEPT_LEN], key[WEBSOCKET_KEY_LEN];

    websocket_accept("dGhlIHNhbXBsZSBub25jZQ==", accept);
    cr_expect_str_eq(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    websocket_key(key);
    cr_expect_eq(strlen(key), 24u);
}

#define SWITCHED \
    "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nsec-websocket-accept:  s3p=\r\n\r\n"

Test(upgrade_answer, switched)
{
    struct upgrade_answer answer;
    static const char text[] = SWITCHED "\x82\x01";

    for (size_t len = 0; len < sizeof(SWITCHED) - 1; len++)
        cr_expect_eq(upgrade_answer_read((const unsigned char *)text, len, false, &answer), 0);
    cr_expect_eq(upgrade_answer_read((const unsigned char *)text, sizeof(text) - 1, false, &answer), 1);
    cr_expect(answer.status == 101 && answer.len == sizeof(SWITCHED) - 1);
    cr_expect_str_eq(answer.accept, "s3p=");
    cr_expect(!upgrade_answer_accepts(&answer, "dGhlIHNhbXBsZSBub25jZQ=="));
}

Test(upgrade_answer, refused)
{
    struct upgrade_answer answer;

    cr_expect_eq(
        upgrade_answer_read(BYTES("HTTP/1.1 403 No\r\nContent-Length: 4\r\n\r\n{}{"), false, &answer), 0);
    cr_expect_eq(
        upgrade_answer_read(BYTES("HTTP/1.1 403 No\r\nContent-Length: 4\r\n\r\n{}{}"), false, &answer), 1);
    cr_expect_eq(answer.status, 403);
    cr_expect_eq(upgrade_answer_read(BYTES("HTTP/1.1 500 No\r\n\r\nwhy"), false, &answer), 0);
    cr_expect_eq(upgrade_answer_read(BYTES("HTTP/1.1 500 No\r\n\r\nwhy"), true, &answer), 1);
    cr_expect_eq(upgrade_answer_read(BYTES("HTTP/1.1 403 No\r\nContent-Length: -4\r\n\r\n"), true, &answer),
                 1);
}

Test(upgrade_answer, nonsense)
{
    struct upgrade_answer answer;

    cr_expect_eq(upgrade_answer_read(BYTES("SSH-2.0-x\r\n\r\n"), false, &answer), -EBADMSG);
    cr_expect_eq(upgrade_answer_read(BYTES("HTTP/1.1 1x1 No\r\n\r\n"), false, &answer), -EBADMSG);
    cr_expect_eq(upgrade_answer_read(BYTES("HTTP/1.1\r\n\r\n"), false, &answer), -EBADMSG);
    cr_expect_eq(upgrade_answer_read(BYTES("\r\n\r\n"), false, &answer), -EBADMSG);
    cr_expect_eq(upgrade_answer_read(BYTES("HTTP/1.1 101"), true, &answer), -EBADMSG);
    cr_expect_eq(upgrade_answer_read(BYTES(""), true, &answer), -EBADMSG);
}
