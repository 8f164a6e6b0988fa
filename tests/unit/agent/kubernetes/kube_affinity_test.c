/* SPDX-License-Identifier: Apache-2.0 */
/* Whether a DaemonSet still wants a node. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "agent/kubernetes/kube_affinity.h"
#include "lib/message.h"

static enum kube_wants wants(const char *spec)
{
    _cleanup_message_ cJSON *node =
                                cJSON_Parse("{\"metadata\": {\"name\": \"n1\", \"labels\": {\"zone\": \"a\", "
                                            "\"cores\": \"8\", \"odd\": \"8x\"}}}"),
                            *daemonset = NULL;
    char text[512];

    snprintf(text, sizeof(text), "{\"spec\": {\"template\": {\"spec\": {%s}}}}", spec);
    daemonset = cJSON_Parse(text);
    cr_assert(daemonset, "%s", text);
    return kube_daemonset_wants(daemonset, node);
}

static enum kube_wants wants_term(const char *term)
{
    char text[400];

    snprintf(text, sizeof(text),
             "\"affinity\": {\"nodeAffinity\": {\"requiredDuringSchedulingIgnoredDuringExecution\": "
             "{\"nodeSelectorTerms\": [%s]}}}",
             term);
    return wants(text);
}

static enum kube_wants wants_expression(const char *key, const char *op, const char *values)
{
    char text[256];

    snprintf(text, sizeof(text),
             "{\"matchExpressions\": [{\"key\": \"%s\", \"operator\": \"%s\", \"values\": [%s]}]}", key, op,
             values);
    return wants_term(text);
}

/* As the scheduler reads them, and nothing is guessed: a wrong "others" would take a node out of the mesh. */
Test(kube_affinity, which_nodes_a_daemonset_wants)
{
    static const struct {
        const char *key, *op, *values;
        enum kube_wants expected;
    } cases[] = {
        {"zone", "In", "\"b\", \"a\"", KUBE_WANTS_NODE},
        {"zone", "In", "\"b\"", KUBE_WANTS_OTHERS},
        {"none", "In", "\"b\"", KUBE_WANTS_OTHERS},
        {"zone", "In", "", KUBE_WANTS_UNSURE},
        {"zone", "In", "7", KUBE_WANTS_UNSURE},
        {"zone", "NotIn", "\"b\"", KUBE_WANTS_NODE},
        {"none", "NotIn", "\"b\"", KUBE_WANTS_NODE},
        {"zone", "NotIn", "\"a\"", KUBE_WANTS_OTHERS},
        {"zone", "Exists", "", KUBE_WANTS_NODE},
        {"none", "Exists", "", KUBE_WANTS_OTHERS},
        {"none", "DoesNotExist", "", KUBE_WANTS_NODE},
        {"zone", "DoesNotExist", "", KUBE_WANTS_OTHERS},
        {"cores", "Gt", "\"7\"", KUBE_WANTS_NODE},
        {"cores", "Gt", "\"8\"", KUBE_WANTS_OTHERS},
        {"cores", "Lt", "\"9\"", KUBE_WANTS_NODE},
        {"odd", "Lt", "\"9\"", KUBE_WANTS_OTHERS},
        {"none", "Lt", "\"9\"", KUBE_WANTS_OTHERS},
        {"cores", "Lt", "\"many\"", KUBE_WANTS_UNSURE},
        {"cores", "Lt", "\"9\", \"10\"", KUBE_WANTS_UNSURE},
        {"zone", "in", "\"b\"", KUBE_WANTS_UNSURE},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        cr_expect_eq(wants_expression(cases[i].key, cases[i].op, cases[i].values), cases[i].expected,
                     "%s %s %s", cases[i].key, cases[i].op, cases[i].values);
    cr_expect_eq(wants(""), KUBE_WANTS_NODE);
    cr_expect_eq(wants("\"nodeSelector\": null, \"affinity\": null"), KUBE_WANTS_NODE);
    cr_expect_eq(wants("\"nodeSelector\": {\"zone\": \"a\", \"none\": \"\"}"), KUBE_WANTS_OTHERS);
    cr_expect_eq(wants("\"nodeSelector\": {\"zone\": 1}"), KUBE_WANTS_UNSURE);
    cr_expect_eq(wants("\"nodeSelector\": \"a\""), KUBE_WANTS_UNSURE);
    cr_expect_eq(wants_term(""), KUBE_WANTS_UNSURE, "no terms: the API server takes none such");
    cr_expect_eq(wants_term("{}"), KUBE_WANTS_OTHERS, "an empty term matches nothing");
    cr_expect_eq(wants_term("{}, {\"matchExpressions\": [{\"key\": \"zone\", \"operator\": \"Exists\"}]}"),
                 KUBE_WANTS_NODE, "one of them is enough");
    cr_expect_eq(
        wants_term("{\"matchFields\": [{\"key\": \"spec.x\", \"operator\": \"In\", \"values\": [\"a\"]}]}"),
        KUBE_WANTS_UNSURE);
    cr_expect_eq(kube_daemonset_wants(NULL, NULL), KUBE_WANTS_UNSURE);
}
