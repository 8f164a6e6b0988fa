/* SPDX-License-Identifier: Apache-2.0 */
/*
 * istio.workload.Address (contract section 1.2) to workloads and services.
 *
 * An enum value that is not known here does not hide the resource: it counts as the value that is safe. For a
 * tunnel protocol that is HBONE (never plaintext), for a status unhealthy, for the rest the zero value.
 */
#include "lib/proto/workload.pb-c.h"
#include "lib/spiffe.h"
#include "proxy/state/decode.h"
#include "proxy/state/gateway_reference.h"
#include "proxy/state/intern.h"
#include "proxy/state/service_decode.h"
#include "proxy/state/state_store.h"

#include <stdlib.h>

typedef Istio__Workload__Workload Message;

static int check(const Message *m, char *error, size_t error_size)
{
    int r;

    if ((int)m->tunnel_protocol == ISTIO__WORKLOAD__TUNNEL_PROTOCOL__LEGACY_ISTIO_MTLS)
        return refuse(error, error_size, "tunnel_protocol 2 is not supported");
    if (m->n_addresses > STATE_LIST_MAX || m->n_services > STATE_LIST_MAX ||
        m->n_authorization_policies > STATE_LIST_MAX)
        return refuse(error, error_size, "more than %d addresses, services or policies", STATE_LIST_MAX);
    for (size_t i = 0; i < m->n_addresses; i++) {
        if (m->addresses[i].len != 4 && m->addresses[i].len != 16)
            return refuse(error, error_size, "address %zu has %zu bytes, not 4 or 16", i,
                          m->addresses[i].len);
    }
    for (size_t i = 0; i < m->n_services; i++) {
        if (!strchr(m->services[i]->key, '/'))
            return refuse(error, error_size, "service key \"%.128s\" is not namespace/hostname",
                          m->services[i]->key);
    }
    r = gateway_reference_check(m->waypoint, "waypoint", error, error_size);
    if (r == 0)
        r = gateway_reference_check(m->network_gateway, "network_gateway", error, error_size);
    return r;
}

static size_t ports_of(const Istio__Workload__Workload__ServicesEntry *entry)
{
    return entry->value ? entry->value->n_ports : 0;
}

/* The name is mostly the end of the uid; then it needs no memory of its own. */
static const char *place_name(struct layout *l, const char *uid_text, const char *uid, const char *name)
{
    size_t uid_len = strlen(uid_text), name_len = strlen(name);

    if (uid_len >= name_len && !strcmp(uid_text + uid_len - name_len, name))
        return l->base ? uid + uid_len - name_len : NULL;
    return layout_text(l, name);
}

/* Sets the pointers to the parts behind the struct; with w NULL it counts. Returns the size of all. */
static size_t place(const Message *m, const char *uid_text, struct workload_full *w)
{
    struct layout l = {.base = (char *)w};
    struct workload_full scratch, *to = w ? w : &scratch;

    layout_take(&l, sizeof(*w));
    to->addresses = layout_take(&l, m->n_addresses * sizeof(*to->addresses));
    to->services = layout_take(&l, m->n_services * sizeof(*to->services));
    to->policies = layout_take(&l, m->n_authorization_policies * sizeof(*to->policies));
    to->waypoint = m->waypoint ? layout_take(&l, sizeof(*to->waypoint)) : NULL;
    to->gateway = m->network_gateway ? layout_take(&l, sizeof(*to->gateway)) : NULL;
    for (size_t i = 0; i < m->n_services; i++) {
        size_t n = ports_of(m->services[i]);

        if (w)
            w->services[i].ports_offset = (uint32_t)l.len;
        layout_take(&l, n * sizeof(struct port_map));
    }
    to->public.uid = layout_text(&l, uid_text);
    to->public.name = place_name(&l, uid_text, to->public.uid, m->name);
    to->public.hostname = layout_text(&l, m->hostname);
    return l.len;
}

static const char *or_default(const char *text, const char *otherwise)
{
    return *text ? text : otherwise;
}

/* Empty if the parts make none: such a workload is never an expected peer. */
static const char *identity_of(const struct workload *w)
{
    char uri[SPIFFE_MAX];
    struct spiffe parts;
    int len = spiffe_format(uri, sizeof(uri), w->trust_domain, w->namespace, w->service_account);

    if (len < 0 || spiffe_parse(uri, (size_t)len, &parts) < 0)
        return intern_get("");
    return intern_get(uri);
}

static int fill_names(struct workload *w, const Message *m)
{
    const Istio__Workload__Locality none = ISTIO__WORKLOAD__LOCALITY__INIT;
    const Istio__Workload__Locality *locality = m->locality ? m->locality : &none;
    const struct {
        const char **field, *text;
    } names[] = {
        {&w->namespace, m->namespace_},
        {&w->service_account, or_default(m->service_account, "default")},
        {&w->trust_domain, or_default(m->trust_domain, "cluster.local")},
        {&w->network, m->network},
        {&w->node, m->node},
        {&w->cluster_id, or_default(m->cluster_id, "Kubernetes")},
        {&w->canonical_name, m->canonical_name},
        {&w->canonical_revision, m->canonical_revision},
        {&w->workload_name, m->workload_name},
        {&w->region, locality->region},
        {&w->zone, locality->zone},
        {&w->subzone, locality->subzone},
    };

    for (size_t i = 0; i < array_size(names); i++) {
        *names[i].field = intern_get(names[i].text);
        if (!*names[i].field)
            return -ENOMEM;
    }
    w->identity = identity_of(w);
    return w->identity ? 0 : -ENOMEM;
}

static void fill_values(struct workload_full *w, const Message *m)
{
    static bool warned_protocol, warned_status, warned_type, warned_mode, warned_tunnel;
    struct workload *p = &w->public;

    p->protocol = m->tunnel_protocol == ISTIO__WORKLOAD__TUNNEL_PROTOCOL__NONE ? TUNNEL_NONE : TUNNEL_HBONE;
    if ((unsigned)m->tunnel_protocol > ISTIO__WORKLOAD__TUNNEL_PROTOCOL__HBONE)
        warn_unknown(&warned_protocol, "tunnel_protocol", (int)m->tunnel_protocol, "HBONE");
    p->healthy = m->status == ISTIO__WORKLOAD__WORKLOAD_STATUS__HEALTHY;
    if ((unsigned)m->status > ISTIO__WORKLOAD__WORKLOAD_STATUS__UNHEALTHY)
        warn_unknown(&warned_status, "status", (int)m->status, "UNHEALTHY");
    if ((unsigned)m->workload_type <= WORKLOAD_JOB)
        p->type = (enum workload_type)m->workload_type;
    else
        warn_unknown(&warned_type, "workload_type", (int)m->workload_type, "DEPLOYMENT");
    p->host_network = m->network_mode == ISTIO__WORKLOAD__NETWORK_MODE__HOST_NETWORK;
    if ((unsigned)m->network_mode > ISTIO__WORKLOAD__NETWORK_MODE__HOST_NETWORK)
        warn_unknown(&warned_mode, "network_mode", (int)m->network_mode, "STANDARD");
    p->native_tunnel = m->native_tunnel;
    if (m->application_tunnel) {
        w->application_tunnel = true;
        p->application_tunnel_port = port_decode(m->application_tunnel->port);
        p->application_tunnel_protocol =
            m->application_tunnel->protocol == ISTIO__WORKLOAD__APPLICATION_TUNNEL__PROTOCOL__PROXY;
        if ((unsigned)m->application_tunnel->protocol > ISTIO__WORKLOAD__APPLICATION_TUNNEL__PROTOCOL__PROXY)
            warn_unknown(&warned_tunnel, "application_tunnel.protocol", (int)m->application_tunnel->protocol,
                         "NONE");
    }
    p->capacity = m->capacity ? m->capacity->value : 1;
}

static int fill_lists(struct workload_full *w, const Message *m, const struct node_source *nodes)
{
    for (size_t i = 0; i < m->n_addresses; i++) {
        struct workload_address *a = &w->addresses[w->addresses_len];

        addr_from_bytes(m->addresses[i].data, m->addresses[i].len, &a->addr);
        a->offset = (uint32_t)((char *)a - (char *)w);
        if (!workload_has_address(w, &a->addr)) /* none twice */
            w->addresses_len++;
    }
    for (size_t i = 0; i < m->n_authorization_policies; i++) {
        const char *key = intern_get(m->authorization_policies[i]);

        if (!key)
            return -ENOMEM;
        w->policies[w->policies_len++] = key;
    }
    for (size_t i = 0; i < m->n_services; i++) {
        struct workload_service *s = &w->services[i];
        struct port_map *ports = (struct port_map *)((char *)w + s->ports_offset);
        char *slash = strchr(m->services[i]->key, '/');

        *slash = '\0';
        s->node = nodes->get(nodes->data, m->services[i]->key, slash + 1);
        if (!s->node)
            return -ENOMEM;
        w->services_len++;
        s->offset = (uint32_t)((char *)s - (char *)w);
        s->ports_len = (uint32_t)ports_of(m->services[i]);
        for (size_t n = 0; n < s->ports_len; n++)
            ports[n] = (struct port_map){port_decode(m->services[i]->value->ports[n]->service_port),
                                         port_decode(m->services[i]->value->ports[n]->target_port)};
    }
    if (w->waypoint &&
        gateway_reference_fill((struct gateway_reference *)(uintptr_t)w->waypoint, m->waypoint) < 0)
        return -ENOMEM;
    if (w->gateway &&
        gateway_reference_fill((struct gateway_reference *)(uintptr_t)w->gateway, m->network_gateway) < 0)
        return -ENOMEM;
    return 0;
}

static int workload_decode(const char *name, const Message *m, const struct node_source *nodes,
                           struct workload_full **ret, char *error, size_t error_size)
{
    const char *uid = *m->uid ? m->uid : name;
    struct workload_full *w;
    size_t size;
    int r;

    if (!*uid)
        return refuse(error, error_size, "a workload without uid");
    r = check(m, error, error_size);
    if (r < 0)
        return r;
    size = place(m, uid, NULL);
    w = calloc(1, size);
    if (!w)
        return -ENOMEM;
    place(m, uid, w);
    w->public.references = 1;
    r = fill_names(&w->public, m);
    if (r == 0)
        r = fill_lists(w, m, nodes);
    if (r < 0) {
        workload_unref(&w->public);
        return r;
    }
    fill_values(w, m);
    *ret = w;
    return 0;
}

int workload_placeholder(const struct pod_words *pod, const char *network, const char *node,
                         struct workload_full **ret)
{
    Message m = ISTIO__WORKLOAD__WORKLOAD__INIT;
    char error[128];

    m.uid = (char *)pod->uid;
    m.name = (char *)pod->name;
    m.namespace_ = (char *)pod->namespace;
    m.service_account = (char *)pod->service_account;
    m.trust_domain = (char *)pod->trust_domain;
    m.network = (char *)network;
    m.node = (char *)node;
    return workload_decode(pod->uid, &m, NULL, ret, error, sizeof(error));
}

int address_decode(const char *name, const uint8_t *value, size_t len, const struct node_source *nodes,
                   struct address_resource *ret, char *error, size_t error_size)
{
    struct address_resource decoded = {};
    const Istio__Workload__Address *m;
    struct decode_arena arena;
    int r;

    if (len > STATE_RESOURCE_MAX)
        return refuse(error, error_size, "%zu bytes are more than %u", len, STATE_RESOURCE_MAX);
    arena_init(&arena);
    m = (void *)arena_decode(&arena, &istio__workload__address__descriptor, value, len);
    if (!m)
        r = refuse(error, error_size, "not an istio.workload.Address");
    else if (m->type_case == ISTIO__WORKLOAD__ADDRESS__TYPE_WORKLOAD)
        r = workload_decode(name, m->workload, nodes, &decoded.workload, error, error_size);
    else if (m->type_case == ISTIO__WORKLOAD__ADDRESS__TYPE_SERVICE)
        r = service_decode(m->service, nodes, &decoded.service, error, error_size);
    else
        r = refuse(error, error_size, "neither a workload nor a service");
    arena_release(&arena);
    if (r == 0)
        *ret = decoded;
    else if (r == -ENOMEM)
        snprintf(error, error_size, "out of memory");
    return r;
}
