/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/name_dump.h"

#include <ctype.h>
#include <string.h>
#include <time.h>

#include "proxy/dns/names.h"
#include "proxy/pod/pod.h"
#include "proxy/proxy.h"

static struct pod *find_pod(struct proxy *p, const char *name)
{
    struct pod *pod;

    list_for_each (pod, &p->pods, node) {
        size_t len = strlen(pod->namespace);

        if (!strncmp(pod->namespace, name, len) && name[len] == '/' && !strcmp(pod->name, name + len + 1))
            return pod;
    }
    return NULL;
}

static bool lower_case(const char *name, char ret[NAME_LEN])
{
    size_t len = strlen(name);

    if (len && name[len - 1] == '.')
        len--;
    if (!len || len >= NAME_LEN)
        return false;
    for (size_t i = 0; i < len; i++)
        ret[i] = (char)tolower((unsigned char)name[i]);
    ret[len] = '\0';
    return true;
}

static void add_addresses(cJSON *o, const char *key, const struct names_found *found)
{
    cJSON *list = cJSON_AddArrayToObject(o, key);
    char text[ADDR_TEXT_LEN];

    for (size_t i = 0; i < found->addresses_len; i++)
        cJSON_AddItemToArray(list, cJSON_CreateString(addr_format(&found->addresses[i], text)));
}

static void add_empty(cJSON *o, const char *key, const struct names_found *found)
{
    static const char *const words[] = {[NAMES_OTHER_FAMILY] = "family",
                                        [NAMES_IPV6_OFF] = "ipv6",
                                        [NAMES_OTHER_NETWORK] = "network",
                                        [NAMES_NO_ADDRESSES] = "none"};

    if (found->empty != NAMES_HAS_ADDRESSES)
        cJSON_AddStringToObject(o, key, words[found->empty]);
}

static void add_passed_over(cJSON *o, const struct names_passed_over *passed)
{
    cJSON *p;

    if (!passed->service)
        return;
    p = cJSON_AddObjectToObject(o, "passedOver");
    cJSON_AddStringToObject(p, "service", passed->service->hostname);
    cJSON_AddStringToObject(p, "namespace", passed->service->namespace);
    cJSON_AddBoolToObject(p, "hidden", passed->hidden);
}

static void add_servers(cJSON *o, struct pod *pod)
{
    struct dns_server servers[DNS_SERVERS_MAX];
    size_t len = dns_servers_list(&pod->dns_servers, servers);
    cJSON *list = cJSON_AddArrayToObject(o, "servers");
    char text[ENDPOINT_TEXT_LEN];
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    for (size_t i = 0; i < len; i++) {
        cJSON *s = cJSON_CreateObject();

        cJSON_AddStringToObject(s, "address", endpoint_format(&servers[i].address, text));
        cJSON_AddNumberToObject(s, "queries", (double)servers[i].queries);
        cJSON_AddNumberToObject(s, "secondsAgo", (double)now.tv_sec - (double)(servers[i].last / 1000000000));
        cJSON_AddItemToArray(list, s);
    }
}

static void describe(cJSON *o, const struct names_found *found)
{
    static const char *const forms[] = {
        [NAMES_ASKED] = "asked", [NAMES_EXPANDED] = "expanded", [NAMES_SEARCHED] = "searched"};

    cJSON_AddStringToObject(o, "service", found->service->hostname);
    cJSON_AddStringToObject(o, "namespace", found->service->namespace);
    cJSON_AddStringToObject(o, "form", forms[found->form]);
    cJSON_AddBoolToObject(o, "wildcard", found->wildcard);
}

cJSON *name_dump(struct proxy *p, const char *pod_name, const char *name)
{
    struct pod *pod = find_pod(p, pod_name);
    char asked[NAME_LEN];
    const struct workload *source;
    struct names_asker asker;
    cJSON *o;

    if (!pod || !lower_case(name, asked))
        return NULL;
    source = state_local_workload(p->state, pod->namespace, pod->name, pod->service_account);
    asker = (struct names_asker){.namespace = pod->namespace,
                                 .network = source ? source->network : pod->placeholder->network,
                                 .domain = p->settings.cluster_domain,
                                 .preferred_namespace = p->settings.preferred_namespace,
                                 .ipv6 = p->settings.ipv6,
                                 .search = p->settings.search_domains};
    o = cJSON_CreateObject();
    cJSON_AddBoolToObject(o, "captured", pod->dns_fds[0] >= 0);
    add_servers(o, pod);
    cJSON_AddBoolToObject(o, "off", !p->settings.answers_dns);
    for (int ipv6 = 0; ipv6 < 2 && p->settings.answers_dns; ipv6++) {
        struct names_passed_over passed_over;
        struct names_found found;
        int r = names_explain(p->state, &asker, asked, ipv6, &found, &passed_over);

        if (r < 0) {
            cJSON_Delete(o);
            return NULL;
        }
        if (!ipv6)
            cJSON_AddBoolToObject(o, "answered", r > 0);
        if (!r && !ipv6)
            add_passed_over(o, &passed_over);
        if (!r)
            continue;
        if (!ipv6)
            describe(o, &found);
        add_addresses(o, ipv6 ? "aaaa" : "a", &found);
        add_empty(o, ipv6 ? "aaaaEmpty" : "aEmpty", &found);
        names_release(&found);
    }
    return o;
}
