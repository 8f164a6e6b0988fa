/* SPDX-License-Identifier: Apache-2.0 */
/* Which pods are wanted, by the labels of pod and namespace. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "agent/kubernetes/kube_selector.h"
#include "lib/message.h"

static char why[256];

static int match(const char *selectors, const char *pod, const char *namespace)
{
    _cleanup_message_ cJSON *pod_labels = pod ? cJSON_Parse(pod) : NULL;
    _cleanup_message_ cJSON *namespace_labels = namespace ? cJSON_Parse(namespace) : NULL;
    struct kube_selectors *s = NULL;
    int r;

    cr_assert_eq(kube_selectors_parse(selectors, &s, why, sizeof(why)), 0, "%s: %s", selectors, why);
    r = kube_selectors_match(s, pod_labels, namespace_labels);
    kube_selectors_free(&s);
    return r;
}

#define AMBIENT "{\"istio.io/dataplane-mode\": \"ambient\"}"
#define NONE    "{\"istio.io/dataplane-mode\": \"none\"}"

Test(kube_selector, defaults)
{
    cr_expect_eq(match(KUBE_DEFAULT_SELECTORS, NULL, AMBIENT), 1);
    cr_expect_eq(match(KUBE_DEFAULT_SELECTORS, AMBIENT, NULL), 0);
    cr_expect_eq(match(KUBE_DEFAULT_SELECTORS, NONE, AMBIENT), -1);
    cr_expect_eq(match(KUBE_DEFAULT_SELECTORS, AMBIENT, AMBIENT), 0);
    cr_expect_eq(match(KUBE_DEFAULT_SELECTORS, NULL, NULL), -1);
    cr_expect_eq(match(KUBE_DEFAULT_SELECTORS, "{}", NONE), -1);
}

Test(kube_selector, operators)
{
    static const char *const one = "{\"a\": \"1\"}";

    cr_expect_eq(match("[{podSelector: {matchExpressions: [{key: a, operator: Exists}]}}]", one, NULL), 0);
    cr_expect_eq(match("[{podSelector: {matchExpressions: [{key: b, operator: Exists}]}}]", one, NULL), -1);
    cr_expect_eq(match("[{podSelector: {matchExpressions: [{key: b, operator: DoesNotExist}]}}]", one, NULL),
                 0);
    cr_expect_eq(match("[{podSelector: {matchExpressions: [{key: a, operator: DoesNotExist}]}}]", one, NULL),
                 -1);
    cr_expect_eq(
        match("[{podSelector: {matchExpressions: [{key: a, operator: In, values: [0, 1]}]}}]", one, NULL), 0);
    cr_expect_eq(
        match("[{podSelector: {matchExpressions: [{key: b, operator: In, values: [1]}]}}]", one, NULL), -1);
    cr_expect_eq(
        match("[{podSelector: {matchExpressions: [{key: b, operator: NotIn, values: [1]}]}}]", one, NULL), 0,
        "true where the key is missing");
    cr_expect_eq(
        match("[{podSelector: {matchLabels: {a: '1'}, matchExpressions: [{key: b, operator: Exists}]}}]", one,
              NULL),
        -1, "all terms must match");
}

Test(kube_selector, empty_ones)
{
    cr_expect_eq(match("", NULL, NULL), -1, "an empty list matches nothing");
    cr_expect_eq(match("[]", NULL, NULL), -1);
    cr_expect_eq(match("[{}]", NULL, NULL), 0, "an empty selector matches everything");
    cr_expect_eq(match("- podSelector:\n  namespaceSelector: {}\n", "{\"a\": \"1\"}", NULL), 0);
    cr_expect_eq(match("[{\"podSelector\": {\"matchLabels\": {\"a\": \"1\"}}}]", "{\"a\": \"1\"}", NULL), 0,
                 "JSON");
}

Test(kube_selector, wrong_ones)
{
    static const char *const wrong[] = {
        "{",
        "a",
        "{a: b}",
        "[1]",
        "[{pod: {}}]",
        "[{podSelector: []}]",
        "[{podSelector: {labels: {}}}]",
        "[{podSelector: {matchLabels: [a]}}]",
        "[{podSelector: {matchLabels: {a: [b]}}}]",
        "[{podSelector: {matchExpressions: {}}}]",
        "[{podSelector: {matchExpressions: [{key: a}]}}]",
        "[{podSelector: {matchExpressions: [{operator: Exists}]}}]",
        "[{podSelector: {matchExpressions: [{key: a, operator: Gt, values: [1]}]}}]",
        "[{podSelector: {matchExpressions: [{key: a, operator: In}]}}]",
        "[{podSelector: {matchExpressions: [{key: a, operator: In, values: []}]}}]",
        "[{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}]",
        "[{podSelector: {matchExpressions: [{key: [a], operator: Exists}]}}]"};

    for (size_t i = 0; i < array_size(wrong); i++) {
        struct kube_selectors *s = NULL;

        why[0] = '\0';
        cr_expect_eq(kube_selectors_parse(wrong[i], &s, why, sizeof(why)), -EINVAL, "%s", wrong[i]);
        cr_expect(strstr(why, "enablement-selector:"), "%s says: %s", wrong[i], why);
        cr_expect_null(s);
    }
}
