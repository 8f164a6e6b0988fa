/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/tls/tls_messages.h"

#include <errno.h>

#define MESSAGE_NEW_TICKET   4
#define MESSAGE_KEY_UPDATE   24
#define KEY_UPDATE_ASKS_BACK 1
/* Lifetime, age, nonce, ticket and extensions, each as long as its length field can say. */
#define TICKET_MAX (4 + 4 + 1 + 255 + 2 + 65535 + 2 + 65535)

static int bad(const char **ret_error, const char *text)
{
    *ret_error = text;
    return -EPROTO;
}

/* The first four bytes are there: may it come, and be as long as it says? */
static int begin(struct tls_messages *m, bool from_server, unsigned most, const char **ret_error,
                 bool *ret_flood)
{
    size_t body = (size_t)m->head[1] << 16 | (size_t)m->head[2] << 8 | m->head[3];

    if (m->head[0] == MESSAGE_KEY_UPDATE) {
        if (body != 1)
            return bad(ret_error, "a malformed key update");
    } else if (m->head[0] != MESSAGE_NEW_TICKET || !from_server) {
        return bad(ret_error, "an unexpected handshake message");
    } else if (!body || body > TICKET_MAX) {
        return bad(ret_error, "a malformed ticket");
    }
    if (m->debt + TLS_MESSAGE_WORTH > most * TLS_MESSAGE_WORTH) {
        *ret_flood = true;
        return bad(ret_error, "too many handshake messages, and hardly any data between");
    }
    m->debt += TLS_MESSAGE_WORTH;
    m->body_left = body;
    return 0;
}

int tls_messages_take(struct tls_messages *m, const uint8_t *data, size_t len, bool from_server,
                      unsigned most, enum tls_message *ret, const char **ret_error, bool *ret_flood)
{
    enum tls_message follows = TLS_MESSAGE_NONE;

    *ret_flood = false;
    if (!len)
        return bad(ret_error, "an empty piece of a handshake message");
    while (len) {
        size_t n;

        if (m->head_len < sizeof(m->head)) {
            m->head[m->head_len++] = *data++;
            len--;
            if (m->head_len == sizeof(m->head) && begin(m, from_server, most, ret_error, ret_flood) < 0)
                return -EPROTO;
            continue;
        }
        n = len < m->body_left ? len : m->body_left;
        m->body_left -= n;
        len -= n;
        if (m->head[0] == MESSAGE_KEY_UPDATE) {
            /* what follows is under the next keys, so it cannot be in this record */
            if (*data > KEY_UPDATE_ASKS_BACK || len)
                return bad(ret_error, "a malformed key update");
            follows = *data == KEY_UPDATE_ASKS_BACK ? TLS_MESSAGE_KEYS_ASKED : TLS_MESSAGE_NEW_KEYS;
        }
        data += n;
        if (!m->body_left)
            m->head_len = 0;
    }
    *ret = follows;
    return 0;
}
