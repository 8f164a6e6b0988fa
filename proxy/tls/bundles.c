/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/tls/bundles.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int bad(const char *why, char *error, size_t size)
{
    snprintf(error, size, "%s", why);
    ERR_clear_error();
    return -EBADMSG;
}

int pem_certificates(const char *pem, STACK_OF(X509) * *ret, char *error, size_t error_size)
{
    STACK_OF(X509) *all = sk_X509_new_null();
    BIO *bio = BIO_new_mem_buf(pem, -1);
    X509 *cert;
    int r = all && bio ? 0 : bad("out of memory", error, error_size);

    ERR_clear_error();
    while (r == 0 && (cert = PEM_read_bio_X509(bio, NULL, NULL, NULL))) {
        if (sk_X509_push(all, cert) > 0)
            continue;
        X509_free(cert);
        r = bad("out of memory", error, error_size);
    }
    /* The end of PEM text is told as "no start line"; any other error is one. */
    if (r == 0 && ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
        r = bad("a damaged certificate", error, error_size);
    if (r == 0 && !sk_X509_num(all))
        r = bad("no certificate (PEM)", error, error_size);
    ERR_clear_error();
    BIO_free(bio);
    if (r < 0)
        sk_X509_pop_free(all, X509_free);
    else
        *ret = all;
    return r;
}

struct bundles *bundles_new(void)
{
    struct bundles *set = calloc(1, sizeof(*set));

    if (set)
        set->references = 1;
    return set;
}

static int digest_of(STACK_OF(X509) * roots, unsigned char ret[32])
{
    unsigned char one[EVP_MAX_MD_SIZE];
    EVP_MD_CTX *all = EVP_MD_CTX_new();
    unsigned len = 0;
    int ok = all && EVP_DigestInit_ex(all, EVP_sha256(), NULL);

    for (int i = 0; ok && i < sk_X509_num(roots); i++)
        ok = X509_digest(sk_X509_value(roots, i), EVP_sha256(), one, &len) && EVP_DigestUpdate(all, one, len);
    ok = ok && EVP_DigestFinal_ex(all, ret, &len);
    EVP_MD_CTX_free(all);
    return ok ? 0 : -ENOMEM;
}

static void clear(struct bundle *b)
{
    free(b->trust_domain);
    sk_X509_pop_free(b->roots, X509_free);
}

int bundles_put(struct bundles *set, const char *trust_domain, STACK_OF(X509) * roots)
{
    struct bundle fresh = {.trust_domain = strdup(trust_domain), .roots = roots};
    struct bundle *there = (struct bundle *)(uintptr_t)bundles_find(set, trust_domain, strlen(trust_domain));
    int r = fresh.trust_domain && roots ? digest_of(roots, fresh.digest) : -ENOMEM;

    if (r == 0 && !there && set->len == BUNDLES_MAX)
        r = -E2BIG;
    if (r < 0) {
        clear(&fresh);
        return r;
    }
    if (there)
        clear(there);
    else
        there = &set->items[set->len++];
    *there = fresh;
    return 0;
}

int bundles_fill(struct bundles *set, const struct bundles *other)
{
    int r = 0;

    for (size_t i = 0; r == 0 && other && i < other->len; i++) {
        const struct bundle *b = &other->items[i];

        if (!bundles_find(set, b->trust_domain, strlen(b->trust_domain)))
            r = bundles_put(set, b->trust_domain, X509_chain_up_ref(b->roots));
    }
    return r;
}

const struct bundle *bundles_find(const struct bundles *set, const char *trust_domain, size_t len)
{
    for (size_t i = 0; set && i < set->len; i++) {
        const struct bundle *b = &set->items[i];

        if (strlen(b->trust_domain) == len && !memcmp(b->trust_domain, trust_domain, len))
            return b;
    }
    return NULL;
}

bool bundles_same(const struct bundles *a, const struct bundles *b)
{
    if ((a ? a->len : 0) != (b ? b->len : 0))
        return false;
    for (size_t i = 0; a && i < a->len; i++) {
        const struct bundle *x = &a->items[i], *y;

        y = bundles_find(b, x->trust_domain, strlen(x->trust_domain));
        if (!y || memcmp(x->digest, y->digest, sizeof(x->digest)) != 0)
            return false;
    }
    return true;
}

struct bundles *bundles_ref(struct bundles *set)
{
    if (set)
        __atomic_add_fetch(&set->references, 1, __ATOMIC_RELAXED);
    return set;
}

void bundles_unref(struct bundles *set)
{
    if (!set || __atomic_sub_fetch(&set->references, 1, __ATOMIC_ACQ_REL))
        return;
    for (size_t i = 0; i < set->len; i++)
        clear(&set->items[i]);
    free(set);
}
