/* SPDX-License-Identifier: Apache-2.0 */
/* Workloads, services and policies as JSON, in the shape that istioctl reads: contract section 9.3. */
#include <stdio.h>
#include <stdlib.h>

#include "proxy/admin/state_dump.h"
#include "proxy/route/route_reference.h"
#include "proxy/state/state_store.h"

static bool add_text(cJSON *to, const char *key, const char *text)
{
    return cJSON_AddStringToObject(to, key, text) != NULL;
}

/* Absent if empty. */
static bool add_some_text(cJSON *to, const char *key, const char *text)
{
    return !*text || add_text(to, key, text);
}

static bool append_text(cJSON *array, const char *text)
{
    cJSON *item = cJSON_CreateString(text);

    if (!item)
        return false;
    cJSON_AddItemToArray(array, item);
    return true;
}

/* The item, added; NULL stays NULL. */
static cJSON *add(cJSON *to, const char *key, cJSON *item)
{
    if (item && !cJSON_AddItemToObject(to, key, item)) {
        cJSON_Delete(item);
        return NULL;
    }
    return item;
}

static cJSON *append(cJSON *array, cJSON *item)
{
    if (item)
        cJSON_AddItemToArray(array, item);
    return item;
}

/* ---- parts ---- */

static bool add_reference(cJSON *to, const char *key, const struct gateway_reference *reference)
{
    _cleanup_free_ char *name = NULL;
    cJSON *o;
    size_t size;

    if (!reference)
        return true;
    size = reference->network ? strlen(reference->network) + ADDR_TEXT_LEN + 2
                              : strlen(reference->namespace) + strlen(reference->hostname) + 2;
    name = malloc(size);
    o = name ? add(to, key, cJSON_CreateObject()) : NULL;
    return o && add_text(o, "destination", reference_format(reference, name, size)) &&
           cJSON_AddNumberToObject(o, "hboneMtlsPort", reference->port);
}

static bool add_port(cJSON *ports, uint16_t service, uint16_t target)
{
    char key[8];

    snprintf(key, sizeof(key), "%u", service);
    cJSON_DeleteItemFromObjectCaseSensitive(ports, key); /* the same port twice: the last one counts */
    return cJSON_AddNumberToObject(ports, key, target) != NULL;
}

static const char *status_name(const struct workload *w)
{
    return w->healthy ? "Healthy" : "Unhealthy";
}

/* ---- workloads ---- */

static bool add_locality(cJSON *to, const struct workload *w)
{
    cJSON *o;

    if (!*w->region && !*w->zone && !*w->subzone)
        return true;
    o = add(to, "locality", cJSON_CreateObject());
    return o && add_some_text(o, "region", w->region) && add_some_text(o, "zone", w->zone) &&
           add_some_text(o, "subzone", w->subzone);
}

static bool add_application_tunnel(cJSON *to, const struct workload_full *w)
{
    cJSON *o;

    if (!w->application_tunnel)
        return true;
    o = add(to, "applicationTunnel", cJSON_CreateObject());
    if (!o || !add_text(o, "protocol", w->public.application_tunnel_protocol ? "PROXY" : "NONE"))
        return false;
    if (!w->public.application_tunnel_port)
        return cJSON_AddNullToObject(o, "port") != NULL;
    return cJSON_AddNumberToObject(o, "port", w->public.application_tunnel_port) != NULL;
}

static bool add_workload_lists(cJSON *to, const struct workload_full *w)
{
    cJSON *list = add(to, "workloadIps", cJSON_CreateArray());
    char text[ADDR_TEXT_LEN];

    for (size_t i = 0; list && i < w->addresses_len; i++) {
        if (!append_text(list, addr_format(&w->addresses[i].addr, text)))
            return false;
    }
    if (list && w->policies_len)
        list = add(to, "authorizationPolicies", cJSON_CreateArray());
    for (size_t i = 0; list && i < w->policies_len; i++) {
        if (!append_text(list, w->policies[i]))
            return false;
    }
    if (list && w->services_len)
        list = add(to, "services", cJSON_CreateArray());
    for (size_t i = 0; list && i < w->services_len; i++) {
        const struct service_node *node = w->services[i].node;
        _cleanup_free_ char *key = NULL;

        if (asprintf(&key, "%s/%s", node->namespace, node->hostname) < 0) {
            key = NULL;
            return false;
        }
        if (!append_text(list, key))
            return false;
    }
    return list != NULL;
}

bool workload_dump(const struct workload_full *w, cJSON *array)
{
    static const char *const types[] = {"deployment", "cronjob", "pod", "job"};
    const struct workload *p = &w->public;
    cJSON *o = append(array, cJSON_CreateObject());

    return o && add_some_text(o, "uid", p->uid) && add_text(o, "name", p->name) &&
           add_text(o, "namespace", p->namespace) &&
           add_text(o, "protocol", p->protocol == TUNNEL_HBONE ? "HBONE" : "TCP") &&
           add_text(o, "networkMode", p->host_network ? "HostNetwork" : "Standard") &&
           add_text(o, "status", status_name(p)) && add_text(o, "clusterId", p->cluster_id) &&
           add_some_text(o, "trustDomain", p->trust_domain) &&
           add_some_text(o, "serviceAccount", p->service_account) &&
           add_some_text(o, "network", p->network) && add_some_text(o, "workloadName", p->workload_name) &&
           add_text(o, "workloadType", types[p->type]) &&
           add_some_text(o, "canonicalName", p->canonical_name) &&
           add_some_text(o, "canonicalRevision", p->canonical_revision) &&
           add_some_text(o, "hostname", p->hostname) && add_some_text(o, "node", p->node) &&
           (!p->native_tunnel || cJSON_AddTrueToObject(o, "nativeTunnel")) &&
           cJSON_AddNumberToObject(o, "capacity", p->capacity) && add_workload_lists(o, w) &&
           add_reference(o, "waypoint", w->waypoint) && add_reference(o, "networkGateway", w->gateway) &&
           add_application_tunnel(o, w) && add_locality(o, p);
}

/* ---- services ---- */

bool endpoint_dump(const struct workload_service *m, cJSON *to)
{
    const struct workload_full *w = workload_of_service(m);
    const struct port_map *maps = (const struct port_map *)((const char *)w + m->ports_offset);
    cJSON *o = add(to, w->public.uid, cJSON_CreateObject()), *ports;

    if (!o || !add_text(o, "workloadUid", w->public.uid) || !add_text(o, "status", status_name(&w->public)))
        return false;
    ports = add(o, "port", cJSON_CreateObject());
    for (uint32_t i = 0; ports && i < m->ports_len; i++) {
        if (!add_port(ports, maps[i].service, maps[i].target))
            return false;
    }
    return ports != NULL;
}

static bool add_addresses(cJSON *to, const struct service_full *s)
{
    cJSON *vips = add(to, "vips", cJSON_CreateArray()), *prefixes = NULL;
    char text[ADDR_TEXT_LEN + 4];

    for (size_t i = 0; vips && i < s->addresses_len; i++) {
        const struct service_address *a = &s->addresses[i];
        _cleanup_free_ char *vip = NULL;
        cJSON *o;

        if (a->cidr.length == 128) {
            if (asprintf(&vip, "%s/%s", a->network, addr_format(&a->cidr.addr, text)) < 0) {
                vip = NULL;
                return false;
            }
            if (!append_text(vips, vip))
                return false;
            continue;
        }
        if (!prefixes)
            prefixes = add(to, "cidrVips", cJSON_CreateArray());
        o = prefixes ? append(prefixes, cJSON_CreateObject()) : NULL;
        if (!o || !add_text(o, "network", a->network) ||
            !add_text(o, "cidr", cidr_format(&a->cidr, text, sizeof(text))))
            return false;
    }
    return vips != NULL;
}

static bool add_balancing(cJSON *to, const struct service_full *s)
{
    static const char *const scopes[] = {"", "Region", "Zone", "Subzone", "Node", "Cluster", "Network"};
    static const char *const modes[] = {"Standard", "Strict", "Failover", "Passthrough"};
    cJSON *o, *list;

    if (!s->load_balancing)
        return true;
    o = add(to, "loadBalancer", cJSON_CreateObject());
    list = o ? add(o, "routingPreferences", cJSON_CreateArray()) : NULL;
    for (uint32_t i = 0; list && i < s->preferences_len; i++) {
        if (!append_text(list, scopes[s->preferences[i]]))
            return false;
    }
    return list && add_text(o, "mode", modes[s->mode]) &&
           add_text(o, "healthPolicy", s->allow_unhealthy ? "AllowAll" : "OnlyHealthy");
}

static bool add_weighted(cJSON *to, const struct service_full *s)
{
    cJSON *list = s->weighted_len ? add(to, "weightedWaypoints", cJSON_CreateArray()) : NULL;

    for (uint32_t i = 0; list && i < s->weighted_len; i++) {
        cJSON *o = append(list, cJSON_CreateObject());

        if (!o || !add_reference(o, "destination", &s->weighted[i].reference) ||
            !cJSON_AddNumberToObject(o, "weight", s->weighted[i].weight))
            return false;
    }
    return list || !s->weighted_len;
}

/* All but the endpoints, which may be very many. */
static bool add_service_lists(cJSON *to, const struct service_full *s)
{
    cJSON *list = add(to, "ports", cJSON_CreateObject());

    for (uint32_t i = 0; list && i < s->ports_len; i++) {
        if (!add_port(list, s->ports[i].service, s->ports[i].target))
            return false;
    }
    if (list)
        list = add(to, "subjectAltNames", cJSON_CreateArray());
    for (uint32_t i = 0; list && i < s->alternative_names_len; i++) {
        if (!append_text(list, s->alternative_names[i]))
            return false;
    }
    return list != NULL;
}

bool service_dump(const struct service_full *s, cJSON *array)
{
    static const char *const families[] = {"", "IPv4", "IPv6", "Dual"};
    cJSON *o = append(array, cJSON_CreateObject());

    return o && add_text(o, "name", s->public.name) && add_text(o, "namespace", s->public.namespace) &&
           add_text(o, "hostname", s->public.hostname) && add_addresses(o, s) && add_service_lists(o, s) &&
           add_reference(o, "waypoint", s->waypoint) && add_weighted(o, s) && add_balancing(o, s) &&
           add_some_text(o, "ipFamilies", families[s->families]) &&
           cJSON_AddBoolToObject(o, "canonical", s->canonical) &&
           add_text(o, "visibility", s->namespace_only ? "Namespace" : "Public");
}
