/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/mesh_file/mesh_file_items.h"

#include <errno.h>
#include <string.h>

#include "lib/cleanup.h"

typedef Istio__Workload__Service service;

static Istio__Workload__NetworkAddress *new_address(struct decode *d)
{
    Istio__Workload__NetworkAddress *address = decode_alloc(d, sizeof(*address));

    if (address)
        istio__workload__network_address__init(address);
    return address;
}

/* "network/address"; the network may be empty, and a bare address is one in the network without a name. */
static int read_vip(struct decode *d, const struct yaml_node *node, const struct decode_field *field,
                    void *into)
{
    Istio__Workload__NetworkAddress *address = new_address(d);
    const char *text, *slash;
    int r;

    if (!address)
        return -ENOMEM;
    r = decode_text(d, node, NULL, &text);
    if (r < 0)
        return r;
    slash = strchr(text, '/');
    if (slash) {
        address->network = arena_copy(&d->source->arena, text, (size_t)(slash - text));
        if (!address->network)
            return -ENOMEM;
        text = slash + 1;
    }
    *(Istio__Workload__NetworkAddress **)into = address;
    return decode_ip(d, node, text, &address->address);
}

static int read_range(struct decode *d, const struct yaml_node *node, const struct decode_field *field,
                      void *into)
{
    Istio__Workload__NetworkAddress *address = into;
    int r = decode_expect(d, node, YAML_SCALAR, "a range such as 10.0.0.0/8");

    if (r < 0)
        return r;
    address->prefix_case = ISTIO__WORKLOAD__NETWORK_ADDRESS__PREFIX_LENGTH;
    return decode_cidr(d, node, node->text, &address->address, &address->length);
}

static const struct decode_field range_fields[] = {
    {"network", decode_text, offsetof(Istio__Workload__NetworkAddress, network), false, NULL},
    {"cidr", read_range, 0, true, NULL},
};
static const struct decode_message range = {&istio__workload__network_address__descriptor, range_fields,
                                            array_size(range_fields)};

static int read_weight(struct decode *d, const struct yaml_node *node, const struct decode_field *field,
                       void *into)
{
    return decode_number(d, node, 0, 1000000, "a weight", into);
}

static const struct decode_field weighted_fields[] = {
    {"destination", mesh_file_read_gateway, offsetof(Istio__Workload__WeightedWaypoint, destination), true,
     NULL},
    {"weight", read_weight, offsetof(Istio__Workload__WeightedWaypoint, weight), true, NULL},
};
static const struct decode_message weighted = {&istio__workload__weighted_waypoint__descriptor,
                                               weighted_fields, array_size(weighted_fields)};

static const struct decode_name scopes[] = {
    {"Region", ISTIO__WORKLOAD__LOAD_BALANCING__SCOPE__REGION},
    {"Zone", ISTIO__WORKLOAD__LOAD_BALANCING__SCOPE__ZONE},
    {"Subzone", ISTIO__WORKLOAD__LOAD_BALANCING__SCOPE__SUBZONE},
    {"Node", ISTIO__WORKLOAD__LOAD_BALANCING__SCOPE__NODE},
    {"Cluster", ISTIO__WORKLOAD__LOAD_BALANCING__SCOPE__CLUSTER},
    {"Network", ISTIO__WORKLOAD__LOAD_BALANCING__SCOPE__NETWORK},
    {NULL, 0},
};
static const struct decode_name modes[] = {
    {"Standard", ISTIO__WORKLOAD__LOAD_BALANCING__MODE__UNSPECIFIED_MODE},
    {"Strict", ISTIO__WORKLOAD__LOAD_BALANCING__MODE__STRICT},
    {"Failover", ISTIO__WORKLOAD__LOAD_BALANCING__MODE__FAILOVER},
    {"Passthrough", ISTIO__WORKLOAD__LOAD_BALANCING__MODE__PASSTHROUGH},
    {NULL, 0},
};
static const struct decode_name health_policies[] = {
    {"OnlyHealthy", ISTIO__WORKLOAD__LOAD_BALANCING__HEALTH_POLICY__ONLY_HEALTHY},
    {"AllowAll", ISTIO__WORKLOAD__LOAD_BALANCING__HEALTH_POLICY__ALLOW_ALL},
    {NULL, 0},
};
static const struct decode_name ip_families[] = {
    {"IPv4", ISTIO__WORKLOAD__IPFAMILIES__IPV4_ONLY},
    {"IPv6", ISTIO__WORKLOAD__IPFAMILIES__IPV6_ONLY},
    {"Dual", ISTIO__WORKLOAD__IPFAMILIES__DUAL},
    {NULL, 0},
};
static const struct decode_name visibilities[] = {
    {"Public", ISTIO__WORKLOAD__SERVICE__VISIBILITY__PUBLIC},
    {"Namespace", ISTIO__WORKLOAD__SERVICE__VISIBILITY__NAMESPACE},
    {NULL, 0},
};

static const struct decode_elements preferences = {sizeof(Istio__Workload__LoadBalancing__Scope), decode_enum,
                                                   scopes};
static const struct decode_field balancing_fields[] = {
    {"routingPreferences", decode_list, offsetof(Istio__Workload__LoadBalancing, n_routing_preference), false,
     &preferences},
    {"mode", decode_enum, offsetof(Istio__Workload__LoadBalancing, mode), true, modes},
    {"healthPolicy", decode_enum, offsetof(Istio__Workload__LoadBalancing, health_policy), false,
     health_policies},
};
static const struct decode_message balancing = {&istio__workload__load_balancing__descriptor,
                                                balancing_fields, array_size(balancing_fields)};

/* vips and cidrVips become one list. */
struct item {
    service message;
    size_t ranges_len;
    Istio__Workload__NetworkAddress **ranges;
};

#define FIELD(field) offsetof(struct item, message.field)

static const struct decode_elements vips = {sizeof(void *), read_vip, NULL};
static const struct decode_elements ranges = {sizeof(void *), decode_message, &range};
static const struct decode_elements weighted_list = {sizeof(void *), decode_message, &weighted};

static const struct decode_field fields[] = {
    {"name", decode_word, FIELD(name), true, NULL},
    {"namespace", decode_word, FIELD(namespace_), true, NULL},
    {"hostname", decode_word, FIELD(hostname), true, NULL},
    {"vips", decode_list, FIELD(n_addresses), false, &vips},
    {"cidrVips", decode_list, offsetof(struct item, ranges_len), false, &ranges},
    {"ports", mesh_file_read_ports, FIELD(n_ports), true, "target may be 0"},
    {"subjectAltNames", decode_list, FIELD(n_subject_alt_names), false, &decode_texts},
    {"waypoint", mesh_file_read_gateway, FIELD(waypoint), false, NULL},
    {"weightedWaypoints", decode_list, FIELD(n_weighted_waypoints), false, &weighted_list},
    {"loadBalancer", decode_message, FIELD(load_balancing), false, &balancing},
    {"ipFamilies", decode_enum, FIELD(ip_families), false, ip_families},
    {"canonical", decode_bool, FIELD(canonical), false, NULL},
    {"visibility", decode_enum, FIELD(visibility), false, visibilities},
};

int mesh_file_decode_service(struct decode *d, const struct yaml_node *node, Istio__Workload__Service *ret)
{
    struct item item = {.ranges_len = 0};
    service *s = &item.message;
    Istio__Workload__NetworkAddress **all;
    int r;

    istio__workload__service__init(s);
    r = decode_map(d, node, fields, array_size(fields), &item);
    if (r < 0)
        return r;
    if (item.ranges_len) {
        all = decode_alloc(d, (s->n_addresses + item.ranges_len) * sizeof(void *));
        if (!all)
            return -ENOMEM;
        if (s->n_addresses)
            memcpy(all, s->addresses, s->n_addresses * sizeof(void *));
        memcpy(all + s->n_addresses, item.ranges, item.ranges_len * sizeof(void *));
        s->addresses = all;
        s->n_addresses += item.ranges_len;
    }
    *ret = *s;
    return 0;
}
