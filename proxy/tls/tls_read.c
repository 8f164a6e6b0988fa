/* SPDX-License-Identifier: Apache-2.0 */
/* What comes from the socket, record by record. */
#include <errno.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "proxy/tls/tls_internal.h"

/* What was received and not looked at is nobody's any more. */
void tls_drop_input(struct tls *tls)
{
    tls->in_len = 0;
    shared_buffer_leave(&tls->buffers->received, tls);
}

static ssize_t receive(struct tls *tls, uint8_t *buf, size_t size)
{
    ssize_t n;

    if (tls->carrier)
        return tls->carrier->receive(tls->carrier, buf, size);
    do
        n = recv(tls->fd, buf, size, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

/* One recv() into the shared buffer, behind the rest of the last one. Returns what recv() does, with -errno
 * for errors. */
ssize_t tls_receive(struct tls *tls)
{
    struct shared_buffer *b = &tls->buffers->received;
    size_t had = tls->partial_len;
    ssize_t n;

    shared_buffer_take(b, tls);
    if (had)
        memcpy(b->data, tls->partial, had);
    n = receive(tls, b->data + had, b->size - had);
    if (n < 0) {
        tls_drop_input(tls);
        return n;
    }
    free(tls->partial);
    tls->partial = NULL;
    tls->partial_len = 0;
    tls->in = b->data;
    tls->in_len = had + (size_t)n;
    return n;
}

/*
 * Reading owes an answer at most, and never writes it: the shared buffer may only be filled by who will flush
 * it. One answer is enough for all that was asked meanwhile (RFC 8446 section 4.6.3).
 */
static int take_messages(struct tls *tls, const uint8_t *data, size_t len)
{
    enum tls_message follows;
    const char *error;
    bool flood;

    if (tls_messages_take(&tls->messages, data, len, !tls->server, tls->buffers->key_updates, &follows,
                          &error, &flood) < 0) {
        tls_protocol_error(tls, error);
        if (flood)
            tls->reason = BRUMA_REASON_KEY_UPDATE_FLOOD;
        return -EPROTO;
    }
    if (follows == TLS_MESSAGE_NONE)
        return 0;
    if (record_key_update(&tls->open) < 0)
        return tls_protocol_error(tls, "no new keys");
    if (follows == TLS_MESSAGE_KEYS_ASKED) {
        tls->asked_again = tls->answer_owed;
        tls->answer_owed = true;
    }
    return 0;
}

/* One record out of tls->in, whose whole body is there. Returns bytes of data (may be 0), or an error. */
static ssize_t take_record(struct tls *tls, size_t body, uint8_t *out)
{
    uint8_t type;
    long n = record_open(&tls->open, tls->in, body, out, &type);

    if (n < 0)
        return tls_protocol_error(tls, "a record is not authentic");
    tls->in += RECORD_HEADER + body;
    tls->in_len -= RECORD_HEADER + body;
    if (type != RECORD_HANDSHAKE && tls_messages_in_pieces(&tls->messages))
        return tls_protocol_error(tls, "another record between the pieces of a handshake message");
    switch (type) {
    case RECORD_DATA:
        tls_messages_data(&tls->messages, (size_t)n);
        return n;
    case RECORD_HANDSHAKE:
        if (tls->open.suite->tls12)
            return tls_protocol_error(tls, "a second handshake"); /* which HTTP/2 forbids */
        return take_messages(tls, out, (size_t)n);
    case RECORD_ALERT:
        if (n == 2 && out[1] == ALERT_CLOSE_NOTIFY) {
            tls->peer_closed = true;
            return 0;
        }
        if (n == 2) {
            char text[80];

            snprintf(text, sizeof(text), "the peer's alert: %s", SSL_alert_desc_string_long(out[1]));
            return tls_protocol_error(tls, text);
        }
        return tls_protocol_error(tls, "a malformed alert");
    default:
        return tls_protocol_error(tls, "a record of unknown type");
    }
}

/* The beginning of a record waits for its rest outside the shared buffer. */
static int set_aside(struct tls *tls)
{
    if (tls->in_len) {
        tls->partial = malloc(tls->in_len);
        if (!tls->partial)
            return -ENOMEM;
        memcpy(tls->partial, tls->in, tls->in_len);
        tls->partial_len = tls->in_len;
    }
    tls_drop_input(tls);
    return 0;
}

/* Length of the next record's body, 0 if it is not all there, -EPROTO. */
static long next_body(struct tls *tls)
{
    size_t body;

    if (tls->in_len < RECORD_HEADER)
        return 0;
    body = (size_t)tls->in[3] << 8 | tls->in[4];
    if (!record_header_valid(&tls->open, tls->in[0], body))
        return tls_protocol_error(tls, "a malformed record");
    return tls->in_len - RECORD_HEADER >= body ? (long)body : 0;
}

ssize_t tls_read(struct tls *tls, uint8_t *buf, size_t size, bool *ret_more)
{
    size_t total = 0, wanted = tls->buffers->received.size - tls->partial_len;
    bool ended = false;
    int r;

    *ret_more = false;
    if (!tls->in_len && !tls->peer_closed) {
        ssize_t n = tls_receive(tls);

        if (n == -EAGAIN)
            return 0;
        if (n < 0)
            return n;
        ended = n == 0;
        *ret_more = (size_t)n == wanted;
    }
    while (!tls->peer_closed) {
        long body = next_body(tls);
        ssize_t n;

        if (body < 0) {
            tls_drop_input(tls);
            return body;
        }
        if (!body)
            break;
        /* the plaintext, its type and padding are decrypted in place, so a whole body needs room */
        if ((size_t)body > size - total) {
            *ret_more = true;
            return (ssize_t)total;
        }
        n = take_record(tls, (size_t)body, buf + total);
        if (n < 0) {
            tls_drop_input(tls);
            return n;
        }
        total += (size_t)n;
    }
    if (tls->peer_closed)
        tls->in_len = 0;
    r = set_aside(tls);
    if (r < 0)
        return r;
    if (!total && (ended || tls->peer_closed))
        return -EPIPE;
    if (ended || tls->peer_closed)
        *ret_more = true; /* the end is told by the next call */
    return (ssize_t)total;
}
