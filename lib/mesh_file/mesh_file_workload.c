/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/mesh_file/mesh_file_items.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "bruma/mesh.h"
#include "lib/addr.h"
#include "lib/cleanup.h"

typedef Istio__Workload__Workload workload;
typedef struct mesh_file_workload_item item;

/* Labels of a namespace or a workload: any names and values; one of them is ours. into: enum mesh_mode * */
static int read_labels(struct decode *d, const struct yaml_node *node, const struct decode_field *field,
                       void *into)
{
    enum mesh_mode mode = MESH_MODE_UNSET;
    int r = decode_expect(d, node, YAML_MAP, "a map of labels");
    const char *value;
    size_t before;

    if (r < 0)
        return r;
    for (const struct yaml_node *key = node->child; key; key = key->next->next) {
        if (key->kind != YAML_SCALAR || !*key->text)
            return decode_fail(d, key, "a label's name must be text");
        before = decode_enter_key(d, key->text);
        r = decode_text(d, key->next, NULL, &value);
        if (r < 0)
            return r;
        if (!strcmp(key->text, BRUMA_LABEL_DATAPLANE_MODE)) {
            if (!strcmp(value, "ambient"))
                mode = MESH_MODE_AMBIENT;
            else if (!strcmp(value, "none"))
                mode = MESH_MODE_NONE;
        }
        decode_leave(d, before);
    }
    *(enum mesh_mode *)into = mode;
    return 0;
}

int mesh_file_decode_namespace(struct decode *d, const struct yaml_node *node, struct mesh_namespace *ret)
{
    static const struct decode_field fields[] = {
        {"name", decode_word, offsetof(struct mesh_namespace, name), true, NULL},
        {"labels", read_labels, offsetof(struct mesh_namespace, mode), false, NULL},
        {"annotations", mesh_file_read_annotations, offsetof(struct mesh_namespace, annotations), false,
         NULL},
    };

    return decode_map(d, node, fields, array_size(fields), ret);
}

static int read_ip(struct decode *d, const struct yaml_node *node, const struct decode_field *field,
                   void *into)
{
    int r = decode_expect(d, node, YAML_SCALAR, "an IP address");

    return r < 0 ? r : decode_ip(d, node, node->text, into);
}

static int read_capacity(struct decode *d, const struct yaml_node *node, const struct decode_field *field,
                         void *into)
{
    Google__Protobuf__UInt32Value *capacity = decode_alloc(d, sizeof(*capacity));
    int r;

    if (!capacity)
        return -ENOMEM;
    google__protobuf__uint32_value__init(capacity);
    r = decode_number(d, node, 0, UINT32_MAX, "a weight", &capacity->value);
    if (r < 0)
        return r;
    *(Google__Protobuf__UInt32Value **)into = capacity;
    return 0;
}

int mesh_file_read_ports(struct decode *d, const struct yaml_node *node, const struct decode_field *field,
                         void *into)
{
    int r = decode_expect(d, node, YAML_MAP, "a map of ports, such as {80: 8080}");
    size_t count, i = 0, before;
    Istio__Workload__Port **ports;

    if (r < 0)
        return r;
    count = decode_count(node) / 2;
    ports = decode_alloc(d, count * sizeof(void *));
    if (!ports)
        return -ENOMEM;
    for (const struct yaml_node *key = node->child; key; key = key->next->next, i++) {
        ports[i] = decode_alloc(d, sizeof(*ports[i]));
        if (!ports[i])
            return -ENOMEM;
        istio__workload__port__init(ports[i]);
        r = decode_port(d, key, NULL, &ports[i]->service_port);
        if (r < 0)
            return r;
        for (size_t k = 0; k < i; k++) {
            if (ports[k]->service_port == ports[i]->service_port)
                return decode_fail(d, key, "port %u is given twice", ports[i]->service_port);
        }
        before = decode_enter_key(d, key->text);
        r = decode_number(d, key->next, field && field->more ? 0 : 1, 65535, "a port",
                          &ports[i]->target_port);
        if (r < 0)
            return r;
        decode_leave(d, before);
    }
    memcpy(into, &count, sizeof(count));
    memcpy((char *)into + sizeof(count), &ports, sizeof(ports));
    return 0;
}

static int read_services(struct decode *d, const struct yaml_node *node, const struct decode_field *field,
                         void *into)
{
    static const struct decode_field pair = {.more = "HOSTNAME"};
    Istio__Workload__Workload__ServicesEntry **entries;
    item *w = into;
    int r =
        decode_expect(d, node, YAML_MAP, "a map of services, such as {\"shop/cart.shop.svc\": {80: 8080}}");
    size_t i = 0, before;

    if (r < 0)
        return r;
    entries = decode_alloc(d, decode_count(node) / 2 * sizeof(void *));
    if (!entries)
        return -ENOMEM;
    for (const struct yaml_node *key = node->child; key; key = key->next->next, i++) {
        entries[i] = decode_alloc(d, sizeof(*entries[i]));
        if (!entries[i])
            return -ENOMEM;
        istio__workload__workload__services_entry__init(entries[i]);
        entries[i]->value = decode_alloc(d, sizeof(*entries[i]->value));
        if (!entries[i]->value)
            return -ENOMEM;
        istio__workload__port_list__init(entries[i]->value);
        r = decode_pair(d, key, &pair, &entries[i]->key);
        if (r < 0)
            return r;
        for (size_t k = 0; k < i; k++) {
            if (!strcmp(entries[k]->key, entries[i]->key))
                return decode_fail(d, key, "service \"%s\" is given twice", decode_show(d, key->text));
        }
        before = decode_enter_key(d, key->text);
        if (!decode_is_null(key->next))
            r = mesh_file_read_ports(d, key->next, NULL, &entries[i]->value->n_ports);
        if (r < 0)
            return r;
        decode_leave(d, before);
    }
    w->message.services = entries;
    w->message.n_services = i;
    w->service_nodes = node;
    return 0;
}

static int read_policies(struct decode *d, const struct yaml_node *node, const struct decode_field *field,
                         void *into)
{
    static const struct decode_elements pairs = {sizeof(char *), decode_pair, "NAME"};
    const struct decode_field list = {.more = &pairs};
    item *w = into;

    w->policy_nodes = node;
    return decode_list(d, node, &list, &w->message.n_authorization_policies);
}

/* "namespace/hostname" or "network/address", as the dump of the configuration shows it. */
static int read_destination(struct decode *d, const struct yaml_node *node, const struct decode_field *field,
                            void *into)
{
    Istio__Workload__GatewayAddress *gateway = into;
    const char *text, *slash;
    struct addr addr;
    int r = decode_text(d, node, NULL, &text);

    if (r < 0)
        return r;
    slash = strchr(text, '/');
    if (!slash)
        return decode_fail(d, node, "\"%s\" is neither NAMESPACE/HOSTNAME nor NETWORK/ADDRESS",
                           decode_show(d, text));
    if (addr_parse(slash + 1, &addr) == 0) {
        Istio__Workload__NetworkAddress *address = decode_alloc(d, sizeof(*address));

        if (!address)
            return -ENOMEM;
        istio__workload__network_address__init(address);
        address->network = arena_copy(&d->source->arena, text, (size_t)(slash - text));
        if (!address->network)
            return -ENOMEM;
        gateway->destination_case = ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_ADDRESS;
        gateway->address = address;
        return decode_ip(d, node, slash + 1, &address->address);
    }
    r = decode_pair(d, node, &(const struct decode_field){.more = "HOSTNAME nor NETWORK/ADDRESS"}, &text);
    if (r < 0)
        return r;
    gateway->hostname = decode_alloc(d, sizeof(*gateway->hostname));
    if (!gateway->hostname)
        return -ENOMEM;
    istio__workload__namespaced_hostname__init(gateway->hostname);
    gateway->destination_case = ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_HOSTNAME;
    gateway->hostname->namespace_ = arena_copy(&d->source->arena, text, (size_t)(slash - text));
    gateway->hostname->hostname = arena_copy(&d->source->arena, slash + 1, strlen(slash + 1));
    return gateway->hostname->namespace_ && gateway->hostname->hostname ? 0 : -ENOMEM;
}

int mesh_file_read_gateway(struct decode *d, const struct yaml_node *node, const struct decode_field *field,
                           void *into)
{
    static const struct decode_field fields[] = {
        {"destination", read_destination, 0, true, NULL},
        {"hboneMtlsPort", decode_port, offsetof(Istio__Workload__GatewayAddress, hbone_mtls_port), false,
         NULL},
    };
    Istio__Workload__GatewayAddress *gateway = decode_alloc(d, sizeof(*gateway));
    int r;

    if (!gateway)
        return -ENOMEM;
    istio__workload__gateway_address__init(gateway);
    gateway->hbone_mtls_port = BRUMA_PORT_HBONE;
    r = decode_map(d, node, fields, array_size(fields), gateway);
    if (r < 0)
        return r;
    *(Istio__Workload__GatewayAddress **)into = gateway;
    return 0;
}

static const struct decode_name protocols[] = {
    {"HBONE", MESH_PROTOCOL_HBONE}, {"TCP", MESH_PROTOCOL_TCP}, {NULL, 0}};
static const struct decode_name network_modes[] = {
    {"Standard", ISTIO__WORKLOAD__NETWORK_MODE__STANDARD},
    {"HostNetwork", ISTIO__WORKLOAD__NETWORK_MODE__HOST_NETWORK},
    {NULL, 0},
};
static const struct decode_name workload_types[] = {
    {"deployment", ISTIO__WORKLOAD__WORKLOAD_TYPE__DEPLOYMENT},
    {"cronjob", ISTIO__WORKLOAD__WORKLOAD_TYPE__CRONJOB},
    {"pod", ISTIO__WORKLOAD__WORKLOAD_TYPE__POD},
    {"job", ISTIO__WORKLOAD__WORKLOAD_TYPE__JOB},
    {NULL, 0},
};
static const struct decode_name statuses[] = {
    {"Healthy", ISTIO__WORKLOAD__WORKLOAD_STATUS__HEALTHY},
    {"Unhealthy", ISTIO__WORKLOAD__WORKLOAD_STATUS__UNHEALTHY},
    {NULL, 0},
};
static const struct decode_name tunnel_protocols[] = {
    {"NONE", ISTIO__WORKLOAD__APPLICATION_TUNNEL__PROTOCOL__NONE},
    {"PROXY", ISTIO__WORKLOAD__APPLICATION_TUNNEL__PROTOCOL__PROXY},
    {NULL, 0},
};

static const struct decode_field tunnel_fields[] = {
    {"protocol", decode_enum, offsetof(Istio__Workload__ApplicationTunnel, protocol), true, tunnel_protocols},
    {"port", decode_port, offsetof(Istio__Workload__ApplicationTunnel, port), false, NULL},
};
static const struct decode_message tunnel = {&istio__workload__application_tunnel__descriptor, tunnel_fields,
                                             array_size(tunnel_fields)};

static const struct decode_field locality_fields[] = {
    {"region", decode_text, offsetof(Istio__Workload__Locality, region), false, NULL},
    {"zone", decode_text, offsetof(Istio__Workload__Locality, zone), false, NULL},
    {"subzone", decode_text, offsetof(Istio__Workload__Locality, subzone), false, NULL},
};
static const struct decode_message locality = {&istio__workload__locality__descriptor, locality_fields,
                                               array_size(locality_fields)};

static const struct decode_elements addresses = {sizeof(ProtobufCBinaryData), read_ip, NULL};

#define FIELD(field) offsetof(item, message.field)

static const struct decode_field fields[] = {
    {"uid", decode_text, FIELD(uid), false, NULL},
    {"name", decode_word, FIELD(name), true, NULL},
    {"namespace", decode_word, FIELD(namespace_), true, NULL},
    {"labels", read_labels, offsetof(item, mode), false, NULL},
    {"annotations", mesh_file_read_annotations, offsetof(item, annotations), false, NULL},
    {"serviceAccount", decode_word, FIELD(service_account), false, NULL},
    {"trustDomain", decode_word, FIELD(trust_domain), false, NULL},
    {"workloadIps", decode_list, FIELD(n_addresses), false, &addresses},
    {"hostname", decode_text, FIELD(hostname), false, NULL},
    {"network", decode_text, FIELD(network), false, NULL},
    {"networkMode", decode_enum, FIELD(network_mode), false, network_modes},
    {"protocol", decode_enum, offsetof(item, protocol), false, protocols},
    {"node", decode_text, FIELD(node), false, NULL},
    {"clusterId", decode_text, FIELD(cluster_id), false, NULL},
    {"services", read_services, 0, false, NULL},
    {"authorizationPolicies", read_policies, 0, false, NULL},
    {"waypoint", mesh_file_read_gateway, FIELD(waypoint), false, NULL},
    {"networkGateway", mesh_file_read_gateway, FIELD(network_gateway), false, NULL},
    {"applicationTunnel", decode_message, FIELD(application_tunnel), false, &tunnel},
    {"nativeTunnel", decode_bool, FIELD(native_tunnel), false, NULL},
    {"status", decode_enum, FIELD(status), false, statuses},
    {"capacity", read_capacity, FIELD(capacity), false, NULL},
    {"locality", decode_message, FIELD(locality), false, &locality},
    {"workloadName", decode_text, FIELD(workload_name), false, NULL},
    {"workloadType", decode_enum, FIELD(workload_type), false, workload_types},
    {"canonicalName", decode_text, FIELD(canonical_name), false, NULL},
    {"canonicalRevision", decode_text, FIELD(canonical_revision), false, NULL},
};

/* The name that a control plane gives to a pod. */
static char *pod_uid(struct decode *d, const workload *w)
{
    size_t size = strlen(w->cluster_id) + strlen(w->namespace_) + strlen(w->name) + sizeof("//Pod//");
    char *uid = decode_alloc(d, size);

    if (uid)
        snprintf(uid, size, "%s//Pod/%s/%s", w->cluster_id, w->namespace_, w->name);
    return uid;
}

int mesh_file_decode_workload(struct decode *d, const struct yaml_node *node, const char *trust_domain,
                              struct mesh_file_workload_item *ret)
{
    workload *w = &ret->message;
    int r;

    memset(ret, 0, sizeof(*ret));
    istio__workload__workload__init(w);
    w->trust_domain = (char *)trust_domain;
    w->service_account = (char *)"default";
    w->cluster_id = (char *)"Kubernetes";
    w->workload_type = ISTIO__WORKLOAD__WORKLOAD_TYPE__POD;
    r = decode_map(d, node, fields, array_size(fields), ret);
    if (r < 0)
        return r;
    if (!*w->cluster_id)
        w->cluster_id = (char *)"Kubernetes";
    if (!*w->uid)
        w->uid = pod_uid(d, w);
    return w->uid ? 0 : -ENOMEM;
}
