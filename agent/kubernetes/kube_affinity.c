/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/kubernetes/kube_affinity.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static const cJSON *get(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

/* What is missing and what is null are the same to Kubernetes. */
static bool absent(const cJSON *item)
{
    return !item || cJSON_IsNull(item);
}

static bool has(const cJSON *values, const char *text)
{
    const cJSON *v;

    cJSON_ArrayForEach (v, values) {
        if (!strcmp(v->valuestring, text))
            return true;
    }
    return false;
}

static bool all_texts(const cJSON *values)
{
    const cJSON *v;

    cJSON_ArrayForEach (v, values) {
        if (!cJSON_IsString(v))
            return false;
    }
    return cJSON_IsArray(values) && values->child;
}

static bool number(const char *text, long long *ret)
{
    char *end;

    errno = 0;
    *ret = text ? strtoll(text, &end, 10) : 0;
    return text && *text && !*end && !errno;
}

/* value: of the node, NULL if it has none. */
static enum kube_wants matches(const cJSON *expression, const char *value)
{
    const char *op = cJSON_GetStringValue(get(expression, "operator"));
    const cJSON *values = get(expression, "values");
    long long have, limit;
    bool yes;

    if (!op)
        return KUBE_WANTS_UNSURE;
    if (!strcmp(op, "Exists")) {
        yes = value != NULL;
    } else if (!strcmp(op, "DoesNotExist")) {
        yes = !value;
    } else if (!all_texts(values)) {
        return KUBE_WANTS_UNSURE;
    } else if (!strcmp(op, "In")) {
        yes = value && has(values, value);
    } else if (!strcmp(op, "NotIn")) {
        yes = !value || !has(values, value);
    } else if (!strcmp(op, "Gt") || !strcmp(op, "Lt")) {
        if (values->child->next || !number(values->child->valuestring, &limit))
            return KUBE_WANTS_UNSURE;
        yes = number(value, &have) && (*op == 'G' ? have > limit : have < limit);
    } else {
        return KUBE_WANTS_UNSURE;
    }
    return yes ? KUBE_WANTS_NODE : KUBE_WANTS_OTHERS;
}

/* All of them must match; one that surely does not decides. */
static enum kube_wants all_match(const cJSON *expressions, const cJSON *of, bool fields)
{
    enum kube_wants all = KUBE_WANTS_NODE;
    const cJSON *e;

    if (absent(expressions))
        return all;
    if (!cJSON_IsArray(expressions))
        return KUBE_WANTS_UNSURE;
    cJSON_ArrayForEach (e, expressions) {
        const char *key = cJSON_GetStringValue(get(e, "key"));
        enum kube_wants one = KUBE_WANTS_UNSURE;

        if (key && fields && !strcmp(key, "metadata.name"))
            one = matches(e, cJSON_GetStringValue(get(of, "name")));
        else if (key && !fields)
            one = matches(e, cJSON_GetStringValue(get(of, key)));
        if (one == KUBE_WANTS_OTHERS)
            return one;
        if (one == KUBE_WANTS_UNSURE)
            all = one;
    }
    return all;
}

/* One without any requirement matches nothing. */
static enum kube_wants term_matches(const cJSON *term, const cJSON *metadata, const cJSON *labels)
{
    const cJSON *expressions = get(term, "matchExpressions"), *fields = get(term, "matchFields");
    enum kube_wants a, b;

    if (!cJSON_GetArraySize(expressions) && !cJSON_GetArraySize(fields))
        return KUBE_WANTS_OTHERS;
    a = all_match(expressions, labels, false);
    b = all_match(fields, metadata, true);
    if (a == KUBE_WANTS_OTHERS || b == KUBE_WANTS_OTHERS)
        return KUBE_WANTS_OTHERS;
    return a == KUBE_WANTS_NODE && b == KUBE_WANTS_NODE ? KUBE_WANTS_NODE : KUBE_WANTS_UNSURE;
}

static enum kube_wants selector_matches(const cJSON *selector, const cJSON *labels)
{
    const cJSON *item;

    if (absent(selector))
        return KUBE_WANTS_NODE;
    if (!cJSON_IsObject(selector))
        return KUBE_WANTS_UNSURE;
    cJSON_ArrayForEach (item, selector) {
        const char *value = cJSON_GetStringValue(get(labels, item->string));

        if (!cJSON_IsString(item))
            return KUBE_WANTS_UNSURE;
        if (!value || strcmp(value, item->valuestring) != 0)
            return KUBE_WANTS_OTHERS;
    }
    return KUBE_WANTS_NODE;
}

/* One of the terms must match. */
static enum kube_wants affinity_matches(const cJSON *spec, const cJSON *metadata, const cJSON *labels)
{
    const cJSON *required = get(get(get(spec, "affinity"), "nodeAffinity"),
                                "requiredDuringSchedulingIgnoredDuringExecution"),
                *terms = get(required, "nodeSelectorTerms"), *term;
    enum kube_wants any = KUBE_WANTS_OTHERS;

    if (absent(required))
        return KUBE_WANTS_NODE;
    if (!cJSON_IsArray(terms) || !terms->child)
        return KUBE_WANTS_UNSURE; /* no API server takes that */
    cJSON_ArrayForEach (term, terms) {
        enum kube_wants one = term_matches(term, metadata, labels);

        if (one == KUBE_WANTS_NODE)
            return one;
        if (one == KUBE_WANTS_UNSURE)
            any = one;
    }
    return any;
}

enum kube_wants kube_daemonset_wants(const cJSON *daemonset, const cJSON *node)
{
    const cJSON *spec = get(get(get(daemonset, "spec"), "template"), "spec"),
                *metadata = get(node, "metadata"), *labels = get(metadata, "labels");
    enum kube_wants by_selector, by_affinity;

    if (!cJSON_IsObject(spec) || !cJSON_IsString(get(metadata, "name")) ||
        (!absent(labels) && !cJSON_IsObject(labels)))
        return KUBE_WANTS_UNSURE;
    by_selector = selector_matches(get(spec, "nodeSelector"), labels);
    by_affinity = affinity_matches(spec, metadata, labels);
    if (by_selector == KUBE_WANTS_OTHERS || by_affinity == KUBE_WANTS_OTHERS)
        return KUBE_WANTS_OTHERS;
    return by_selector == KUBE_WANTS_NODE && by_affinity == KUBE_WANTS_NODE ? KUBE_WANTS_NODE
                                                                            : KUBE_WANTS_UNSURE;
}
