/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/proxy/mesh_samples.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/proto/authorization.pb-c.h"
#include "lib/proto/workload.pb-c.h"

#define W(name) Istio__Workload__##name
#define S(name) Istio__Security__##name

char sample_error[256];
struct sample_changes sample_changes;

/* Messages of one resource; released when it is packed. */
static char *pool;
static size_t pool_used;

#define POOL_SIZE 65536

static void *take(size_t size)
{
    void *p;

    if (!pool)
        pool = calloc(1, POOL_SIZE);
    cr_assert(pool && pool_used + size + 16 <= POOL_SIZE);
    p = pool + pool_used;
    pool_used += (size + 15) & ~(size_t)15;
    return p;
}

static uint8_t *pack(const ProtobufCMessage *message, size_t *ret_len)
{
    uint8_t *bytes;

    *ret_len = protobuf_c_message_get_packed_size(message);
    bytes = malloc(*ret_len + 1);
    cr_assert(bytes != NULL);
    protobuf_c_message_pack(message, bytes);
    free(pool);
    pool = NULL;
    pool_used = 0;
    return bytes;
}

static char *text(const char *value)
{
    char *copy;

    if (!value)
        return (char *)"";
    copy = take(strlen(value) + 1);
    strcpy(copy, value);
    return copy;
}

struct addr sample_addr(const char *value)
{
    struct addr a;

    cr_assert(addr_parse(value, &a) == 0, "%s", value);
    return a;
}

struct endpoint sample_endpoint(const char *value)
{
    struct endpoint e;

    cr_assert(endpoint_parse(value, &e) == 0, "%s", value);
    return e;
}

static ProtobufCBinaryData address(const char *value)
{
    ProtobufCBinaryData data = {.data = take(16)};
    struct addr a;

    if (!strcmp(value, "bad")) {
        data.len = 5;
        return data;
    }
    a = sample_addr(value);
    data.len = addr_to_bytes(&a, data.data);
    return data;
}

#define ALLOC(type, init)              \
    ({                                 \
        type *_m = take(sizeof(type)); \
        *_m = (type)init;              \
        _m;                            \
    })

static W(GatewayAddress) * reference(const char *value)
{
    W(GatewayAddress) *g = ALLOC(W(GatewayAddress), ISTIO__WORKLOAD__GATEWAY_ADDRESS__INIT);
    char *copy = text(value), *colon = strrchr(copy, ':'), *slash = strchr(copy, '/');

    if (!strcmp(value, "none"))
        return g;
    cr_assert(colon && slash, "%s", value);
    *colon = *slash = '\0';
    g->hbone_mtls_port = (uint32_t)atoi(colon + 1);
    if (*copy == '@') {
        g->destination_case = ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_ADDRESS;
        g->address = ALLOC(W(NetworkAddress), ISTIO__WORKLOAD__NETWORK_ADDRESS__INIT);
        g->address->network = copy + 1;
        g->address->address = address(slash + 1);
    } else {
        g->destination_case = ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_HOSTNAME;
        g->hostname = ALLOC(W(NamespacedHostname), ISTIO__WORKLOAD__NAMESPACED_HOSTNAME__INIT);
        g->hostname->namespace_ = copy;
        g->hostname->hostname = slash + 1;
    }
    return g;
}

static size_t fill_ports(W(Port) * **ret, const struct sample_port *ports, size_t max)
{
    size_t n = 0;

    *ret = take(max * sizeof(**ret));
    for (; n < max && ports[n].service; n++) {
        (*ret)[n] = ALLOC(W(Port), ISTIO__WORKLOAD__PORT__INIT);
        (*ret)[n]->service_port = ports[n].service;
        (*ret)[n]->target_port = ports[n].target;
    }
    return n;
}

static size_t fill_texts(char ***ret, const char *const *texts, size_t max)
{
    size_t n = 0;

    *ret = take(max * sizeof(**ret));
    for (; n < max && texts[n]; n++)
        (*ret)[n] = text(texts[n]);
    return n;
}

static void fill_memberships(W(Workload) * m, const struct sample_workload *w)
{
    m->services = take(4 * sizeof(m->services[0]));
    for (; m->n_services < 4 && w->services[m->n_services].key; m->n_services++) {
        W(Workload__ServicesEntry) *e =
            ALLOC(W(Workload__ServicesEntry), ISTIO__WORKLOAD__WORKLOAD__SERVICES_ENTRY__INIT);

        e->key = text(w->services[m->n_services].key);
        e->value = ALLOC(W(PortList), ISTIO__WORKLOAD__PORT_LIST__INIT);
        e->value->n_ports = fill_ports(&e->value->ports, w->services[m->n_services].ports, 3);
        m->services[m->n_services] = e;
    }
}

static void fill_workload(W(Workload) * m, const struct sample_workload *w)
{
    char uid[256];

    snprintf(uid, sizeof(uid), "Kubernetes//Pod/%s/%s", w->namespace ? w->namespace : "shop", w->name);
    m->uid = text(w->uid ? w->uid : uid);
    m->name = text(w->name);
    m->namespace_ = text(w->namespace ? w->namespace : "shop");
    m->service_account = text(w->account ? w->account : w->name);
    m->trust_domain = text(w->trust_domain);
    m->network = text(w->network);
    m->node = text(w->node);
    m->hostname = text(w->hostname);
    m->cluster_id = text(w->cluster);
    m->canonical_name = text(w->name);
    m->canonical_revision = text("latest");
    m->workload_name = text(w->name);
    m->tunnel_protocol = w->plain ? 0 : 1;
    if (w->protocol)
        m->tunnel_protocol = (W(TunnelProtocol))w->protocol;
    m->status = (W(WorkloadStatus))w->status;
    m->network_mode = (W(NetworkMode))w->mode;
    m->workload_type = (W(WorkloadType))w->type;
    m->native_tunnel = w->native;
    m->addresses = take(4 * sizeof(m->addresses[0]));
    for (; m->n_addresses < 4 && w->addresses[m->n_addresses]; m->n_addresses++)
        m->addresses[m->n_addresses] = address(w->addresses[m->n_addresses]);
    if (w->region || w->zone || w->subzone) {
        m->locality = ALLOC(W(Locality), ISTIO__WORKLOAD__LOCALITY__INIT);
        m->locality->region = text(w->region);
        m->locality->zone = text(w->zone);
        m->locality->subzone = text(w->subzone);
    }
    m->waypoint = w->waypoint ? reference(w->waypoint) : NULL;
    m->network_gateway = w->gateway ? reference(w->gateway) : NULL;
    m->n_authorization_policies = fill_texts(&m->authorization_policies, w->policies, 4);
    fill_memberships(m, w);
    if (w->capacity || w->no_capacity) {
        m->capacity = ALLOC(Google__Protobuf__UInt32Value, GOOGLE__PROTOBUF__UINT32_VALUE__INIT);
        m->capacity->value = w->capacity;
    }
    if (w->tunnel) {
        m->application_tunnel = ALLOC(W(ApplicationTunnel), ISTIO__WORKLOAD__APPLICATION_TUNNEL__INIT);
        m->application_tunnel->protocol = (W(ApplicationTunnel__Protocol))w->tunnel_protocol;
        m->application_tunnel->port = w->tunnel_port;
    }
}

uint8_t *workload_bytes(const struct sample_workload *w, size_t *ret_len)
{
    W(Workload) *m = ALLOC(W(Workload), ISTIO__WORKLOAD__WORKLOAD__INIT);
    W(Address) resource = ISTIO__WORKLOAD__ADDRESS__INIT;

    fill_workload(m, w);
    resource.type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_WORKLOAD;
    resource.workload = m;
    return pack(&resource.base, ret_len);
}

static W(NetworkAddress) * service_address(const char *value)
{
    W(NetworkAddress) *a = ALLOC(W(NetworkAddress), ISTIO__WORKLOAD__NETWORK_ADDRESS__INIT);
    char *copy = text(value), *at = strchr(copy, '@'), *slash = strchr(copy, '/');

    a->network = text(NULL);
    if (at) {
        *at = '\0';
        a->network = copy;
        copy = at + 1;
    }
    if (slash) {
        *slash = '\0';
        a->prefix_case = ISTIO__WORKLOAD__NETWORK_ADDRESS__PREFIX_LENGTH;
        a->length = (uint32_t)atoi(slash + 1);
    }
    a->address = address(copy);
    return a;
}

static W(LoadBalancing) * balancing(const struct sample_service *s)
{
    W(LoadBalancing) *b = ALLOC(W(LoadBalancing), ISTIO__WORKLOAD__LOAD_BALANCING__INIT);

    b->mode = (W(LoadBalancing__Mode))s->mode;
    b->health_policy = (W(LoadBalancing__HealthPolicy))s->health;
    b->routing_preference = take(6 * sizeof(b->routing_preference[0]));
    for (; b->n_routing_preference < 6 && s->preferences[b->n_routing_preference]; b->n_routing_preference++)
        b->routing_preference[b->n_routing_preference] =
            (W(LoadBalancing__Scope))s->preferences[b->n_routing_preference];
    return b;
}

uint8_t *service_bytes(const struct sample_service *s, size_t *ret_len)
{
    W(Service) *m = ALLOC(W(Service), ISTIO__WORKLOAD__SERVICE__INIT);
    W(Address) resource = ISTIO__WORKLOAD__ADDRESS__INIT;
    const char *namespace = s->namespace ? s->namespace : "shop";
    char hostname[256];

    snprintf(hostname, sizeof(hostname), "%s.%s.svc.cluster.local", s->name, namespace);
    m->name = text(s->name);
    m->namespace_ = text(namespace);
    m->hostname = text(s->hostname ? s->hostname : hostname);
    m->addresses = take(4 * sizeof(m->addresses[0]));
    for (; m->n_addresses < 4 && s->addresses[m->n_addresses]; m->n_addresses++)
        m->addresses[m->n_addresses] = service_address(s->addresses[m->n_addresses]);
    m->n_ports = fill_ports(&m->ports, s->ports, 4);
    m->n_subject_alt_names = fill_texts(&m->subject_alt_names, s->names, 4);
    m->waypoint = s->waypoint ? reference(s->waypoint) : NULL;
    m->weighted_waypoints = take(4 * sizeof(m->weighted_waypoints[0]));
    for (; m->n_weighted_waypoints < 4 && s->weighted[m->n_weighted_waypoints].reference;
         m->n_weighted_waypoints++) {
        W(WeightedWaypoint) *w = ALLOC(W(WeightedWaypoint), ISTIO__WORKLOAD__WEIGHTED_WAYPOINT__INIT);

        w->destination = reference(s->weighted[m->n_weighted_waypoints].reference);
        w->weight = s->weighted[m->n_weighted_waypoints].weight;
        m->weighted_waypoints[m->n_weighted_waypoints] = w;
    }
    if (s->balancing || s->mode || s->health)
        m->load_balancing = balancing(s);
    m->ip_families = (W(IPFamilies))s->families;
    m->visibility = (W(Service__Visibility))s->visibility;
    m->canonical = s->canonical;
    resource.type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_SERVICE;
    resource.service = m;
    return pack(&resource.base, ret_len);
}

/* ---- policies ---- */

static S(StringMatch) * string_match(const char *value)
{
    S(StringMatch) *m = ALLOC(S(StringMatch), ISTIO__SECURITY__STRING_MATCH__INIT);
    char *copy = text(value);
    size_t len = strlen(copy);

    if (!strcmp(value, "?"))
        return m;
    if (!strcmp(value, "*")) {
        m->match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PRESENCE;
        m->presence = ALLOC(Google__Protobuf__Empty, GOOGLE__PROTOBUF__EMPTY__INIT);
    } else if (*copy == '=') {
        m->match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_EXACT;
        m->exact = copy + 1;
    } else if (*copy == '*') {
        m->match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_SUFFIX;
        m->suffix = copy + 1;
    } else {
        copy[len - 1] = '\0';
        m->match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PREFIX;
        m->prefix = copy;
    }
    return m;
}

static size_t strings(S(StringMatch) * **ret, const char *const *values)
{
    size_t n = 0;

    *ret = take(3 * sizeof(**ret));
    for (; n < 3 && values[n]; n++)
        (*ret)[n] = string_match(values[n]);
    return n;
}

static size_t prefixes(S(Address) * **ret, const char *const *values)
{
    size_t n = 0;

    *ret = take(3 * sizeof(**ret));
    for (; n < 3 && values[n]; n++) {
        char *copy = text(values[n]), *slash = strchr(copy, '/');
        S(Address) *a = ALLOC(S(Address), ISTIO__SECURITY__ADDRESS__INIT);

        if (slash) {
            *slash = '\0';
            a->length = (uint32_t)atoi(slash + 1);
        }
        a->address = address(copy);
        (*ret)[n] = a;
    }
    return n;
}

static size_t ports(uint32_t **ret, const char *const *values)
{
    size_t n = 0;

    *ret = take(3 * sizeof(**ret));
    for (; n < 3 && values[n]; n++)
        (*ret)[n] = (uint32_t)atoi(values[n]);
    return n;
}

static size_t accounts(S(ServiceAccountMatch) * **ret, const char *const *values)
{
    size_t n = 0;

    *ret = take(3 * sizeof(**ret));
    for (; n < 3 && values[n]; n++) {
        char *copy = text(values[n]), *slash = strchr(copy, '/');
        S(ServiceAccountMatch) *a =
            ALLOC(S(ServiceAccountMatch), ISTIO__SECURITY__SERVICE_ACCOUNT_MATCH__INIT);

        *slash = '\0';
        a->namespace_ = copy;
        a->service_account = slash + 1;
        (*ret)[n] = a;
    }
    return n;
}

static S(Match) * match(const struct sample_match *s)
{
    S(Match) *m = ALLOC(S(Match), ISTIO__SECURITY__MATCH__INIT);

    m->n_namespaces = strings(&m->namespaces, s->namespaces);
    m->n_not_namespaces = strings(&m->not_namespaces, s->not_namespaces);
    m->n_principals = strings(&m->principals, s->principals);
    m->n_not_principals = strings(&m->not_principals, s->not_principals);
    m->n_source_ips = prefixes(&m->source_ips, s->source_ips);
    m->n_not_source_ips = prefixes(&m->not_source_ips, s->not_source_ips);
    m->n_destination_ips = prefixes(&m->destination_ips, s->destination_ips);
    m->n_not_destination_ips = prefixes(&m->not_destination_ips, s->not_destination_ips);
    m->n_destination_ports = ports(&m->destination_ports, s->destination_ports);
    m->n_not_destination_ports = ports(&m->not_destination_ports, s->not_destination_ports);
    m->n_service_accounts = accounts(&m->service_accounts, s->accounts);
    m->n_not_service_accounts = accounts(&m->not_service_accounts, s->not_accounts);
    return m;
}

static S(Rule) * rule(const struct sample_rule *s)
{
    S(Rule) *m = ALLOC(S(Rule), ISTIO__SECURITY__RULE__INIT);

    m->n_clauses = (size_t)s->clauses_len;
    m->clauses = take(2 * sizeof(m->clauses[0]));
    for (int i = 0; i < s->clauses_len; i++) {
        S(Clause) *c = ALLOC(S(Clause), ISTIO__SECURITY__CLAUSE__INIT);

        c->n_matches = (size_t)s->clauses[i].matches_len;
        c->matches = take(2 * sizeof(c->matches[0]));
        for (int n = 0; n < s->clauses[i].matches_len; n++)
            c->matches[n] = match(&s->clauses[i].matches[n]);
        m->clauses[i] = c;
    }
    return m;
}

uint8_t *policy_bytes(const struct sample_policy *p, size_t *ret_len)
{
    S(Authorization) m = ISTIO__SECURITY__AUTHORIZATION__INIT;

    m.name = text(p->name);
    m.namespace_ = text(p->namespace ? p->namespace : "shop");
    m.scope = (S(Scope))p->scope;
    m.action = (S(Action))p->action;
    m.dry_run = p->dry_run;
    m.n_rules = (size_t)p->rules_len;
    m.rules = take(2 * sizeof(m.rules[0]));
    for (int i = 0; i < p->rules_len; i++)
        m.rules[i] = rule(&p->rules[i]);
    return pack(&m.base, ret_len);
}

/* ---- application ---- */

static int apply(struct state *state, enum state_type type, const char *name, uint8_t *bytes, size_t len)
{
    int r;

    sample_error[0] = '\0';
    r = state_apply(state, type, name, bytes, len, sample_error, sizeof(sample_error));
    cr_assert((r == 0) == (sample_error[0] == '\0'), "result %d, error \"%s\"", r, sample_error);
    free(bytes);
    return r;
}

int apply_workload(struct state *state, const struct sample_workload *w)
{
    size_t len;
    uint8_t *bytes = workload_bytes(w, &len);

    return apply(state, STATE_ADDRESS, w->uid ? w->uid : "unused", bytes, len);
}

int apply_service(struct state *state, const struct sample_service *s)
{
    size_t len;
    uint8_t *bytes = service_bytes(s, &len);

    return apply(state, STATE_ADDRESS, "unused", bytes, len);
}

int apply_policy(struct state *state, const struct sample_policy *p)
{
    size_t len;
    uint8_t *bytes = policy_bytes(p, &len);

    return apply(state, STATE_AUTHORIZATION, "unused", bytes, len);
}

static void changed(void *data, bool policies)
{
    struct sample_changes *changes = data;

    changes->all++;
    changes->policies += policies;
}

struct state *sample_state(void)
{
    struct state *state;

    sample_changes = (struct sample_changes){};
    cr_assert(state_new("node-a", "", changed, &sample_changes, &state) == 0);
    return state;
}
