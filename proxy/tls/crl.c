/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "crl"
#include "proxy/tls/crl.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bruma/reasons.h"
#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/metrics_text.h"
#include "lib/reasons.h"

#define LOOK_MILLISECONDS 2000
#define SIZE_MAX_BYTES    (64 * 1024 * 1024)

struct crl_set {
    int references; /* atomic */
    uint64_t generation;
    bool missing;
    STACK_OF(X509_CRL) * lists;
};

static struct crl_set *empty_set(void)
{
    static uint64_t generations;
    struct crl_set *set = calloc(1, sizeof(*set));

    if (!set)
        return NULL;
    set->references = 1;
    set->generation = __atomic_add_fetch(&generations, 1, __ATOMIC_RELAXED);
    set->lists = sk_X509_CRL_new_null();
    if (!set->lists) {
        free(set);
        return NULL;
    }
    return set;
}

struct crl_set *crl_ref(struct crl_set *set)
{
    if (set)
        __atomic_add_fetch(&set->references, 1, __ATOMIC_RELAXED);
    return set;
}

void crl_unref(struct crl_set *set)
{
    if (!set || __atomic_sub_fetch(&set->references, 1, __ATOMIC_ACQ_REL))
        return;
    sk_X509_CRL_pop_free(set->lists, X509_CRL_free);
    free(set);
}

size_t crl_count(const struct crl_set *set)
{
    return (size_t)sk_X509_CRL_num(set->lists);
}

bool crl_missing(const struct crl_set *set)
{
    return set->missing;
}

uint64_t crl_generation(const struct crl_set *set)
{
    return set->generation;
}

static int bad(const char *why, char *error, size_t size)
{
    snprintf(error, size, "%s", why);
    ERR_clear_error();
    return -EBADMSG;
}

/* Takes list. */
static int add(struct crl_set *set, X509_CRL *list, char *error, size_t size)
{
    ASN1_INTEGER *number = X509_CRL_get_ext_d2i(list, NID_crl_number, NULL, NULL);

    if (!number) {
        X509_CRL_free(list);
        return bad("a list without CRLNumber", error, size);
    }
    ASN1_INTEGER_free(number);
    if (sk_X509_CRL_push(set->lists, list) <= 0) {
        X509_CRL_free(list);
        return -ENOMEM;
    }
    return 0;
}

static int parse(struct crl_set *set, const unsigned char *data, long len, char *error, size_t size)
{
    const unsigned char *at = data;
    X509_CRL *list = d2i_X509_CRL(NULL, &at, len);
    BIO *bio;
    int r = 0;

    if (list) {
        r = add(set, list, error, size);
        return r == 0 && at != data + len ? bad("bytes after the list", error, size) : r;
    }
    ERR_clear_error();
    bio = BIO_new_mem_buf(data, (int)len);
    if (!bio)
        return -ENOMEM;
    while (r == 0 && (list = PEM_read_bio_X509_CRL(bio, NULL, NULL, NULL)))
        r = add(set, list, error, size);
    /* The end of PEM text is told as "no start line"; any other error is one. */
    if (r == 0 && ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
        r = bad("a damaged PEM block", error, size);
    if (r == 0 && !sk_X509_CRL_num(set->lists))
        r = bad("neither PEM nor DER of a revocation list", error, size);
    BIO_free(bio);
    ERR_clear_error();
    return r;
}

static int read_file(const char *path, unsigned char **ret, long *ret_len)
{
    _cleanup_free_ unsigned char *data = NULL;
    FILE *f = fopen(path, "re");
    struct stat st;
    int r = 0;

    *ret = NULL;
    *ret_len = 0;
    if (!f)
        return -errno;
    if (fstat(fileno(f), &st) < 0)
        r = -errno;
    else if (!S_ISREG(st.st_mode))
        r = -EINVAL;
    else if (st.st_size > SIZE_MAX_BYTES)
        r = -EFBIG;
    data = r == 0 ? malloc((size_t)st.st_size + 1) : NULL;
    if (r == 0 && !data)
        r = -ENOMEM;
    if (r == 0) {
        *ret_len = (long)fread(data, 1, (size_t)st.st_size, f);
        if (ferror(f))
            r = -EIO;
        else
            *ret = take_pointer(data);
    }
    fclose(f);
    return r;
}

int crl_load(const char *path, struct crl_set **ret, char *error, size_t error_size)
{
    _cleanup_free_ unsigned char *data = NULL;
    struct crl_set *set;
    long len;
    int r = read_file(path, &data, &len);

    if (r < 0) {
        snprintf(error, error_size, "%s", strerror(-r));
        return r;
    }
    set = empty_set();
    if (!set)
        return -ENOMEM;
    r = len ? parse(set, data, len, error, error_size) : 0;
    if (r < 0) {
        crl_unref(set);
        return r;
    }
    *ret = set;
    return 0;
}

/* The list's signature is only looked at where it names the certificate: that is seldom, and costs as much as
 * half a handshake. A list of another issuer of the same name (a root that was rotated) does not count. */
static bool list_revokes(X509_CRL *list, X509 *cert, X509 *issuer)
{
    X509_REVOKED *entry;
    EVP_PKEY *key;

    if (X509_NAME_cmp(X509_CRL_get_issuer(list), X509_get_issuer_name(cert)) != 0 ||
        X509_CRL_get0_by_cert(list, &entry, cert) != 1)
        return false;
    key = X509_get0_pubkey(issuer);
    if (key && X509_CRL_verify(list, key) == 1)
        return true;
    ERR_clear_error();
    return false;
}

bool crl_revokes(const struct crl_set *set, STACK_OF(X509) * chain)
{
    int len = sk_X509_num(chain);

    for (int i = 0; i < len; i++) {
        X509 *cert = sk_X509_value(chain, i), *issuer = sk_X509_value(chain, i + 1 < len ? i + 1 : i);

        for (int k = 0; k < sk_X509_CRL_num(set->lists); k++) {
            if (list_revokes(sk_X509_CRL_value(set->lists, k), cert, issuer))
                return true;
        }
    }
    return false;
}

/* ---- following the file ---- */

struct crl_watch {
    struct loop *loop;
    struct loop_timer timer;
    char *path;
    bool required, usable, failed; /* usable: once; failed: at the last try */
    size_t lists;
    struct stat last;
    void (*changed)(void *data, struct crl_set *set);
    void *data;
};

static void load(struct crl_watch *w, bool first)
{
    char error[160] = "";
    struct crl_set *set = NULL;
    int r = crl_load(w->path, &set, error, sizeof(error));

    w->failed = r < 0;
    if (r < 0) {
        log_error("the revocation lists cannot be used; %s\tpath=\"%s\" reason=\"%s\" error=\"%s\"",
                  w->usable     ? "the last ones stay in force"
                  : w->required ? "peers are refused until they can be (--crl-required)"
                                : "no certificate counts as revoked (--crl-required=false)",
                  w->path, reason_name(BRUMA_REASON_CRL_INVALID), error);
        if (!first)
            return;
        set = empty_set();
        if (!set)
            abort(); /* at the start, and without it nothing would be refused */
        set->missing = w->required;
    } else {
        w->usable = true;
        log_info("revocation lists read\tpath=\"%s\" lists=%zu", w->path, crl_count(set));
    }
    w->lists = crl_count(set);
    w->changed(w->data, set);
    crl_unref(set);
}

static bool same(const struct stat *a, const struct stat *b)
{
    return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static void on_timer(struct loop_timer *timer)
{
    struct crl_watch *w = container_of(timer, struct crl_watch, timer);
    struct stat now;

    loop_timer_set(w->loop, timer, LOOK_MILLISECONDS);
    if (stat(w->path, &now) < 0)
        memset(&now, 0, sizeof(now));
    if (same(&now, &w->last))
        return;
    w->last = now;
    load(w, false);
}

int crl_watch_new(struct loop *loop, const char *path, bool required,
                  void (*changed)(void *data, struct crl_set *set), void *data, struct crl_watch **ret)
{
    struct crl_watch *w = calloc(1, sizeof(*w));

    if (!w)
        return -ENOMEM;
    w->path = strdup(path);
    if (!w->path) {
        free(w);
        return -ENOMEM;
    }
    w->loop = loop;
    w->required = required;
    w->changed = changed;
    w->data = data;
    loop_timer_init(&w->timer, on_timer);
    if (stat(path, &w->last) < 0)
        memset(&w->last, 0, sizeof(w->last));
    load(w, true);
    loop_timer_set(loop, &w->timer, LOOK_MILLISECONDS);
    *ret = w;
    return 0;
}

bool crl_watch_usable(const struct crl_watch *w)
{
    return w->usable;
}

void crl_watch_write_metrics(const struct crl_watch *w, FILE *out)
{
    metric_gauge(out, "bruma_crl_lists", "Revocation lists that peers' certificates are checked against.",
                 w->lists);
    metric_gauge(out, "bruma_crl_unusable",
                 "The file of revocation lists could not be read the last time (1).", w->failed);
    /* verify.c refuses a peer whose chain cannot be kept for the next lists: there are none of these. */
    metric_family(out, "istio_crl_untracked_connections", "counter",
                  "Connections that new revocation lists do not reach: none.");
    metric_labelled(out, "istio_crl_untracked_connections_total", "reporter", "source", 0);
    metric_labelled(out, "istio_crl_untracked_connections_total", "reporter", "destination", 0);
}

void crl_watch_free(struct crl_watch **watch)
{
    struct crl_watch *w = *watch;

    if (!w)
        return;
    loop_timer_cancel(&w->timer);
    free(w->path);
    free(w);
    *watch = NULL;
}
