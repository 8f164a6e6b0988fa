/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/connection/socks_message.h"

#include <string.h>

#define VERSION      5
#define NO_AUTH      0
#define COMMAND      1 /* CONNECT */
#define ADDRESS_IPV4 1
#define ADDRESS_NAME 3
#define ADDRESS_IPV6 4
#define HEAD         4 /* version, command, reserved, kind of address */
#define PORT         2

enum { PART_GREETING, PART_METHODS, PART_HEAD, PART_NAME_LEN, PART_ADDRESS };

void socks_message_init(struct socks_message *m)
{
    memset(m, 0, sizeof(*m));
    m->need = 2;
}

static enum socks_step wrong(struct socks_message *m, enum socks_status status)
{
    m->status = status;
    m->answer[0] = VERSION;
    m->answer[1] = SOCKS_NO_METHOD;
    return SOCKS_WRONG;
}

static enum socks_step more(struct socks_message *m, int part, size_t need)
{
    m->part = part;
    m->need = need;
    return SOCKS_MORE;
}

static enum socks_step choose_method(struct socks_message *m)
{
    if (!memchr(m->bytes + 2, NO_AUTH, m->bytes[1]))
        return wrong(m, SOCKS_NO_METHOD);
    m->answer[0] = VERSION;
    m->answer[1] = NO_AUTH;
    m->len = 0;
    (void)more(m, PART_HEAD, HEAD);
    return SOCKS_CHOOSE;
}

static enum socks_step read_head(struct socks_message *m)
{
    if (m->bytes[0] != VERSION)
        return wrong(m, SOCKS_FAILED);
    if (m->bytes[1] != COMMAND)
        return wrong(m, SOCKS_COMMAND_UNKNOWN);
    switch (m->bytes[3]) {
    case ADDRESS_IPV4:
        return more(m, PART_ADDRESS, HEAD + 4 + PORT);
    case ADDRESS_IPV6:
        return more(m, PART_ADDRESS, HEAD + 16 + PORT);
    case ADDRESS_NAME:
        return more(m, PART_NAME_LEN, HEAD + 1);
    default:
        return wrong(m, SOCKS_ADDRESS_UNKNOWN);
    }
}

/* Many clients send addresses as names. */
static enum socks_step read_name(struct socks_message *m)
{
    size_t len = m->bytes[HEAD];

    for (size_t i = 0; i < len; i++) {
        uint8_t c = m->bytes[HEAD + 1 + i];

        if (c <= ' ' || c >= 0x7f)
            return wrong(m, SOCKS_HOST_UNREACHABLE);
        m->host[i] = (char)(c >= 'A' && c <= 'Z' ? c + 'a' - 'A' : c);
    }
    m->host[len] = '\0';
    if (addr_parse(m->host, &m->addr) == 0) {
        m->host[0] = '\0';
        return SOCKS_ASKED;
    }
    if (len && m->host[len - 1] == '.')
        m->host[--len] = '\0';
    return len && m->host[0] != '.' && !strstr(m->host, "..") ? SOCKS_ASKED
                                                              : wrong(m, SOCKS_HOST_UNREACHABLE);
}

static enum socks_step read_address(struct socks_message *m)
{
    const uint8_t *port = m->bytes + m->need - PORT;
    size_t len = m->bytes[3] == ADDRESS_IPV4 ? 4 : 16;

    m->port = (uint16_t)(port[0] << 8 | port[1]);
    if (!m->port)
        return wrong(m, SOCKS_FAILED);
    if (m->bytes[3] == ADDRESS_NAME)
        return read_name(m);
    return addr_from_bytes(m->bytes + HEAD, len, &m->addr) == 0 ? SOCKS_ASKED
                                                                : wrong(m, SOCKS_ADDRESS_UNKNOWN);
}

enum socks_step socks_step(struct socks_message *m)
{
    switch (m->part) {
    case PART_GREETING:
        if (m->bytes[0] != VERSION)
            return wrong(m, SOCKS_NO_METHOD);
        if (!m->bytes[1])
            return wrong(m, SOCKS_NO_METHOD);
        return more(m, PART_METHODS, 2 + (size_t)m->bytes[1]);
    case PART_METHODS:
        return choose_method(m);
    case PART_HEAD:
        return read_head(m);
    case PART_NAME_LEN:
        return more(m, PART_ADDRESS, HEAD + 1 + (size_t)m->bytes[HEAD] + PORT);
    default:
        return read_address(m);
    }
}

void socks_reply(enum socks_status status, uint8_t reply[SOCKS_REPLY_LEN])
{
    memset(reply, 0, SOCKS_REPLY_LEN);
    reply[0] = VERSION;
    reply[1] = (uint8_t)status;
    reply[3] = ADDRESS_IPV4;
}

enum socks_status socks_status_of(enum bruma_reason reason)
{
    switch (reason) {
    case BRUMA_REASON_DESTINATION_UNKNOWN:
    case BRUMA_REASON_SELF_CALL:
        return SOCKS_NOT_ALLOWED;
    case BRUMA_REASON_CONNECT_UNREACHABLE:
        return SOCKS_NETWORK_UNREACHABLE;
    case BRUMA_REASON_CONNECT_TIMEOUT:
    case BRUMA_REASON_NAME_NOT_FOUND:
        return SOCKS_HOST_UNREACHABLE;
    case BRUMA_REASON_CONNECT_REFUSED:
        return SOCKS_REFUSED;
    default:
        return SOCKS_FAILED;
    }
}
