/* SPDX-License-Identifier: Apache-2.0 */
/* What OpenTelemetry's environment variables say: where to send what, and who we are. */
#ifndef PROXY_OTLP_OTLP_CONFIG_H
#define PROXY_OTLP_OTLP_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of connections without a parent, and of those that have one, whose proxy has decided (sampled). */
struct otlp_sampler {
    bool follows_parent;
    uint64_t threshold; /* the lower half of a trace's ID, 56 bits of it, is below it: sampled */
};

/* What OTLP has, each with a path and messages of its own. */
enum otlp_signal { OTLP_LOGS, OTLP_METRICS, OTLP_TRACES, OTLP_SIGNALS };

#define OTLP_PAIRS_MAX 64 /* of one list of headers or attributes */

/* Texts as they are set, never NULL; "" where a setting says nothing. */
struct otlp_texts {
    const char *endpoint;                /* of all signals: the signal's path comes behind it */
    const char *endpoints[OTLP_SIGNALS]; /* of one: used as it is */
    const char *exporters[OTLP_SIGNALS]; /* otlp or none */
    const char *protocol, *compression, *headers, *certificate, *sampler, *sampler_argument;
    const char *service_name, *resource_attributes;
    unsigned long timeout;  /* milliseconds of one request */
    unsigned long interval; /* milliseconds between two exports of metrics */
    /* What a node is called and which pod the proxy is; "": it is not said. */
    bool cluster;
    const char *node_name, *pod_name, *pod_namespace, *cluster_name;
};

struct otlp_config {
    char *urls[OTLP_SIGNALS]; /* NULL: this signal is not exported */
    char **headers;           /* lines as libcurl takes them, NULL at the end */
    const char *certificate;  /* roots of a collector's certificate; NULL: those of the system */
    bool gzip;
    unsigned long timeout, interval; /* as in the texts */
    struct otlp_sampler sampler;
    uint8_t *resource; /* a packed Resource */
    size_t resource_len;
};

/* What the texts amount to. Every signal is off where no endpoint is given, and nothing else is looked at
 * then. 0, or -EINVAL with a sentence in error that names the variable. Valid until
 * otlp_config_clear(); certificate is the text's. Before threads start. */
int otlp_config_make(const struct otlp_texts *texts, struct otlp_config *ret, char *error, size_t error_size);
/* Frees what it holds; the struct is the caller's. */
void otlp_config_clear(struct otlp_config *config);

/* Whether any signal is exported. */
bool otlp_config_is_on(const struct otlp_config *config);
/* "logs", "metrics", "traces": a static text, never NULL. */
const char *otlp_signal_name(enum otlp_signal signal);

#endif
