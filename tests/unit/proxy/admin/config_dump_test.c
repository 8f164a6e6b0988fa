/* SPDX-License-Identifier: Apache-2.0 */
/* The config dump's frame; what the state and the certificates put into it is tested beside them. */
#include "proxy/admin/config_dump.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/admin/state_dump.h"
#include "proxy/identity/identity.h"
#include "proxy/state/state.h"

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
static bool failing;

int state_dump(struct state *state, cJSON *into)
{
    if (failing)
        return -1;
    cJSON_AddStringToObject(into, "workloads", "from the state");
    return 0;
}

cJSON *identity_dump(struct identity_store *store)
{
    return cJSON_CreateString("from the store");
}

static cJSON *dump(void *state, void *identities, cJSON *workload_state)
{
    return config_dump_new(state, identities, workload_state, table, array_size(table), &settings);
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

Test(config_dump, parts_come_from_their_owners)
{
    cJSON *connections = cJSON_CreateObject(), *o;

    cJSON_AddStringToObject(connections, "uid", "x");
    o = dump(&failing, &failing, connections);
    cr_expect(!strcmp(cJSON_GetStringValue(cJSON_GetObjectItem(o, "workloads")), "from the state"));
    cr_expect(!strcmp(cJSON_GetStringValue(cJSON_GetObjectItem(o, "certificates")), "from the store"));
    cr_expect(cJSON_GetObjectItem(o, "workloadState") == connections);
    cJSON_Delete(o);
    failing = true;
    cr_expect(dump(&failing, &failing, cJSON_CreateObject()) == NULL, "what was given is freed too");
    failing = false;
}
