/* SPDX-License-Identifier: Apache-2.0 */
/* "Why is this connection as it is": what the proxy knows of both ends, in words. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "ctl/explain.h"
#include "ctl/say.h"
#include "ctl/source.h"
#include "lib/addr.h"
#include "lib/outbound_policy.h"
#include "lib/reasons.h"
#include "lib/spiffe.h"

static const cJSON *get(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

/* In this network: elsewhere the address is another one's. */
static const cJSON *find_workload(const cJSON *dump, const char *network, const struct addr *addr)
{
    const cJSON *w, *ip;

    cJSON_ArrayForEach (w, get(dump, "workloads")) {
        if (strcmp(text_of(w, "network"), network) != 0)
            continue;
        cJSON_ArrayForEach (ip, get(w, "workloadIps")) {
            struct addr a;

            if (cJSON_IsString(ip) && addr_parse(ip->valuestring, &a) == 0 && addr_equal(&a, addr))
                return w;
        }
    }
    return NULL;
}

/* VIPs are "network/ip". */
static const cJSON *find_service(const cJSON *dump, const struct addr *addr)
{
    const cJSON *s, *vip;

    cJSON_ArrayForEach (s, get(dump, "services")) {
        cJSON_ArrayForEach (vip, get(s, "vips")) {
            const char *slash = cJSON_IsString(vip) ? strrchr(vip->valuestring, '/') : NULL;
            struct addr a;

            if (slash && addr_parse(slash + 1, &a) == 0 && addr_equal(&a, addr))
                return s;
        }
    }
    return NULL;
}

/* The hostname of a service of which a range has the address, which the dump owns; NULL: none. */
static const char *in_range(const cJSON *dump, const struct addr *addr)
{
    const cJSON *s, *range;

    cJSON_ArrayForEach (s, get(dump, "services")) {
        cJSON_ArrayForEach (range, get(s, "cidrVips")) {
            struct cidr c;

            if (cidr_parse(text_of(range, "cidr"), &c) == 0 && cidr_contains(&c, addr))
                return text_of(s, "hostname");
        }
    }
    return NULL;
}

static const cJSON *find_pod(const cJSON *dump, const char *pod)
{
    const cJSON *w;
    char name[600];

    cJSON_ArrayForEach (w, get(dump, "workloads")) {
        snprintf(name, sizeof(name), "%s/%s", text_of(w, "namespace"), text_of(w, "name"));
        if (!strcmp(name, pod))
            return w;
    }
    return NULL;
}

static const enum bruma_reason no_upstream = BRUMA_REASON_NO_HEALTHY_UPSTREAM;
static const enum bruma_reason no_source = BRUMA_REASON_SOURCE_UNKNOWN;
static const enum bruma_reason unknown = BRUMA_REASON_DESTINATION_UNKNOWN;
static const enum bruma_reason denied = BRUMA_REASON_POLICY_DENIED;

void workload_identity(const cJSON *w, char *buf, size_t size)
{
    const char *trust_domain = text_of(w, "trustDomain"), *account = text_of(w, "serviceAccount");

    if (spiffe_format(buf, size, *trust_domain ? trust_domain : "cluster.local", text_of(w, "namespace"),
                      *account ? account : "default") < 0)
        snprintf(buf, size, "?");
}

static void say_identity(cJSON *lines, const char *check, const cJSON *w)
{
    char identity[SPIFFE_MAX];

    workload_identity(w, identity, sizeof(identity));
    say(lines, check, NULL, "%s", identity);
}

static bool policy_applies(const cJSON *p, const char *key, const cJSON *w)
{
    const char *scope = text_of(p, "scope");
    const cJSON *name;

    if (!strcmp(scope, "Global") ||
        (!strcmp(scope, "Namespace") && !strcmp(text_of(p, "namespace"), text_of(w, "namespace"))))
        return true;
    cJSON_ArrayForEach (name, get(w, "authorizationPolicies")) {
        if (cJSON_IsString(name) && !strcmp(name->valuestring, key))
            return true;
    }
    return false;
}

static void say_policies(cJSON *lines, const cJSON *dump, const cJSON *w)
{
    const cJSON *p;
    int count = 0;

    cJSON_ArrayForEach (p, get(dump, "policies")) {
        char key[600];

        snprintf(key, sizeof(key), "%s/%s", text_of(p, "namespace"), text_of(p, "name"));
        if (!policy_applies(p, key, w))
            continue;
        say(lines, "policy of the destination", NULL, "%s (%s)%s; `brumactl policy` shows its rules", key,
            text_of(p, "action"), cJSON_IsTrue(get(p, "dryRun")) ? ", dry run" : "");
        count++;
    }
    if (!count)
        say(lines, "policy of the destination", NULL, "none applies: everything is allowed");
}

/* An address of the pod in the family of the destination, with any port: policies do not ask for it. */
static bool source_endpoint(const cJSON *source, const struct endpoint *to, char buf[ENDPOINT_TEXT_LEN])
{
    const cJSON *ip;

    cJSON_ArrayForEach (ip, get(source, "workloadIps")) {
        struct endpoint from = {.port = 1};

        if (cJSON_IsString(ip) && addr_parse(ip->valuestring, &from.addr) == 0 &&
            addr_is_v4(&from.addr) == addr_is_v4(&to->addr)) {
            endpoint_format(&from, buf);
            return true;
        }
    }
    return false;
}

/* What the proxy says of it; NULL: nothing. */
static cJSON *ask_verdict(const struct place *place, const cJSON *source, bool hbone,
                          const struct endpoint *to)
{
    char identity[SPIFFE_MAX] = "", from[ENDPOINT_TEXT_LEN], target[ENDPOINT_TEXT_LEN];
    cJSON *verdict;

    if (hbone)
        workload_identity(source, identity, sizeof(identity));
    endpoint_format(to, target);
    return source_endpoint(source, to, from) &&
                   proxy_verdict(place, identity, from, target, &verdict) == CTL_OK
               ? verdict
               : NULL;
}

static void say_hbone(cJSON *lines, const cJSON *verdict, const struct endpoint *e)
{
    const char *same_node = text_of(verdict, "sameNode");
    char text[ADDR_TEXT_LEN];

    if (!strcmp(same_node, "relay"))
        say(lines, "way", NULL,
            "relayed by the proxy of both pods without a tunnel, if their certificates vouch for each other");
    else
        say(lines, "way", NULL, "through HBONE to %s port 15008, encrypted%s%s", addr_format(&e->addr, text),
            *same_node ? "; not relayed within the node, because " : "",
            *same_node ? text_of(verdict, "sameNodeText") : "");
}

static void say_verdict(cJSON *lines, const cJSON *verdict)
{
    if (cJSON_IsTrue(get(verdict, "allowed")))
        say(lines, "verdict", NULL, "the policies allow it");
    else
        say(lines, "verdict", &denied, "the policies refuse it: %s", text_of(verdict, "text"));
    if (*text_of(verdict, "dryRun"))
        say(lines, "dry run", NULL, "%s%s%s", text_of(verdict, "dryRunText"),
            *text_of(verdict, "dryRunPolicy") ? "; policy " : "", text_of(verdict, "dryRunPolicy"));
}

/* What the proxy has been told of the pod; "" if it does not serve it. */
static const char *outbound_policy_of(const cJSON *dump, const char *pod)
{
    const cJSON *one;
    char name[600];

    cJSON_ArrayForEach (one, get(dump, "workloadState")) {
        const cJSON *info = get(one, "info");

        snprintf(name, sizeof(name), "%s/%s", text_of(info, "namespace"), text_of(info, "name"));
        if (!strcmp(name, pod))
            return text_of(info, "outboundPolicy");
    }
    return "";
}

/* No workload and no service has the address as one of its own. */
static void explain_outside(cJSON *lines, const cJSON *dump, const char *pod, const struct endpoint *e)
{
    bool refused = !strcmp(outbound_policy_of(dump, pod), outbound_policy_name(OUTBOUND_REGISTRY_ONLY));

    if (in_range(dump, &e->addr))
        say(lines, "destination", NULL, "in the range of service %s: it is passed through as it is",
            in_range(dump, &e->addr));
    else if (refused)
        say(lines, "destination", &unknown,
            "outside the mesh, and refused: the outbound traffic policy of the pod is REGISTRY_ONLY");
    else
        say(lines, "destination", NULL, "outside the mesh; it is passed through as it is");
}

static void explain_service(cJSON *lines, const struct place *place, const cJSON *dump, const cJSON *source,
                            const cJSON *s, const struct endpoint *e)
{
    char port[8];
    const cJSON *waypoint = get(s, "waypoint");
    int endpoints = cJSON_GetArraySize(get(s, "endpoints"));

    snprintf(port, sizeof(port), "%u", e->port);
    say(lines, "destination", NULL, "service %s in namespace %s, %d endpoints", text_of(s, "hostname"),
        text_of(s, "namespace"), endpoints);
    if (waypoint)
        say(lines, "way", NULL, "to the waypoint %s, through HBONE", text_of(waypoint, "destination"));
    else if (!strcmp(text_of(get(s, "loadBalancer"), "mode"), "Passthrough"))
        say(lines, "way", NULL, "to the address itself, passed through as it is");
    else if (!get(get(s, "ports"), port))
        say(lines, "way", &no_upstream, "refused: the service has no port %s", port);
    else if (!endpoints)
        say(lines, "way", &no_upstream, "refused: the service has no endpoint");
    else
        say(lines, "way", NULL, "one of the endpoints is chosen for each connection");
    if (waypoint) {
        say_waypoint_hostname(lines, place, dump, waypoint);
        return;
    }
    say_hostnames(lines, place, dump, s);
    say_networks(lines, dump, source, s);
}

static void explain_workload(cJSON *lines, const struct place *place, const cJSON *dump, const cJSON *source,
                             const cJSON *w, const struct endpoint *e)
{
    const cJSON *waypoint = get(w, "waypoint");
    bool hbone = !strcmp(text_of(w, "protocol"), "HBONE");
    cJSON *verdict = waypoint ? NULL : ask_verdict(place, source, hbone, e); /* policies judge the waypoint */

    say(lines, "destination", NULL, "workload %s/%s on node %s", text_of(w, "namespace"), text_of(w, "name"),
        *text_of(w, "node") ? text_of(w, "node") : "unknown");
    if (waypoint)
        say(lines, "way", NULL, "to the waypoint %s, through HBONE", text_of(waypoint, "destination"));
    else if (hbone)
        say_hbone(lines, verdict, e);
    else
        say(lines, "way", NULL, "in plaintext: the destination is known and is not in the mesh");
    if (hbone)
        say_identity(lines, waypoint ? "behind the waypoint" : "expected at the other end", w);
    say_policies(lines, dump, w);
    if (verdict)
        say_verdict(lines, verdict);
    cJSON_Delete(verdict);
    if (!strcmp(text_of(w, "status"), "Unhealthy"))
        say(lines, "health", &no_upstream, "the control plane reports the workload as unhealthy");
}

static void explain(cJSON *lines, const struct place *place, const cJSON *dump, const char *pod,
                    const struct endpoint *e)
{
    const cJSON *source = find_pod(dump, pod), *found;

    if (!source) {
        say(lines, "source", &no_source, "%s is not known to the control plane", pod);
        return;
    }
    found = find_workload(dump, text_of(source, "network"), &e->addr);
    say_identity(lines, "source", source);
    if (addr_is_loopback(&e->addr) || found == source)
        say(lines, "destination", NULL, "the pod itself: it is not captured");
    else if (found)
        explain_workload(lines, place, dump, source, found, e);
    else if ((found = find_service(dump, &e->addr)))
        explain_service(lines, place, dump, source, found, e);
    else
        explain_outside(lines, dump, pod, e);
}

/* What the kernel makes of it before the proxy sees it. */
static void add_capture(cJSON *lines, const struct place *place, const char *pod, const struct endpoint *to)
{
    char target[ENDPOINT_TEXT_LEN];
    cJSON *found;

    if (agent_capture(place, pod, endpoint_format(to, target), &found) != CTL_OK)
        return;
    while (cJSON_GetArraySize(found))
        cJSON_AddItemToArray(lines, cJSON_DetachItemFromArray(found, 0));
    cJSON_Delete(found);
}

int explain_connection(const struct place *place, const char *pod, const char *target, cJSON *lines)
{
    struct endpoint e;
    cJSON *dump;
    int r;

    if (endpoint_parse(target, &e) < 0) {
        if (strpbrk(target, ":/") || addr_parse(target, &e.addr) == 0) {
            fprintf(stderr, "brumactl: \"%s\" is neither IP:PORT nor a host name\n", target);
            return CTL_USAGE;
        }
        explain_name(place, pod, target, lines);
        return CTL_OK;
    }
    r = proxy_dump(place, &dump);
    if (r != CTL_OK)
        return r;
    explain(lines, place, dump, pod, &e);
    add_capture(lines, place, pod, &e);
    cJSON_Delete(dump);
    return CTL_OK;
}
