/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "xds"
#include "proxy/xds/xds_response.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "lib/reasons.h"
#include "proxy/xds/xds_request.h"

/* Fields of DeltaDiscoveryResponse and Resource. */
enum { RESPONSE_RESOURCE = 2, RESPONSE_REMOVED = 6 };
enum { RESOURCE_VERSION = 1, RESOURCE_ANY = 2, RESOURCE_NAME = 3, ANY_VALUE = 2 };

enum state_type xds_response_type(const struct wire_field *url)
{
    for (int i = 0; i < STATE_TYPES; i++) {
        if (url->len == strlen(xds_type_urls[i]) && !memcmp(url->bytes, xds_type_urls[i], url->len))
            return (enum state_type)i;
    }
    return STATE_TYPES;
}

struct resource {
    struct wire_field version, name, value;
    bool has_any;
};

static int read_resource(const struct wire_field *field, struct resource *ret)
{
    struct wire_reader r = wire_reader(field->bytes, field->len);
    struct wire_field f;
    int more;

    memset(ret, 0, sizeof(*ret));
    while ((more = wire_next(&r, &f)) > 0) {
        if (f.type != WIRE_BYTES)
            continue;
        if (f.number == RESOURCE_VERSION) {
            ret->version = f;
        } else if (f.number == RESOURCE_NAME) {
            ret->name = f;
        } else if (f.number == RESOURCE_ANY) {
            struct wire_reader any = wire_reader(f.bytes, f.len);
            struct wire_field g;
            int any_more;

            ret->has_any = true;
            while ((any_more = wire_next(&any, &g)) > 0) {
                if (g.number == ANY_VALUE && g.type == WIRE_BYTES)
                    ret->value = g;
            }
            if (any_more < 0)
                return any_more;
        }
    }
    return more;
}

/* A name as a C string: names with a NUL in them are nobody's. */
static char *name_of(const struct wire_field *f)
{
    return f->len && !memchr(f->bytes, '\0', f->len) ? strndup((const char *)f->bytes, f->len) : NULL;
}

static void note_rejection(char *text, size_t size, const char *name, const char *why)
{
    size_t len = strlen(text);
    char quoted[512];

    log_warn("resource rejected\tname=%s reason=\"%s\" error=\"%s\"", log_quote(quoted, sizeof(quoted), name),
             reason_name(BRUMA_REASON_XDS_RESOURCE_REJECTED), why);
    if (len + 8 >= size)
        return;
    snprintf(text + len, size - len, "%s%s: %s", len ? "; " : "", name, why);
    /* The field must be UTF-8, and the end may be cut off in the middle of a character. */
    for (; text[len]; len++) {
        if (text[len] < 0x20 || text[len] > 0x7e)
            text[len] = '?';
    }
}

static void apply(const struct xds_response *response, const struct wire_field *field, char *nack,
                  size_t size)
{
    static const uint8_t nothing[1];
    struct resource resource;
    char error[256], *name;

    if (read_resource(field, &resource) < 0) {
        note_rejection(nack, size, "(unnamed)", "the resource is truncated or malformed");
        return;
    }
    name = name_of(&resource.name);
    if (!name) {
        note_rejection(nack, size, "(unnamed)", "the resource has no usable name");
        return;
    }
    *response->bytes += resource.value.len;
    /* It lives, even if it cannot be used. */
    xds_versions_mention(response->versions, name, resource.name.len);
    if (resource.name.len > UINT16_MAX || resource.version.len > UINT16_MAX) {
        note_rejection(nack, size, "(too long)", "name or version are longer than 65535 bytes");
    } else if (!resource.has_any) {
        note_rejection(nack, size, name, "the resource is empty");
    } else if (state_apply(response->state, response->type, name,
                           resource.value.bytes ? resource.value.bytes : nothing, resource.value.len, error,
                           sizeof(error)) < 0) {
        /* Its version is not remembered, so that the next connection gets it again. */
        note_rejection(nack, size, name, error);
    } else {
        xds_versions_set(response->versions, (const char *)resource.name.bytes, resource.name.len,
                         (const char *)resource.version.bytes, resource.version.len);
    }
    free(name);
}

static void withdraw(const struct xds_response *response, const struct wire_field *field)
{
    char *name = name_of(field);

    if (!name)
        return;
    state_remove(response->state, response->type, name);
    xds_versions_remove(response->versions, name, field->len);
    free(name);
}

/* Resources first, then removals, each in its order; type and nonce come behind the resources on the wire. */
void xds_response_take(const struct xds_response *response, const uint8_t *message, size_t len, char *nack,
                       size_t nack_size)
{
    for (int pass = 0; pass < 2; pass++) {
        struct wire_reader r = wire_reader(message, len);
        struct wire_field f;

        while (wire_next(&r, &f) > 0) {
            if (f.type != WIRE_BYTES)
                continue;
            if (pass == 0 && f.number == RESPONSE_RESOURCE)
                apply(response, &f, nack, nack_size);
            else if (pass == 1 && f.number == RESPONSE_REMOVED)
                withdraw(response, &f);
        }
    }
    state_commit(response->state);
}
