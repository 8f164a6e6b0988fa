/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "xds"
#include "proxy/xds/xds_node.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

#include "lib/log.h"

#define META      "ISTIO_META_"
#define META_JSON "ISTIO_METAJSON_"

extern char **environ;

/* google.protobuf.Struct and Value */
enum { VALUE_NULL = 1, VALUE_NUMBER = 2, VALUE_STRING = 3, VALUE_BOOL = 4, VALUE_STRUCT = 5, VALUE_LIST = 6 };

static void put_struct(struct wire_writer *w, uint32_t field, const cJSON *object);

static void put_value(struct wire_writer *w, const cJSON *json)
{
    if (cJSON_IsString(json)) {
        wire_put_bytes(w, VALUE_STRING, json->valuestring, strlen(json->valuestring));
    } else if (cJSON_IsNumber(json)) {
        wire_put_double(w, VALUE_NUMBER, json->valuedouble);
    } else if (cJSON_IsBool(json)) {
        wire_put_varint(w, VALUE_BOOL, cJSON_IsTrue(json));
    } else if (cJSON_IsObject(json)) {
        put_struct(w, VALUE_STRUCT, json);
    } else if (cJSON_IsArray(json)) {
        struct wire_writer list = {};
        const cJSON *item;

        cJSON_ArrayForEach (item, json) {
            struct wire_writer value = {};

            put_value(&value, item);
            wire_put_message(&list, 1, &value);
        }
        wire_put_message(w, VALUE_LIST, &list);
    } else {
        wire_put_varint(w, VALUE_NULL, 0);
    }
}

static void put_struct(struct wire_writer *w, uint32_t field, const cJSON *object)
{
    struct wire_writer fields = {};
    const cJSON *item;

    cJSON_ArrayForEach (item, object) {
        struct wire_writer entry = {}, value = {};

        put_value(&value, item);
        wire_put_bytes(&entry, 1, item->string, strlen(item->string));
        wire_put_message(&entry, 2, &value);
        wire_put_message(&fields, 1, &entry);
    }
    wire_put_message(w, field, &fields);
}

static void set(cJSON *metadata, const char *key, cJSON *value)
{
    cJSON_DeleteItemFromObjectCaseSensitive(metadata, key);
    cJSON_AddItemToObject(metadata, key, value);
}

static void add_environment(cJSON *metadata, const char *prefix)
{
    bool json = !strcmp(prefix, META_JSON);

    for (char **e = environ; *e; e++) {
        const char *equals = strchr(*e, '=');
        const char *name = *e + strlen(prefix);
        char key[128];
        cJSON *value;

        if (strncmp(*e, prefix, strlen(prefix)) != 0 || !equals || equals <= name ||
            (size_t)(equals - name) >= sizeof(key))
            continue;
        memcpy(key, name, (size_t)(equals - name));
        key[equals - name] = '\0';
        value = json ? cJSON_Parse(equals + 1) : cJSON_CreateString(equals + 1);
        if (value)
            set(metadata, key, value);
        else
            log_warn("%s%s is not JSON and is not sent", META_JSON, key);
    }
}

void xds_node_write(struct wire_writer *w, const struct xds_config *config)
{
    cJSON *metadata = cJSON_CreateObject();
    const cJSON *item;
    char id[512];

    snprintf(id, sizeof(id), "ztunnel~%s~%s.%s~%s.svc.cluster.local", config->instance_ip, config->pod_name,
             config->pod_namespace, config->pod_namespace);
    set(metadata, "NAME", cJSON_CreateString(config->pod_name));
    set(metadata, "NAMESPACE", cJSON_CreateString(config->pod_namespace));
    set(metadata, "INSTANCE_IPS", cJSON_CreateString(config->instance_ip));
    set(metadata, "NODE_NAME", cJSON_CreateString(config->node_name));
    set(metadata, "CLUSTER_ID", cJSON_CreateString(config->cluster_id));
    cJSON_ArrayForEach (item, config->metadata)
        set(metadata, item->string, cJSON_Duplicate(item, true));
    add_environment(metadata, META);
    add_environment(metadata, META_JSON);
    wire_put_string(w, 1, id);
    put_struct(w, 3, metadata);
    cJSON_Delete(metadata);
}
