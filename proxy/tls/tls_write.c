/* SPDX-License-Identifier: Apache-2.0 */
/* What goes to the socket: gathered in a turn, and kept where it is not taken. */
#include <errno.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "proxy/tls/tls_internal.h"

/* Keeps what the socket did not take. */
static int keep(struct tls *tls, const uint8_t *data, size_t len)
{
    size_t held = tls->pending_len - tls->pending_offset, before = tls->account.held;
    uint8_t *grown;
    int r = budget_take(&tls->account, held + len);

    if (r < 0)
        return r;
    grown = malloc(held + len);
    if (!grown)
        return -ENOMEM; /* the connection ends of it, and gives back all */
    budget_give(&tls->account, before);
    if (tls->pending && held)
        memcpy(grown, tls->pending + tls->pending_offset, held);
    memcpy(grown + held, data, len);
    free(tls->pending);
    tls->pending = grown;
    tls->pending_len = held + len;
    tls->pending_offset = 0;
    return 0;
}

/* Sends len bytes; returns how many the socket took, or -errno. */
static ssize_t send_all(struct tls *tls, const uint8_t *data, size_t len)
{
    size_t sent = 0;

    if (tls->carrier) {
        ssize_t n = len ? tls->carrier->send(tls->carrier, data, len) : 0;

        return n == -EAGAIN ? 0 : n;
    }
    while (sent < len) {
        ssize_t n = send(tls->fd, data + sent, len - sent, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? (ssize_t)sent : -errno;
        sent += (size_t)n;
    }
    return (ssize_t)sent;
}

/* Sends len bytes behind what is pending. As tls_flush(). */
static int send_or_keep(struct tls *tls, const uint8_t *data, size_t len)
{
    ssize_t n;
    int r;

    if (tls->pending) {
        n = send_all(tls, tls->pending + tls->pending_offset, tls->pending_len - tls->pending_offset);
        if (n < 0)
            return (int)n;
        tls->pending_offset += (size_t)n;
        if (tls->pending_offset < tls->pending_len) {
            r = len ? keep(tls, data, len) : 0;
            return r < 0 ? r : 1;
        }
        free(tls->pending);
        budget_give_all(&tls->account);
        tls->pending = NULL;
        tls->pending_len = tls->pending_offset = 0;
    }
    if (!len)
        return 0;
    n = send_all(tls, data, len);
    if (n < 0)
        return (int)n;
    if ((size_t)n == len)
        return 0;
    r = keep(tls, data + n, len - (size_t)n);
    return r < 0 ? r : 1;
}

int tls_send_gathered(struct tls *tls)
{
    struct shared_buffer *out = &tls->buffers->gathered;
    int r;

    shared_buffer_take(out, tls);
    r = send_or_keep(tls, out->data, out->len);
    shared_buffer_leave(out, tls);
    return r;
}

/* Gathers one record. */
static int put_record(struct tls *tls, enum record_type type, const uint8_t *data, size_t len)
{
    struct shared_buffer *out = &tls->buffers->gathered;
    long n;

    shared_buffer_take(out, tls);
    if (out->size - out->len < len + RECORD_OVERHEAD12) {
        int r = tls_send_gathered(tls);

        if (r < 0)
            return r;
        shared_buffer_take(out, tls);
    }
    n = record_seal(&tls->seal, type, data, len, out->data + out->len);
    if (n < 0)
        return tls_fail(tls);
    out->len += (size_t)n;
    return 0;
}

static int update_own_key(struct tls *tls)
{
    static const uint8_t message[] = {24, 0, 0, 1, 0}; /* KeyUpdate(update_not_requested) */
    int r;

    tls->answer_owed = tls->asked_again = false;
    r = put_record(tls, RECORD_HANDSHAKE, message, sizeof(message));
    return r < 0 ? r : record_key_update(&tls->seal);
}

int tls_write(struct tls *tls, const uint8_t *data, size_t len)
{
    if (tls->answer_owed && update_own_key(tls) < 0)
        return -EPROTO;
    while (len) {
        size_t part = len < RECORD_PLAIN_MAX ? len : RECORD_PLAIN_MAX;
        int r = put_record(tls, RECORD_DATA, data, part);

        if (r < 0)
            return r;
        data += part;
        len -= part;
    }
    return record_key_worn(&tls->seal) && !tls->seal.suite->tls12 ? update_own_key(tls) : 0;
}

int tls_flush(struct tls *tls)
{
    if (tls->answer_owed && !tls_blocked(tls) && update_own_key(tls) < 0)
        return -EPROTO;
    return tls_send_gathered(tls);
}

void tls_shutdown(struct tls *tls)
{
    static const uint8_t close_notify[] = {1, ALERT_CLOSE_NOTIFY};

    if (tls->established && put_record(tls, RECORD_ALERT, close_notify, sizeof(close_notify)) == 0)
        tls_send_gathered(tls);
    shared_buffer_leave(&tls->buffers->gathered, tls);
}

uint8_t *tls_take_pending(struct tls *tls, size_t *ret_offset, size_t *ret_len)
{
    uint8_t *pending = tls->pending;

    *ret_offset = tls->pending_offset;
    *ret_len = tls->pending_len - tls->pending_offset;
    tls->pending = NULL;
    tls->pending_len = tls->pending_offset = 0;
    return pending;
}
