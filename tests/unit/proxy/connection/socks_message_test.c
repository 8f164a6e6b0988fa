/* SPDX-License-Identifier: Apache-2.0 */
/* What SOCKS5 clients say: RFC 1928, contract section 12. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "proxy/connection/socks_message.h"

static struct socks_message m;
static size_t used;

/* Gives the bytes in pieces as they are asked for, as a socket would. The last step that is no SOCKS_MORE or
 * SOCKS_CHOOSE; SOCKS_MORE if the bytes do not suffice. */
static enum socks_step feed(const void *data, size_t len)
{
    const uint8_t *bytes = data;

    socks_message_init(&m);
    used = 0;
    for (;;) {
        size_t want = m.need - m.len;
        enum socks_step step;

        cr_assert(m.need <= sizeof(m.bytes) && m.need > m.len);
        if (want > len - used)
            return SOCKS_MORE;
        memcpy(m.bytes + m.len, bytes + used, want);
        used += want;
        m.len += want;
        step = socks_step(&m);
        if (step == SOCKS_ASKED || step == SOCKS_WRONG)
            return step;
    }
}

#define FEED(text) feed(text, sizeof(text) - 1)

static const char *address(void)
{
    static char text[ADDR_TEXT_LEN];

    return addr_format(&m.addr, text);
}

Test(socks_message, addresses)
{
    cr_assert(FEED("\x05\x01\x00\x05\x01\x00\x01\x0a\x01\x02\x03\x1f\x90rest") == SOCKS_ASKED);
    cr_expect(!*m.host && m.port == 8080);
    cr_expect_str_eq(address(), "10.1.2.3");
    cr_expect(used == 13, "what follows is not ours");
    cr_assert(FEED("\x05\x02\x02\x00\x05\x01\x00\x04\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x00\x50") ==
              SOCKS_ASKED);
    cr_expect(!*m.host && m.port == 80);
    cr_expect_str_eq(address(), "fd00::1");
}

Test(socks_message, names)
{
    cr_assert(FEED("\x05\x01\x00\x05\x01\x00\x03\x05Shop.\x00\x50") == SOCKS_ASKED);
    cr_expect_str_eq(m.host, "shop");
    cr_expect(m.port == 80);
    cr_assert(FEED("\x05\x01\x00\x05\x01\x00\x03\x08"
                   "10.9.0.2\x00\x50") == SOCKS_ASKED);
    cr_expect(!*m.host, "an address that is sent as a name");
    cr_expect_str_eq(address(), "10.9.0.2");
    cr_assert(FEED("\x05\x01\x00\x05\x01\x00\x03\x07"
                   "fd00::1\x00\x50") == SOCKS_ASKED);
    cr_expect_str_eq(address(), "fd00::1");
}

Test(socks_message, the_longest_name)
{
    uint8_t bytes[3 + 5 + 255 + 2] = "\x05\x01\x00\x05\x01\x00\x03\xff";

    memset(bytes + 8, 'a', 255);
    bytes[8 + 255] = 0;
    bytes[8 + 256] = 80;
    cr_assert(feed(bytes, sizeof(bytes)) == SOCKS_ASKED);
    cr_expect(strlen(m.host) == 255 && m.port == 80);
    for (size_t len = 0; len < sizeof(bytes); len++)
        cr_expect(feed(bytes, len) == SOCKS_MORE, "%zu bytes", len);
}

Test(socks_message, what_is_wrong)
{
    cr_expect(FEED("\x04\x01") == SOCKS_WRONG && m.status == SOCKS_NO_METHOD);
    cr_expect(FEED("\x05\x00") == SOCKS_WRONG && m.status == SOCKS_NO_METHOD);
    cr_expect(FEED("\x05\x02\x01\x02") == SOCKS_WRONG && m.status == SOCKS_NO_METHOD);
    cr_expect(m.answer[0] == 5 && m.answer[1] == 0xff);
    cr_expect(FEED("\x05\x01\x00\x04\x01\x00\x01") == SOCKS_WRONG && m.status == SOCKS_FAILED);
    cr_expect(FEED("\x05\x01\x00\x05\x02\x00\x01") == SOCKS_WRONG && m.status == SOCKS_COMMAND_UNKNOWN);
    cr_expect(FEED("\x05\x01\x00\x05\x03\x00\x01") == SOCKS_WRONG && m.status == SOCKS_COMMAND_UNKNOWN);
    cr_expect(FEED("\x05\x01\x00\x05\x01\x00\x02") == SOCKS_WRONG && m.status == SOCKS_ADDRESS_UNKNOWN);
    cr_expect(FEED("\x05\x01\x00\x05\x01\x00\x01\x0a\x01\x02\x03\x00\x00") == SOCKS_WRONG &&
              m.status == SOCKS_FAILED);
    cr_expect(FEED("\x05\x01\x00\x05\x01\x00\x03\x00\x00\x50") == SOCKS_WRONG &&
              m.status == SOCKS_HOST_UNREACHABLE);
    cr_expect(FEED("\x05\x01\x00\x05\x01\x00\x03\x01.\x00\x50") == SOCKS_WRONG &&
              m.status == SOCKS_HOST_UNREACHABLE);
    cr_expect(FEED("\x05\x01\x00\x05\x01\x00\x03\x04"
                   "a..b\x00\x50") == SOCKS_WRONG);
    cr_expect(FEED("\x05\x01\x00\x05\x01\x00\x03\x03"
                   "a\0b\x00\x50") == SOCKS_WRONG);
    cr_expect(FEED("\x05\x01\x00\x05\x01\x00\x03\x03"
                   "a b\x00\x50") == SOCKS_WRONG);
}

Test(socks_message, replies)
{
    uint8_t reply[SOCKS_REPLY_LEN];

    socks_reply(SOCKS_REFUSED, reply);
    cr_expect(!memcmp(reply, "\x05\x05\x00\x01\0\0\0\0\0\0", sizeof(reply)));
    cr_expect(socks_status_of(BRUMA_REASON_CONNECT_REFUSED) == SOCKS_REFUSED);
    cr_expect(socks_status_of(BRUMA_REASON_DESTINATION_UNKNOWN) == SOCKS_NOT_ALLOWED);
    cr_expect(socks_status_of(BRUMA_REASON_SELF_CALL) == SOCKS_NOT_ALLOWED);
    cr_expect(socks_status_of(BRUMA_REASON_NONE) == SOCKS_FAILED);
}
