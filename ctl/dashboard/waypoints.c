/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/dashboard/waypoints.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "ctl/json_text.h"

static const cJSON *get(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

static bool has_text(const cJSON *list, const char *text)
{
    const cJSON *item;

    cJSON_ArrayForEach (item, list) {
        if (cJSON_IsString(item) && !strcmp(item->valuestring, text))
            return true;
    }
    return false;
}

static void add_once(cJSON *list, const char *text)
{
    if (*text && !has_text(list, text))
        cJSON_AddItemToArray(list, cJSON_CreateString(text));
}

/* "NAMESPACE/HOSTNAME" or "NETWORK/ADDRESS" of all that workloads and services are reached by. */
static void take_destinations(const cJSON *items, cJSON *list)
{
    const cJSON *item, *weighted;

    cJSON_ArrayForEach (item, items) {
        add_once(list, text_of(get(item, "waypoint"), "destination"));
        cJSON_ArrayForEach (weighted, get(item, "weightedWaypoints"))
            add_once(list, text_of(get(weighted, "destination"), "destination"));
    }
}

/* A virtual address stands for its service. */
static void add_services(const cJSON *services, cJSON *destinations)
{
    const cJSON *s, *vip;
    char name[600];

    cJSON_ArrayForEach (s, services) {
        cJSON_ArrayForEach (vip, get(s, "vips")) {
            if (!cJSON_IsString(vip) || !has_text(destinations, vip->valuestring))
                continue;
            snprintf(name, sizeof(name), "%s/%s", text_of(s, "namespace"), text_of(s, "hostname"));
            add_once(destinations, name);
        }
    }
}

static bool is_one(const cJSON *workload, const cJSON *destinations)
{
    const cJSON *item;
    char name[600];

    cJSON_ArrayForEach (item, get(workload, "services")) {
        if (cJSON_IsString(item) && has_text(destinations, item->valuestring))
            return true;
    }
    cJSON_ArrayForEach (item, get(workload, "workloadIps")) {
        snprintf(name, sizeof(name), "%s/%s", text_of(workload, "network"),
                 cJSON_IsString(item) ? item->valuestring : "");
        if (has_text(destinations, name))
            return true;
    }
    return false;
}

cJSON *waypoints_of(const cJSON *dump)
{
    cJSON *destinations = cJSON_CreateArray(), *found = cJSON_CreateArray();
    const cJSON *workloads = get(dump, "workloads"), *w;
    char name[600];

    take_destinations(get(dump, "workloads"), destinations);
    take_destinations(get(dump, "services"), destinations);
    add_services(get(dump, "services"), destinations);
    cJSON_ArrayForEach (w, workloads) {
        const char *workload = text_of(w, "workloadName");

        snprintf(name, sizeof(name), "%s/%s", text_of(w, "namespace"),
                 *workload ? workload : text_of(w, "name"));
        if (is_one(w, destinations))
            add_once(found, name);
    }
    cJSON_Delete(destinations);
    return found;
}
