/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/name_dump.h"

#include <ctype.h>
#include <string.h>

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
    const struct pod *pod = find_pod(p, pod_name);
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
                                 .ipv6 = p->settings.ipv6};
    o = cJSON_CreateObject();
    cJSON_AddBoolToObject(o, "captured", pod->dns_fds[0] >= 0);
    for (int ipv6 = 0; ipv6 < 2; ipv6++) {
        struct names_found found;
        int r = names_find(p->state, &asker, asked, ipv6, &found);

        if (r < 0) {
            cJSON_Delete(o);
            return NULL;
        }
        if (!ipv6)
            cJSON_AddBoolToObject(o, "answered", r > 0);
        if (!r)
            continue;
        if (!ipv6)
            describe(o, &found);
        add_addresses(o, ipv6 ? "aaaa" : "a", &found);
        names_release(&found);
    }
    return o;
}
