/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "identity"
#include "proxy/identity/bundle_directory.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/file.h"
#include "lib/log.h"
#include "lib/metrics_text.h"
#include "lib/reasons.h"

#define FILE_MAX (1024 * 1024)
#define SUFFIX   ".pem"

#define RETRY_MILLISECONDS 30000

static int read_roots(int directory, const char *name, STACK_OF(X509) * *ret, char *error, size_t size)
{
    _cleanup_free_ char *text = NULL;
    size_t len;
    int r = file_read(directory, name, 0, FILE_MAX, &text, &len);

    if (r < 0) {
        char why[64];

        snprintf(error, size, "%s", strerror_r(-r, why, sizeof(why)));
        return r;
    }
    if (memchr(text, '\0', len)) {
        snprintf(error, size, "a byte 0, which is no text");
        return -EBADMSG;
    }
    return pem_certificates(text, ret, error, size);
}

/* What there was of the trust domain stays in force. tell: it is not that somebody is just writing it. */
static int keep_last(struct bundle_directory *d, struct bundles *set, const char *trust_domain,
                     const char *error, bool tell)
{
    const struct bundle *last = bundles_find(d->bundles, trust_domain, strlen(trust_domain));

    d->bad++;
    if (tell)
        log_error("the bundle of a trust domain cannot be used; %s\tpath=\"%s/%s" SUFFIX
                  "\" reason=\"%s\" error=\"%s\"",
                  last ? "the last one stays in force" : "its identities are refused", d->path, trust_domain,
                  reason_name(BRUMA_REASON_BUNDLE_INVALID), error);
    return last ? bundles_put(set, trust_domain, X509_chain_up_ref(last->roots)) : 0;
}

static int take_file(struct bundle_directory *d, struct bundles *set, int directory, const char *name,
                     bool tell)
{
    size_t len = strlen(name), suffix = strlen(SUFFIX);
    STACK_OF(X509) *roots = NULL;
    char trust_domain[256], error[160];

    /* of a mounted Secret's names, those with a dot in front are none of ours */
    if (*name == '.' || len <= suffix || len - suffix >= sizeof(trust_domain) ||
        strcmp(name + len - suffix, SUFFIX) != 0)
        return 0;
    snprintf(trust_domain, sizeof(trust_domain), "%.*s", (int)(len - suffix), name);
    if (read_roots(directory, name, &roots, error, sizeof(error)) < 0)
        return keep_last(d, set, trust_domain, error, tell);
    return bundles_put(set, trust_domain, roots);
}

static int read_directory(struct bundle_directory *d, struct bundles *set, bool tell)
{
    DIR *directory = opendir(d->path);
    struct dirent *entry;
    int r = 0;

    d->bad = 0;
    if (!directory)
        return errno == ENOENT ? 0 : -errno;
    while (r == 0 && (entry = readdir(directory)))
        r = take_file(d, set, dirfd(directory), entry->d_name, tell);
    closedir(directory);
    return r;
}

/* Of what could not be read nobody may tell that it can be by now. */
static void retry_later(struct bundle_directory *d)
{
    if (d->bad)
        loop_timer_set(d->watcher.loop, &d->retry, d->retry_milliseconds);
    else
        loop_timer_cancel(&d->retry);
}

/* Returns whether other roots are trusted than before. */
static bool load(struct bundle_directory *d, bool tell)
{
    struct bundles *set = bundles_new(), *old = d->bundles;
    int r = set ? read_directory(d, set, tell) : -ENOMEM;

    if (r < 0) {
        d->bad++;
        log_error_errno(r, "federated bundles in %s (%s)", d->path, reason_name(BRUMA_REASON_BUNDLE_INVALID));
    }
    retry_later(d);
    if (r < 0 || bundles_same(set, old)) {
        bundles_unref(set);
        return false;
    }
    log_info("federated bundles read\tpath=\"%s\" trust_domains=%zu", d->path, set->len);
    d->bundles = set;
    bundles_unref(old);
    return true;
}

static void on_changed(void *data, bool rested)
{
    struct bundle_directory *d = data;

    if ((!rested || d->bad) && load(d, rested))
        d->changed(d->data);
}

static void on_retry(struct loop_timer *timer)
{
    struct bundle_directory *d = container_of(timer, struct bundle_directory, retry);

    if (load(d, false)) /* what is wrong has been said */
        d->changed(d->data);
}

int bundle_directory_follow(struct bundle_directory *d, struct loop *loop, const char *path,
                            void (*changed)(void *data), void *data)
{
    int r;

    *d = (struct bundle_directory){
        .path = path, .retry_milliseconds = RETRY_MILLISECONDS, .changed = changed, .data = data};
    loop_timer_init(&d->retry, on_retry);
    d->bundles = bundles_new();
    if (!d->bundles)
        return -ENOMEM;
    if (!*path)
        return 0;
    r = directory_watcher_open(loop, &d->watcher);
    if (r == 0)
        r = directory_watch_add(&d->watcher, &d->watch, path, on_changed, d);
    if (r < 0)
        return r;
    load(d, true);
    return 0;
}

void bundle_directory_clear(struct bundle_directory *d)
{
    if (d->watcher.loop)
        loop_timer_cancel(&d->retry);
    directory_watch_remove(&d->watch);
    directory_watcher_close(&d->watcher);
    bundles_unref(d->bundles);
    d->bundles = NULL;
}

void bundle_directory_write_metrics(const struct bundle_directory *d, FILE *out)
{
    if (!*d->path)
        return;
    metric_gauge(out, "bruma_federated_bundles", "Trust domains whose bundle was read from a file.",
                 d->bundles->len);
    metric_gauge(out, "bruma_federated_bundles_unusable",
                 "Files of bundles that could not be read the last time.", d->bad);
}
