/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/worker/pod_notes.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/list.h"
#include "lib/message.h"
#include "proxy/worker/endpoint_notes.h"

#define PIECE_CONNECTIONS 64 /* a piece is so many, or one pod */

struct pod_notes {
    struct list pods;
    struct endpoint_notes endpoints;
};

/* What a note of a connection is kept as; its strings follow, each with its NUL. */
struct kept {
    struct endpoint client, destination, actual;
    uint64_t received, sent;
    uint32_t size, texts[3]; /* the whole; where each string is, 0: NULL */
    bool inbound, mutual_tls, same_node, gateway, direct;
};

struct pod_note {
    struct list node;
    char *uid, *name, *namespace, *service_account;
    const char *state;  /* NULL: not described */
    const char *policy; /* NULL: not told */
    char *connections;  /* struct kept, one behind the other */
    size_t len, size;
    bool serves;
};

int pod_notes_new(struct pod_notes **ret)
{
    struct pod_notes *n = calloc(1, sizeof(*n));

    if (!n)
        return -ENOMEM;
    list_init(&n->pods);
    *ret = n;
    return 0;
}

void pod_notes_free(struct pod_notes **notes)
{
    if (!*notes)
        return;
    while (!list_empty(&(*notes)->pods)) {
        struct pod_note *p = list_first(&(*notes)->pods, struct pod_note, node);

        list_del(&p->node);
        free(p->uid);
        free(p->name);
        free(p->namespace);
        free(p->service_account);
        free(p->connections);
        free(p);
    }
    endpoint_notes_clear(&(*notes)->endpoints);
    free(*notes);
    *notes = NULL;
}

struct endpoint_notes *pod_notes_endpoints(struct pod_notes *notes)
{
    return &notes->endpoints;
}

struct pod_note *pod_notes_pod(struct pod_notes *notes, const char *uid)
{
    struct pod_note *p;

    list_for_each (p, &notes->pods, node) {
        if (!strcmp(p->uid, uid))
            return p;
    }
    p = calloc(1, sizeof(*p));
    if (!p || !(p->uid = strdup(uid))) {
        free(p);
        return NULL;
    }
    list_add_tail(&notes->pods, &p->node);
    return p;
}

static int replace(char **text, const char *with)
{
    char *copy = strdup(with ? with : "");

    if (!copy)
        return -ENOMEM;
    free(*text);
    *text = copy;
    return 0;
}

int pod_note_describe(struct pod_note *p, const char *state, const char *name, const char *namespace,
                      const char *service_account)
{
    if (replace(&p->name, name) < 0 || replace(&p->namespace, namespace) < 0 ||
        replace(&p->service_account, service_account) < 0)
        return -ENOMEM;
    p->state = state;
    return 0;
}

void pod_note_policy(struct pod_note *p, const char *policy)
{
    p->policy = policy;
}

void pod_note_serves(struct pod_note *p)
{
    p->serves = true;
}

int pod_note_connection(struct pod_note *p, const struct connection_note *c)
{
    const char *const texts[3] = {c->authority, c->source_identity, c->destination_identity};
    struct kept kept = {.client = c->client,
                        .destination = c->destination,
                        .actual = c->actual,
                        .received = c->received,
                        .sent = c->sent,
                        .inbound = c->inbound,
                        .mutual_tls = c->mutual_tls,
                        .same_node = c->same_node,
                        .gateway = c->gateway,
                        .direct = c->direct};
    size_t size = sizeof(kept);

    for (int i = 0; i < 3; i++) {
        kept.texts[i] = texts[i] ? (uint32_t)size : 0;
        size += texts[i] ? strlen(texts[i]) + 1 : 0;
    }
    size = (size + 7) & ~(size_t)7;
    if (p->len + size > p->size) {
        size_t grown = (p->len + size) * 2;
        char *connections = realloc(p->connections, grown);

        if (!connections)
            return -ENOMEM;
        p->connections = connections;
        p->size = grown;
    }
    kept.size = (uint32_t)size;
    memcpy(p->connections + p->len, &kept, sizeof(kept));
    for (int i = 0; i < 3; i++) {
        if (texts[i])
            memcpy(p->connections + p->len + kept.texts[i], texts[i], strlen(texts[i]) + 1);
    }
    p->len += size;
    return 0;
}

/* ---- as JSON ---- */

static const char *text_of(const struct kept *k, int which)
{
    return k->texts[which] ? (const char *)k + k->texts[which] : "";
}

/* What carries it. */
static const char *protocol(const struct kept *k)
{
    if (k->gateway)
        return "DOUBLEHBONE";
    if (k->mutual_tls)
        return "HBONE";
    return k->same_node ? "RELAY" : "TCP";
}

static cJSON *connection_item(const struct kept *k)
{
    char buf[ENDPOINT_TEXT_LEN];
    cJSON *o = cJSON_CreateObject();

    cJSON_AddStringToObject(o, "src", endpoint_format(&k->client, buf));
    cJSON_AddStringToObject(
        o, "originalDst", k->inbound && k->texts[0] ? text_of(k, 0) : endpoint_format(&k->destination, buf));
    cJSON_AddStringToObject(o, "actualDst", endpoint_format(&k->actual, buf));
    cJSON_AddStringToObject(o, "protocol", protocol(k));
    if (k->direct)
        cJSON_AddStringToObject(o, "way", "direct");
    if (k->mutual_tls || k->same_node) {
        cJSON_AddStringToObject(o, "srcIdentity", text_of(k, 1));
        cJSON_AddStringToObject(o, "dstIdentity", text_of(k, 2));
    }
    cJSON_AddNumberToObject(o, "bytesFromClient", (double)k->received);
    cJSON_AddNumberToObject(o, "bytesToClient", (double)k->sent);
    return o;
}

static int put_pod(FILE *out, const struct pod_note *p)
{
    cJSON *o;

    if (message_print(out, cJSON_CreateString(p->uid)) < 0)
        return -ENOMEM;
    fputs(":{", out);
    if (p->state) {
        o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "name", p->name);
        cJSON_AddStringToObject(o, "namespace", p->namespace);
        cJSON_AddStringToObject(o, "serviceAccount", p->service_account);
        if (p->policy)
            cJSON_AddStringToObject(o, "outboundPolicy", p->policy);
        fprintf(out, "\"state\":\"%s\",\"info\":", p->state);
        if (message_print(out, o) < 0)
            return -ENOMEM;
    }
    if (p->serves)
        fprintf(out, "%s\"connections\":{\"inbound\":[", p->state ? "," : "");
    return 0;
}

/* Those of one direction from the cursor on. True at the end of all of them. */
static int put_connections(FILE *out, const struct pod_note *p, struct pod_notes_cursor *c)
{
    int n = 0;

    for (; c->at < p->len && n < PIECE_CONNECTIONS; n++) {
        const struct kept *k = (const struct kept *)(const void *)(p->connections + c->at);

        c->at += k->size;
        if (k->inbound != (c->part == 1))
            continue;
        fputs(c->some ? ",\n" : "\n", out);
        c->some = true;
        if (message_print(out, connection_item(k)) < 0)
            return -ENOMEM;
    }
    return c->at >= p->len;
}

static void next_pod(const struct pod_notes *notes, struct pod_notes_cursor *c)
{
    const struct list *next = c->begun ? c->pod->node.next : notes->pods.next;

    c->pod = next == &notes->pods ? NULL : container_of(next, struct pod_note, node);
    c->begun = true;
    c->part = 0;
}

int pod_notes_next(const struct pod_notes *notes, struct pod_notes_cursor *c, FILE *out)
{
    bool first = !c->begun;
    int r;

    if (first) {
        fputc('{', out);
        next_pod(notes, c);
    }
    if (!c->pod) {
        fputc('}', out);
        return 0;
    }
    if (c->part == 0) {
        fputs(first ? "\n" : ",\n", out);
        if (put_pod(out, c->pod) < 0)
            return -ENOMEM;
        c->part = c->pod->serves ? 1 : 3;
        c->at = 0;
        c->some = false;
    }
    if (c->part < 3) {
        r = put_connections(out, c->pod, c);
        if (r <= 0)
            return r < 0 ? r : 1;
        fputs(c->part == 1 ? "],\"outbound\":[" : "]}", out);
        c->part++;
        c->at = 0;
        c->some = false;
        if (c->part < 3)
            return 1;
    }
    fputc('}', out);
    next_pod(notes, c);
    return 1;
}
