/* SPDX-License-Identifier: Apache-2.0 */
/* What the mesh knows, in the sense of REGISTRY_ONLY. */
#include <criterion/criterion.h>

#include "proxy/route/known.h"
#include "tests/unit/proxy/mesh_samples.h"

static struct state *state;

static void setup(void)
{
    state = sample_state();
    WORKLOAD(state, .name = "web", .node = "node-a", .addresses = {"10.1.0.2", "fd01::2"});
}

static void teardown(void)
{
    state_free(&state);
}

TestSuite(known, .init = setup, .fini = teardown);

static bool knows(const char *to)
{
    struct endpoint destination = sample_endpoint(to);

    state_commit(state);
    return destination_known(state, state_find_local(state, "shop", "web", ""), &destination);
}

Test(known, nothing_but_what_is_there)
{
    cr_expect(!knows("198.51.100.1:443") && !knows("[2001:db8::1]:443"));
    cr_expect(!knows("169.254.169.254:80"), "the metadata of a cloud");
    cr_expect(knows("10.1.0.2:80") && knows("[fd01::2]:80"), "whatever the port: the route judges that");
}

Test(known, workloads_of_every_kind)
{
    WORKLOAD(state, .name = "plain", .addresses = {"10.1.0.3"}, .plain = true);
    WORKLOAD(state, .name = "api", .uid = "Kubernetes/discovery.k8s.io/EndpointSlice/default/kubernetes",
             .addresses = {"172.18.0.2"}, .plain = true);
    cr_expect(knows("10.1.0.3:80") && knows("172.18.0.2:6443"));
    state_remove(state, STATE_ADDRESS, "Kubernetes//Pod/shop/plain");
    cr_expect(!knows("10.1.0.3:80"));
}

Test(known, services_by_address_and_by_range)
{
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.9", "fd96::9"}, .ports = {{80, 8080}});
    SERVICE(state, .name = "ranges", .hostname = "ranges.example.com",
            .addresses = {"203.0.113.0/24", "2001:db8:1::/48"}, .balancing = true, .mode = 3);
    cr_expect(knows("10.96.0.9:80") && knows("[fd96::9]:80") && knows("10.96.0.9:81"));
    cr_expect(knows("203.0.113.77:443") && !knows("203.0.114.1:443"));
    cr_expect(knows("[2001:db8:1:2::3]:443") && !knows("[2001:db8:2::3]:443"));
}

Test(known, services_of_other_namespaces_that_are_not_exported)
{
    SERVICE(state, .name = "own", .namespace = "else", .addresses = {"10.96.0.10"}, .visibility = 1);
    cr_expect(!knows("10.96.0.10:80"), "it is private to another namespace");
    SERVICE(state, .name = "mine", .addresses = {"10.96.0.11"}, .visibility = 1);
    cr_expect(knows("10.96.0.11:80"));
}

Test(known, nodes_with_workloads_of_their_network)
{
    cr_expect(!knows("172.18.0.5:9100"));
    WORKLOAD(state, .name = "exporter", .addresses = {"172.18.0.5", "fd18::5"}, .mode = 1, .plain = true);
    WORKLOAD(state, .name = "kube-proxy", .addresses = {"172.18.0.5", "fd18::5"}, .mode = 1, .plain = true);
    cr_expect(knows("172.18.0.5:9100") && knows("[fd18::5]:10250"), "any port: it is the node's address");
    state_remove(state, STATE_ADDRESS, "Kubernetes//Pod/shop/exporter");
    cr_expect(knows("172.18.0.5:9100"), "the other one is there still");
    state_remove(state, STATE_ADDRESS, "Kubernetes//Pod/shop/kube-proxy");
    cr_expect(!knows("172.18.0.5:9100"));
}

/* As an address moves between the two indexes, each has it exactly while the workload is of its kind. */
Test(known, a_workload_that_takes_the_network_of_its_node_and_leaves_it)
{
    struct addr a = sample_addr("10.1.0.4");

    for (int i = 0; i < 3; i++) {
        WORKLOAD(state, .name = "moves", .addresses = {"10.1.0.4", "10.1.0.5"}, .mode = 1, .plain = true);
        cr_expect(knows("10.1.0.4:80") && knows("10.1.0.5:80") && !state_workload_by_address(state, &a));
        WORKLOAD(state, .name = "moves", .addresses = {"10.1.0.4"}, .plain = true);
        cr_expect(knows("10.1.0.4:80") && !knows("10.1.0.5:80") && state_workload_by_address(state, &a));
    }
    state_remove(state, STATE_ADDRESS, "Kubernetes//Pod/shop/moves");
    cr_expect(!knows("10.1.0.4:80"));
}

Test(known, the_dns_cache_of_a_node)
{
    cr_expect(knows("169.254.20.10:53") && knows("169.254.169.254:53"));
    cr_expect(!knows("169.254.20.10:80") && !knows("8.8.8.8:53") && !knows("[fe80::53]:53"));
}

Test(known, in_the_network_of_the_node_and_in_the_pods_own)
{
    WORKLOAD(state, .name = "far", .network = "east", .node = "node-a", .addresses = {"10.9.0.2"});
    WORKLOAD(state, .name = "neighbour", .network = "east", .addresses = {"10.9.0.3"});
    struct endpoint to = sample_endpoint("10.9.0.3:80");

    cr_expect(!knows("10.9.0.3:80"), "addresses of another network are not this one's");
    cr_expect(destination_known(state, state_find_local(state, "shop", "far", ""), &to));
}
