/* SPDX-License-Identifier: Apache-2.0 */
/* "Why is this connection as it is": what the proxy knows of both ends, in words. */
#include <stdio.h>
#include <string.h>

#include "addr.h"
#include "commands.h"
#include "source.h"

static const cJSON *get(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

static const cJSON *find_workload(const cJSON *dump, const struct addr *addr)
{
    const cJSON *w, *ip;

    cJSON_ArrayForEach (w, get(dump, "workloads")) {
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

static void print_identity(const char *what, const cJSON *w)
{
    const char *trust_domain = text_of(w, "trustDomain"), *account = text_of(w, "serviceAccount");

    printf("%s spiffe://%s/ns/%s/sa/%s\n", what, *trust_domain ? trust_domain : "cluster.local",
           text_of(w, "namespace"), *account ? account : "default");
}

static void print_policies(const cJSON *dump, const cJSON *w)
{
    const cJSON *p, *name;
    int count = 0;

    cJSON_ArrayForEach (p, get(dump, "policies")) {
        const char *scope = text_of(p, "scope");
        char key[600];
        bool applies =
            !strcmp(scope, "Global") ||
            (!strcmp(scope, "Namespace") && !strcmp(text_of(p, "namespace"), text_of(w, "namespace")));

        snprintf(key, sizeof(key), "%s/%s", text_of(p, "namespace"), text_of(p, "name"));
        cJSON_ArrayForEach (name, get(w, "authorizationPolicies"))
            applies = applies || (cJSON_IsString(name) && !strcmp(name->valuestring, key));
        if (!applies)
            continue;
        printf("%s %s (%s)%s", count ? "," : "policies of the destination:", key, text_of(p, "action"),
               cJSON_IsTrue(get(p, "dryRun")) ? " dry run" : "");
        count++;
    }
    puts(count ? "; `brumactl policy` shows their rules"
               : "no policy applies to the destination: everything is allowed");
}

static int explain_service(const cJSON *dump, const cJSON *s, const struct endpoint *e)
{
    char port[8];
    const cJSON *ports = get(s, "ports"), *waypoint = get(s, "waypoint");

    (void)dump;
    snprintf(port, sizeof(port), "%u", e->port);
    printf("destination: service %s in namespace %s, %d endpoints\n", text_of(s, "hostname"),
           text_of(s, "namespace"), cJSON_GetArraySize(get(s, "endpoints")));
    if (waypoint) {
        printf("it goes to the waypoint %s, through HBONE\n", text_of(waypoint, "destination"));
        return CTL_OK;
    }
    if (!get(ports, port)) {
        printf("refused: the service has no port %s (reason no_healthy_upstream)\n", port);
        return CTL_PROBLEM;
    }
    if (!cJSON_GetArraySize(get(s, "endpoints"))) {
        puts("refused: the service has no endpoint (reason no_healthy_upstream)");
        return CTL_PROBLEM;
    }
    puts("one of its endpoints is chosen for each connection");
    return CTL_OK;
}

static int explain_workload(const cJSON *dump, const cJSON *w, const struct endpoint *e)
{
    const cJSON *waypoint = get(w, "waypoint");
    char text[ADDR_TEXT_LEN];

    printf("destination: workload %s/%s on node %s\n", text_of(w, "namespace"), text_of(w, "name"),
           *text_of(w, "node") ? text_of(w, "node") : "unknown");
    if (waypoint)
        printf("it goes to the waypoint %s, through HBONE\n", text_of(waypoint, "destination"));
    else if (!strcmp(text_of(w, "protocol"), "HBONE"))
        printf("it goes through HBONE to %s port 15008, encrypted\n", addr_format(&e->addr, text));
    else
        puts("the destination is known and not in the mesh: it goes in plaintext");
    if (!strcmp(text_of(w, "protocol"), "HBONE"))
        print_identity("expected at the other end:", w);
    print_policies(dump, w);
    if (strcmp(text_of(w, "status"), "Unhealthy") == 0)
        puts("the control plane says that the workload is not healthy");
    return CTL_OK;
}

int explain_connection(const struct ctl_options *o, const char *pod, const char *target)
{
    const cJSON *source, *found;
    struct endpoint e;
    cJSON *dump;
    int r;

    if (endpoint_parse(target, &e) < 0) {
        fprintf(stderr, "brumactl: \"%s\" is not IP:PORT\n", target);
        return CTL_USAGE;
    }
    r = proxy_dump(o->run_dir, &dump);
    if (r != CTL_OK)
        return r;
    source = find_pod(dump, pod);
    if (!source) {
        printf("source: %s is not known to the control plane (reason source_unknown)\n", pod);
        cJSON_Delete(dump);
        return CTL_PROBLEM;
    }
    print_identity("source:", source);
    if ((found = find_workload(dump, &e.addr)))
        r = explain_workload(dump, found, &e);
    else if ((found = find_service(dump, &e.addr)))
        r = explain_service(dump, found, &e);
    else
        puts("destination: outside the mesh; it is passed through as it is");
    cJSON_Delete(dump);
    return r;
}
