/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/tls/resumption.h"

#include <errno.h>
#include <openssl/err.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/metrics_text.h"
#include "lib/wall.h"
#include "proxy/route/route.h"
#include "proxy/state/hash.h"
#include "proxy/tls/crl.h"

#define SUITES_DIGEST(suite) EVP_MD_get_type(SSL_CIPHER_get_handshake_digest(suite))

static const char *const refusal_names[TLS_REFUSALS] = {
    [TLS_REFUSAL_UNKNOWN] = "unknown",    [TLS_REFUSAL_OWN_CERTIFICATE] = "own_certificate",
    [TLS_REFUSAL_ROOTS] = "trust_bundle", [TLS_REFUSAL_LISTS] = "revocation_lists",
    [TLS_REFUSAL_EXPIRED] = "expired",    [TLS_REFUSAL_AGE] = "age",
    [TLS_REFUSAL_IDENTITY] = "identity",  [TLS_REFUSAL_DECLINED] = "declined",
};

int tls_resumption_init(struct tls_resumption *resumption, size_t most, unsigned long milliseconds)
{
    memset(resumption, 0, sizeof(*resumption));
    resumption->seconds = (int64_t)(milliseconds / 1000);
    for (int i = 0; most && i < 2; i++) {
        resumption->sessions[i] = session_store_new(most);
        if (!resumption->sessions[i]) {
            tls_resumption_destroy(resumption);
            return -ENOMEM;
        }
    }
    return 0;
}

void tls_resumption_destroy(struct tls_resumption *resumption)
{
    for (int i = 0; i < 2; i++)
        session_store_free(&resumption->sessions[i]);
}

/* ---- what a session stands on ---- */

static struct session_store *store_of(const struct tls *tls)
{
    const struct tls_resumption *r = tls->buffers->resumption;

    return r ? r->sessions[tls->server] : NULL;
}

/* A client that is not told which proxy it meets has nothing to look up. */
static bool takes_part(const struct tls *tls)
{
    return store_of(tls) && (tls->server || tls->target);
}

static uint64_t lists_of(const struct tls *tls)
{
    return tls->buffers->revoked ? crl_generation(tls->buffers->revoked) : 0;
}

static enum tls_refusal examine(const struct tls *tls, const struct tls_session *s)
{
    int64_t now = wall_seconds();

    if (memcmp(s->own, tls->context->leaf_digest, sizeof(s->own)) != 0)
        return TLS_REFUSAL_OWN_CERTIFICATE;
    if (memcmp(s->roots, tls->context->trust_digest, sizeof(s->roots)) != 0)
        return TLS_REFUSAL_ROOTS;
    if (s->lists != lists_of(tls))
        return TLS_REFUSAL_LISTS;
    if (now >= s->peer_until)
        return TLS_REFUSAL_EXPIRED;
    /* A clock that was set back may have left the beginning of a certificate before it. */
    if (now < s->since || now - s->since >= tls->buffers->resumption->seconds)
        return TLS_REFUSAL_AGE;
    if (!tls->server &&
        !route_expects(tls->expected.upstream, tls->expected.service, tls->buffers->trust_domains,
                       tls->context->trust_domain, s->peer_identity))
        return TLS_REFUSAL_IDENTITY;
    return TLS_REFUSAL_NONE;
}

static void count_refusal(const struct tls *tls, enum tls_refusal refusal)
{
    struct resumption_counts *counts = &tls->buffers->resumption->counts[tls->server];

    atomic_fetch_add_explicit(&counts->refused[refusal], 1, memory_order_relaxed);
}

/* Out of the store, for this handshake alone; NULL: none that holds. */
static struct tls_session *take(const struct tls *tls, const struct session_key *key)
{
    struct tls_session *s;

    while ((s = session_store_take(store_of(tls), key))) {
        enum tls_refusal refusal = examine(tls, s);

        if (refusal == TLS_REFUSAL_NONE)
            return s;
        count_refusal(tls, refusal);
        tls_session_free(&s);
        if (tls->server)
            return NULL;
    }
    if (tls->server)
        count_refusal(tls, TLS_REFUSAL_UNKNOWN);
    return NULL;
}

static struct session_key client_key(const struct tls *tls)
{
    struct session_key key = {
        .peer = hash_pair(tls->target, route_expected_hash(tls->expected.upstream, tls->expected.service)),
    };

    memcpy(key.name, tls->context->leaf_digest, sizeof(key.name));
    return key;
}

static struct session_key server_key(const uint8_t id[SESSION_ID])
{
    struct session_key key = {};

    memcpy(key.name, id, SESSION_ID);
    return key;
}

/* ---- OpenSSL's questions ---- */

static SSL_SESSION *for_openssl(const struct tls_session *s)
{
    SSL_SESSION *made = SSL_SESSION_new();

    if (made && SSL_SESSION_set1_master_key(made, s->secret, sizeof(s->secret)) &&
        SSL_SESSION_set_cipher(made, s->suite) && SSL_SESSION_set_protocol_version(made, TLS1_3_VERSION))
        return made;
    SSL_SESSION_free(made);
    ERR_clear_error();
    return NULL;
}

/* The server wants to know a session. It asks again after HelloRetryRequest, and for each that a client
 * names: ours name one. */
static int find_session(SSL *ssl, const unsigned char *id, size_t len, SSL_SESSION **ret)
{
    struct tls *tls = SSL_get_app_data(ssl);

    *ret = NULL;
    if (!takes_part(tls) || len != SESSION_ID)
        return 1;
    if (!tls->looked_up) {
        const struct session_key key = server_key(id);

        tls->looked_up = true;
        tls->session = take(tls, &key);
    }
    if (tls->session && !memcmp(tls->session->id, id, SESSION_ID))
        *ret = for_openssl(tls->session);
    return 1;
}

/* The client may offer a session; again after HelloRetryRequest, whose suite has this digest. */
static int offer_session(SSL *ssl, const EVP_MD *digest, const unsigned char **ret_id, size_t *ret_len,
                         SSL_SESSION **ret)
{
    struct tls *tls = SSL_get_app_data(ssl);

    *ret = NULL;
    *ret_id = NULL;
    *ret_len = 0;
    if (takes_part(tls) && !tls->looked_up) {
        const struct session_key key = client_key(tls);

        tls->looked_up = true;
        tls->session = take(tls, &key);
    }
    if (tls->session && (!digest || EVP_MD_get_type(digest) == SUITES_DIGEST(tls->session->suite)))
        *ret = for_openssl(tls->session);
    if (*ret) {
        *ret_id = tls->session->id;
        *ret_len = SESSION_ID;
    }
    return 1;
}

static int say(SSL *ssl, unsigned type, unsigned where, const unsigned char **out, size_t *out_len,
               X509 *cert, size_t chain_index, int *alert, void *unused)
{
    static const unsigned char version[] = {RESUMPTION_VERSION};
    const struct tls *tls = SSL_get_app_data(ssl);

    (void)type, (void)where, (void)cert, (void)chain_index, (void)alert, (void)unused;
    *out = version;
    *out_len = sizeof(version);
    return takes_part(tls);
}

/* Of another version, or malformed: a peer that does something else, which is not resumed with. */
static int hear(SSL *ssl, unsigned type, unsigned where, const unsigned char *in, size_t len, X509 *cert,
                size_t chain_index, int *alert, void *unused)
{
    struct tls *tls = SSL_get_app_data(ssl);

    (void)type, (void)where, (void)cert, (void)chain_index, (void)alert, (void)unused;
    tls->peer_resumes = len == 1 && in[0] == RESUMPTION_VERSION;
    return 1;
}

int tls_resumption_prepare(SSL_CTX *context, bool server)
{
    static const unsigned char name[] = "bruma";

    if (!SSL_CTX_add_custom_ext(context, RESUMPTION_EXTENSION,
                                SSL_EXT_CLIENT_HELLO | SSL_EXT_TLS1_3_ENCRYPTED_EXTENSIONS, say, NULL, NULL,
                                hear, NULL))
        return -ENOMEM;
    if (!server) {
        SSL_CTX_set_psk_use_session_callback(context, offer_session);
        return 0;
    }
    SSL_CTX_set_psk_find_session_callback(context, find_session);
    /* without a name OpenSSL resumes nothing where clients show certificates */
    return SSL_CTX_set_session_id_context(context, name, sizeof(name) - 1) ? 0 : -ENOMEM;
}

/* ---- the end of a handshake ---- */

static int gone(struct tls *tls, enum bruma_reason reason, const char *text)
{
    tls->reason = reason;
    snprintf(tls->error, sizeof(tls->error), "peer certificate: %s during the handshake", text);
    tls->peer_identity[0] = '\0';
    return -EPROTO;
}

/* New lists look at tunnels that are open: this one was none yet. */
static bool revoked_meanwhile(const struct tls *tls)
{
    const struct crl_set *lists = tls->buffers->revoked;

    return lists && tls->lists != crl_generation(lists) &&
           (crl_missing(lists) || !tls->peer_chain || crl_revokes(lists, tls->peer_chain));
}

/* Time has passed since it was looked up. */
static int adopt(struct tls *tls)
{
    struct tls_session *s = tls->session;

    if (!s) {
        tls->reason = BRUMA_REASON_INTERNAL;
        snprintf(tls->error, sizeof(tls->error), "TLS: resumed, and nothing is known of the peer");
        return -EPROTO;
    }
    if (wall_seconds() >= s->peer_until)
        return gone(tls, BRUMA_REASON_PEER_UNTRUSTED, "expired");
    memcpy(tls->peer_identity, s->peer_identity, strlen(s->peer_identity) + 1);
    tls->peer_until = s->peer_until;
    tls->peer_chain = take_pointer(s->peer_chain);
    tls->lists = s->lists;
    return 0;
}

/* Both ends derive the same. Without memory there is none, and the next handshake is a full one. */
static void keep(const struct tls *tls, int64_t since)
{
    struct tls_session *s = tls_session_new(strlen(tls->peer_identity));
    uint8_t derived[SESSION_ID + SESSION_SECRET];

    if (s && tls->peer_chain && !(s->peer_chain = X509_chain_up_ref(tls->peer_chain)))
        tls_session_free(&s);
    if (!s || SSL_export_keying_material(tls->ssl, derived, sizeof(derived), RESUMPTION_LABEL,
                                         sizeof(RESUMPTION_LABEL) - 1, NULL, 0, 0) != 1) {
        ERR_clear_error();
        tls_session_free(&s);
        return;
    }
    memcpy(s->id, derived, SESSION_ID);
    memcpy(s->secret, derived + SESSION_ID, SESSION_SECRET);
    OPENSSL_cleanse(derived, sizeof(derived));
    s->key = tls->server ? server_key(s->id) : client_key(tls);
    s->suite = SSL_get_current_cipher(tls->ssl);
    memcpy(s->own, tls->context->leaf_digest, sizeof(s->own));
    memcpy(s->roots, tls->context->trust_digest, sizeof(s->roots));
    s->lists = lists_of(tls);
    s->since = since;
    s->peer_until = tls->peer_until;
    memcpy(s->peer_identity, tls->peer_identity, strlen(tls->peer_identity));
    session_store_put(store_of(tls), s);
}

int tls_resumption_done(struct tls *tls)
{
    struct tls_resumption *r = tls->buffers->resumption;
    bool resumed = SSL_session_reused(tls->ssl);
    int64_t since = resumed && tls->session ? tls->session->since : wall_seconds();

    if (resumed && adopt(tls) < 0)
        return -EPROTO;
    if (revoked_meanwhile(tls))
        return gone(tls, BRUMA_REASON_CERTIFICATE_REVOKED, "revoked");
    if (!resumed && tls->session && !tls->server)
        count_refusal(tls, TLS_REFUSAL_DECLINED);
    tls_session_free(&tls->session);
    if (!r)
        return 0;
    atomic_fetch_add_explicit(resumed ? &r->counts[tls->server].resumed : &r->counts[tls->server].full, 1,
                              memory_order_relaxed);
    if (takes_part(tls) && tls->peer_resumes && SSL_version(tls->ssl) == TLS1_3_VERSION)
        keep(tls, since);
    return 0;
}

/* ---- metrics ---- */

static const char *const reporters[2] = {"source", "destination"};

static void write_handshakes(struct tls_resumption *r, FILE *out)
{
    metric_family(out, "bruma_tls_handshakes", "counter", "TLS handshakes of tunnels that were a success.");
    for (int i = 0; i < 2; i++) {
        const unsigned long counts[2] = {atomic_load_explicit(&r->counts[i].full, memory_order_relaxed),
                                         atomic_load_explicit(&r->counts[i].resumed, memory_order_relaxed)};

        for (int k = 0; k < 2; k++)
            fprintf(out, "bruma_tls_handshakes_total{reporter=\"%s\",handshake=\"%s\"} %lu\n", reporters[i],
                    k ? "resumed" : "full", counts[k]);
    }
}

static void write_refusals(struct tls_resumption *r, FILE *out)
{
    metric_family(out, "bruma_tls_resumptions_refused", "counter",
                  "Sessions that could not be resumed, so that the handshake was a full one.");
    for (int i = 0; i < 2; i++) {
        for (int k = TLS_REFUSAL_NONE + 1; k < TLS_REFUSALS; k++) {
            unsigned long n = atomic_load_explicit(&r->counts[i].refused[k], memory_order_relaxed);

            if (n)
                fprintf(out, "bruma_tls_resumptions_refused_total{reporter=\"%s\",reason=\"%s\"} %lu\n",
                        reporters[i], refusal_names[k], n);
        }
    }
}

void tls_resumption_write_metrics(struct tls_resumption *r, FILE *out)
{
    uint64_t evicted[2] = {};
    size_t held[2] = {};

    write_handshakes(r, out);
    write_refusals(r, out);
    for (int i = 0; i < 2 && r->sessions[i]; i++)
        session_store_count(r->sessions[i], &held[i], &evicted[i]);
    metric_family(out, "bruma_tls_sessions", "gauge", "Sessions that are kept to be resumed.");
    for (int i = 0; i < 2; i++)
        metric_labelled(out, "bruma_tls_sessions", "reporter", reporters[i], held[i]);
    metric_counter(out, "bruma_tls_sessions_evicted", "Sessions that went since there was no room.",
                   evicted[0] + evicted[1]);
}
