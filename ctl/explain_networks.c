/* SPDX-License-Identifier: Apache-2.0 */
/* Endpoints in other networks: the gateway, and the tunnel inside of the one to it. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "ctl/explain.h"
#include "ctl/say.h"
#include "ctl/source.h"
#include "lib/spiffe.h"

static const enum bruma_reason unresolved = BRUMA_REASON_GATEWAY_UNRESOLVED;
static const enum bruma_reason no_names = BRUMA_REASON_GATEWAY_NAMES_MISSING;

static const cJSON *get(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

static const cJSON *workload_by_uid(const cJSON *dump, const char *uid)
{
    const cJSON *w;

    cJSON_ArrayForEach (w, get(dump, "workloads")) {
        if (!strcmp(text_of(w, "uid"), uid))
            return w;
    }
    return NULL;
}

static const cJSON *first_endpoint(const cJSON *dump, const cJSON *service)
{
    const cJSON *endpoint = get(service, "endpoints");

    endpoint = endpoint ? endpoint->child : NULL;
    return endpoint ? workload_by_uid(dump, text_of(endpoint, "workloadUid")) : NULL;
}

static bool lists(const cJSON *list, const char *text)
{
    const cJSON *item;

    cJSON_ArrayForEach (item, list) {
        if (cJSON_IsString(item) && !strcmp(item->valuestring, text))
            return true;
    }
    return false;
}

/* "namespace/hostname" or "network/address", of a service (then one of its endpoints) or of a workload. */
static const cJSON *find_gateway(const cJSON *dump, const char *destination)
{
    char name[600];
    const cJSON *item;

    cJSON_ArrayForEach (item, get(dump, "services")) {
        snprintf(name, sizeof(name), "%s/%s", text_of(item, "namespace"), text_of(item, "hostname"));
        if (!strcmp(name, destination) || lists(get(item, "vips"), destination))
            return first_endpoint(dump, item);
    }
    cJSON_ArrayForEach (item, get(dump, "workloads")) {
        const char *slash = strchr(destination, '/'), *network = text_of(item, "network");

        snprintf(name, sizeof(name), "%s/%s", text_of(item, "namespace"), text_of(item, "hostname"));
        if (*text_of(item, "hostname") && !strcmp(name, destination))
            return item;
        if (slash && strlen(network) == (size_t)(slash - destination) &&
            !strncmp(network, destination, strlen(network)) && lists(get(item, "workloadIps"), slash + 1))
            return item;
    }
    return NULL;
}

static void join_names(const cJSON *names, char *buf, size_t size)
{
    const cJSON *item;
    size_t n = 0;

    buf[0] = '\0';
    cJSON_ArrayForEach (item, names) {
        if (n < size && cJSON_IsString(item))
            n += (size_t)snprintf(buf + n, size - n, "%s%s", n ? " or " : "", item->valuestring);
    }
}

static void explain_endpoint(cJSON *lines, const cJSON *dump, const cJSON *service, const cJSON *w)
{
    const cJSON *reference = get(w, "networkGateway"), *gateway, *port;
    const char *network = text_of(w, "network"), *destination = text_of(reference, "destination");
    char identity[SPIFFE_MAX], names[700];

    join_names(get(service, "subjectAltNames"), names, sizeof(names));
    gateway = *destination ? find_gateway(dump, destination) : NULL;
    if (!names[0]) {
        say(lines, "other network", &no_names,
            "network \"%s\" is not used: the service has no subject alternative names to expect there",
            network);
    } else if (!gateway) {
        say(lines, "other network", &unresolved, "network \"%s\" is not used: its gateway %s is not known",
            network, *destination ? destination : "(none is named)");
    } else {
        workload_identity(gateway, identity, sizeof(identity));
        port = get(reference, "hboneMtlsPort");
        say(lines, "other network", NULL, "endpoints in network \"%s\", of weight %d", network,
            get(w, "capacity") ? get(w, "capacity")->valueint : 1);
        say(lines, "outer tunnel", NULL, "to the gateway %s, port %d, which must be %s", destination,
            port ? port->valueint : 0, identity);
        say(lines, "inner tunnel", NULL, "to a node of that network, for %s, which must be %s",
            text_of(service, "hostname"), names);
    }
}

void say_networks(cJSON *lines, const cJSON *dump, const cJSON *source, const cJSON *service)
{
    const cJSON *endpoint, *w;

    cJSON_ArrayForEach (endpoint, get(service, "endpoints")) {
        w = workload_by_uid(dump, text_of(endpoint, "workloadUid"));
        if (w && strcmp(text_of(w, "network"), text_of(source, "network")) != 0)
            explain_endpoint(lines, dump, service, w);
    }
}
