/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/mesh_file/mesh_file.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/proto/authorization.pb-c.h"
#include "lib/proto/workload.pb-c.h"

static const char good[] =
    "# the example of docs/mesh-file.md in small\n"
    "namespaces:\n"
    "- name: shop\n"
    "  labels: {istio.io/dataplane-mode: ambient, team: a}\n"
    "- {name: plain}\n"
    "- name: out\n"
    "  labels: {\"istio.io/dataplane-mode\": none}\n"
    "workloads:\n"
    "- uid: lab//Pod/shop/cart-0\n"
    "  name: cart-0\n"
    "  namespace: shop\n"
    "  serviceAccount: cart\n"
    "  workloadIps: [\"10.9.0.2\", \"fd00::2\"]\n"
    "  protocol: HBONE\n"
    "  node: node-a\n"
    "  network: \"\"\n"
    "  capacity: 2\n"
    "  authorizationPolicies: [\"shop/only-web\"]\n"
    "  waypoint: {destination: /10.9.0.77}\n"
    "  networkGateway: {destination: net-2/fd00::9, hboneMtlsPort: 15009}\n"
    "  applicationTunnel: {protocol: PROXY, port: 4000}\n"
    "  networkMode: HostNetwork\n"
    "  status: Unhealthy\n"
    "  locality: {region: r, zone: z}\n"
    "  workloadType: job\n"
    "  nativeTunnel: true\n"
    "  services:\n"
    "    \"shop/cart.shop.svc.cluster.local\": {80: 8080, 443: 8443}\n"
    "- {name: web, namespace: shop, labels: {istio.io/dataplane-mode: none}}\n"
    "services:\n"
    "- name: cart\n"
    "  namespace: shop\n"
    "  hostname: cart.shop.svc.cluster.local\n"
    "  vips: [\"/10.96.0.20\", \"net/fd00::20\", 10.96.0.21]\n"
    "  cidrVips: [{network: n, cidr: 10.97.0.0/16}]\n"
    "  ports: {80: 8080, 443: 0}\n"
    "  canonical: true\n"
    "  subjectAltNames: [\"spiffe://cluster.local/ns/shop/sa/old\"]\n"
    "  loadBalancer: {routingPreferences: [Network, Region, Zone], mode: Failover, healthPolicy: AllowAll}\n"
    "  waypoint: {destination: shop/wp.shop.svc.cluster.local, hboneMtlsPort: 15008}\n"
    "  weightedWaypoints:\n"
    "  - {destination: {destination: shop/wp.shop.svc.cluster.local}, weight: 3}\n"
    "  ipFamilies: Dual\n"
    "  visibility: Namespace\n"
    "policies:\n"
    "- name: only-web\n"
    "  namespace: shop\n"
    "  scope: WorkloadSelector\n"
    "  action: Allow\n"
    "  dryRun: false\n"
    "  rules:\n"
    "  - - - principals: [!Exact cluster.local/ns/shop/sa/web, {Suffix: /sa/x}, !Presence []]\n"
    "        notDestinationPorts: [9090]\n"
    "      - sourceIps: [10.0.0.0/8, fd00::/16, 10.1.2.3]\n"
    "        serviceAccounts: [{namespace: shop, serviceAccount: web}]\n"
    "    - - namespaces: [{Prefix: sh}]\n"
    "  - - - notPrincipals: [{Presence: []}]\n";

static struct mesh_file *parse(const char *text)
{
    struct mesh_file_error error;
    struct mesh_file *file = NULL;
    int r = mesh_file_parse("mesh.yaml", text, strlen(text), "cluster.local", &file, &error);

    cr_assert(r == 0, "%d: %s", r, error.text);
    return file;
}

Test(mesh_file, queries)
{
    struct mesh_file *file = parse(good);
    const struct mesh_workload *cart = mesh_file_workload(file, "shop", "cart-0", "node-a");
    const struct mesh_workload *web = mesh_file_workload(file, "shop", "web", "node-a");

    cr_assert(file->namespaces_len == 3 && file->workloads_len == 2 && file->services_len == 1 &&
              file->policies_len == 1);
    cr_assert(mesh_file_namespace(file, "shop")->mode == MESH_MODE_AMBIENT);
    cr_assert(mesh_file_namespace(file, "plain")->mode == MESH_MODE_UNSET);
    cr_assert(mesh_file_namespace(file, "out")->mode == MESH_MODE_NONE);
    cr_assert(!mesh_file_namespace(file, "sho"));
    cr_assert(cart && web);
    cr_assert(!strcmp(cart->service_account, "cart") && cart->has_addresses);
    cr_assert(cart->protocol == MESH_PROTOCOL_HBONE && cart->mode == MESH_MODE_UNSET);
    cr_assert(!strcmp(web->service_account, "default") && !strcmp(web->trust_domain, "cluster.local"));
    cr_assert(!strcmp(web->uid, "Kubernetes//Pod/shop/web"), "%s", web->uid);
    cr_assert(web->protocol == MESH_PROTOCOL_DEFAULT && web->mode == MESH_MODE_NONE && !web->has_addresses);
    cr_assert(mesh_file_workload_by_uid(file, "lab//Pod/shop/cart-0") == cart);
    cr_assert(!mesh_file_workload(file, "shop", "nobody", "node-a"));
    mesh_file_free(&file);
    cr_assert(!file);
}

Test(mesh_file, outbound_policy)
{
    struct mesh_file *file = parse("outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n"
                                   "namespaces:\n"
                                   "- {name: a, annotations: {bruma.io/outbound-traffic-policy: ALLOW_ANY}}\n"
                                   "- {name: b, annotations: {other: x}}\n"
                                   "workloads:\n"
                                   "- {name: w, namespace: a, annotations: {x: y, "
                                   "\"bruma.io/outbound-traffic-policy\": REGISTRY_ONLY}}\n");

    cr_expect(file->outbound_policy == OUTBOUND_REGISTRY_ONLY);
    cr_expect(mesh_file_namespace(file, "a")->annotations.outbound_policy == OUTBOUND_ALLOW_ANY);
    cr_expect(mesh_file_namespace(file, "b")->annotations.outbound_policy == OUTBOUND_UNSAID);
    cr_expect(mesh_file_workload(file, "a", "w", "")->annotations.outbound_policy == OUTBOUND_REGISTRY_ONLY);
    mesh_file_free(&file);
    file = parse("outboundTrafficPolicy: ~\n");
    cr_expect(file->outbound_policy == OUTBOUND_UNSAID);
    mesh_file_free(&file);
}

Test(mesh_file, direct_ways)
{
    struct mesh_file *file = parse("namespaces:\n"
                                   "- {name: a, annotations: {bruma.io/direct-outside: false}}\n"
                                   "workloads:\n"
                                   "- {name: w, namespace: a, annotations: {bruma.io/direct-outside: 'true', "
                                   "bruma.io/direct-inbound: 'false', bruma.io/same-node: relay}}\n"
                                   "- {name: v, namespace: a, annotations: {x: y}}\n");
    struct direct_switches direct = mesh_file_namespace(file, "a")->annotations.direct;

    cr_expect(direct.outside == DIRECT_OFF && direct.inbound == DIRECT_UNSAID &&
              direct.same_node == SAME_NODE_UNSAID);
    direct = mesh_file_workload(file, "a", "w", "")->annotations.direct;
    cr_expect(direct.outside == DIRECT_ON && direct.inbound == DIRECT_OFF &&
              direct.same_node == SAME_NODE_RELAY);
    direct = mesh_file_workload(file, "a", "v", "")->annotations.direct;
    cr_expect(direct_switches_equal(direct, (struct direct_switches){0}));
    mesh_file_free(&file);
}

Test(mesh_file, workload_message)
{
    struct mesh_file *file = parse(good);
    const struct mesh_workload *kept = &file->workloads[0];
    Istio__Workload__Workload *w = istio__workload__workload__unpack(NULL, kept->message_len, kept->message);

    cr_assert(w);
    cr_assert(!strcmp(w->uid, "lab//Pod/shop/cart-0") && !strcmp(w->name, "cart-0"));
    cr_assert(w->n_addresses == 2 && w->addresses[0].len == 4 && w->addresses[1].len == 16);
    cr_assert(!memcmp(w->addresses[0].data, "\x0a\x09\x00\x02", 4));
    cr_assert(w->tunnel_protocol == ISTIO__WORKLOAD__TUNNEL_PROTOCOL__NONE, "it is decided later");
    cr_assert(w->capacity && w->capacity->value == 2);
    cr_assert(w->n_services == 1 && w->services[0]->value->n_ports == 2);
    cr_assert(w->services[0]->value->ports[1]->service_port == 443);
    cr_assert(w->services[0]->value->ports[1]->target_port == 8443);
    cr_assert(w->n_authorization_policies == 1 && !strcmp(w->authorization_policies[0], "shop/only-web"));
    cr_assert(w->waypoint->destination_case == ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_ADDRESS);
    cr_assert(w->waypoint->hbone_mtls_port == 15008);
    cr_assert(!strcmp(w->network_gateway->address->network, "net-2") &&
              w->network_gateway->hbone_mtls_port == 15009);
    cr_assert(w->application_tunnel->port == 4000);
    cr_assert(w->network_mode == ISTIO__WORKLOAD__NETWORK_MODE__HOST_NETWORK);
    cr_assert(w->status == ISTIO__WORKLOAD__WORKLOAD_STATUS__UNHEALTHY && w->native_tunnel);
    cr_assert(w->workload_type == ISTIO__WORKLOAD__WORKLOAD_TYPE__JOB);
    cr_assert(!strcmp(w->locality->zone, "z") && !strcmp(w->cluster_id, "Kubernetes"));
    istio__workload__workload__free_unpacked(w, NULL);
    mesh_file_free(&file);
}

Test(mesh_file, service_message)
{
    struct mesh_file *file = parse(good);
    const struct mesh_service *kept = &file->services[0];
    Istio__Workload__Service *s = istio__workload__service__unpack(NULL, kept->message_len, kept->message);

    cr_assert(s);
    cr_assert(!strcmp(kept->name, "shop/cart.shop.svc.cluster.local"));
    cr_assert(s->n_addresses == 4);
    cr_assert(!strcmp(s->addresses[1]->network, "net") && s->addresses[1]->address.len == 16);
    cr_assert(s->addresses[2]->prefix_case == ISTIO__WORKLOAD__NETWORK_ADDRESS__PREFIX__NOT_SET);
    cr_assert(s->addresses[3]->prefix_case == ISTIO__WORKLOAD__NETWORK_ADDRESS__PREFIX_LENGTH);
    cr_assert(s->addresses[3]->length == 16 && s->addresses[3]->address.len == 4);
    cr_assert(s->n_ports == 2 && s->ports[1]->target_port == 0);
    cr_assert(s->canonical && s->n_subject_alt_names == 1);
    cr_assert(s->load_balancing->n_routing_preference == 3);
    cr_assert(s->load_balancing->routing_preference[0] == ISTIO__WORKLOAD__LOAD_BALANCING__SCOPE__NETWORK);
    cr_assert(s->load_balancing->mode == ISTIO__WORKLOAD__LOAD_BALANCING__MODE__FAILOVER);
    cr_assert(s->load_balancing->health_policy == ISTIO__WORKLOAD__LOAD_BALANCING__HEALTH_POLICY__ALLOW_ALL);
    cr_assert(!strcmp(s->waypoint->hostname->hostname, "wp.shop.svc.cluster.local"));
    cr_assert(s->n_weighted_waypoints == 1 && s->weighted_waypoints[0]->weight == 3);
    cr_assert(s->ip_families == ISTIO__WORKLOAD__IPFAMILIES__DUAL);
    cr_assert(s->visibility == ISTIO__WORKLOAD__SERVICE__VISIBILITY__NAMESPACE);
    istio__workload__service__free_unpacked(s, NULL);
    mesh_file_free(&file);
}

Test(mesh_file, policy_message)
{
    struct mesh_file *file = parse(good);
    const struct mesh_policy *kept = &file->policies[0];
    Istio__Security__Authorization *a =
        istio__security__authorization__unpack(NULL, kept->message_len, kept->message);
    const Istio__Security__Match *m;

    cr_assert(a);
    cr_assert(a->scope == ISTIO__SECURITY__SCOPE__WORKLOAD_SELECTOR &&
              a->action == ISTIO__SECURITY__ACTION__ALLOW);
    cr_assert(a->n_rules == 2 && a->rules[0]->n_clauses == 2 && a->rules[0]->clauses[0]->n_matches == 2);
    m = a->rules[0]->clauses[0]->matches[0];
    cr_assert(m->n_principals == 3 && m->n_not_destination_ports == 1 && m->not_destination_ports[0] == 9090);
    cr_assert(m->principals[0]->match_type_case == ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_EXACT);
    cr_assert(!strcmp(m->principals[0]->exact, "cluster.local/ns/shop/sa/web"));
    cr_assert(m->principals[1]->match_type_case == ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_SUFFIX);
    cr_assert(m->principals[2]->match_type_case == ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PRESENCE);
    m = a->rules[0]->clauses[0]->matches[1];
    cr_assert(m->n_source_ips == 3 && m->source_ips[0]->length == 8 && m->source_ips[1]->length == 16);
    cr_assert(m->source_ips[1]->address.len == 16 && m->source_ips[2]->length == 32);
    cr_assert(!strcmp(m->service_accounts[0]->service_account, "web"));
    m = a->rules[0]->clauses[1]->matches[0];
    cr_assert(m->namespaces[0]->match_type_case == ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PREFIX);
    m = a->rules[1]->clauses[0]->matches[0];
    cr_assert(m->not_principals[0]->match_type_case == ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PRESENCE);
    istio__security__authorization__free_unpacked(a, NULL);
    mesh_file_free(&file);
}

Test(mesh_file, of_several_pods_with_one_name_the_one_of_the_node)
{
    struct mesh_file *file = parse("workloads:\n"
                                   "- {uid: a, name: p, namespace: n, node: one, serviceAccount: sa-one}\n"
                                   "- {uid: b, name: p, namespace: n, serviceAccount: sa-any}\n"
                                   "- {uid: c, name: p, namespace: n, node: two, serviceAccount: sa-two}\n");

    cr_assert(!strcmp(mesh_file_workload(file, "n", "p", "two")->uid, "c"));
    cr_assert(!strcmp(mesh_file_workload(file, "n", "p", "one")->uid, "a"));
    cr_assert(!strcmp(mesh_file_workload(file, "n", "p", "three")->uid, "b"));
    mesh_file_free(&file);
}

Test(mesh_file, nothing_said)
{
    struct mesh_file *file = parse("{}\n");

    cr_assert(!file->workloads_len && !mesh_file_workload(file, "a", "b", ""));
    mesh_file_free(&file);
    file = parse("workloads:\nservices: ~\npolicies: null\nnamespaces: []\n");
    cr_assert(!file->namespaces_len);
    mesh_file_free(&file);
}

Test(mesh_file, anchors)
{
    struct mesh_file *file = parse("namespaces: [{name: n, labels: &l {istio.io/dataplane-mode: ambient}}]\n"
                                   "workloads:\n"
                                   "- &first {uid: a, name: x, namespace: n, workloadIps: &ips [10.0.0.1]}\n"
                                   "- {uid: b, name: y, namespace: n, workloadIps: *ips, labels: *l}\n"
                                   "- {uid: c, name: z, namespace: n, workloadIps: *ips}\n");

    cr_assert(file->workloads_len == 3 && file->workloads[1].has_addresses &&
              file->workloads[2].has_addresses);
    cr_assert(file->workloads[1].mode == MESH_MODE_AMBIENT);
    mesh_file_free(&file);
}

/* ---- what is refused, and how it is said ---- */

#define W "workloads:\n- {uid: u, name: a, namespace: n, "

struct wrong {
    const char *text, *error;
};

static const struct wrong wrongs[] = {
    {"", "mesh.yaml:1:1: the file is empty; write {} for an empty mesh"},
    {"# nothing\n", "mesh.yaml:1:1: the file is empty; write {} for an empty mesh"},
    {"- a\n", "mesh.yaml:1:1: expected a map with the keys namespaces, workloads, services, policies, "
              "outboundTrafficPolicy"},
    {"workload: []\n",
     "mesh.yaml:1:1: unknown field \"workload\"; known here: namespaces, workloads, services, policies, "
     "outboundTrafficPolicy"},
    {"workloads: []\nworkloads: []\n", "mesh.yaml:2:1: \"workloads\" is given twice"},
    {"workloads: {}\n", "mesh.yaml:1:12: workloads: expected a list, found a map"},
    {"workloads: text\n", "mesh.yaml:1:12: workloads: expected a list, found text"},
    {"workloads: &a []\n", "mesh.yaml:1:12: workloads: this list can have no anchor and be no alias"},
    {"{}\n---\n{}\n", "mesh.yaml:2:1: a second document; one file is one mesh"},
    {"workloads:\n- name: a\n  namespace: n\n  nmae: b\n",
     "mesh.yaml:4:3: workloads[0]: unknown field \"nmae\"; "},
    {"workloads:\n- {name: a, name: b}\n", "mesh.yaml:2:13: workloads[0]: \"name\" is given twice"},
    {"workloads:\n- {name: a}\n", "mesh.yaml:2:3: workloads[0]: \"namespace\" is missing"},
    {"workloads:\n- {namespace: a, name: ~}\n", "mesh.yaml:2:3: workloads[0]: \"name\" is missing"},
    {"workloads:\n- text\n", "mesh.yaml:2:3: workloads[0]: expected a map, found text"},
    {"workloads:\n- {name: a/b}\n",
     "mesh.yaml:2:10: workloads[0].name: \"a/b\" must hold no '/' and no space"},
    {"workloads:\n- {name: \"\"}\n", "mesh.yaml:2:10: workloads[0].name: \"\" must not be empty"},
    {"workloads:\n- {name: [x]}\n", "mesh.yaml:2:10: workloads[0].name: expected text, found a list"},
    {"workloads:\n- {name: \"a\\tb\"}\n",
     "mesh.yaml:2:10: workloads[0].name: \"a?b\" holds a control character"},
    {"workloads:\n- {name: \"a\\0b\"}\n", "mesh.yaml:2:10: a value with a NUL in it"},
    {"workloads:\n- {name: !x a}\n", "mesh.yaml:2:10: workloads[0].name: tag !x has no meaning here"},
    {W "workloadIps: [\"10.1.1\"]}\n",
     "mesh.yaml:2:49: workloads[0].workloadIps[0]: \"10.1.1\" is not an IP address"},
    {W "workloadIps: [10.0.0.1, 0.0.0.0]}\n",
     "mesh.yaml:2:59: workloads[0].workloadIps[1]: \"0.0.0.0\" is not a usable address"},
    {W "workloadIps: 10.0.0.1}\n", "mesh.yaml:2:48: workloads[0].workloadIps: expected a list, found text"},
    {W "protocol: hbone}\n", "mesh.yaml:2:45: workloads[0].protocol: \"hbone\" is not one of HBONE, TCP"},
    {W "networkMode: Host}\n", "workloads[0].networkMode: \"Host\" is not one of Standard, HostNetwork"},
    {W "status: Sick}\n", "workloads[0].status: \"Sick\" is not one of Healthy, Unhealthy"},
    {W "workloadType: Pod}\n",
     "workloads[0].workloadType: \"Pod\" is not one of deployment, cronjob, pod, job"},
    {W "nativeTunnel: yes}\n", "workloads[0].nativeTunnel: \"yes\" is neither true nor false"},
    {W "capacity: -1}\n", "workloads[0].capacity: \"-1\" is not a weight (0 to 4294967295)"},
    {W "capacity: 4294967296}\n", "workloads[0].capacity: \"4294967296\" is not a weight"},
    {W "locality: {planet: x}}\n",
     "workloads[0].locality: unknown field \"planet\"; known here: region, zone, subzone"},
    {W "applicationTunnel: {port: 1}}\n", "workloads[0].applicationTunnel: \"protocol\" is missing"},
    {W "waypoint: {destination: x}}\n",
     "workloads[0].waypoint.destination: \"x\" is neither NAMESPACE/HOSTNAME nor NETWORK/ADDRESS"},
    {W "waypoint: {destination: a/b/c}}\n",
     "workloads[0].waypoint.destination: \"a/b/c\" is not NAMESPACE/HOSTNAME nor NETWORK/ADDRESS"},
    {W "waypoint: {hboneMtlsPort: 1}}\n", "workloads[0].waypoint: \"destination\" is missing"},
    {W "networkGateway: {destination: a/b, hboneMtlsPort: 65536}}\n",
     "workloads[0].networkGateway.hboneMtlsPort: \"65536\" is not a port (1 to 65535)"},
    {W "annotations: [a]}\n", "workloads[0].annotations: expected a map of annotations, found a list"},
    {W "annotations: {a: {}}}\n", "workloads[0].annotations.a: expected text, found a map"},
    {W "annotations: {bruma.io/outbound-traffic-policy: any}}\n",
     "workloads[0].annotations.bruma.io/outbound-traffic-policy: \"any\" is not one of ALLOW_ANY, "
     "REGISTRY_ONLY"},
    {W "annotations: {bruma.io/direct-outside: 'no'}}\n",
     "workloads[0].annotations.bruma.io/direct-outside: \"no\" is not one of false, true"},
    {W "annotations: {bruma.io/direct-inbound: []}}\n", "workloads[0].annotations.bruma.io/direct-inbound: "},
    {W "annotations: {bruma.io/same-node: Kernel}}\n",
     "workloads[0].annotations.bruma.io/same-node: \"Kernel\" is not one of hbone, relay, kernel"},
    {"outboundTrafficPolicy: REGISTRY_ONLY\n",
     "mesh.yaml:1:24: outboundTrafficPolicy: expected a map, found text"},
    {"outboundTrafficPolicy: {mode: registry_only}\n",
     "mesh.yaml:1:31: outboundTrafficPolicy.mode: \"registry_only\" is not one of ALLOW_ANY, REGISTRY_ONLY"},
    {"outboundTrafficPolicy: {}\n", "outboundTrafficPolicy: \"mode\" is missing"},
    {W "labels: [a]}\n", "workloads[0].labels: expected a map of labels, found a list"},
    {W "labels: {a: {}}}\n", "workloads[0].labels.a: expected text, found a map"},
    {W "services: {cart: {80: 80}}}\n", "workloads[0].services: \"cart\" is not NAMESPACE/HOSTNAME"},
    {W "services: {n/h: {80: 0}}}\n", "workloads[0].services.n/h.80: \"0\" is not a port (1 to 65535)"},
    {W "services: {n/h: {http: 80}}}\n", "workloads[0].services.n/h: \"http\" is not a port (1 to 65535)"},
    {W "services: {n/h: {80: 1, 80: 2}}}\n", "workloads[0].services.n/h: port 80 is given twice"},
    {W "services: {n/h: {80: 80}}}\n",
     "mesh.yaml:2:46: workloads[0].services: \"n/h\" is not a service of this file"},
    {W "authorizationPolicies: [n/p]}\n",
     "mesh.yaml:2:59: workloads[0].authorizationPolicies: \"n/p\" is not a policy of this file"},
    {W "authorizationPolicies: [p]}\n", "workloads[0].authorizationPolicies[0]: \"p\" is not NAMESPACE/NAME"},
    {W "}\n- {uid: u, name: b, namespace: n}\n", "mesh.yaml:3:1: workloads[1]: u is already at line 2"},
    {"namespaces: [{name: a}, {name: a}]\n", "mesh.yaml:1:1: namespaces[1]: a is already at line 1"},
    {"namespaces: [{labels: {}}]\n", "mesh.yaml:1:14: namespaces[0]: \"name\" is missing"},
    {"services: [{name: a, namespace: n, hostname: h}]\n",
     "mesh.yaml:1:12: services[0]: \"ports\" is missing"},
    {"services:\n- {name: a, namespace: n, hostname: h, ports: {80: 99999}}\n",
     "mesh.yaml:2:52: services[0].ports.80: \"99999\" is not a port (0 to 65535)"},
    {"services:\n- {name: a, namespace: n, hostname: h, ports: {}}\n"
     "- {name: b, namespace: n, hostname: h, ports: {}}\n",
     "mesh.yaml:3:1: services[1]: n/h is already at line 2"},
    {"services: [{vips: [/x]}]\n", "services[0].vips[0]: \"x\" is not an IP address"},
    {"services: [{cidrVips: [{cidr: 10.0.0.0/33}]}]\n",
     "services[0].cidrVips[0].cidr: \"10.0.0.0/33\" is neither an IP address nor a range such as 10.0.0.0/8"},
    {"services: [{loadBalancer: {mode: Random}}]\n",
     "services[0].loadBalancer.mode: \"Random\" is not one of Standard, Strict, Failover, Passthrough"},
    {"services: [{loadBalancer: {routingPreferences: [Rack]}}]\n",
     "services[0].loadBalancer.routingPreferences[0]: \"Rack\" is not one of Region, Zone, Subzone, Node, "
     "Cluster, "
     "Network"},
    {"services: [{endpoints: {}}]\n", "services[0]: unknown field \"endpoints\"; "},
    {"services: [{weightedWaypoints: [{weight: 1}]}]\n",
     "services[0].weightedWaypoints[0]: \"destination\" is missing"},
    {"policies: [{scope: Mesh}]\n",
     "policies[0].scope: \"Mesh\" is not one of Global, Namespace, WorkloadSelector"},
    {"policies: [{action: Audit}]\n", "policies[0].action: \"Audit\" is not one of Allow, Deny"},
    {"policies: [{name: a, namespace: n, scope: Global, action: Deny}]\n",
     "policies[0]: \"rules\" is missing"},
    {"policies: [{rules: [{}]}]\n", "policies[0].rules[0]: expected a list, found a map"},
    {"policies:\n- rules:\n  - - - principals: [text]\n",
     "mesh.yaml:3:22: policies[0].rules[0][0][0].principals[0]: expected a match: !Exact TEXT"},
    {"policies: [{rules: [[[{principals: [!Like x]}]]]}]\n",
     "policies[0].rules[0][0][0].principals[0]: \"Like\" is not one of Exact, Prefix, Suffix, Presence"},
    {"policies: [{rules: [[[{principals: [!Exact [x]]}]]]}]\n",
     ".principals[0]: expected text, found a list"},
    {"policies: [{rules: [[[{principals: [!Prefix \"\"]}]]]}]\n", ".principals[0]: Prefix needs some text"},
    {"policies: [{rules: [[[{principals: [{Exact: a, Prefix: b}]}]]]}]\n",
     ".principals[0]: expected a match"},
    {"policies: [{rules: [[[{principals: [!Presence x]}]]]}]\n", ".principals[0]: Presence takes no value"},
    {"policies: [{rules: [[[{destinationPorts: [0]}]]]}]\n",
     ".destinationPorts[0]: \"0\" is not a port (1 to 65535)"},
    {"policies: [{rules: [[[{serviceAccounts: [{namespace: n}]}]]]}]\n",
     ".serviceAccounts[0]: \"serviceAccount\" is missing"},
    {"policies: [{rules: [[[{sourceIps: [office]}]]]}]\n",
     ".sourceIps[0]: \"office\" is neither an IP address nor"},
    {"workloads: [}\n",
     "mesh.yaml:1:13: not YAML: did not find expected node content, while parsing a flow node that "
     "began at line 1"},
    {"workloads:\n\t- a\n", "mesh.yaml:2:1: not YAML: found character that cannot start any token"},
    {"a: \xff\n", "not YAML: "},
    {"workloads: [*x]\n", "mesh.yaml:1:13: alias *x names no anchor"},
    {"workloads: [&x [*x]]\n", "mesh.yaml:1:17: an alias inside its own anchor has no end"},
};

Test(mesh_file, each_wrong_field_is_named)
{
    for (size_t i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
        struct mesh_file_error error;
        struct mesh_file *file = NULL;
        int r = mesh_file_parse("mesh.yaml", wrongs[i].text, strlen(wrongs[i].text), "cluster.local", &file,
                                &error);

        cr_expect(r == -EBADMSG && !file, "case %zu was taken: %s", i, wrongs[i].text);
        cr_expect(strstr(error.text, wrongs[i].error), "case %zu\n  says   %s\n  wanted %s", i, error.text,
                  wrongs[i].error);
        cr_expect(error.line > 0);
    }
}

Test(mesh_file, every_cut_of_a_good_file_is_answered)
{
    for (size_t len = 0; len < sizeof(good); len++) {
        struct mesh_file_error error;
        struct mesh_file *file = NULL;
        int r = mesh_file_parse("mesh.yaml", good, len, "cluster.local", &file, &error);

        cr_expect(r == 0 ? file != NULL : error.text[0] != '\0');
        mesh_file_free(&file);
    }
}

static int parse_error(const char *text, struct mesh_file_error *error)
{
    struct mesh_file *file = NULL;
    int r = mesh_file_parse("mesh.yaml", text, strlen(text), "cluster.local", &file, error);

    mesh_file_free(&file);
    return r;
}

Test(mesh_file, a_billion_laughs)
{
    struct mesh_file_error error;
    char text[4096];
    size_t n;

    /* All anchors in one item: it is no workload, but nobody looks before the tree is there. */
    n = (size_t)snprintf(text, sizeof(text), "workloads:\n- - &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for (int i = 1; i < 10; i++)
        n += (size_t)snprintf(text + n, sizeof(text) - n,
                              "  - &a%d [*a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d]\n", i,
                              i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1);
    cr_assert(parse_error(text, &error) == -EBADMSG);
    cr_assert(strstr(error.text, "holds more than 1000000 values once its aliases are expanded"), "%s",
              error.text);
}

Test(mesh_file, too_deep)
{
    char text[4096] = "workloads: ";
    struct mesh_file_error error;
    size_t n = strlen(text);

    memset(text + n, '[', 2000);
    cr_assert(parse_error(text, &error) == -EBADMSG);
    cr_assert(strstr(error.text, "nested more than 32 deep"), "%s", error.text);

    n = (size_t)snprintf(text, sizeof(text), "workloads:\n- - &a0 [[[[[x]]]]]\n");
    for (int i = 1; i < 10; i++)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "  - &a%d [[[[[*a%d]]]]]\n", i, i - 1);
    cr_assert(parse_error(text, &error) == -EBADMSG);
    cr_assert(strstr(error.text, "nested more than 32 deep once aliases are expanded"), "%s", error.text);
}

Test(mesh_file, too_many_anchors)
{
    size_t room = 64 * 1024, n = 0;
    char *text = malloc(room);
    struct mesh_file_error error;

    n += (size_t)snprintf(text, room, "workloads:\n- ");
    for (int i = 0; i < 1001; i++)
        n += (size_t)snprintf(text + n, room - n, "%s&a%d x", i ? ", " : "[", i);
    snprintf(text + n, room - n, "]\n");
    cr_assert(parse_error(text, &error) == -EBADMSG);
    cr_assert(strstr(error.text, "more than 1000 anchors"), "%s", error.text);
    free(text);
}

Test(mesh_file, a_huge_value)
{
    size_t len = 1024 * 1024;
    char *text = malloc(len + 1);
    struct mesh_file_error error;

    memset(text, 'a', len);
    memcpy(text, "workloads: [{name: ", 19);
    text[len] = '\0';
    cr_assert(parse_error(text, &error) == -EBADMSG);
    cr_assert(strstr(error.text, "a value of more than 8192 bytes"), "%s", error.text);
    free(text);
}

Test(mesh_file, from_disk)
{
    char dir[] = "/tmp/bruma-mesh-file-XXXXXX", path[64];
    struct mesh_file_error error;
    struct mesh_file *file = NULL;
    FILE *f;

    cr_assert(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/m.yaml", dir);
    cr_assert(mesh_file_load(path, "td", &file, &error) == -ENOENT);
    cr_assert(strstr(error.text, "m.yaml: No such file") && error.line == 0, "%s", error.text);
    cr_assert(mesh_file_load(dir, "td", &file, &error) == -EINVAL);
    cr_assert(strstr(error.text, "is not a regular file"), "%s", error.text);
    f = fopen(path, "w");
    cr_assert(f && fputs(good, f) >= 0 && fclose(f) == 0);
    cr_assert(mesh_file_load(path, "td", &file, &error) == 0, "%s", error.text);
    cr_assert(!strcmp(file->workloads[1].trust_domain, "td"));
    mesh_file_free(&file);
    cr_assert(truncate(path, (off_t)MESH_FILE_MAX_BYTES + 1) == 0);
    cr_assert(mesh_file_load(path, "td", &file, &error) == -EFBIG);
    unlink(path);
    cr_assert(mkfifo(path, 0600) == 0);
    cr_assert(mesh_file_load(path, "td", &file, &error) == -EINVAL, "a pipe must not be waited for");
    unlink(path);
    rmdir(dir);
}
