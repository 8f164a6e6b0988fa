/* SPDX-License-Identifier: Apache-2.0 */
/* The config dump's frame; what the state and the certificates put into it is tested beside them. */
#include "proxy/admin/config_dump.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/admin/state_dump.h"
#include "proxy/identity/identity.h"
#include "proxy/worker/endpoint_notes.h"
#include "proxy/worker/pod_notes.h"

struct settings {
    const char *address, *token, *absent;
    bool on;
    unsigned long number, time;
};

static const struct setting table[] = {
    {"xds-address", "A", SETTING_STRING, "", "", offsetof(struct settings, address), 0, 0},
    {"auth-token", "B", SETTING_STRING, "", "", offsetof(struct settings, token), 0, 0},
    {"alt-xds-hostname", "C", SETTING_STRING, NULL, "", offsetof(struct settings, absent), 0, 0},
    {"keepalive", "D", SETTING_BOOL, "", "", offsetof(struct settings, on), 0, 0},
    {"max-streams", "E", SETTING_NUMBER, "", "", offsetof(struct settings, number), 0, 0},
    {"secret-ttl", "F", SETTING_DURATION, "", "", offsetof(struct settings, time), 0, 0},
};
static const struct settings settings = {
    .address = "https://localhost:15012", .token = "very secret", .on = true, .number = 200, .time = 90500};
static int taken; /* snapshots and readers that are there */
static bool failing;

/* ---- the state and the certificates ---- */

int state_snapshot_take(struct state *state, struct state_snapshot **ret)
{
    if (failing)
        return -1;
    taken++;
    *ret = (void *)&taken;
    return 0;
}

void state_snapshot_sort(struct state_snapshot *snapshot)
{
}

void state_snapshot_free(struct state_snapshot **snapshot)
{
    taken -= *snapshot != NULL;
    *snapshot = NULL;
}

int state_reader_new(const struct state_snapshot *snapshot, struct state_reader **ret)
{
    taken++;
    *ret = (void *)&failing;
    return 0;
}

void state_reader_free(struct state_reader **reader)
{
    taken -= *reader != NULL;
    *reader = NULL;
}

int state_reader_next(struct state_reader *reader, FILE *out)
{
    fputs("\"workloads\": \"from the state\"", out);
    return 0;
}

int identity_each(struct identity_store *store, int (*fn)(void *data, const char *uri), void *data)
{
    return fn(data, "z") < 0 || fn(data, "gone") < 0 || fn(data, "a") < 0 ? -1 : 0;
}

cJSON *identity_dump(struct identity_store *store, const char *uri)
{
    return strcmp(uri, "gone") ? cJSON_CreateString(uri) : NULL;
}

static cJSON *dump(void *state, void *identities, struct pod_notes *notes)
{
    const struct config_dump_source source = {state, identities, table, array_size(table), &settings};
    struct http_source reader;
    struct config_dump *d;
    char *text = NULL;
    size_t len;
    FILE *out;
    cJSON *o;
    int more;

    if (config_dump_new(&source, notes, &d) < 0)
        return NULL;
    config_dump_sort(d);
    cr_assert(config_dumps() == 1 && config_dump_newest() == d);
    cr_assert(config_dump_open(d, &reader) == 0);
    config_dump_unref(&d);
    out = open_memstream(&text, &len);
    while ((more = reader.next(reader.data, out)) > 0)
        ;
    fclose(out);
    cr_assert(more == 0 && config_dumps() == 1);
    reader.done(reader.data);
    cr_assert(config_dumps() == 0 && taken == 0);
    o = cJSON_Parse(text);
    cr_assert(o != NULL, "%s", text);
    free(text);
    return o;
}

Test(config_dump, settings)
{
    cJSON *o = dump(NULL, NULL, NULL), *config = cJSON_GetObjectItemCaseSensitive(o, "config");
    char *text = cJSON_PrintUnformatted(config), *all = cJSON_PrintUnformatted(o);

    cr_expect(
        !strcmp(text,
                "{\"xdsAddress\":\"https://localhost:15012\",\"altXdsHostname\":null,\"keepalive\":true,"
                "\"maxStreams\":200,\"secretTtl\":{\"secs\":90,\"nanos\":500000000}}"),
        "%s", text);
    cr_expect(strstr(all, "very secret") == NULL);
    free(text);
    free(all);
    cJSON_Delete(o);
}

Test(config_dump, has_every_key_even_without_content)
{
    static const char *const arrays[] = {"workloads", "services", "policies", "certificates"};
    static const char *const objects[] = {"stagedServices", "workloadState", "staticConfig", "version",
                                          "config"};
    static const char *const versions[] = {"version",     "gitRevision",  "rustVersion",   "buildProfile",
                                           "buildStatus", "istioVersion", "cryptoProvider"};
    cJSON *o = dump(NULL, NULL, NULL), *version = cJSON_GetObjectItemCaseSensitive(o, "version");

    for (size_t i = 0; i < array_size(arrays); i++)
        cr_expect(cJSON_IsArray(cJSON_GetObjectItemCaseSensitive(o, arrays[i])), "%s", arrays[i]);
    for (size_t i = 0; i < array_size(objects); i++)
        cr_expect(cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(o, objects[i])), "%s", objects[i]);
    for (size_t i = 0; i < array_size(versions); i++)
        cr_expect(cJSON_IsString(cJSON_GetObjectItemCaseSensitive(version, versions[i])), "%s", versions[i]);
    cJSON_Delete(o);
}

static void add_connections(struct pod_note *pod, int n, bool inbound)
{
    struct connection_note c = {.inbound = inbound, .mutual_tls = inbound, .received = 5};

    addr_parse("10.0.0.1", &c.client.addr);
    addr_parse("10.0.0.2", &c.destination.addr);
    c.actual = c.destination;
    c.source_identity = inbound ? "spiffe://a" : NULL;
    c.authority = inbound ? "name:80" : NULL;
    for (int i = 0; i < n; i++) {
        c.client.port = (uint16_t)(i + 1);
        cr_assert(pod_note_connection(pod, &c) == 0);
    }
}

static const struct endpoint_note *left_out(unsigned i)
{
    static struct endpoint_note note;

    note = (struct endpoint_note){.endpoint = {.port = (uint16_t)(80 + i)},
                                  .leaving = i == 4,
                                  .reason = BRUMA_REASON_CONNECT_REFUSED,
                                  .milliseconds = 1000 + i,
                                  .worker = i};
    addr_parse("10.0.0.1", &note.endpoint.addr);
    return &note;
}

static void expect_item(const cJSON *item, const char *endpoint, const char *why, const char *reason,
                        double milliseconds)
{
    const char *has = cJSON_GetStringValue(cJSON_GetObjectItem(item, "reason"));

    cr_expect_str_eq(cJSON_GetStringValue(cJSON_GetObjectItem(item, "endpoint")), endpoint);
    cr_expect_str_eq(cJSON_GetStringValue(cJSON_GetObjectItem(item, "why")), why);
    cr_expect(reason ? has && !strcmp(has, reason) : !has);
    cr_expect(cJSON_GetNumberValue(cJSON_GetObjectItem(item, "milliseconds")) == milliseconds);
}

Test(config_dump, parts_come_from_their_owners)
{
    struct pod_notes *notes;
    struct pod_note *pod;
    cJSON *o, *one, *list, *certificates;

    cr_assert(pod_notes_new(&notes) == 0);
    pod = pod_notes_pod(notes, "uid \"1\"");
    pod_note_serves(pod);
    add_connections(pod, 200, true);
    add_connections(pod, 3, false);
    cr_assert(pod_note_describe(pod, "Up", "web", "demo", "a") == 0);
    pod = pod_notes_pod(notes, "2");
    cr_assert(pod_note_describe(pod, "Up", "shop", "demo", "b") == 0);
    cr_assert(pod_note_describe(pod_notes_pod(notes, "2"), "Pending", "shop", "demo", "b") == 0);
    pod_note_serves(pod_notes_pod(notes, "3"));
    for (unsigned i = 0; i < 5; i++)
        cr_assert(endpoint_notes_add(pod_notes_endpoints(notes), left_out(i)) == 0);
    o = dump(&failing, &failing, notes);
    list = cJSON_GetObjectItem(o, "endpointsLeftOut");
    cr_expect(cJSON_GetArraySize(list) == 5);
    expect_item(cJSON_GetArrayItem(list, 3), "10.0.0.1:83", "failed", "connect_refused", 1003);
    expect_item(cJSON_GetArrayItem(list, 4), "10.0.0.1", "leaving", NULL, 1004);
    cr_expect(!strcmp(cJSON_GetStringValue(cJSON_GetObjectItem(o, "workloads")), "from the state"));
    certificates = cJSON_GetObjectItem(o, "certificates");
    cr_expect(cJSON_GetArraySize(certificates) == 2 &&
              !strcmp(cJSON_GetStringValue(cJSON_GetArrayItem(certificates, 0)), "a"));
    one = cJSON_GetObjectItem(cJSON_GetObjectItem(o, "workloadState"), "uid \"1\"");
    cr_expect(!strcmp(cJSON_GetStringValue(cJSON_GetObjectItem(one, "state")), "Up"));
    list = cJSON_GetObjectItem(cJSON_GetObjectItem(one, "connections"), "inbound");
    cr_expect(cJSON_GetArraySize(list) == 200);
    one = cJSON_GetArrayItem(list, 199);
    cr_expect(!strcmp(cJSON_GetStringValue(cJSON_GetObjectItem(one, "src")), "10.0.0.1:200"));
    cr_expect(!strcmp(cJSON_GetStringValue(cJSON_GetObjectItem(one, "originalDst")), "name:80"));
    cr_expect(!strcmp(cJSON_GetStringValue(cJSON_GetObjectItem(one, "srcIdentity")), "spiffe://a"));
    cr_expect(!strcmp(cJSON_GetStringValue(cJSON_GetObjectItem(one, "dstIdentity")), ""));
    one = cJSON_GetObjectItem(cJSON_GetObjectItem(o, "workloadState"), "uid \"1\"");
    list = cJSON_GetObjectItem(cJSON_GetObjectItem(one, "connections"), "outbound");
    cr_expect(cJSON_GetArraySize(list) == 3);
    one = cJSON_GetObjectItem(cJSON_GetObjectItem(o, "workloadState"), "2");
    cr_expect(!strcmp(cJSON_GetStringValue(cJSON_GetObjectItem(one, "state")), "Pending"));
    cr_expect(!cJSON_GetObjectItem(one, "connections"));
    one = cJSON_GetObjectItem(cJSON_GetObjectItem(o, "workloadState"), "3");
    cr_expect(cJSON_GetArraySize(cJSON_GetObjectItem(cJSON_GetObjectItem(one, "connections"), "inbound")) ==
              0);
    cJSON_Delete(o);
    failing = true;
    cr_assert(pod_notes_new(&notes) == 0);
    cr_expect(dump(&failing, &failing, notes) == NULL, "what was given is freed too");
    cr_expect(config_dumps() == 0 && taken == 0);
    failing = false;
}
