/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/otlp/otlp_config.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/proto/otlp.pb-c.h"
#include "lib/utf8.h"

#define PROTOCOL       "http/protobuf"
#define ATTRIBUTES_MAX (OTLP_PAIRS_MAX + 8) /* those of the list and our own */

static const char *const names[OTLP_SIGNALS] = {
    [OTLP_LOGS] = "logs", [OTLP_METRICS] = "metrics", [OTLP_TRACES] = "traces"};
static const char *const exporter_variables[OTLP_SIGNALS] = {[OTLP_LOGS] = "OTEL_LOGS_EXPORTER",
                                                             [OTLP_METRICS] = "OTEL_METRICS_EXPORTER",
                                                             [OTLP_TRACES] = "OTEL_TRACES_EXPORTER"};
static const char *const endpoint_variables[OTLP_SIGNALS] = {
    [OTLP_LOGS] = "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
    [OTLP_METRICS] = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    [OTLP_TRACES] = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"};

struct error {
    char *text;
    size_t size;
};

static int refuse(const struct error *error, const char *variable, const char *value, const char *why)
{
    snprintf(error->text, error->size, "%s: \"%.100s\" %s", variable, value, why);
    return -EINVAL;
}

const char *otlp_signal_name(enum otlp_signal signal)
{
    return names[signal];
}

bool otlp_config_is_on(const struct otlp_config *config)
{
    return config->urls[OTLP_LOGS] || config->urls[OTLP_METRICS] || config->urls[OTLP_TRACES];
}

void otlp_config_clear(struct otlp_config *config)
{
    for (int i = 0; i < OTLP_SIGNALS; i++)
        free(config->urls[i]);
    for (size_t i = 0; config->headers && config->headers[i]; i++)
        free(config->headers[i]);
    free(config->headers);
    free(config->resource);
    *config = (struct otlp_config){};
}

/* ---- where to ---- */

static char *part_of(CURLU *url, CURLUPart part)
{
    char *text = NULL, *copy;

    if (curl_url_get(url, part, &text, 0) != CURLUE_OK)
        return NULL;
    copy = strdup(text);
    curl_free(text);
    return copy;
}

/* Why it cannot be used; NULL: it can. */
static const char *wrong_url(CURLU *url, const char *text)
{
    _cleanup_free_ char *scheme = NULL, *user = NULL, *host = NULL;

    if (!url || curl_url_set(url, CURLUPART_URL, text, 0) != CURLUE_OK)
        return "is not a URL such as http://HOST:4318";
    scheme = part_of(url, CURLUPART_SCHEME);
    host = part_of(url, CURLUPART_HOST);
    user = part_of(url, CURLUPART_USER);
    if (!scheme || (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0))
        return "is neither an http:// nor an https:// URL";
    if (!host || !*host)
        return "names no host";
    return user ? "holds a user; OTEL_EXPORTER_OTLP_HEADERS is for credentials" : NULL;
}

/* signal: whose path comes behind the URL's own; OTLP_SIGNALS: none. */
static int make_url(const char *variable, const char *text, enum otlp_signal signal, char **ret,
                    const struct error *error)
{
    CURLU *url = curl_url();
    const char *why = wrong_url(url, text);

    if (!why && signal != OTLP_SIGNALS) {
        _cleanup_free_ char *path = part_of(url, CURLUPART_PATH);
        char longer[2048];
        size_t len = path ? strlen(path) : 0;
        int n = snprintf(longer, sizeof(longer), "%s%sv1/%s", path ? path : "",
                         len && path[len - 1] == '/' ? "" : "/", names[signal]);

        if (n < 0 || (size_t)n >= sizeof(longer) || curl_url_set(url, CURLUPART_PATH, longer, 0) != CURLUE_OK)
            why = "has a path that is too long";
    }
    if (!why) {
        *ret = part_of(url, CURLUPART_URL);
        if (!*ret)
            why = "cannot be used: no memory";
    }
    curl_url_cleanup(url);
    return why ? refuse(error, variable, strchr(text, '@') ? "..." : text, why) : 0; /* no password */
}

static int make_urls(const struct otlp_texts *t, struct otlp_config *ret, const struct error *error)
{
    for (int i = 0; i < OTLP_SIGNALS; i++) {
        bool none = !strcmp(t->exporters[i], "none");
        int r = 0;

        if (!none && strcmp(t->exporters[i], "otlp") != 0)
            return refuse(error, exporter_variables[i], t->exporters[i], "is neither otlp nor none");
        if (none)
            continue;
        if (*t->endpoints[i])
            r = make_url(endpoint_variables[i], t->endpoints[i], OTLP_SIGNALS, &ret->urls[i], error);
        else if (*t->endpoint)
            r = make_url("OTEL_EXPORTER_OTLP_ENDPOINT", t->endpoint, (enum otlp_signal)i, &ret->urls[i],
                         error);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- lists of pairs ---- */

struct pair {
    char *key, *value; /* in the list's own copy */
};

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* In place. False: a % without two digits, or a NUL. */
static bool decode_percent(char *text)
{
    char *to = text;
    int high, low;

    for (; *text; text++) {
        if (*text != '%') {
            *to++ = *text;
            continue;
        }
        high = hex_digit(text[1]);
        low = high < 0 ? -1 : hex_digit(text[2]);
        if (low < 0 || (!high && !low))
            return false;
        *to++ = (char)(high * 16 + low);
        text += 2;
    }
    *to = '\0';
    return true;
}

static char *trimmed(char *text)
{
    size_t len;

    text += strspn(text, " \t");
    len = strlen(text);
    while (len && (text[len - 1] == ' ' || text[len - 1] == '\t'))
        text[--len] = '\0';
    return text;
}

/* Splits and decodes copy, "a=b,c=d". The number of pairs, or -EINVAL. */
static int split_pairs(char *copy, struct pair pairs[OTLP_PAIRS_MAX])
{
    int len = 0;
    char *part;

    while ((part = strsep(&copy, ","))) {
        char *value = strchr(part, '=');

        if (!*trimmed(part))
            continue; /* as behind a comma at the end */
        if (!value || len == OTLP_PAIRS_MAX)
            return -EINVAL;
        *value++ = '\0';
        pairs[len].key = trimmed(part);
        pairs[len].value = trimmed(value);
        if (!decode_percent(pairs[len].key) || !*pairs[len].key || !decode_percent(pairs[len].value))
            return -EINVAL;
        len++;
    }
    return len;
}

/* ---- headers ---- */

static bool is_token(const char *text)
{
    return text[strspn(text,
                       "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~")] ==
           '\0';
}

static bool is_field_value(const char *text)
{
    for (; *text; text++) {
        if (((unsigned char)*text < 0x20 && *text != '\t') || *text == 0x7f)
            return false;
    }
    return true;
}

static int make_headers(const struct otlp_texts *t, struct otlp_config *ret, const struct error *error)
{
    static const char variable[] = "OTEL_EXPORTER_OTLP_HEADERS";
    _cleanup_free_ char *copy = strdup(t->headers);
    struct pair pairs[OTLP_PAIRS_MAX];
    int len = copy ? split_pairs(copy, pairs) : -ENOMEM;

    /* The value is not shown: it is a secret. */
    if (len < 0)
        return refuse(error, variable, "...",
                      "is not a list of at most 64 NAME=VALUE, separated by commas, values percent-encoded");
    ret->headers = calloc((size_t)len + 1, sizeof(*ret->headers));
    for (int i = 0; ret->headers && i < len; i++) {
        if (!is_token(pairs[i].key))
            return refuse(error, variable, "...", "has what is no name of a header in front of a =");
        if (!is_field_value(pairs[i].value))
            return refuse(error, variable, pairs[i].key, "has a value with control characters");
        /* A semicolon is libcurl's way to say that a header is empty. */
        if (asprintf(&ret->headers[i], *pairs[i].value ? "%s: %s" : "%s;%s", pairs[i].key, pairs[i].value) <
            0) {
            ret->headers[i] = NULL;
            return refuse(error, variable, "...", "cannot be used: no memory");
        }
    }
    return ret->headers ? 0 : refuse(error, variable, "...", "cannot be used: no memory");
}

/* ---- who we are ---- */

struct attributes {
    Otlp__KeyValue keys[ATTRIBUTES_MAX], *pointers[ATTRIBUTES_MAX];
    Otlp__AnyValue values[ATTRIBUTES_MAX];
    size_t len;
};

/* One that is there already counts, and "" is none. */
static void add(struct attributes *a, const char *key, const char *value)
{
    if (!*value || a->len == ATTRIBUTES_MAX)
        return;
    for (size_t i = 0; i < a->len; i++) {
        if (!strcmp(a->keys[i].key, key))
            return;
    }
    otlp__any_value__init(&a->values[a->len]);
    otlp__key_value__init(&a->keys[a->len]);
    a->values[a->len].value_case = OTLP__ANY_VALUE__VALUE_STRING_VALUE;
    a->values[a->len].string_value = (char *)(uintptr_t)value;
    a->keys[a->len].key = (char *)(uintptr_t)key;
    a->keys[a->len].value = &a->values[a->len];
    a->pointers[a->len] = &a->keys[a->len];
    a->len++;
}

/* Two processes of one pod, as in an upgrade, are two: their counters do not add up to one. */
static int make_instance(char text[37])
{
    uint8_t b[16];
    size_t at = 0;

    if (getrandom(b, sizeof(b), 0) != sizeof(b))
        return -EIO;
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40); /* a UUID of version 4 */
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    for (size_t i = 0; i < sizeof(b); i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            text[at++] = '-';
        at += (size_t)snprintf(text + at, 37 - at, "%02x", b[i]);
    }
    return 0;
}

static bool is_utf8(const char *text)
{
    size_t n;

    for (; *text; text += n) {
        n = utf8_character(text, 4);
        if (!n)
            return false;
    }
    return true;
}

static int pack_resource(const struct attributes *a, struct otlp_config *ret)
{
    Otlp__Resource resource = OTLP__RESOURCE__INIT;

    resource.n_attributes = a->len;
    resource.attributes = (Otlp__KeyValue **)(uintptr_t)a->pointers;
    ret->resource_len = otlp__resource__get_packed_size(&resource);
    ret->resource = malloc(ret->resource_len + 1);
    if (!ret->resource)
        return -ENOMEM;
    otlp__resource__pack(&resource, ret->resource);
    return 0;
}

static int make_resource(const struct otlp_texts *t, struct otlp_config *ret, const struct error *error)
{
    static const char variable[] = "OTEL_RESOURCE_ATTRIBUTES";
    _cleanup_free_ char *copy = strdup(t->resource_attributes);
    struct attributes a = {.len = 0};
    struct pair pairs[OTLP_PAIRS_MAX];
    int len = copy ? split_pairs(copy, pairs) : -ENOMEM;
    char instance[37];

    if (len < 0)
        return refuse(error, variable, t->resource_attributes,
                      "is not a list of at most 64 NAME=VALUE, separated by commas, values percent-encoded");
    add(&a, "service.name", t->service_name);
    for (int i = 0; i < len; i++) {
        if (!is_utf8(pairs[i].key) || !is_utf8(pairs[i].value))
            return refuse(error, variable, t->resource_attributes, "is not UTF-8");
        add(&a, pairs[i].key, pairs[i].value);
    }
    if (!is_utf8(t->service_name))
        return refuse(error, "OTEL_SERVICE_NAME", t->service_name, "is not UTF-8");
    add(&a, "service.name", "bruma-proxy");
    add(&a, "service.version", BRUMA_VERSION);
    if (make_instance(instance) < 0)
        return refuse(error, variable, "", "no random number is to be had for service.instance.id");
    add(&a, "service.instance.id", instance);
    add(&a, t->cluster ? "k8s.node.name" : "host.name", t->node_name);
    if (t->cluster) {
        add(&a, "k8s.pod.name", t->pod_name);
        add(&a, "k8s.namespace.name", t->pod_namespace);
        add(&a, "k8s.cluster.name", t->cluster_name);
    }
    return pack_resource(&a, ret) < 0 ? refuse(error, variable, "...", "cannot be used: no memory") : 0;
}

/* ---- which traces ---- */

#define RATIO_ALL (UINT64_C(1) << 56)

static int make_ratio(const char *text, struct otlp_sampler *ret, const struct error *error)
{
    char *end;
    double ratio = strtod(text, &end);

    if (end == text || *end || !(ratio >= 0 && ratio <= 1))
        return refuse(error, "OTEL_TRACES_SAMPLER_ARG", text, "is not a number from 0 to 1");
    ret->threshold = (uint64_t)(ratio * (double)RATIO_ALL);
    return 0;
}

static int make_sampler(const struct otlp_texts *t, struct otlp_sampler *ret, const struct error *error)
{
    static const char prefix[] = "parentbased_";
    const char *name = t->sampler;

    ret->follows_parent = !strncmp(name, prefix, sizeof(prefix) - 1);
    if (ret->follows_parent)
        name += sizeof(prefix) - 1;
    if (!strcmp(name, "traceidratio"))
        return make_ratio(t->sampler_argument, ret, error);
    ret->threshold = !strcmp(name, "always_on") ? RATIO_ALL : 0;
    if (ret->threshold || !strcmp(name, "always_off"))
        return 0;
    return refuse(error, "OTEL_TRACES_SAMPLER", t->sampler,
                  "is none of always_on, always_off, traceidratio, and these behind parentbased_");
}

/* ---- the rest ---- */

/* What others read, and is said here for all signals or not at all: who sets it must not believe that it
 * counts. */
static int refuse_others(const struct error *error)
{
    static const char *const which[] = {"LOGS_", "METRICS_", "TRACES_", ""};
    static const char *const what[] = {"HEADERS",  "TIMEOUT",    "COMPRESSION",       "CERTIFICATE",
                                       "PROTOCOL", "CLIENT_KEY", "CLIENT_CERTIFICATE"};
    const char *preference = getenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE");
    char variable[80];

    if (preference && *preference && strcasecmp(preference, "cumulative") != 0)
        return refuse(error, "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", preference,
                      "is not supported: counters are cumulative");
    for (size_t i = 0; i < sizeof(which) / sizeof(which[0]); i++) {
        for (size_t k = 0; k < sizeof(what) / sizeof(what[0]); k++) {
            bool of_all = !*which[i] && strncmp(what[k], "CLIENT_", 7) != 0;
            const char *value;

            snprintf(variable, sizeof(variable), "OTEL_EXPORTER_OTLP_%s%s", which[i], what[k]);
            value = of_all ? NULL : getenv(variable);
            if (!value || !*value || (!strcmp(what[k], "PROTOCOL") && !strcmp(value, PROTOCOL)))
                continue;
            return refuse(error, variable, "...",
                          *which[i] ? "is not supported: the variable without a signal's name counts for all"
                                    : "is not supported: the proxy shows a collector no certificate");
        }
    }
    return 0;
}

static int make_rest(const struct otlp_texts *t, struct otlp_config *ret, const struct error *error)
{
    if (strcmp(t->protocol, PROTOCOL) != 0)
        return refuse(error, "OTEL_EXPORTER_OTLP_PROTOCOL", t->protocol,
                      "is not supported: there is http/protobuf alone");
    ret->gzip = !strcmp(t->compression, "gzip");
    if (!ret->gzip && strcmp(t->compression, "none") != 0)
        return refuse(error, "OTEL_EXPORTER_OTLP_COMPRESSION", t->compression, "is neither gzip nor none");
    if (*t->certificate && access(t->certificate, R_OK) < 0)
        return refuse(error, "OTEL_EXPORTER_OTLP_CERTIFICATE", t->certificate, "cannot be read");
    ret->certificate = *t->certificate ? t->certificate : NULL;
    ret->timeout = t->timeout;
    ret->interval = t->interval;
    return 0;
}

/* A variable that is empty is one that is not set. */
static struct otlp_texts with_defaults(const struct otlp_texts *texts)
{
    struct otlp_texts t = *texts;

    for (int i = 0; i < OTLP_SIGNALS; i++)
        t.exporters[i] = *t.exporters[i] ? t.exporters[i] : "otlp";
    t.protocol = *t.protocol ? t.protocol : PROTOCOL;
    t.compression = *t.compression ? t.compression : "gzip";
    t.sampler = *t.sampler ? t.sampler : "parentbased_always_on";
    t.sampler_argument = *t.sampler_argument ? t.sampler_argument : "1.0";
    return t;
}

static bool is_disabled(void)
{
    const char *value = getenv("OTEL_SDK_DISABLED");

    return value && !strcasecmp(value, "true");
}

int otlp_config_make(const struct otlp_texts *all, struct otlp_config *ret, char *error, size_t error_size)
{
    const struct otlp_texts t = with_defaults(all), *texts = &t;
    const struct error e = {error, error_size};
    struct otlp_config config = {};
    int r = is_disabled() ? 0 : make_urls(texts, &config, &e);

    if (r == 0 && otlp_config_is_on(&config)) {
        r = refuse_others(&e);
        if (r == 0)
            r = make_rest(texts, &config, &e);
        if (r == 0)
            r = make_headers(texts, &config, &e);
        if (r == 0)
            r = make_sampler(texts, &config.sampler, &e);
        if (r == 0)
            r = make_resource(texts, &config, &e);
    }
    if (r < 0)
        otlp_config_clear(&config);
    else
        *ret = config;
    return r;
}
