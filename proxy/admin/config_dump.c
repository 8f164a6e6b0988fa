/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/config_dump.h"

#include <ctype.h>
#include <openssl/crypto.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/admin/state_dump.h"
#include "proxy/identity/identity.h"
#include "proxy/state/state.h"

#define NAME_MAX_BYTES 64

/* By the last word of the name: "auth-token". */
static bool is_credential(const char *name)
{
    static const char *const words[] = {"token", "password", "key"};
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

/* Readers expect the keys even when there is nothing behind them. */
static bool add_state(cJSON *dump, struct state *state)
{
    if (state)
        return state_dump(state, dump) == 0;
    return cJSON_AddArrayToObject(dump, "workloads") && cJSON_AddArrayToObject(dump, "services") &&
           cJSON_AddArrayToObject(dump, "policies") && cJSON_AddObjectToObject(dump, "stagedServices");
}

cJSON *config_dump_new(struct state *state, struct identity_store *identities, cJSON *workload_state,
                       const struct setting *table, size_t count, const void *settings)
{
    cJSON *dump = cJSON_CreateObject();

    if (!workload_state)
        workload_state = cJSON_CreateObject();
    if (!dump) {
        cJSON_Delete(workload_state);
        return NULL;
    }
    if (add(dump, "workloadState", workload_state) && add_state(dump, state) &&
        add(dump, "certificates", identities ? identity_dump(identities) : cJSON_CreateArray()) &&
        add(dump, "staticConfig", static_config()) && add(dump, "version", version()) &&
        add(dump, "config", config(table, count, settings)))
        return dump;
    cJSON_Delete(dump);
    return NULL;
}
