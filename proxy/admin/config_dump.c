/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/config_dump.h"

#include <ctype.h>
#include <openssl/crypto.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "lib/message.h"
#include "proxy/admin/state_dump.h"
#include "proxy/identity/identity.h"
#include "proxy/worker/endpoint_notes.h"
#include "proxy/worker/pod_notes.h"

#define NAME_MAX_BYTES 64

/* By the last word of the name: "auth-token". */
static bool is_credential(const char *name)
{
    static const char *const words[] = {"token", "password", "key", "headers"};
    const char *dash = strrchr(name, '-'), *last = dash ? dash + 1 : name;

    for (size_t i = 0; i < array_size(words); i++) {
        if (!strcmp(last, words[i]))
            return true;
    }
    return false;
}

/* "xds-root-ca" is "xdsRootCa". */
static void camel_case(const char *name, char buf[NAME_MAX_BYTES])
{
    size_t len = 0;

    for (; *name && len + 1 < NAME_MAX_BYTES; name++) {
        if (*name == '-' && name[1])
            buf[len++] = (char)toupper((unsigned char)*++name);
        else
            buf[len++] = *name;
    }
    buf[len] = '\0';
}

static cJSON *duration(unsigned long milliseconds)
{
    cJSON *o = cJSON_CreateObject();

    if (cJSON_AddNumberToObject(o, "secs", (double)(milliseconds / 1000)) &&
        cJSON_AddNumberToObject(o, "nanos", (double)(milliseconds % 1000) * 1000000))
        return o;
    cJSON_Delete(o);
    return NULL;
}

static cJSON *value_of(const struct setting *s, const void *settings)
{
    const void *field = (const char *)settings + s->offset;

    switch (s->type) {
    case SETTING_STRING: {
        const char *text = *(const char *const *)field;

        return text ? cJSON_CreateString(text) : cJSON_CreateNull();
    }
    case SETTING_BOOL:
        return cJSON_CreateBool(*(const bool *)field);
    case SETTING_NUMBER:
        return cJSON_CreateNumber((double)*(const unsigned long *)field);
    case SETTING_DURATION:
        return duration(*(const unsigned long *)field);
    }
    return NULL;
}

/* Takes the item, also on failure. */
static bool add(cJSON *to, const char *name, cJSON *item)
{
    if (item && cJSON_AddItemToObject(to, name, item))
        return true;
    cJSON_Delete(item);
    return false;
}

static cJSON *config(const struct setting *table, size_t count, const void *settings)
{
    cJSON *o = cJSON_CreateObject();
    char name[NAME_MAX_BYTES];

    for (size_t i = 0; o && i < count; i++) {
        if (is_credential(table[i].name))
            continue;
        camel_case(table[i].name, name);
        if (!add(o, name, value_of(&table[i], settings))) {
            cJSON_Delete(o);
            return NULL;
        }
    }
    return o;
}

static cJSON *version(void)
{
    const char *istio = getenv("ISTIO_META_ISTIO_VERSION");
    cJSON *o = cJSON_CreateObject();

    if (cJSON_AddStringToObject(o, "version", BRUMA_VERSION) &&
        cJSON_AddStringToObject(o, "gitRevision", "unknown") &&
        cJSON_AddStringToObject(o, "rustVersion", "none; compiled by " __VERSION__) &&
#ifdef __OPTIMIZE__
        cJSON_AddStringToObject(o, "buildProfile", "release") &&
#else
        cJSON_AddStringToObject(o, "buildProfile", "debug") &&
#endif
        cJSON_AddStringToObject(o, "buildStatus", "unknown") &&
        cJSON_AddStringToObject(o, "istioVersion", istio && *istio ? istio : "unknown") &&
        cJSON_AddStringToObject(o, "cryptoProvider", OpenSSL_version(OPENSSL_VERSION)))
        return o;
    cJSON_Delete(o);
    return NULL;
}

/* What files of the proxy's own would configure; it has none, the agent's mesh file comes over xDS. */
static cJSON *static_config(void)
{
    cJSON *o = cJSON_CreateObject();

    if (cJSON_AddArrayToObject(o, "workloads") && cJSON_AddArrayToObject(o, "policies") &&
        cJSON_AddArrayToObject(o, "services"))
        return o;
    cJSON_Delete(o);
    return NULL;
}

/* ---- a dump and its readers ---- */

struct config_dump {
    struct list node;
    unsigned references;
    struct config_dump_source source;
    struct pod_notes *notes;
    struct state_snapshot *state;
    char **uris; /* of certificates, in order */
    size_t uris_len;
};

enum part { PART_PODS, PART_STATE, PART_CERTIFICATES, PART_REST, PARTS };

struct dump_reader {
    struct config_dump *dump;
    int part;
    struct pod_notes_cursor pods;
    struct state_reader *state;
    size_t certificate;
    bool some; /* a certificate has been told */
};

static struct list dumps = {&dumps, &dumps}; /* the oldest first */
static unsigned dumps_len;

unsigned config_dumps(void)
{
    return dumps_len;
}

struct config_dump *config_dump_newest(void)
{
    return list_empty(&dumps) ? NULL : container_of(dumps.prev, struct config_dump, node);
}

static int note_uri(void *data, const char *uri)
{
    struct config_dump *d = data;
    char **uris = realloc(d->uris, (d->uris_len + 1) * sizeof(char *));

    if (!uris)
        return -ENOMEM;
    d->uris = uris;
    uris[d->uris_len] = strdup(uri);
    if (!uris[d->uris_len])
        return -ENOMEM;
    d->uris_len++;
    return 0;
}

int config_dump_new(const struct config_dump_source *source, struct pod_notes *notes,
                    struct config_dump **ret)
{
    struct config_dump *d = calloc(1, sizeof(*d));

    if (!d) {
        pod_notes_free(&notes);
        return -ENOMEM;
    }
    dumps_len++;
    list_add_tail(&dumps, &d->node);
    d->references = 1;
    d->source = *source;
    d->notes = notes;
    if ((source->state && state_snapshot_take(source->state, &d->state) < 0) ||
        (source->identities && identity_each(source->identities, note_uri, d) < 0)) {
        config_dump_unref(&d);
        return -ENOMEM;
    }
    *ret = d;
    return 0;
}

static int compare_uris(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

void config_dump_sort(struct config_dump *d)
{
    if (d->state)
        state_snapshot_sort(d->state);
    if (d->uris_len)
        qsort(d->uris, d->uris_len, sizeof(char *), compare_uris);
}

struct config_dump *config_dump_ref(struct config_dump *d)
{
    d->references++;
    return d;
}

void config_dump_unref(struct config_dump **dump)
{
    struct config_dump *d = *dump;

    *dump = NULL;
    if (!d || --d->references)
        return;
    dumps_len--;
    list_del(&d->node);
    pod_notes_free(&d->notes);
    state_snapshot_free(&d->state);
    for (size_t i = 0; i < d->uris_len; i++)
        free(d->uris[i]);
    free(d->uris);
    free(d);
}

/* Readers expect the keys even when there is nothing behind them. */
static int next_of_pods(struct dump_reader *r, FILE *out)
{
    int more;

    if (!r->pods.begun)
        fputs("{\"workloadState\":", out);
    if (!r->dump->notes) {
        fputs("{},\n", out);
        return 0;
    }
    more = pod_notes_next(r->dump->notes, &r->pods, out);
    if (more == 0)
        fputs(",\n", out);
    return more;
}

static int next_of_state(struct dump_reader *r, FILE *out)
{
    if (!r->dump->state) {
        fputs("\"workloads\":[],\n\"services\":[],\n\"policies\":[],\n\"stagedServices\":{}", out);
        return 0;
    }
    return state_reader_next(r->state, out);
}

static int next_of_certificates(struct dump_reader *r, FILE *out)
{
    struct config_dump *d = r->dump;
    cJSON *item;

    if (r->certificate == 0)
        fputs(",\n\"certificates\":[", out);
    if (r->certificate >= d->uris_len) {
        fputs("],\n", out);
        return 0;
    }
    item = identity_dump(d->source.identities, d->uris[r->certificate++]);
    if (!item)
        return 1; /* it has gone meanwhile */
    fputs(r->some ? ",\n" : "\n", out);
    r->some = true;
    return message_print(out, item) < 0 ? -ENOMEM : 1;
}

static int next_of_rest(struct dump_reader *r, FILE *out)
{
    const struct config_dump_source *s = &r->dump->source;

    if (r->dump->notes) {
        fputs("\"endpointsLeftOut\":", out);
        if (endpoint_notes_print(pod_notes_endpoints(r->dump->notes), out) < 0)
            return -ENOMEM;
        fputs(",\n", out);
    }
    fputs("\"staticConfig\":", out);
    if (message_print(out, static_config()) < 0)
        return -ENOMEM;
    fputs(",\n\"version\":", out);
    if (message_print(out, version()) < 0)
        return -ENOMEM;
    fputs(",\n\"config\":", out);
    if (message_print(out, config(s->table, s->count, s->settings)) < 0)
        return -ENOMEM;
    fputs("}\n", out);
    return 0;
}

static int reader_next(void *data, FILE *out)
{
    static int (*const parts[PARTS])(struct dump_reader * r, FILE * out) = {
        [PART_PODS] = next_of_pods,
        [PART_STATE] = next_of_state,
        [PART_CERTIFICATES] = next_of_certificates,
        [PART_REST] = next_of_rest,
    };
    struct dump_reader *r = data;
    int more = parts[r->part](r, out);

    if (more)
        return more;
    r->part++;
    return r->part < PARTS;
}

static void reader_done(void *data)
{
    struct dump_reader *r = data;

    state_reader_free(&r->state);
    config_dump_unref(&r->dump);
    free(r);
}

int config_dump_open(struct config_dump *d, struct http_source *ret)
{
    struct dump_reader *r = calloc(1, sizeof(*r));

    if (!r)
        return -ENOMEM;
    if (d->state && state_reader_new(d->state, &r->state) < 0) {
        free(r);
        return -ENOMEM;
    }
    r->dump = config_dump_ref(d);
    *ret = (struct http_source){.next = reader_next, .done = reader_done, .data = r};
    return 0;
}
