/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/admin/state_dump.h"
#include "proxy/state/state_store.h"

/* ---- a snapshot ---- */

enum section { SECTION_WORKLOADS, SECTION_SERVICES, SECTION_POLICIES, SECTION_STAGED, SECTIONS };

struct state_snapshot {
    struct state *state;
    const void **items[SECTIONS]; /* referenced; of policies their keys */
    size_t len[SECTIONS];
};

static void let_go(enum section section, const void *item)
{
    switch (section) {
    case SECTION_WORKLOADS:
        workload_unref(item);
        break;
    case SECTION_SERVICES:
        service_unref(item);
        break;
    case SECTION_POLICIES:
        intern_put(item);
        break;
    default:
        service_node_put((struct service_node *)(uintptr_t)item);
    }
}

static const void *taken(enum section section, void *entry)
{
    struct service_node *node = entry;

    switch (section) {
    case SECTION_WORKLOADS:
        workload_ref(entry);
        return entry;
    case SECTION_SERVICES:
        service_ref(entry);
        return entry;
    case SECTION_POLICIES:
        return intern_ref(((const struct policy *)entry)->key);
    default:
        if (node->service || !node->members_len)
            return NULL;
        __atomic_add_fetch(&node->references, 1, __ATOMIC_RELAXED);
        return node;
    }
}

static int take_section(struct state_snapshot *s, enum section section, const struct index *index)
{
    const void **all = calloc(index->count + 1, sizeof(void *));
    size_t at = 0, n = 0;
    void *entry;

    if (!all)
        return -ENOMEM;
    while ((entry = index_each(index, &at))) {
        all[n] = taken(section, entry);
        n += all[n] != NULL;
    }
    s->items[section] = all;
    s->len[section] = n;
    return 0;
}

int state_snapshot_take(struct state *state, struct state_snapshot **ret)
{
    struct state_snapshot *s = calloc(1, sizeof(*s));

    if (!s)
        return -ENOMEM;
    s->state = state;
    if (take_section(s, SECTION_WORKLOADS, &state->workloads) < 0 ||
        take_section(s, SECTION_SERVICES, &state->services) < 0 ||
        take_section(s, SECTION_POLICIES, &state->policies) < 0 ||
        take_section(s, SECTION_STAGED, &state->nodes) < 0) {
        state_snapshot_free(&s);
        return -ENOMEM;
    }
    *ret = s;
    return 0;
}

void state_snapshot_free(struct state_snapshot **snapshot)
{
    struct state_snapshot *s = *snapshot;

    if (!s)
        return;
    *snapshot = NULL;
    for (enum section section = 0; section < SECTIONS; section++) {
        for (size_t i = 0; i < s->len[section]; i++)
            let_go(section, s->items[section][i]);
        free(s->items[section]);
    }
    free(s);
}

static int compare_workloads(const void *a, const void *b)
{
    const struct workload *const *x = a, *const *y = b;

    return strcmp((*x)->uid, (*y)->uid);
}

static int compare_services(const void *a, const void *b)
{
    const struct service *const *x = a, *const *y = b;
    int r = strcmp((*x)->hostname, (*y)->hostname);

    return r ? r : strcmp((*x)->namespace, (*y)->namespace);
}

static int compare_nodes(const void *a, const void *b)
{
    const struct service_node *const *x = a, *const *y = b;
    int r = strcmp((*x)->namespace, (*y)->namespace);

    return r ? r : strcmp((*x)->hostname, (*y)->hostname);
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

void state_snapshot_sort(struct state_snapshot *s)
{
    static int (*const compare[SECTIONS])(const void *, const void *) = {
        [SECTION_WORKLOADS] = compare_workloads,
        [SECTION_SERVICES] = compare_services,
        [SECTION_POLICIES] = compare_texts,
        [SECTION_STAGED] = compare_nodes,
    };

    for (enum section section = 0; section < SECTIONS; section++)
        qsort(s->items[section], s->len[section], sizeof(void *), compare[section]);
}

/* ---- a reader of it ---- */

#define PIECE (16 * 1024) /* bytes, and the rest of the object that passes it */

struct state_reader {
    const struct state_snapshot *snapshot;
    unsigned section;
    size_t at;
    bool begun, some; /* the section, and an object in it */
    /* Endpoints of the service whose turn it is; their workloads are referenced. NULL: none. */
    const struct workload_service **members;
    uint32_t members_len, members_at;
    const char *members_end;
    size_t written; /* in this piece */
};

int state_reader_new(const struct state_snapshot *snapshot, struct state_reader **ret)
{
    struct state_reader *r = calloc(1, sizeof(*r));

    if (!r)
        return -ENOMEM;
    r->snapshot = snapshot;
    *ret = r;
    return 0;
}

static void drop_members(struct state_reader *r)
{
    for (uint32_t i = 0; i < r->members_len; i++)
        workload_unref(&workload_of_service(r->members[i])->public);
    free(r->members);
    r->members = NULL;
    r->members_len = r->members_at = 0;
}

void state_reader_free(struct state_reader **reader)
{
    if (!*reader)
        return;
    drop_members(*reader);
    free(*reader);
    *reader = NULL;
}

static void put(struct state_reader *r, FILE *out, const char *text, size_t len)
{
    fwrite(text, 1, len, out);
    r->written += len;
}

static void put_text(struct state_reader *r, FILE *out, const char *text)
{
    put(r, out, text, strlen(text));
}

static void put_comma(struct state_reader *r, FILE *out)
{
    put_text(r, out, r->some ? ",\n" : "\n");
    r->some = true;
}

/* Without the bracket or brace at either end, as said. Takes the item. */
static bool put_item(struct state_reader *r, FILE *out, cJSON *item, size_t cut_begin, size_t cut_end)
{
    char *text = item ? cJSON_PrintUnformatted(item) : NULL;

    cJSON_Delete(item);
    if (!text)
        return false;
    put(r, out, text + cut_begin, strlen(text) - cut_begin - cut_end);
    cJSON_free(text);
    return true;
}

static bool begin_members(struct state_reader *r, const struct workload_service *const *items, uint32_t len,
                          const char *end)
{
    r->members = calloc((size_t)len + 1, sizeof(items[0]));
    if (!r->members)
        return false;
    for (uint32_t i = 0; i < len; i++) {
        r->members[i] = items[i];
        workload_ref(&workload_of_service(items[i])->public);
    }
    r->members_len = len;
    r->members_at = 0;
    r->members_end = end;
    return true;
}

static bool next_member(struct state_reader *r, FILE *out)
{
    cJSON *one;

    if (r->members_at == r->members_len) {
        put_text(r, out, r->members_end);
        drop_members(r);
        return true;
    }
    one = cJSON_CreateObject();
    if (!one || !endpoint_dump(r->members[r->members_at], one)) {
        cJSON_Delete(one);
        return false;
    }
    if (r->members_at++)
        put_text(r, out, ",");
    return put_item(r, out, one, 1, 1);
}

/* The only item of the array, which is taken. */
static bool put_only(struct state_reader *r, FILE *out, cJSON *array, bool ok, size_t cut_end)
{
    cJSON *item = ok ? cJSON_DetachItemFromArray(array, 0) : NULL;

    cJSON_Delete(array);
    if (item)
        put_comma(r, out);
    return put_item(r, out, item, 0, cut_end);
}

static bool next_workload(struct state_reader *r, FILE *out, const void *item)
{
    cJSON *array = cJSON_CreateArray();

    return put_only(r, out, array, array && workload_dump(item, array), 0);
}

static bool next_service(struct state_reader *r, FILE *out, const void *item)
{
    const struct service_full *s = item;
    const struct endpoints *e = s->node->endpoints;
    cJSON *array = cJSON_CreateArray();

    if (!put_only(r, out, array, array && service_dump(s, array), 1))
        return false;
    put_text(r, out, ",\"endpoints\":{");
    return begin_members(r, e ? e->items : NULL, e ? e->len : 0, "}}");
}

static bool next_policy(struct state_reader *r, FILE *out, const void *item)
{
    const struct policy *policy = find_policy(r->snapshot->state, item);
    cJSON *array;

    if (!policy)
        return true;
    array = cJSON_CreateArray();
    return put_only(r, out, array, array && policy_dump(policy, array), 0);
}

static bool next_staged(struct state_reader *r, FILE *out, const void *item)
{
    const struct service_node *node = item;
    char *key;
    bool ok;

    if (node->service || !node->members_len)
        return true;
    if (asprintf(&key, "%s/%s", node->namespace, node->hostname) < 0)
        return false;
    put_comma(r, out);
    ok = put_item(r, out, cJSON_CreateString(key), 0, 0);
    free(key);
    put_text(r, out, ":{");
    return ok &&
           begin_members(r, (const struct workload_service *const *)node->members, node->members_len, "}");
}

static bool next_thing(struct state_reader *r, FILE *out)
{
    static const struct {
        const char *begin, *end;
        bool (*next)(struct state_reader *r, FILE *out, const void *item);
    } sections[SECTIONS] = {
        [SECTION_WORKLOADS] = {"\"workloads\":[", "],\n", next_workload},
        [SECTION_SERVICES] = {"\"services\":[", "],\n", next_service},
        [SECTION_POLICIES] = {"\"policies\":[", "],\n", next_policy},
        [SECTION_STAGED] = {"\"stagedServices\":{", "}", next_staged},
    };

    if (r->members)
        return next_member(r, out);
    if (!r->begun) {
        put_text(r, out, sections[r->section].begin);
        r->begun = true;
        return true;
    }
    if (r->at < r->snapshot->len[r->section])
        return sections[r->section].next(r, out, r->snapshot->items[r->section][r->at++]);
    put_text(r, out, sections[r->section].end);
    r->section++;
    r->at = 0;
    r->begun = r->some = false;
    return true;
}

int state_reader_next(struct state_reader *r, FILE *out)
{
    r->written = 0;
    while (r->section < SECTIONS && r->written < PIECE) {
        if (!next_thing(r, out))
            return -ENOMEM;
    }
    return r->section < SECTIONS;
}
