/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/tls/tls_move.h"

#include <errno.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>

#include "bruma/handover.h"
#include "lib/tls_policy.h"
#include "proxy/tls/crl.h"
#include "proxy/tls/tls_internal.h"

/* ---- writing ---- */

static void put_key(struct wire_writer *w, const struct record_key *key, uint32_t secret, uint32_t sequence)
{
    wire_put_bytes(w, secret, key->secret, key->suite->secret_len);
    wire_put_varint(w, sequence, key->sequence);
}

static int put_chain(struct wire_writer *w, STACK_OF(X509) * chain)
{
    for (int i = 0; i < sk_X509_num(chain); i++) {
        uint8_t *der = NULL;
        int len = i2d_X509(sk_X509_value(chain, i), &der);

        if (len < 0)
            return -ENOMEM;
        wire_put_bytes(w, BRUMA_TLS_PEER_CHAIN, der, (size_t)len);
        OPENSSL_free(der);
    }
    return 0;
}

static void put_messages(struct wire_writer *w, const struct tls_messages *m)
{
    if (m->head_len)
        wire_put_bytes(w, BRUMA_TLS_MESSAGE_HEAD, m->head, m->head_len);
    if (m->body_left)
        wire_put_varint(w, BRUMA_TLS_MESSAGE_LEFT, m->body_left);
    if (m->debt)
        wire_put_varint(w, BRUMA_TLS_MESSAGE_DEBT, m->debt);
}

int tls_move_write(const struct tls *tls, struct wire_writer *w)
{
    if (!tls->established || tls->ssl || tls->peer_closed || tls->in_len)
        return -EAGAIN;
    wire_put_string(w, BRUMA_TLS_SUITE, tls->seal.suite->name);
    if (*tls_policy_name())
        wire_put_string(w, BRUMA_TLS_POLICY, tls_policy_name());
    put_key(w, &tls->seal, BRUMA_TLS_SEAL_SECRET, BRUMA_TLS_SEAL_SEQUENCE);
    put_key(w, &tls->open, BRUMA_TLS_OPEN_SECRET, BRUMA_TLS_OPEN_SEQUENCE);
    if (tls->partial_len)
        wire_put_bytes(w, BRUMA_TLS_PARTIAL, tls->partial, tls->partial_len);
    if (tls->pending)
        wire_put_bytes(w, BRUMA_TLS_UNSENT, tls->pending + tls->pending_offset,
                       tls->pending_len - tls->pending_offset);
    wire_put_string(w, BRUMA_TLS_PEER_IDENTITY, tls->peer_identity);
    wire_put_varint(w, BRUMA_TLS_PEER_UNTIL, (uint64_t)tls->peer_until);
    put_messages(w, &tls->messages);
    if (tls->answer_owed)
        wire_put_varint(w, BRUMA_TLS_ANSWER_OWED, 1);
    if (tls->asked_again)
        wire_put_varint(w, BRUMA_TLS_ASKED_AGAIN, 1);
    if (put_chain(w, tls->peer_chain) < 0 || w->failed)
        return -ENOMEM;
    return 0;
}

/* ---- reading ---- */

/* What is needed for keys, before they are made. */
struct keys {
    char suite[40], policy[20];
    const uint8_t *secret[2]; /* to seal, to open */
    size_t secret_len[2];
    uint64_t sequence[2];
};

static int bad(const char **ret_why, const char *text, int error)
{
    *ret_why = text;
    return error;
}

static bool copy_text(const struct wire_field *f, char *to, size_t size)
{
    if (f->len >= size || memchr(f->bytes, '\0', f->len))
        return false;
    memcpy(to, f->bytes, f->len);
    to[f->len] = '\0';
    return true;
}

static int take_certificate(struct tls *tls, const struct wire_field *f)
{
    const uint8_t *at = f->bytes;
    X509 *certificate = f->len <= LONG_MAX ? d2i_X509(NULL, &at, (long)f->len) : NULL;

    ERR_clear_error();
    if (!certificate || at != f->bytes + f->len) {
        X509_free(certificate);
        return -EBADMSG;
    }
    if (!tls->peer_chain)
        tls->peer_chain = sk_X509_new_null();
    if (!tls->peer_chain || !sk_X509_push(tls->peer_chain, certificate)) {
        X509_free(certificate);
        return -ENOMEM;
    }
    return 0;
}

static int take_partial(struct tls *tls, const struct wire_field *f)
{
    if (tls->partial || !f->len || f->len > RECORD_HEADER + RECORD_CIPHER_MAX)
        return -EBADMSG;
    tls->partial = malloc(f->len);
    if (!tls->partial)
        return -ENOMEM;
    memcpy(tls->partial, f->bytes, f->len);
    tls->partial_len = f->len;
    return 0;
}

static int take_unsent(struct tls *tls, const struct wire_field *f)
{
    if (tls->pending || !f->len)
        return -EBADMSG;
    tls->pending = malloc(f->len);
    if (!tls->pending)
        return -ENOMEM;
    memcpy(tls->pending, f->bytes, f->len);
    tls->pending_len = f->len;
    return 0;
}

static int take_bytes(struct tls *tls, struct keys *keys, const struct wire_field *f)
{
    struct tls_messages *m = &tls->messages;

    switch (f->number) {
    case BRUMA_TLS_SUITE:
        return copy_text(f, keys->suite, sizeof(keys->suite)) ? 0 : -EPROTONOSUPPORT;
    case BRUMA_TLS_POLICY:
        return copy_text(f, keys->policy, sizeof(keys->policy)) ? 0 : -EPROTONOSUPPORT;
    case BRUMA_TLS_SEAL_SECRET:
    case BRUMA_TLS_OPEN_SECRET:
        keys->secret[f->number == BRUMA_TLS_OPEN_SECRET] = f->bytes;
        keys->secret_len[f->number == BRUMA_TLS_OPEN_SECRET] = f->len;
        return 0;
    case BRUMA_TLS_PARTIAL:
        return take_partial(tls, f);
    case BRUMA_TLS_UNSENT:
        return take_unsent(tls, f);
    case BRUMA_TLS_PEER_IDENTITY:
        return copy_text(f, tls->peer_identity, sizeof(tls->peer_identity)) ? 0 : -EBADMSG;
    case BRUMA_TLS_PEER_CHAIN:
        return take_certificate(tls, f);
    case BRUMA_TLS_MESSAGE_HEAD:
        if (!f->len || f->len > sizeof(m->head))
            return -EBADMSG;
        memcpy(m->head, f->bytes, f->len);
        m->head_len = (unsigned)f->len;
        return 0;
    default:
        return f->number & 1 ? 0 : -EPROTONOSUPPORT;
    }
}

static int take_number(struct tls *tls, struct keys *keys, const struct wire_field *f)
{
    switch (f->number) {
    case BRUMA_TLS_SEAL_SEQUENCE:
    case BRUMA_TLS_OPEN_SEQUENCE:
        keys->sequence[f->number == BRUMA_TLS_OPEN_SEQUENCE] = f->value;
        return 0;
    case BRUMA_TLS_PEER_UNTIL:
        tls->peer_until = (int64_t)f->value;
        return 0;
    case BRUMA_TLS_MESSAGE_LEFT:
        tls->messages.body_left = f->value;
        return f->value <= UINT32_MAX ? 0 : -EBADMSG;
    case BRUMA_TLS_MESSAGE_DEBT:
        tls->messages.debt = f->value < UINT32_MAX ? (unsigned)f->value : UINT32_MAX;
        return 0;
    case BRUMA_TLS_ANSWER_OWED:
        tls->answer_owed = f->value;
        return 0;
    case BRUMA_TLS_ASKED_AGAIN:
        tls->asked_again = f->value;
        return 0;
    default:
        return f->number & 1 ? 0 : -EPROTONOSUPPORT;
    }
}

static int take_fields(struct tls *tls, struct keys *keys, const uint8_t *data, size_t len)
{
    struct wire_reader reader = wire_reader(data, len);
    struct wire_field f;
    int r;

    while ((r = wire_next(&reader, &f)) > 0) {
        if (f.type == WIRE_BYTES)
            r = take_bytes(tls, keys, &f);
        else if (f.type == WIRE_VARINT)
            r = take_number(tls, keys, &f);
        else
            r = f.number & 1 ? 0 : -EPROTONOSUPPORT;
        if (r < 0)
            return r;
    }
    return r;
}

/* A message that is being read has a body whose length its head says. */
static bool messages_fit(const struct tls_messages *m)
{
    if (m->head_len < sizeof(m->head))
        return !m->body_left;
    return m->body_left <= ((size_t)m->head[1] << 16 | (size_t)m->head[2] << 8 | m->head[3]);
}

static int make_key(struct record_key *key, const struct keys *keys, int which)
{
    int r = record_key_init(key, keys->suite, keys->secret[which], keys->secret_len[which], which == 0);

    key->sequence = keys->sequence[which];
    return r == -ENOTSUP ? -EPROTONOSUPPORT : r;
}

static int read_all(struct tls *tls, const uint8_t *data, size_t len, const char **ret_why)
{
    struct keys keys = {};
    int r = take_fields(tls, &keys, data, len);

    if (r == -EPROTONOSUPPORT)
        return bad(ret_why, "TLS: a field that is not known here", r);
    if (r < 0)
        return bad(ret_why, r == -EBADMSG ? "TLS: malformed" : "TLS: out of memory", r);
    if (!keys.suite[0] || !keys.secret[0] || !keys.secret[1] || !tls->peer_identity[0] || !tls->peer_until ||
        !messages_fit(&tls->messages))
        return bad(ret_why, "TLS: incomplete", -EBADMSG);
    if (!tls_policy_within(keys.policy, tls_policy_name()))
        return bad(ret_why, "TLS: its handshake was not under this proxy's COMPLIANCE_POLICY",
                   -EPROTONOSUPPORT);
    r = make_key(&tls->seal, &keys, 0);
    if (r == 0)
        r = make_key(&tls->open, &keys, 1);
    if (r < 0)
        return bad(ret_why, r == -EPROTONOSUPPORT ? "TLS: a suite that is not known here" : "TLS: no keys",
                   r);
    if (tls->seal.suite->tls12 && !tls_policy_has_tls12())
        return bad(ret_why, "TLS: 1.2 is not enabled here", -EPROTONOSUPPORT);
    if (tls->buffers->revoked && !tls->peer_chain)
        return bad(ret_why, "TLS: the peer's chain is not there to be looked up in revocation lists",
                   -EKEYREVOKED);
    if (tls_peer_revoked(tls))
        return bad(ret_why, "TLS: the peer's certificate is revoked", -EKEYREVOKED);
    tls->established = true;
    return 0;
}

int tls_move_read(struct tls *tls, struct tls_buffers *buffers, int fd, bool server, const uint8_t *data,
                  size_t len, const char **ret_why)
{
    int r;

    memset(tls, 0, sizeof(*tls));
    tls->fd = fd;
    tls->server = server;
    tls->buffers = buffers;
    r = read_all(tls, data, len, ret_why);
    if (r < 0)
        tls_destroy(tls);
    return r;
}

void tls_move_count(struct tls *tls, struct budget_share *share)
{
    tls->account.share = share;
    if (tls->pending)
        (void)budget_take(&tls->account, tls->pending_len - tls->pending_offset);
}
