/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a large mesh costs the proxy's state: bench-state [workloads [services]]. Loads pods as a control
 * plane would send them (default 100000 in 1000 services), changes one, routes connections, and removes all.
 */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "lib/cleanup.h"
#include "lib/proto/workload.pb-c.h"
#include "proxy/route/route.h"
#include "proxy/state/rcu.h"
#include "proxy/state/reclaim.h"
#include "proxy/state/state.h"

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static size_t resident(void)
{
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");

    if (!f || fscanf(f, "%*u %lu", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return pages * 4096;
}

static void apply(struct state *state, const Istio__Workload__Address *resource)
{
    size_t len = istio__workload__address__get_packed_size(resource);
    _cleanup_free_ uint8_t *bytes = malloc(len);
    char error[128];

    if (!bytes)
        abort();
    istio__workload__address__pack(resource, bytes);
    if (state_apply(state, STATE_ADDRESS, "", bytes, len, error, sizeof(error)) < 0) {
        fprintf(stderr, "refused: %s\n", error);
        exit(1);
    }
}

static void apply_workload(struct state *state, unsigned i, unsigned services, bool healthy)
{
    Istio__Workload__Address resource = ISTIO__WORKLOAD__ADDRESS__INIT;
    Istio__Workload__Workload w = ISTIO__WORKLOAD__WORKLOAD__INIT;
    Istio__Workload__Workload__ServicesEntry entry = ISTIO__WORKLOAD__WORKLOAD__SERVICES_ENTRY__INIT,
                                             *entries = &entry;
    Istio__Workload__PortList list = ISTIO__WORKLOAD__PORT_LIST__INIT;
    Istio__Workload__Port port = ISTIO__WORKLOAD__PORT__INIT, *ports = &port;
    Istio__Workload__Locality locality = ISTIO__WORKLOAD__LOCALITY__INIT;
    uint8_t v4[4] = {10, (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i};
    uint8_t v6[16] = {0xfd, [13] = (uint8_t)(i >> 16), [14] = (uint8_t)(i >> 8), [15] = (uint8_t)i};
    ProtobufCBinaryData addresses[2] = {{4, v4}, {16, v6}};
    unsigned service = i % services;
    char namespace[32], name[64], uid[128], account[32], node[32], key[128], zone[16], workload[32];

    snprintf(namespace, sizeof(namespace), "team-%u", service % 50);
    snprintf(workload, sizeof(workload), "app-%u", service);
    snprintf(name, sizeof(name), "app-%u-6b99b75d5f-%05x", service, i);
    snprintf(uid, sizeof(uid), "Kubernetes//Pod/%s/%s", namespace, name);
    snprintf(account, sizeof(account), "app-%u", service);
    snprintf(node, sizeof(node), "node-%u", i / 100);
    snprintf(key, sizeof(key), "%s/app-%u.%s.svc.cluster.local", namespace, service, namespace);
    snprintf(zone, sizeof(zone), "zone-%c", 'a' + (int)(i / 100 % 3));
    w.uid = uid;
    w.name = name;
    w.namespace_ = namespace;
    w.n_addresses = 2;
    w.addresses = addresses;
    w.tunnel_protocol = ISTIO__WORKLOAD__TUNNEL_PROTOCOL__HBONE;
    w.service_account = account;
    w.node = node;
    w.canonical_name = workload;
    w.canonical_revision = "latest";
    w.workload_type = ISTIO__WORKLOAD__WORKLOAD_TYPE__POD;
    w.workload_name = workload;
    w.cluster_id = "Kubernetes";
    w.status = healthy ? 0 : 1;
    locality.region = "region-1";
    locality.zone = zone;
    w.locality = &locality;
    port.service_port = 80;
    port.target_port = 8080;
    list.n_ports = 1;
    list.ports = &ports;
    entry.key = key;
    entry.value = &list;
    w.n_services = 1;
    w.services = &entries;
    resource.type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_WORKLOAD;
    resource.workload = &w;
    apply(state, &resource);
}

static void apply_service(struct state *state, unsigned i)
{
    Istio__Workload__Address resource = ISTIO__WORKLOAD__ADDRESS__INIT;
    Istio__Workload__Service s = ISTIO__WORKLOAD__SERVICE__INIT;
    Istio__Workload__NetworkAddress address = ISTIO__WORKLOAD__NETWORK_ADDRESS__INIT, *addresses = &address;
    Istio__Workload__Port port = ISTIO__WORKLOAD__PORT__INIT, *ports = &port;
    Istio__Workload__LoadBalancing balancing = ISTIO__WORKLOAD__LOAD_BALANCING__INIT;
    Istio__Workload__LoadBalancing__Scope scopes[] = {6, 1, 2};
    uint8_t v4[4] = {11, 0, (uint8_t)(i >> 8), (uint8_t)i};
    char namespace[32], name[32], hostname[128];

    snprintf(namespace, sizeof(namespace), "team-%u", i % 50);
    snprintf(name, sizeof(name), "app-%u", i);
    snprintf(hostname, sizeof(hostname), "%s.%s.svc.cluster.local", name, namespace);
    s.name = name;
    s.namespace_ = namespace;
    s.hostname = hostname;
    address.address = (ProtobufCBinaryData){4, v4};
    s.n_addresses = 1;
    s.addresses = &addresses;
    port.service_port = 80;
    port.target_port = 8080;
    s.n_ports = 1;
    s.ports = &ports;
    if (i % 2) { /* every second one by preference, so that both ways of choosing are seen */
        balancing.mode = ISTIO__WORKLOAD__LOAD_BALANCING__MODE__FAILOVER;
        balancing.n_routing_preference = 3;
        balancing.routing_preference = scopes;
        s.load_balancing = &balancing;
    }
    resource.type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_SERVICE;
    resource.service = &s;
    apply(state, &resource);
}

static void route_many(struct state *state, unsigned services, unsigned odd)
{
    const unsigned n = 200000;
    struct endpoint destination = {.port = 80};
    struct addr self = {.bytes = {[10] = 0xff, [11] = 0xff, [12] = 10}};
    const struct workload *source = state_workload_by_address(state, &self);
    uint64_t random = 1;
    double begin = now();

    for (unsigned i = 0; i < n; i++) {
        unsigned service = (i * 2 + odd) % services;
        uint8_t v4[4] = {11, 0, (uint8_t)(service >> 8), (uint8_t)service};
        struct route route;

        addr_from_bytes(v4, 4, &destination.addr);
        route_outbound(state, source, &destination, &random, NULL, &route);
        if (route.kind != ROUTE_HBONE) {
            fprintf(stderr, "not routed: %s\n", route.detail);
            exit(1);
        }
        route_release(&route);
    }
    printf("route_%s_nanoseconds=%.0f\n", odd ? "by_preference" : "any", (now() - begin) / n * 1e9);
}

int main(int argc, char **argv)
{
    unsigned workloads = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 100000;
    unsigned services = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 1000;
    size_t before, heap;
    struct state *state;
    double begin, slowest = 0;

    if (!workloads || !services || services > 65536 || services > workloads ||
        state_new("node-7", "", NULL, NULL, &state) < 0)
        return 1;
    reader_register();
    reader_offline();
    before = resident();
    heap = mallinfo2().uordblks + mallinfo2().hblkhd;
    begin = now();
    for (unsigned i = 0; i < services; i++)
        apply_service(state, i);
    for (unsigned i = 0; i < workloads; i++)
        apply_workload(state, i, services, true);
    printf("load_seconds=%.3f\n", now() - begin);
    begin = now();
    state_commit(state);
    printf("commit_seconds=%.3f\n", now() - begin);
    reclaim_wait();
    printf("resident_bytes_per_workload=%.0f\n", (double)(resident() - before) / workloads);
    heap = mallinfo2().uordblks + mallinfo2().hblkhd - heap;
    printf("allocated_bytes_per_workload=%.0f\n", (double)heap / workloads);
    begin = now();
    for (unsigned i = 0; i < 1000; i++) {
        double one = now();

        apply_workload(state, i * 37 % workloads, services, i % 2);
        state_commit(state);
        if (now() - one > slowest)
            slowest = now() - one;
    }
    printf("update_microseconds=%.1f slowest=%.1f\n", (now() - begin) * 1e3, slowest * 1e6);
    reader_online();
    route_many(state, services, 0);
    if (services > 1)
        route_many(state, services, 1);
    reader_offline();
    begin = now();
    state_free(&state);
    printf("free_seconds=%.3f\n", now() - begin);
    reader_unregister();
    return 0;
}
