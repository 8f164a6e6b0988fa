/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/otlp/otlp_config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/proto/otlp.pb-c.h"

static struct otlp_texts texts;
static struct otlp_config config;
static char error[300];

static void set_up(void)
{
    texts = (struct otlp_texts){.endpoint = "",
                                .endpoints = {"", "", ""},
                                .exporters = {"otlp", "otlp", "otlp"},
                                .headers = "",
                                .protocol = "http/protobuf",
                                .compression = "gzip",
                                .sampler = "parentbased_always_on",
                                .sampler_argument = "1.0",
                                .certificate = "",
                                .service_name = "",
                                .resource_attributes = "",
                                .node_name = "",
                                .pod_name = "",
                                .pod_namespace = "",
                                .cluster_name = "Kubernetes",
                                .timeout = 10000,
                                .interval = 60000};
}

static void tear_down(void)
{
    otlp_config_clear(&config);
}

TestSuite(otlp_config, .init = set_up, .fini = tear_down);

static void make(void)
{
    cr_assert_eq(otlp_config_make(&texts, &config, error, sizeof(error)), 0, "%s", error);
}

static void url(const char *endpoint, const char *expected)
{
    texts.endpoint = endpoint;
    make();
    cr_expect_str_eq(config.urls[OTLP_LOGS], expected);
    otlp_config_clear(&config);
}

Test(otlp_config, off_without_an_endpoint)
{
    texts.protocol = texts.compression = "of no matter";
    make();
    cr_expect(!otlp_config_is_on(&config));
}

Test(otlp_config, paths_of_signals)
{
    url("http://collector:4318", "http://collector:4318/v1/logs");
    url("http://collector:4318/", "http://collector:4318/v1/logs");
    url("https://collector/otlp", "https://collector/otlp/v1/logs");
    url("https://[fd00::1]:4318/otlp/", "https://[fd00::1]:4318/otlp/v1/logs");
    texts.endpoint = "http://collector:4318";
    texts.endpoints[OTLP_METRICS] = "http://elsewhere/all/of/it";
    texts.exporters[OTLP_LOGS] = "none";
    make();
    cr_expect_null(config.urls[OTLP_LOGS]);
    cr_expect_str_eq(config.urls[OTLP_METRICS], "http://elsewhere/all/of/it");
    cr_expect_str_eq(config.urls[OTLP_TRACES], "http://collector:4318/v1/traces");
}

Test(otlp_config, headers)
{
    texts.endpoint = "http://collector";
    texts.headers = " api-key = a%20b%3D , empty=,x=1,";
    make();
    cr_expect_str_eq(config.headers[0], "api-key: a b=");
    cr_expect_str_eq(config.headers[1], "empty;");
    cr_expect_str_eq(config.headers[2], "x: 1");
    cr_expect_null(config.headers[3]);
}

static const char *attribute(const char *key)
{
    static char text[200];
    Otlp__Resource *r = otlp__resource__unpack(NULL, config.resource_len, config.resource);

    text[0] = '\0';
    for (size_t i = 0; i < r->n_attributes; i++) {
        if (!strcmp(r->attributes[i]->key, key)) {
            cr_expect_str_empty(text, "%s is there twice", key);
            snprintf(text, sizeof(text), "%s", r->attributes[i]->value->string_value);
        }
    }
    otlp__resource__free_unpacked(r, NULL);
    return text;
}

Test(otlp_config, resource)
{
    texts.endpoint = "http://collector";
    texts.node_name = "node-a";
    texts.pod_name = "ztunnel-x";
    make();
    cr_expect_str_eq(attribute("service.name"), "bruma-proxy");
    cr_expect_str_eq(attribute("host.name"), "node-a");
    cr_expect_str_empty(attribute("k8s.pod.name"), "there is no Kubernetes");
    cr_expect_eq(strlen(attribute("service.instance.id")), 36);
    otlp_config_clear(&config);
    texts.cluster = true;
    texts.pod_namespace = "istio-system";
    texts.service_name = "mesh";
    texts.resource_attributes = "service.name=other,k8s.cluster.name=east,team=a%2Cb";
    make();
    cr_expect_str_eq(attribute("service.name"), "mesh");
    cr_expect_str_eq(attribute("k8s.node.name"), "node-a");
    cr_expect_str_eq(attribute("k8s.pod.name"), "ztunnel-x");
    cr_expect_str_eq(attribute("k8s.namespace.name"), "istio-system");
    cr_expect_str_eq(attribute("k8s.cluster.name"), "east", "what is said counts");
    cr_expect_str_eq(attribute("team"), "a,b");
    cr_expect_str_empty(attribute("host.name"));
    otlp_config_clear(&config);
    texts.service_name = "";
    make();
    cr_expect_str_eq(attribute("service.name"), "other");
}

static void sampler(const char *name, const char *argument, bool follows_parent, uint64_t threshold)
{
    texts.endpoint = "http://collector";
    texts.sampler = name;
    texts.sampler_argument = argument;
    make();
    cr_expect_eq(config.sampler.follows_parent, follows_parent, "%s", name);
    cr_expect_eq(config.sampler.threshold, threshold, "%s", name);
    otlp_config_clear(&config);
}

Test(otlp_config, samplers)
{
    sampler("always_on", "1.0", false, UINT64_C(1) << 56);
    sampler("parentbased_always_on", "1.0", true, UINT64_C(1) << 56);
    sampler("always_off", "1.0", false, 0);
    sampler("parentbased_always_off", "1.0", true, 0);
    sampler("traceidratio", "0.5", false, UINT64_C(1) << 55);
    sampler("parentbased_traceidratio", "0", true, 0);
    sampler("parentbased_traceidratio", "1", true, UINT64_C(1) << 56);
    sampler("always_on", "of no matter", false, UINT64_C(1) << 56);
}

Test(otlp_config, is_whole_or_not_at_all)
{
    texts.endpoint = "http://collector";
    texts.headers = "a=b,c d=e";
    cr_expect_eq(otlp_config_make(&texts, &config, error, sizeof(error)), -EINVAL);
    cr_expect(strstr(error, "OTEL_EXPORTER_OTLP_HEADERS") && !strchr(error, '\n'), "%s", error);
    cr_expect(!otlp_config_is_on(&config) && !config.headers && !config.resource);
}

static void is_refused(const char *variable, const char *value)
{
    setenv(variable, value, 1);
    cr_expect_eq(otlp_config_make(&texts, &config, error, sizeof(error)), -EINVAL, "%s", variable);
    cr_expect(strstr(error, variable) && strstr(error, "is not supported"), "%s", error);
    cr_expect_not(strstr(error, "secret"), "%s", error);
    unsetenv(variable);
}

Test(otlp_config, what_others_read_is_not_ignored_in_silence)
{
    texts.endpoint = "http://collector:4318";
    is_refused("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "a=secret");
    is_refused("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "5000");
    is_refused("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "none");
    is_refused("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc");
    is_refused("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", "/secret");
    is_refused("OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY", "/secret");
    is_refused("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/secret");
    is_refused("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta");
    setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf", 1);
    make();
    otlp_config_clear(&config);
    unsetenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL");
    setenv("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "5000", 1);
    texts.endpoint = "";
    make();
    unsetenv("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT");
}

Test(otlp_config, all_of_it_can_be_switched_off)
{
    texts.endpoint = "http://collector:4318";
    setenv("OTEL_SDK_DISABLED", "true", 1);
    make();
    cr_expect_not(otlp_config_is_on(&config));
    setenv("OTEL_SDK_DISABLED", "false", 1);
    make();
    cr_expect(otlp_config_is_on(&config));
    unsetenv("OTEL_SDK_DISABLED");
}

Test(otlp_config, what_is_empty_is_not_set)
{
    texts.endpoint = "http://collector:4318";
    texts.protocol = texts.compression = texts.sampler = texts.sampler_argument = "";
    texts.exporters[OTLP_LOGS] = "";
    make();
    cr_expect(config.urls[OTLP_LOGS] && config.gzip && config.sampler.follows_parent);
}
