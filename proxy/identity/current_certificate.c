/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/identity/current_certificate.h"

#include <stdio.h>

#include "lib/wall.h"

void current_certificate_init(struct current_certificate *c)
{
    pthread_mutex_init(&c->lock, NULL);
}

void current_certificate_destroy(struct current_certificate *c)
{
    current_certificate_set(c, NULL);
    pthread_mutex_destroy(&c->lock);
}

/* A clock that is behind the CA's does no harm: peers go by theirs. One that was set back since does: theirs
 * may be the same. */
static bool out_of_date(const struct tls_context *c, int64_t received_at)
{
    int64_t now = wall_seconds();

    return now >= c->not_after || (now < c->not_before && now < received_at);
}

bool current_certificate_usable(const struct current_certificate *c)
{
    return c->context && !out_of_date(c->context, c->received_at);
}

struct tls_context *current_certificate_get(struct current_certificate *c)
{
    struct tls_context *context = NULL;

    pthread_mutex_lock(&c->lock);
    if (current_certificate_usable(c))
        context = tls_context_ref(c->context);
    pthread_mutex_unlock(&c->lock);
    return context;
}

bool current_certificate_has_failed(struct current_certificate *c, char *text, size_t size)
{
    bool has_failed;

    pthread_mutex_lock(&c->lock);
    snprintf(text, size, "%s", c->failure);
    has_failed = c->has_failed && !current_certificate_usable(c);
    pthread_mutex_unlock(&c->lock);
    return has_failed;
}

void current_certificate_set(struct current_certificate *c, struct tls_context *context)
{
    struct tls_context *old;

    pthread_mutex_lock(&c->lock);
    old = c->context;
    c->context = context;
    c->received_at = wall_seconds();
    pthread_mutex_unlock(&c->lock);
    tls_context_unref(old);
}

uint64_t current_certificate_time_left(const struct current_certificate *c)
{
    int64_t left = c->context->not_after - wall_seconds();

    return left <= 0 ? 0 : left > INT64_MAX / 1000 ? INT64_MAX : (uint64_t)left * 1000;
}

void current_certificate_failed(struct current_certificate *c, bool has_failed, const char *failure)
{
    pthread_mutex_lock(&c->lock);
    snprintf(c->failure, sizeof(c->failure), "%s", failure);
    c->has_failed = has_failed;
    pthread_mutex_unlock(&c->lock);
}

void current_certificate_succeeded(struct current_certificate *c)
{
    current_certificate_failed(c, false, "");
}
