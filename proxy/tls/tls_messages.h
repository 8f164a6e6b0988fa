/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Handshake messages after the handshake (RFC 8446 section 4.6): tickets, which are passed over, and new
 * keys. They come whole, several in a record, or in pieces (section 5.1); nothing of them is kept but the
 * four bytes they begin with.
 */
#ifndef PROXY_TLS_TLS_MESSAGES_H
#define PROXY_TLS_TLS_MESSAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TLS_KEY_UPDATES 32 /* by default */

enum tls_message {
    TLS_MESSAGE_NONE,      /* nothing that asks for anything */
    TLS_MESSAGE_NEW_KEYS,  /* the peer's next record is under new keys */
    TLS_MESSAGE_KEYS_ASKED /* the same, and it asks for new ones of ours */
};

/* Of one direction; zeroed at first. */
struct tls_messages {
    uint8_t head[4];
    unsigned head_len; /* of the message that is being read; 0: none is */
    size_t body_left;
    unsigned debt; /* see tls_messages_data() */
};

/* A record's plaintext, which its sender's role decides about: from_server. most: messages that may come with
 * no data between. *ret says what follows from it. 0, or -EPROTO with a static text, and *ret_flood if there
 * were too many. */
int tls_messages_take(struct tls_messages *m, const uint8_t *data, size_t len, bool from_server,
                      unsigned most, enum tls_message *ret, const char **ret_error, bool *ret_flood);

/* Between the pieces of a message no other record may come. */
static inline bool tls_messages_in_pieces(const struct tls_messages *m)
{
    return m->head_len != 0;
}

/*
 * Each message costs as much as some hundred bytes of data do. So many bytes of data make up for one: whoever
 * sends data may renew keys as often as it likes, and who sends one byte in between is no better off.
 */
#define TLS_MESSAGE_WORTH 512

/* So many bytes of data have come. */
static inline void tls_messages_data(struct tls_messages *m, size_t bytes)
{
    m->debt = m->debt > bytes ? m->debt - (unsigned)bytes : 0;
}

#endif
