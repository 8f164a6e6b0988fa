/* SPDX-License-Identifier: Apache-2.0 */
/* Workloads that have a hostname in place of an address: what the proxy knows of it. */
#include <stdio.h>
#include <string.h>

#include "ctl/explain.h"
#include "ctl/say.h"
#include "ctl/source.h"
#include "lib/reasons.h"

#define SHOWN_MAX 16 /* endpoints of a service */

static void list(const cJSON *addresses, char *buf, size_t size)
{
    const cJSON *item;
    size_t n = 0;

    buf[0] = '\0';
    cJSON_ArrayForEach (item, addresses) {
        if (cJSON_IsString(item) && n < size)
            n += (size_t)snprintf(buf + n, size - n, "%s%s", n ? ", " : "", item->valuestring);
    }
}

static void say_hostname(cJSON *lines, const struct place *place, const cJSON *workload)
{
    const char *hostname = text_of(workload, "hostname"), *name = text_of(workload, "name");
    enum bruma_reason reason;
    char addresses[700];
    cJSON *known;

    if (proxy_hostname(place, hostname, &known) != CTL_OK)
        return;
    reason = reason_from_name(text_of(known, "reason"));
    if (!cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(known, "known"))) {
        say(lines, "hostname", NULL, "%.255s of %s: the next connection asks DNS for it", hostname, name);
    } else if (reason != BRUMA_REASON_COUNT) {
        say(lines, "hostname", &reason, "%.255s of %s: %s", hostname, name, text_of(known, "detail"));
    } else {
        list(cJSON_GetObjectItemCaseSensitive(known, "addresses"), addresses, sizeof(addresses));
        say(lines, "hostname", NULL, "%.255s of %s is %s, for %.0f s", hostname, name, addresses,
            number_of(known, "milliseconds") / 1000);
    }
    cJSON_Delete(known);
}

static bool has_only_hostname(const cJSON *workload)
{
    return *text_of(workload, "hostname") &&
           !cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(workload, "workloadIps"));
}

void say_hostnames(cJSON *lines, const struct place *place, const cJSON *dump, const cJSON *service)
{
    const cJSON *endpoints = cJSON_GetObjectItemCaseSensitive(service, "endpoints"), *w;
    int more = 0;

    cJSON_ArrayForEach (w, cJSON_GetObjectItemCaseSensitive(dump, "workloads")) {
        if (!has_only_hostname(w) || !cJSON_GetObjectItemCaseSensitive(endpoints, text_of(w, "uid")))
            continue;
        if (more++ < SHOWN_MAX)
            say_hostname(lines, place, w);
    }
    if (more > SHOWN_MAX)
        say(lines, "hostname", NULL, "%d more endpoints have a hostname", more - SHOWN_MAX);
}

void say_waypoint_hostname(cJSON *lines, const struct place *place, const cJSON *dump, const cJSON *waypoint)
{
    const char *destination = text_of(waypoint, "destination");
    const cJSON *w;

    cJSON_ArrayForEach (w, cJSON_GetObjectItemCaseSensitive(dump, "workloads")) {
        char name[600];

        snprintf(name, sizeof(name), "%s/%s", text_of(w, "namespace"), text_of(w, "hostname"));
        if (has_only_hostname(w) && !strcmp(name, destination))
            say_hostname(lines, place, w);
    }
}
