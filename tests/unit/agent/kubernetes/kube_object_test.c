/* SPDX-License-Identifier: Apache-2.0 */
/* What the Kubernetes API says of pods and namespaces. The followed streams and the rest of the agent are
 * tested end to end (tests/e2e/test_kube.py). */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/kubernetes/kube_object.h"
#include "lib/message.h"

#define WEB_UID "6a2305d4-300d-48df-9e70-b8bdd3f2234a"

static char why[256];

static struct kube_pod_object pod_of(const char *text, cJSON **ret_json)
{
    struct kube_pod_object pod = {0};

    *ret_json = cJSON_Parse(text);
    cr_assert(*ret_json, "the test's own JSON");
    cr_assert_eq(kube_pod_decode(*ret_json, &pod, why, sizeof(why)), 0, "%s", why);
    return pod;
}

Test(kube_object, pod)
{
    _cleanup_message_ cJSON *json = NULL;
    struct kube_pod_object pod = pod_of(
        "{\"metadata\": {\"name\": \"web\", \"namespace\": \"shop\", \"uid\": \"" WEB_UID "\","
        "\"labels\": {\"app\": \"web\"}, \"annotations\": {\"ambient.istio.io/redirection\": \"enabled\","
        "\"ambient.istio.io/bypass-inbound-capture\": \"T\"}},"
        "\"spec\": {\"serviceAccountName\": \"front\"},"
        "\"status\": {\"phase\": \"Running\", \"podIP\": \"10.0.0.1\","
        "\"podIPs\": [{\"ip\": \"10.0.0.1\"}, {\"ip\": \"fd00::1\"}, {\"ip\": \"10.0.0.1\"}]}}",
        &json);

    cr_expect_str_eq(pod.name, "web");
    cr_expect_str_eq(pod.namespace, "shop");
    cr_expect_str_eq(pod.uid, WEB_UID);
    cr_expect_str_eq(pod.runtime_uid, WEB_UID);
    cr_expect_str_eq(pod.service_account, "front");
    cr_expect_str_eq(kube_label(pod.labels, "app"), "web");
    cr_expect_null(kube_label(pod.labels, "APP"));
    cr_expect_eq(pod.addresses_len, 2, "the same address is one");
    cr_expect_eq(pod.redirection, KUBE_REDIRECTION_ENABLED);
    cr_expect(pod.bypass_inbound && !pod.host_network && !pod.sidecar && !pod.completed && !pod.deleting);
    cr_expect_str_eq(pod.wrong_annotation, "");
    cr_expect_eq(pod.outbound_policy, OUTBOUND_UNSAID);
}

Test(kube_object, pod_with_the_least)
{
    _cleanup_message_ cJSON *json = NULL;
    struct kube_pod_object pod =
        pod_of("{\"metadata\": {\"name\": \"w\", \"namespace\": \"n\", \"uid\": \"u\"}}", &json);

    cr_expect_str_eq(pod.service_account, "default");
    cr_expect_null(pod.labels);
    cr_expect_eq(pod.addresses_len, 0);
    cr_expect_eq(pod.redirection, KUBE_REDIRECTION_NONE);
}

Test(kube_object, odd_pods)
{
    _cleanup_message_ cJSON *json = NULL;
    struct kube_pod_object pod =
        pod_of("{\"metadata\": {\"name\": \"etcd-n1\", \"namespace\": \"kube-system\", \"uid\": \"api-uid\","
               "\"deletionTimestamp\": \"2026-01-01T00:00:00Z\","
               "\"annotations\": {\"kubernetes.io/config.mirror\": \"0123456789abcdef0123456789abcdef\","
               "\"sidecar.istio.io/status\": \"\", \"ambient.istio.io/redirection\": \"Enabled\","
               "\"ambient.istio.io/bypass-inbound-capture\": \"yes\"}},"
               "\"spec\": {\"hostNetwork\": true}, \"status\": {\"phase\": \"Failed\", \"podIP\": "
               "\"::ffff:10.0.0.1\"}}",
               &json);
    struct addr v4;

    cr_assert_eq(addr_parse("10.0.0.1", &v4), 0);
    cr_expect_str_eq(pod.runtime_uid, "0123456789abcdef0123456789abcdef");
    cr_expect_str_eq(pod.uid, "api-uid");
    cr_expect(pod.host_network && pod.sidecar && pod.completed && pod.deleting);
    cr_expect(pod.addresses_len == 1 && addr_equal(&pod.addresses[0], &v4));
    cr_expect_eq(pod.redirection, KUBE_REDIRECTION_OTHER, "values are exact");
    cr_expect(!pod.bypass_inbound);
    cr_expect_str_eq(pod.wrong_annotation,
                     "ambient.istio.io/bypass-inbound-capture: \"yes\" is neither true nor false");
}

Test(kube_object, nobody_takes_another_uid)
{
    static const char *const uids[] = {WEB_UID, "", "0123456789abcdef0123456789abcde",
                                       "0123456789ABCDEF0123456789abcdef", "sandbox-1"};

    for (size_t i = 0; i < array_size(uids); i++) {
        struct kube_pod_object pod;
        char text[512];
        cJSON *json;

        snprintf(text, sizeof(text),
                 "{\"metadata\": {\"name\": \"w\", \"namespace\": \"n\", \"uid\": \"own\", \"annotations\": "
                 "{\"kubernetes.io/config.mirror\": \"%s\"}}}",
                 uids[i]);
        pod = pod_of(text, &json);
        cr_expect_str_eq(pod.runtime_uid, "own", "%s", uids[i]);
        cJSON_Delete(json);
    }
}

Test(kube_object, annotations_that_are_not_followed)
{
    static const struct {
        const char *key, *value;
        bool unknown, wrong;
    } cases[] = {
        {"ambient.istio.io/dns-capture", "true", false, false},
        {"ambient.istio.io/dns-capture", "false", false, false},
        {"ambient.istio.io/dns-capture", "maybe", false, true},
        {"istio.io/reroute-virtual-interfaces", "tap0", true, false},
        {"istio.io/reroute-virtual-interfaces", "", false, false},
    };

    for (size_t i = 0; i < array_size(cases); i++) {
        struct kube_pod_object pod;
        char text[512];
        cJSON *json;

        snprintf(text, sizeof(text),
                 "{\"metadata\": {\"name\": \"w\", \"namespace\": \"n\", \"uid\": \"u\", \"annotations\": "
                 "{\"%s\": "
                 "\"%s\"}}}",
                 cases[i].key, cases[i].value);
        pod = pod_of(text, &json);
        cJSON_Delete(json);
        cr_expect_eq(pod.unknown_annotation != NULL, cases[i].unknown, "%s", text);
        cr_expect_eq(*pod.wrong_annotation != '\0', cases[i].wrong, "%s", text);
    }
}

Test(kube_object, a_pod_says_whether_its_questions_are_captured)
{
    static const struct {
        const char *value;
        enum kube_dns expected;
    } cases[] = {{"true", KUBE_DNS_ON}, {"1", KUBE_DNS_ON},       {"false", KUBE_DNS_OFF},
                 {"F", KUBE_DNS_OFF},   {"yes", KUBE_DNS_UNSAID}, {"", KUBE_DNS_UNSAID}};

    for (size_t i = 0; i < array_size(cases); i++) {
        struct kube_pod_object pod;
        char text[256];
        cJSON *json;

        snprintf(text, sizeof(text),
                 "{\"metadata\": {\"name\": \"w\", \"namespace\": \"n\", \"uid\": \"u\", \"annotations\": "
                 "{\"ambient.istio.io/dns-capture\": \"%s\"}}}",
                 cases[i].value);
        pod = pod_of(text, &json);
        cJSON_Delete(json);
        cr_expect_eq(pod.dns_capture, cases[i].expected, "%s", text);
    }
}

Test(kube_object, wrong_pods_are_named)
{
    static const struct {
        const char *json, *why;
    } wrong[] = {
        {"{}", "metadata.name"},
        {"[]", "metadata.name"},
        {"{\"metadata\": {\"name\": \"a/b\"}}", "metadata.name"},
        {"{\"metadata\": {\"name\": \"a\"}}", "pod a without a good metadata.namespace"},
        {"{\"metadata\": {\"name\": \"a\", \"namespace\": \"..\"}}", "metadata.namespace"},
        {"{\"metadata\": {\"name\": \"a\", \"namespace\": \"n\", \"uid\": \"../../x\"}}",
         "pod n/a without a good metadata.uid"},
        {"{\"metadata\": {\"name\": \"a\", \"namespace\": \"n\", \"uid\": \"u\", \"labels\": {\"a\": 1}}}",
         "labels"},
        {"{\"metadata\": {\"name\": \"a\", \"namespace\": \"n\", \"uid\": \"u\", \"labels\": \"a\"}}",
         "labels"},
        {"{\"metadata\": {\"name\": \"a\", \"namespace\": \"n\", \"uid\": \"u\"}, \"spec\": "
         "{\"serviceAccountName\": 3}}",
         "serviceAccountName"},
        {"{\"metadata\": {\"name\": \"a\", \"namespace\": \"n\", \"uid\": \"u\"}, \"status\": {\"podIP\": "
         "\"1.2.3\"}}",
         "podIPs"},
    };

    for (size_t i = 0; i < array_size(wrong); i++) {
        _cleanup_message_ cJSON *json = cJSON_Parse(wrong[i].json);
        struct kube_pod_object pod;

        cr_assert(json);
        cr_expect_eq(kube_pod_decode(json, &pod, why, sizeof(why)), -EBADMSG, "%s", wrong[i].json);
        cr_expect(strstr(why, wrong[i].why), "\"%s\" says: %s", wrong[i].json, why);
    }
}

Test(kube_object, a_wrong_namespace_leaves_nothing_behind)
{
    cJSON *json = cJSON_Parse("{\"metadata\":{\"name\":\"shop\",\"labels\":{\"a\":1}}}");
    const char *name = "before";
    const cJSON *labels = NULL;

    cr_expect_eq(kube_namespace_decode(json, &name, &labels, why, sizeof(why)), -EBADMSG);
    cr_expect_str_eq(name, "before");
    cr_expect_null(labels);
    cr_expect(strstr(why, "shop"), "%s", why);
    cJSON_Delete(json);
}

static int line(const char *text, struct kube_line *ret)
{
    return kube_line_decode(text, strlen(text), ret, why, sizeof(why));
}

Test(kube_object, lines)
{
    struct kube_line l;

    cr_assert_eq(line("{\"type\":\"MODIFIED\",\"object\":{\"metadata\":{\"resourceVersion\":\"7\"}}}", &l),
                 0);
    cr_expect(l.type == KUBE_LINE_CHANGED && !strcmp(l.version, "7"));
    cJSON_Delete(l.json);
    cr_assert_eq(line("{\"type\":\"BOOKMARK\",\"object\":{}}\r", &l), 0);
    cr_expect(l.type == KUBE_LINE_BOOKMARK && !*l.version);
    cJSON_Delete(l.json);
    cr_assert_eq(line("{\"type\":\"ERROR\",\"object\":{\"code\":410,\"message\":\"too old\"}}", &l), 0);
    cr_expect(l.type == KUBE_LINE_ERROR && l.code == 410 && !strcmp(l.message, "too old"));
    cJSON_Delete(l.json);
    cr_assert_eq(line("{\"type\":\"ERROR\",\"object\":{\"code\":-1e99}}", &l), 0);
    cr_expect(l.code == 0 && !*l.message);
    cJSON_Delete(l.json);
}

Test(kube_object, every_cut_of_a_line_is_answered)
{
    static const char text[] =
        "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"w\",\"resourceVersion\":\"12\"}}}";
    struct kube_line l;

    for (size_t len = 0; len < sizeof(text) - 1; len++) {
        why[0] = '\0';
        cr_expect_eq(kube_line_decode(text, len, &l, why, sizeof(why)), -EBADMSG, "%zu bytes", len);
        cr_expect(*why, "a sentence for %zu bytes", len);
    }
    cr_expect_eq(line("{\"type\":\"ADDED\",\"object\":{}}x", &l), -EBADMSG, "more than one object");
}

Test(kube_object, lists)
{
    static const char good[] =
        "{\"metadata\":{\"resourceVersion\":\"5\",\"continue\":\"abc\"},\"items\":[{},{}]}";
    static const char empty[] = "{\"metadata\":{\"resourceVersion\":\"5\"},\"items\":null}";
    static const char *const wrong[] = {
        "",
        "[]",
        "{}",
        "{\"items\":[]}",
        "{\"items\":{},\"metadata\":{\"resourceVersion\":\"5\"}}",
        "{\"items\":[],\"metadata\":{\"resourceVersion\":5}}",
        "{\"items\":[],\"metadata\":{\"resourceVersion\":\"5\",\"continue\":1}}"};
    struct kube_list list;

    cr_assert_eq(kube_list_decode(good, sizeof(good) - 1, &list, why, sizeof(why)), 0);
    cr_expect(cJSON_GetArraySize(list.items) == 2 && !strcmp(list.version, "5") &&
              !strcmp(list.continue_token, "abc"));
    cJSON_Delete(list.json);
    cr_assert_eq(kube_list_decode(empty, sizeof(empty) - 1, &list, why, sizeof(why)), 0);
    cr_expect(cJSON_GetArraySize(list.items) == 0 && !*list.continue_token);
    cJSON_Delete(list.json);
    for (size_t i = 0; i < array_size(wrong); i++)
        cr_expect_eq(kube_list_decode(wrong[i], strlen(wrong[i]), &list, why, sizeof(why)), -EBADMSG, "%s",
                     wrong[i]);
}

Test(kube_object, text_of_a_status)
{
    char text[64];

    kube_status_text("{\"message\":\"pods is forbidden\"}", 31, text, sizeof(text));
    cr_expect_str_eq(text, "pods is forbidden");
    kube_status_text("upstream connect error", 22, text, sizeof(text));
    cr_expect_str_eq(text, "upstream connect error");
}

Test(kube_object, probe_ports)
{
    _cleanup_message_ cJSON *json = NULL;
    struct kube_pod_object pod = pod_of(
        "{\"metadata\": {\"name\": \"web\", \"namespace\": \"shop\", \"uid\": \"" WEB_UID "\"}, \"spec\": {"
        "\"containers\": [{\"ports\": [{\"name\": \"health\", \"containerPort\": 81}, {\"name\": \"odd\","
        "\"containerPort\": \"odd\"}], \"livenessProbe\": {\"httpGet\": {\"port\": \"health\"}},"
        "\"readinessProbe\": {\"tcpSocket\": {\"port\": 82}}, \"startupProbe\": {\"grpc\": {\"port\": 83}},"
        "\"lifecycle\": {\"postStart\": {\"httpGet\": {\"port\": 84}}, \"preStop\": {\"exec\": {}}}},"
        "{\"livenessProbe\": {\"httpGet\": {\"port\": 82}}, \"readinessProbe\": {\"httpGet\": {\"port\": "
        "\"health\"}},"
        "\"startupProbe\": {\"httpGet\": {\"port\": 85, \"host\": \"10.0.0.9\"}}},"
        "{\"livenessProbe\": {\"tcpSocket\": {\"port\": 70000}}, \"readinessProbe\": {\"tcpSocket\": "
        "{\"port\": -1}},"
        "\"startupProbe\": {\"tcpSocket\": {\"port\": {}}}}, 7, {\"ports\": [{\"name\": \"odd\", "
        "\"containerPort\": \"odd\"}],"
        "\"livenessProbe\": {\"tcpSocket\": {\"port\": \"odd\"}}}],"
        "\"initContainers\": [{\"livenessProbe\": {\"httpGet\": {\"port\": 86}}}]}}",
        &json);
    static const uint16_t expected[] = {81, 82, 83, 84, 86};

    cr_assert_eq(pod.probe_ports_len, 5,
                 "of another host, of another container, out of range: none of these");
    for (int i = 0; i < 5; i++) {
        bool found = false;

        for (int k = 0; k < 5; k++)
            found |= pod.probe_ports[k] == expected[i];
        cr_expect(found, "port %u", expected[i]);
    }
}

/* Of a pod and of a namespace alike. What is no value is the long way, and is told. */
Test(kube_object, direct_ways)
{
    static const struct {
        const char *annotations;
        struct direct_switches direct;
        const char *wrong;
    } cases[] = {
        {"\"" DIRECT_OUTSIDE_ANNOTATION "\": \"false\"", {.outside = DIRECT_OFF}, ""},
        {"\"" DIRECT_OUTSIDE_ANNOTATION "\": \"True\"", {.outside = DIRECT_ON}, ""},
        {"\"" DIRECT_OUTSIDE_ANNOTATION "\": \"off\"",
         {.outside = DIRECT_OFF},
         DIRECT_OUTSIDE_ANNOTATION ": \"off\" is neither true nor false"},
        {"\"" DIRECT_OUTSIDE_ANNOTATION "\": null", {.outside = DIRECT_UNSAID}, ""},
        {"\"" DIRECT_INBOUND_ANNOTATION "\": \"0\"", {.inbound = DIRECT_OFF}, ""},
        {"\"" DIRECT_INBOUND_ANNOTATION "\": \"\"", {.inbound = DIRECT_OFF}, DIRECT_INBOUND_ANNOTATION},
        {"\"" SAME_NODE_ANNOTATION "\": \"hbone\"", {.same_node = SAME_NODE_HBONE}, ""},
        {"\"" SAME_NODE_ANNOTATION "\": \"relay\"", {.same_node = SAME_NODE_RELAY}, ""},
        {"\"" SAME_NODE_ANNOTATION "\": \"kernel\"", {.same_node = SAME_NODE_KERNEL}, ""},
        {"\"" SAME_NODE_ANNOTATION "\": \"Kernel\"",
         {.same_node = SAME_NODE_HBONE},
         SAME_NODE_ANNOTATION ": \"Kernel\" is neither hbone nor relay nor kernel"},
        {"\"x\": \"y\"", {0}, ""},
    };

    for (size_t i = 0; i < array_size(cases); i++) {
        char text[512], wrong[256] = "";
        struct kube_pod_object pod;
        cJSON *json;

        snprintf(text, sizeof(text),
                 "{\"metadata\": {\"name\": \"w\", \"namespace\": \"n\", \"uid\": \"u\", \"annotations\": "
                 "{%s}}}",
                 cases[i].annotations);
        pod = pod_of(text, &json);
        cr_expect(direct_switches_equal(pod.direct, cases[i].direct), "%s", text);
        cr_expect(direct_switches_equal(kube_namespace_direct(json, wrong, sizeof(wrong)), cases[i].direct),
                  "%s", text);
        cr_expect(*cases[i].wrong ? strstr(wrong, cases[i].wrong) == wrong : !*wrong, "%s: %s", text, wrong);
        cr_expect_str_eq(wrong, pod.wrong_annotation);
        cJSON_Delete(json);
    }
}

/* Of a pod and of a namespace alike. What is no policy is the strict one, and is told. */
Test(kube_object, outbound_policy)
{
    static const struct {
        const char *value;
        enum outbound_policy policy;
        bool wrong;
    } cases[] = {
        {"\"REGISTRY_ONLY\"", OUTBOUND_REGISTRY_ONLY, false},
        {"\"ALLOW_ANY\"", OUTBOUND_ALLOW_ANY, false},
        {"\"allow_any\"", OUTBOUND_REGISTRY_ONLY, true},
        {"\"\"", OUTBOUND_REGISTRY_ONLY, true},
        {"null", OUTBOUND_UNSAID, false},
    };

    for (size_t i = 0; i < array_size(cases); i++) {
        char text[512], wrong[256];
        struct kube_pod_object pod;
        cJSON *json;

        snprintf(text, sizeof(text),
                 "{\"metadata\": {\"name\": \"w\", \"namespace\": \"n\", \"uid\": \"u\", \"annotations\": "
                 "{\"" OUTBOUND_POLICY_ANNOTATION "\": %s}}}",
                 cases[i].value);
        pod = pod_of(text, &json);
        cr_expect_eq(pod.outbound_policy, cases[i].policy, "%s", text);
        cr_expect_eq(*pod.wrong_annotation != '\0', cases[i].wrong, "%s: %s", text, pod.wrong_annotation);
        cr_expect_eq(kube_namespace_policy(json, wrong, sizeof(wrong)), cases[i].policy, "%s", text);
        cr_expect_str_eq(wrong, pod.wrong_annotation);
        cJSON_Delete(json);
    }
}
