/* SPDX-License-Identifier: Apache-2.0 */
/* Every variable of the node proxy contract does something, or keeps the proxy from starting. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"
#include "proxy/contract_settings.h"
#include "proxy/proxy_settings.h"
#include "proxy/worker_count.h"

enum what {
    SETTING, /* of ours, by this name */
    READ,    /* where it is needed; see docs/settings.sh */
    REFUSED, /* with the value given */
};

/* The contract's whole list; good: a value that does not keep the proxy from starting. */
static const struct {
    const char *name;
    enum what what;
    const char *good, *bad;
} variables[] = {
    {"XDS_ADDRESS", SETTING, "", NULL},
    {"CA_ADDRESS", SETTING, "https://a:1", NULL},
    {"XDS_ROOT_CA", SETTING, "SYSTEM", NULL},
    {"CA_ROOT_CA", SETTING, "SYSTEM", NULL},
    {"ALT_XDS_HOSTNAME", SETTING, "a", NULL},
    {"ALT_CA_HOSTNAME", SETTING, "a", NULL},
    {"AUTH_TOKEN", SETTING, "a", NULL},
    {"XDS_HEADER_A", READ, "a", NULL},
    {"CA_HEADER_A", READ, "a", NULL},
    {"ISTIO_META_CLUSTER_ID", READ, "a", NULL},
    {"CLUSTER_ID", SETTING, "a", NULL},
    {"CLUSTER_DOMAIN", SETTING, "mesh.example", NULL},
    {"NETWORK", SETTING, "a", NULL},
    {"NODE_NAME", SETTING, "a", NULL},
    {"POD_NAME", SETTING, "a", NULL},
    {"POD_NAMESPACE", SETTING, "a", NULL},
    {"SERVICE_ACCOUNT", SETTING, "a", "a/b"},
    {"TRUST_DOMAIN", SETTING, "a", "a/b"},
    {"INSTANCE_IP", SETTING, "10.0.0.1", NULL},
    {"ISTIO_META_A", READ, "a", NULL},
    {"ISTIO_METAJSON_A", READ, "{}", NULL},
    {"ISTIO_META_DNS_CAPTURE", READ, "false", NULL},
    {"ISTIO_META_DNS_PROXY_ADDR", REFUSED, "localhost:15053", "127.0.0.1:53"},
    {"ISTIO_META_ISTIO_VERSION", READ, "1.2.3", NULL},
    {"PROXY_CONFIG", READ, "{}", "{statsPort: [1]}"},
    {"ENABLE_PROXY", REFUSED, "true", "false"},
    {"PROXY_MODE", SETTING, "shared", "sidecar"},
    {"PROXY_WORKLOAD_INFO", SETTING, "", "a/b/c"}, /* with that mode alone */
    {"INPOD_UDS", SETTING, "/a", NULL},
    {"INPOD_PORT_REUSE", SETTING, "false", "no"},
    {"PACKET_MARK", SETTING, "0", "x"},
    {"IPV6_ENABLED", SETTING, "false", "0"},
    {"ENABLE_ORIG_SRC", SETTING, "false", "maybe"},
    {"LOCALHOST_APP_TUNNEL", SETTING, "false", "1"},
    {"ENABLE_RESPONSE_BAGGAGE", SETTING, "false", "1"},
    {"KEEPALIVE_ENABLED", SETTING, "false", "1"},
    {"KEEPALIVE_TIME", SETTING, "1m", "soon"},
    {"KEEPALIVE_INTERVAL", SETTING, "1m", "soon"},
    {"KEEPALIVE_RETRIES", SETTING, "3", "0"},
    {"USER_TIMEOUT_ENABLED", SETTING, "true", "yes"},
    {"HTTP2_STREAM_WINDOW_SIZE", SETTING, "65535", "x"},
    {"HTTP2_CONNECTION_WINDOW_SIZE", SETTING, "65535", "x"},
    {"HTTP2_FRAME_SIZE", SETTING, "16384", "1"},
    {"POOL_MAX_STREAMS_PER_CONNECTION", SETTING, "10", "x"},
    {"POOL_UNUSED_RELEASE_TIMEOUT", SETTING, "1m", "x"},
    {"CONNECTION_TERMINATION_DEADLINE", SETTING, "1s", "x"},
    {"TERMINATION_GRACE_PERIOD_SECONDS", READ, "30", NULL},
    {"SECRET_TTL", SETTING, "1h", "x"},
    {"FAKE_CA", REFUSED, "false", "true"},
    {"CRL_PATH", SETTING, "/a", NULL},
    {"XDS_ON_DEMAND", SETTING, "true", "x"},
    {"LOCAL_XDS_PATH", SETTING, "/a", NULL},
    {"LOCAL_XDS", SETTING, "workloads: []", NULL},
    {"PREFERED_SERVICE_NAMESPACE", SETTING, "a", NULL},
    {"UNSTABLE_ENABLE_SOCKS5", SETTING, "true", "yes"},
    {"AUTHZ_POLICY_INFO_LOGGING", SETTING, "true", "yes"},
    {"TLS12_ENABLED", SETTING, "true", "1"},
    {"COMPLIANCE_POLICY", SETTING, "fips-140-2", "FIPS-140-2"},
    {"RUST_LOG", SETTING, "debug", NULL},
    {"LOG_FORMAT", REFUSED, "json", "xml"},
    {"ZTUNNEL_WORKER_THREADS", SETTING, "50%", "half"},
    {"ZTUNNEL_RESOURCE_CPU_LIMIT", SETTING, "2", "x"},
    {"ZTUNNEL_RESOURCE_CPU_REQUEST", SETTING, "2", "x"},
    {"ZTUNNEL_CPU_LIMIT", SETTING, "2", "x"},
    {"INPOD_ENABLED", REFUSED, "true", "false"},
};

static char error[256];

static int load(void)
{
    static struct proxy_settings settings;
    char *argv[] = {"bruma-proxy", NULL};
    int first;

    error[0] = '\0';
    return proxy_settings_load("/nowhere/mesh", &settings, 1, argv, &first, error, sizeof(error));
}

static bool is_setting(const char *name)
{
    for (size_t i = 0; i < proxy_settings_count; i++) {
        if (proxy_settings_table[i].env && !strcmp(proxy_settings_table[i].env, name))
            return true;
    }
    return false;
}

/* In the table of what is refused. */
static bool is_said(const char *name)
{
    char *text = NULL, row[128];
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    bool said;

    contract_settings_markdown(out);
    cr_assert(fclose(out) == 0);
    snprintf(row, sizeof(row), "| `%s` |", name);
    said = strstr(text, row) != NULL;
    free(text);
    return said;
}

Test(contract_settings, none_is_ignored)
{
    for (size_t i = 0; i < array_size(variables); i++)
        unsetenv(variables[i].name);
    for (size_t i = 0; i < array_size(variables); i++) {
        const char *name = variables[i].name;

        cr_expect_eq(is_setting(name), variables[i].what == SETTING, "%s", name);
        cr_expect_eq(is_said(name), variables[i].what == REFUSED, "%s", name);
        setenv(name, variables[i].good, 1);
        cr_expect(load() == 0, "%s=%s: %s", name, variables[i].good, error);
        if (variables[i].bad) {
            setenv(name, variables[i].bad, 1);
            cr_expect(load() < 0, "%s=%s", name, variables[i].bad);
            cr_expect(strstr(error, variables[i].bad) || strstr(error, name), "%s: %s", name, error);
            if (variables[i].what == REFUSED)
                cr_expect(!strncmp(error, name, strlen(name)), "%s: %s", name, error);
        }
        unsetenv(name);
    }
    setenv("PROXY_MODE", "", 1);
    cr_expect(load() < 0, "empty is no mode");
    unsetenv("PROXY_MODE");
}

Test(contract_settings, worker_threads)
{
    static const struct {
        const char *text;
        unsigned long cpus, limit, request;
        int result;
        unsigned count;
    } cases[] = {
        {"auto", 1, 0, 0, 0, 1},
        {"auto", 4, 0, 0, 0, 1},
        {"auto", 5, 0, 0, 0, 2},
        {"auto", 64, 0, 0, 0, 16},
        {"auto", 64, 2, 0, 0, 2},
        {"auto", 64, 2, 3, 0, 3},
        {"auto", 64, 0, 20, 0, 20},
        {"auto", 9999, 0, 0, 0, WORKERS_MAX},
        {"0", 8, 2, 0, 0, 8},
        {"3", 8, 2, 0, 0, 3},
        {"50%", 8, 0, 0, 0, 4},
        {"50%", 3, 0, 0, 0, 2},
        {"0%", 8, 0, 0, 0, 1},
        {"1%", 8, 0, 0, 0, 1},
        {"100%", 8, 0, 0, 0, 8},
        {"999999", 8, 0, 0, 0, WORKERS_MAX},
        {"", 8, 0, 0, -EINVAL, 7},
        {"%", 8, 0, 0, -EINVAL, 7},
        {"-1", 8, 0, 0, -EINVAL, 7},
        {"5 %", 8, 0, 0, -EINVAL, 7},
        {"5%%", 8, 0, 0, -EINVAL, 7},
        {"Auto", 8, 0, 0, -EINVAL, 7},
        {"9999999", 8, 0, 0, -EINVAL, 7},
    };

    for (size_t i = 0; i < array_size(cases); i++) {
        const struct worker_share share = {cases[i].limit, cases[i].request};
        unsigned count = 7;

        cr_expect_eq(worker_count(cases[i].text, cases[i].cpus, &share, &count), cases[i].result, "%s",
                     cases[i].text);
        cr_expect_eq(count, cases[i].count, "%s of %lu: %u", cases[i].text, cases[i].cpus, count);
    }
}
