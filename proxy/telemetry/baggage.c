/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/telemetry/baggage.h"

#include <string.h>

#include "lib/spiffe.h"
#include "proxy/telemetry/telemetry.h"

static const struct {
    const char *name;
    enum baggage_key key;
} keys[] = {
    {"k8s.cluster.name", BAGGAGE_CLUSTER},     {"k8s.namespace.name", BAGGAGE_NAMESPACE},
    {"k8s.deployment.name", BAGGAGE_WORKLOAD}, {"k8s.cronjob.name", BAGGAGE_WORKLOAD},
    {"k8s.pod.name", BAGGAGE_WORKLOAD},        {"k8s.job.name", BAGGAGE_WORKLOAD},
    {"service.name", BAGGAGE_SERVICE},         {"service.version", BAGGAGE_REVISION},
    {"cloud.region", BAGGAGE_REGION},          {"cloud.availability_zone", BAGGAGE_ZONE},
};

static char *value_of(struct baggage *baggage, const char *name, size_t len)
{
    for (size_t i = 0; i < array_size(keys); i++) {
        if (strlen(keys[i].name) == len && !memcmp(keys[i].name, name, len))
            return baggage->values[keys[i].key];
    }
    return NULL;
}

void baggage_parse(const char *text, struct baggage *ret)
{
    for (int i = 0; i < BAGGAGE_KEYS; i++)
        ret->values[i][0] = '\0';
    for (;;) {
        size_t member = strcspn(text, ","), name = strcspn(text, ",=");
        char *to = name < member ? value_of(ret, text, name) : NULL;

        if (to) {
            const char *from = text + name + 1;
            size_t len = strcspn(from, ",=");

            if (len >= BAGGAGE_VALUE_MAX)
                len = BAGGAGE_VALUE_MAX - 1;
            memcpy(to, from, len);
            to[len] = '\0';
        }
        if (!text[member])
            return;
        text += member + 1;
    }
}

bool baggage_vouched(const struct flow *flow, struct baggage *ret)
{
    const char *peer =
        flow->reporter == REPORTER_DESTINATION ? flow->source_identity : flow->destination_identity;
    struct spiffe identity;

    if (!flow->baggage || !flow_authenticated(flow) || !peer ||
        spiffe_parse(peer, strlen(peer), &identity) < 0)
        return false;
    baggage_parse(flow->baggage, ret);
    return strlen(ret->values[BAGGAGE_NAMESPACE]) == identity.namespace_len &&
           !memcmp(ret->values[BAGGAGE_NAMESPACE], identity.namespace, identity.namespace_len);
}

/* A whole member or nothing. It goes into a header, so characters that may not be there are replaced. */
static void add(char *buf, size_t size, size_t *len, const char *key, const char *value)
{
    size_t comma = *len ? 1 : 0, key_len = strlen(key), value_len = strlen(value);
    char *at = buf + *len;

    if (!value_len || comma + key_len + 1 + value_len >= size - *len)
        return;
    if (comma)
        *at++ = ',';
    memcpy(at, key, key_len);
    at += key_len;
    *at++ = '=';
    for (size_t i = 0; i < value_len; i++) {
        unsigned char c = (unsigned char)value[i];

        *at++ = c <= 0x20 || c >= 0x7f || c == ',' || c == '=' ? '_' : (char)c;
    }
    *len = (size_t)(at - buf);
}

size_t baggage_format(const struct workload *w, char *buf, size_t size)
{
    static const char *const workload_keys[] = {
        [WORKLOAD_DEPLOYMENT] = "k8s.deployment.name",
        [WORKLOAD_CRONJOB] = "k8s.cronjob.name",
        [WORKLOAD_POD] = "k8s.pod.name",
        [WORKLOAD_JOB] = "k8s.job.name",
    };
    size_t len = 0,
           type = (size_t)w->type < array_size(workload_keys) ? (size_t)w->type : WORKLOAD_DEPLOYMENT;

    if (!size)
        return 0;
    add(buf, size, &len, "k8s.cluster.name", w->cluster_id);
    add(buf, size, &len, "k8s.namespace.name", w->namespace);
    add(buf, size, &len, workload_keys[type], w->workload_name);
    add(buf, size, &len, "service.name", w->canonical_name);
    add(buf, size, &len, "service.version", w->canonical_revision);
    add(buf, size, &len, "cloud.region", w->region);
    add(buf, size, &len, "cloud.availability_zone", w->zone);
    buf[len] = '\0';
    return len;
}
