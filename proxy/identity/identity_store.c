/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/identity/identity_store.h"

#include <errno.h>
#include <stdlib.h>

#include "lib/cleanup.h"
#include "proxy/identity/certificate_dump.h"

static const struct {
    enum source_kind kind;
    int (*make)(struct loop *loop, const struct identity_config *config, struct identity_source **ret);
} kinds[] = {
    {SOURCE_CA, ca_source_new},
    {SOURCE_FILES, file_source_new},
    {SOURCE_SPIRE, spire_source_new},
};

static int make_sources(struct identity_store *s)
{
    for (size_t k = 0; k < array_size(kinds); k++) {
        struct identity_source *source;
        int r;

        if (!source_choice_has(&s->config.sources, kinds[k].kind))
            continue;
        r = kinds[k].make(s->loop, &s->config, &source);
        if (r < 0)
            return r;
        source->store = s;
        for (int p = 0; p < 3; p++)
            list_init(&source->queues[p]);
        s->sources[kinds[k].kind] = source;
    }
    return 0;
}

static void on_bundles_changed(void *data)
{
    struct identity_store *s = data;
    struct identity *i;

    list_for_each (i, &s->all, node)
        identity_bundles_changed(i);
}

int identity_store_new(struct loop *loop, const struct identity_config *config, struct identity_store **ret)
{
    struct identity_store *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return -ENOMEM;
    s->loop = loop;
    s->config = *config;
    list_init(&s->all);
    r = make_sources(s);
    if (r == 0)
        r = bundle_directory_follow(&s->bundles, loop, config->bundles ? config->bundles : "",
                                    on_bundles_changed, s);
    if (r < 0) {
        identity_store_free(&s);
        return r;
    }
    *ret = s;
    return 0;
}

void identity_store_free(struct identity_store **ptr)
{
    struct identity_store *s = *ptr;

    if (!s)
        return;
    while (!list_empty(&s->all))
        identity_free(list_first(&s->all, struct identity, node));
    for (int k = 0; k < SOURCES; k++) {
        if (s->sources[k])
            s->sources[k]->type->free(s->sources[k]);
    }
    bundle_directory_clear(&s->bundles);
    free(s);
    *ptr = NULL;
}

int identity_each(struct identity_store *s, int (*fn)(void *data, const char *uri), void *data)
{
    struct identity *i;
    int r = 0;

    list_for_each (i, &s->all, node) {
        r = fn(data, i->uri);
        if (r < 0)
            break;
    }
    return r;
}

cJSON *identity_dump(struct identity_store *s, const char *uri)
{
    struct identity *i = identity_find(s, uri);
    bool good = i && current_certificate_usable(&i->current);

    return i ? certificate_dump(i->uri, i->source->type->name, good ? &i->issued.certificate : NULL, i->error)
             : NULL;
}
