/* SPDX-License-Identifier: Apache-2.0 */
/* What the proxy takes from its surroundings where nothing is set: contract section 10. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proxy/identity/credentials.h"
#include "proxy/proxy_settings.h"
#include "proxy/xds/mesh_config.h"

static char file[64], error[256];
static struct proxy_settings settings;

static void begin(void)
{
    static const char *const names[] = {"KUBERNETES_SERVICE_HOST",
                                        "PROXY_CONFIG",
                                        "XDS_ADDRESS",
                                        "CA_ADDRESS",
                                        "AUTH_TOKEN",
                                        "CLUSTER_ID",
                                        "ISTIO_META_CLUSTER_ID",
                                        "TERMINATION_GRACE_PERIOD_SECONDS",
                                        "CONNECTION_TERMINATION_DEADLINE",
                                        "ZTUNNEL_WORKER_THREADS",
                                        "BRUMA_ADMIN_PORT"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        unsetenv(names[i]);
    snprintf(file, sizeof(file), "/tmp/bruma-settings-%d", (int)getpid());
    memset(&settings, 0, sizeof(settings));
    error[0] = '\0';
}

static void end(void)
{
    begin();
    unlink(file);
}

TestSuite(proxy_settings, .init = begin, .fini = end);

static void write_file(const char *text)
{
    FILE *f = fopen(file, "w");

    cr_assert(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

static int load(const char *option)
{
    char *argv[] = {"bruma-proxy", (char *)(uintptr_t)option, NULL};
    int first;

    return proxy_settings_load(file, &settings, option ? 2 : 1, argv, &first, error, sizeof(error));
}

static const char *meta(const char *name)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(settings.metadata, name));

    return text ? text : "";
}

Test(proxy_settings, of_a_machine_alone)
{
    cr_assert(load(NULL) == 0, "%s", error);
    cr_expect(!strcmp(settings.xds_address, "https://localhost:15012"));
    cr_expect(!strcmp(settings.ca_address, "https://localhost:15012"));
    cr_expect(!strcmp(settings.xds_roots, "/run/bruma/control/root-cert.pem"));
    cr_expect(!strcmp(settings.token_file, "/run/bruma/control/token") && !settings.auth_token);
    cr_expect(!strcmp(settings.cluster_id, "Kubernetes") && settings.drain_deadline == 5000);
    cr_expect(settings.metadata && !settings.metadata->child);
}

Test(proxy_settings, in_a_cluster)
{
    setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1", 1);
    setenv("TERMINATION_GRACE_PERIOD_SECONDS", "30", 1);
    setenv("CLUSTER_ID", "second", 1);
    setenv("ISTIO_META_CLUSTER_ID", "first", 1);
    cr_assert(load(NULL) == 0, "%s", error);
    cr_expect(!strcmp(settings.xds_address, "https://istiod.istio-system.svc:15012"));
    cr_expect(!strcmp(settings.ca_address, "https://istiod.istio-system.svc:15012"));
    cr_expect(!strcmp(settings.xds_roots, "/var/run/secrets/istio/root-cert.pem"));
    cr_expect(!strcmp(settings.ca_roots, "/var/run/secrets/istio/root-cert.pem"));
    cr_expect(!strcmp(settings.token_file, "/var/run/secrets/tokens/istio-token"));
    cr_expect(!strcmp(settings.cluster_id, "first"));
    cr_expect(settings.drain_deadline == 25000);
}

Test(proxy_settings, time_to_end_in)
{
    static const struct {
        const char *granted;
        unsigned long milliseconds;
    } cases[] = {{"11", 6000}, {"10", 9000}, {"2", 1000}, {"1", 1000}, {"0", 1000}, {"nonsense", 5000}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        setenv("TERMINATION_GRACE_PERIOD_SECONDS", cases[i].granted, 1);
        cr_assert(load(NULL) == 0, "%s", error);
        cr_expect(settings.drain_deadline == cases[i].milliseconds, "%s: %lu", cases[i].granted,
                  settings.drain_deadline);
    }
    setenv("CONNECTION_TERMINATION_DEADLINE", "3s", 1);
    cr_assert(load(NULL) == 0 && settings.drain_deadline == 3000, "what is set counts");
}

Test(proxy_settings, mesh_configuration)
{
    write_file("accessLogFile: /dev/stdout\n"
               "defaultConfig:\n"
               "  discoveryAddress: istiod-canary.mesh.svc:15012\n"
               "  proxyAdminPort: 15999\n"
               "  statsPort: 15998\n"
               "  concurrency: 3\n"
               "  tracing: {sampling: 1.0}\n"
               "  proxyMetadata:\n"
               "    ISTIO_META_ONE: file\n"
               "    TWO: \"2\"\n");
    setenv("PROXY_CONFIG", "{statsPort: 16000, proxyMetadata: {ISTIO_META_ONE: environment, THREE: three}}",
           1);
    cr_assert(load(NULL) == 0, "%s", error);
    cr_expect(!strcmp(settings.xds_address, "istiod-canary.mesh.svc:15012"));
    cr_expect(!strcmp(settings.ca_address, "https://localhost:15012"), "it is not for the CA");
    cr_expect(settings.admin_port == 15999 && settings.metrics_port == 16000 && settings.workers == 3);
    cr_expect(settings.trust_domains.len == 0);
    cr_expect(!strcmp(meta("ONE"), "environment") && !strcmp(meta("TWO"), "2") &&
              !strcmp(meta("THREE"), "three"));
}

Test(proxy_settings, outbound_traffic_policy)
{
    cr_assert(load(NULL) == 0 && settings.outbound_policy == OUTBOUND_ALLOW_ANY, "%s", error);
    write_file("outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n");
    cr_assert(load(NULL) == 0 && settings.outbound_policy == OUTBOUND_REGISTRY_ONLY, "%s", error);
    cr_assert(load("--outbound-traffic-policy=ALLOW_ANY") == 0, "%s", error);
    cr_expect(settings.outbound_policy == OUTBOUND_ALLOW_ANY, "what is set counts more");
    cr_expect(load("--outbound-traffic-policy=allow") < 0 && strstr(error, "outbound-traffic-policy"), "%s",
              error);
    write_file("outboundTrafficPolicy: {mode: REGISTRY}\n");
    cr_expect(load(NULL) < 0 && strstr(error, file) && strstr(error, "mode is neither"), "%s", error);
}

Test(proxy_settings, trust_domain_aliases)
{
    write_file(
        "trustDomain: new.example\ntrustDomainAliases:\n- old.example\n- older.example\ndefaultConfig: {}\n");
    cr_assert(load(NULL) == 0, "%s", error);
    cr_assert(settings.trust_domains.len == 3);
    cr_expect_str_eq(settings.trust_domains.names[1], "older.example");
    cr_expect_str_eq(settings.trust_domains.names[2], "new.example");
    setenv("BRUMA_TRUST_DOMAIN_ALIASES", "one", 1);
    cr_assert(load(NULL) == 0, "%s", error);
    cr_expect(settings.trust_domains.len == 1 && !strcmp(settings.trust_domains.names[0], "one"));
    setenv("BRUMA_TRUST_DOMAIN_ALIASES", "a/b", 1);
    cr_expect(load(NULL) == -EINVAL && strstr(error, "trust-domain-aliases"), "%s", error);
    write_file("trustDomainAliases: old.example\n");
    cr_expect(load(NULL) == -EBADMSG && strstr(error, "trustDomainAliases"), "%s", error);
    write_file("trustDomainAliases: [\"a,b\"]\n");
    cr_expect(load(NULL) == -EBADMSG && strstr(error, "trustDomainAliases"), "%s", error);
}

/* As the stock chart sets them: without a limit the first is what the node has. */
Test(proxy_settings, workers_are_a_share_of_the_processors_that_there_are)
{
    setenv("ZTUNNEL_CPU_LIMIT", "12", 1);
    cr_assert(load(NULL) == 0 && settings.workers == 3, "auto: a quarter, not all: %u", settings.workers);
    cr_assert(load("--workers=50%") == 0 && settings.workers == 6);
    cr_assert(load("--workers=0") == 0 && settings.workers == 12);
    setenv("ZTUNNEL_RESOURCE_CPU_LIMIT", "2", 1);
    cr_assert(load(NULL) == 0 && settings.workers == 2);
}

Test(proxy_settings, what_is_set_counts_more_than_the_mesh_configuration)
{
    write_file("defaultConfig: {discoveryAddress: \"elsewhere:1\", proxyAdminPort: 1}\n");
    setenv("XDS_ADDRESS", "", 1);
    setenv("AUTH_TOKEN", "", 1);
    cr_assert(load("--admin-port=2") == 0, "%s", error);
    cr_expect(!*settings.xds_address && settings.admin_port == 2);
    cr_expect(settings.auth_token && !*settings.auth_token);
}

Test(proxy_settings, mesh_configurations_that_say_nothing)
{
    static const char *const texts[] = {"",
                                        "# nothing\n",
                                        "~\n",
                                        "defaultConfig:\n",
                                        "other: [1, 2]\n",
                                        "defaultConfig: {proxyMetadata: }\n"};

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        write_file(texts[i]);
        cr_assert(load(NULL) == 0, "%s: %s", texts[i], error);
    }
}

Test(proxy_settings, mesh_configurations_that_are_refused)
{
    static const char *const texts[] = {"a: [",
                                        "- a list\n",
                                        "\"text\"",
                                        "defaultConfig: [1]\n",
                                        "defaultConfig: {discoveryAddress: {a: b}}\n",
                                        "defaultConfig: {proxyMetadata: [1]}\n",
                                        "defaultConfig: {proxyMetadata: {a: [1]}}\n",
                                        "defaultConfig: {discoveryAddress: \"a\\0b\"}\n"};

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        write_file(texts[i]);
        error[0] = '\0';
        cr_expect(load(NULL) < 0 && strstr(error, file), "%s: %s", texts[i], error);
    }
    unlink(file);
    setenv("PROXY_CONFIG", "{statsPort: [1]}", 1);
    cr_expect(load(NULL) < 0 && strstr(error, "PROXY_CONFIG:1"), "%s", error);
    setenv("PROXY_CONFIG", "{statsPort: many}", 1);
    cr_expect(load(NULL) < 0 && strstr(error, "metrics-port") && strstr(error, "many"), "%s", error);
}

/* ---- tokens ---- */

static const char *authorization(struct credential_headers *h)
{
    for (size_t i = 0; i < h->len; i++) {
        if (!strcmp(h->headers[i].name, "authorization"))
            return h->headers[i].value;
    }
    return "";
}

Test(proxy_settings, tokens)
{
    struct credential_headers h;

    cr_assert(credential_headers_load(NULL, file, "c", "X_", &h) == 0 && !*authorization(&h),
              "not given, and no file: none");
    credential_headers_free(&h);
    write_file("from-file\n");
    cr_assert(credential_headers_load(NULL, file, "c", "X_", &h) == 0);
    cr_expect(!strcmp(authorization(&h), "Bearer from-file"));
    credential_headers_free(&h);
    cr_assert(credential_headers_load("", file, "c", "X_", &h) == 0 && !h.len, "empty: none, and no cluster");
    credential_headers_free(&h);
    cr_assert(credential_headers_load("literal", file, "c", "X_", &h) == 0);
    cr_expect(!strcmp(authorization(&h), "Bearer literal"));
    credential_headers_free(&h);
    write_file("");
    cr_expect(credential_headers_load(NULL, file, "c", "X_", &h) < 0, "an empty file is an error");
    cr_expect(credential_headers_load("/nowhere/token", file, "c", "X_", &h) < 0);
    cr_expect(credential_headers_load("./nowhere/token", file, "c", "X_", &h) < 0);
}
