/* SPDX-License-Identifier: Apache-2.0 */
/* Certificates that somebody else writes: three files for each identity, named as in a Secret of type
 * kubernetes.io/tls, in a directory of its own, which is followed. */
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/directory_watch.h"
#include "lib/file.h"
#include "proxy/identity/file_source.h"
#include "proxy/identity/identity_source.h"
#include "proxy/identity/identity_store.h"

#define FILE_MAX (1024 * 1024)

static const char certificate_name[] = "tls.crt", key_name[] = "tls.key", roots_name[] = "ca.crt";

struct file_source {
    struct identity_source source;
    const char *pattern;
    struct directory_watcher watcher;
};

/* An identity's directory. */
struct file_identity {
    struct identity_source *source;
    struct identity *identity;
    struct directory_watch watch;
    bool bad; /* at the last reading */
};

static struct file_source *source_of(struct identity_source *s)
{
    return container_of(s, struct file_source, source);
}

/* ---- where ---- */

static bool is_place(const char *part, size_t len)
{
    return len && part[0] != '.' && !memchr(part, '/', len);
}

static int append(char *buf, size_t size, size_t *len, const char *text, size_t n)
{
    if (n >= size - *len)
        return -ENAMETOOLONG;
    memcpy(buf + *len, text, n);
    *len += n;
    buf[*len] = '\0';
    return 0;
}

int file_source_directory(const char *pattern, const char *uri, char *buf, size_t size)
{
    struct spiffe s;
    size_t len = 0;
    int r = spiffe_parse(uri, strlen(uri), &s);

    buf[0] = '\0';
    while (r == 0 && *pattern) {
        const struct {
            const char *word, *text;
            size_t len;
        } parts[] = {
            {"{trust-domain}", s.trust_domain, s.trust_domain_len},
            {"{namespace}", s.namespace, s.namespace_len},
            {"{account}", s.service_account, s.service_account_len},
        };
        size_t n = 1, i = 0;

        while (i < array_size(parts) && strncmp(pattern, parts[i].word, strlen(parts[i].word)) != 0)
            i++;
        if (i == array_size(parts)) {
            r = append(buf, size, &len, pattern, 1);
        } else {
            /* what names a pod may choose; never a way out of the directory */
            r = is_place(parts[i].text, parts[i].len) ? append(buf, size, &len, parts[i].text, parts[i].len)
                                                      : -EINVAL;
            n = strlen(parts[i].word);
        }
        pattern += n;
    }
    return r;
}

/* ---- what is there ---- */

static int fail(char *error, size_t size, const char *file, int r)
{
    char why[64];

    snprintf(error, size, "%s: %s", file, strerror_r(-r, why, sizeof(why)));
    return r;
}

static int read_text(int directory, const char *name, char **ret, char *error, size_t size)
{
    size_t len;
    int r = file_read(directory, name, 0, FILE_MAX, ret, &len);

    if (r < 0)
        return fail(error, size, name, r);
    if (!memchr(*ret, '\0', len))
        return 0;
    OPENSSL_cleanse(*ret, len);
    free(*ret);
    *ret = NULL;
    snprintf(error, size, "%s: a byte 0, which is no text", name);
    return -EBADMSG;
}

/* A key with a password would make OpenSSL ask for it on the terminal. */
static int no_password(char *buf, int size, int writes, void *data)
{
    (void)buf;
    (void)size;
    (void)writes;
    (void)data;
    return -1;
}

static int read_key(int directory, EVP_PKEY **ret, char *error, size_t size)
{
    char *text = NULL;
    BIO *bio = NULL;
    int r = read_text(directory, key_name, &text, error, size);

    if (r < 0)
        return r;
    bio = BIO_new_mem_buf(text, -1);
    *ret = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL) : NULL;
    BIO_free(bio);
    OPENSSL_cleanse(text, strlen(text));
    free(text);
    ERR_clear_error();
    if (!*ret) {
        snprintf(error, size, "%s: no private key (PEM, without a password)", key_name);
        return -EBADMSG;
    }
    return 0;
}

/* All of it is certificates: a file that is cut off must not pass for a short one. */
static int read_certificates(int directory, const char *name, char **ret, char *error, size_t size)
{
    STACK_OF(X509) *all = NULL;
    char why[100];
    int r = read_text(directory, name, ret, error, size);

    if (r < 0)
        return r;
    r = pem_certificates(*ret, &all, why, sizeof(why));
    if (r < 0)
        snprintf(error, size, "%s: %s", name, why);
    sk_X509_pop_free(all, X509_free);
    return r;
}

int file_source_read(const char *path, const char *uri, struct issued *ret, char *error, size_t error_size)
{
    _cleanup_fd_ int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct issued issued = {};
    int r = directory < 0 ? fail(error, error_size, path, -errno) : 0;

    if (r == 0)
        r = read_certificates(directory, certificate_name, &issued.certificate.chain[0], error, error_size);
    issued.certificate.chain_len = issued.certificate.chain[0] != NULL;
    if (r == 0)
        r = read_key(directory, &issued.key, error, error_size);
    if (r == 0)
        r = read_certificates(directory, roots_name, &issued.certificate.roots, error, error_size);
    if (r == 0)
        r = certificate_check(&issued.certificate, uri, issued.key, error, error_size);
    if (r < 0)
        issued_clear(&issued);
    else
        *ret = issued;
    return r;
}

/* ---- following it ---- */

/* tell: a failure is one, and not that somebody is at work just now. */
static void load(struct file_identity *f, bool tell)
{
    struct issued issued = {};
    char error[200];

    f->bad = file_source_read(f->watch.path, identity_uri(f->identity), &issued, error, sizeof(error)) < 0;
    if (!f->bad)
        identity_issued(f->identity, &issued);
    else if (tell)
        identity_failed(f->identity, BRUMA_REASON_IDENTITY_FILE_INVALID, error);
    issued_clear(&issued);
}

static void on_changed(void *data, bool rested)
{
    struct file_identity *f = data;

    if (!rested || f->bad)
        load(f, rested);
}

static int request(struct identity_source *s, struct identity *identity)
{
    struct file_source *source = source_of(s);
    struct file_identity *f = identity->asked;
    char path[1024];
    int r;

    if (!f) {
        r = file_source_directory(source->pattern, identity_uri(identity), path, sizeof(path));
        if (r < 0) {
            identity_failed(identity, BRUMA_REASON_IDENTITY_FILE_INVALID,
                            "the identity's names cannot be parts of a path");
            return 0;
        }
        f = calloc(1, sizeof(*f));
        if (!f)
            return -ENOMEM;
        f->source = s;
        f->identity = identity;
        r = directory_watch_add(&source->watcher, &f->watch, path, on_changed, f);
        if (r < 0) {
            free(f);
            return r;
        }
        identity->asked = f;
    }
    load(f, true);
    return 0;
}

static void forget(struct identity_source *s, struct identity *identity)
{
    struct file_identity *f = identity->asked;

    (void)s;
    if (!f)
        return;
    identity->asked = NULL;
    directory_watch_remove(&f->watch);
    free(f);
}

static void free_source(struct identity_source *s)
{
    struct file_source *source = source_of(s);

    directory_watcher_close(&source->watcher);
    free(source);
}

static const struct identity_source_type type = {
    .name = "files",
    .pushes = true,
    .own_domain_only = true,
    .unreachable = BRUMA_REASON_IDENTITY_FILE_INVALID,
    .refused = BRUMA_REASON_IDENTITY_FILE_INVALID,
    .request = request,
    .forget = forget,
    .free = free_source,
};

int file_source_new(struct loop *loop, const struct identity_config *config, struct identity_source **ret)
{
    struct file_source *source = calloc(1, sizeof(*source));
    int r;

    if (!source)
        return -ENOMEM;
    source->source.type = &type;
    source->pattern = config->files;
    r = directory_watcher_open(loop, &source->watcher);
    if (r < 0) {
        free(source);
        return r;
    }
    *ret = &source->source;
    return 0;
}
