/* SPDX-License-Identifier: Apache-2.0 */
/* What the Kubernetes API, the CNI cache and /proc say, and which pods are wanted. The followed streams and
 * the rest of the agent are tested end to end (tests/e2e/test_kube.py). */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/kubernetes/kube_affinity.h"
#include "agent/kubernetes/kube_http.h"
#include "agent/kubernetes/kube_object.h"
#include "agent/kubernetes/kube_selector.h"
#include "agent/netns/netns_find.h"
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
    cr_expect_null(pod.wrong_annotation);
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
    cr_expect(!pod.bypass_inbound && pod.wrong_annotation, "neither true nor false");
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
        cr_expect_eq(pod.wrong_annotation != NULL, cases[i].wrong, "%s", text);
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

/* ---- selectors ---- */

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

/* ---- requests ---- */

Test(kube_http, values_of_a_query)
{
    char url[32] = "/x?a=", small[8] = "/x?a=";

    cr_assert_eq(kube_append_encoded(url, sizeof(url), "n=1 &\xc3\xa4-._~"), 0);
    cr_expect_str_eq(url, "/x?a=n%3D1%20%26%C3%A4-._~");
    cr_expect_eq(kube_append_encoded(small, sizeof(small), "abc"), -ENAMETOOLONG);
}

Test(kube_http, waits_grow_and_differ)
{
    bool differ = false;

    for (unsigned tries = 0; tries < 100; tries++) {
        unsigned longest = tries < 6 ? 500u << tries : 30000, wait = kube_backoff(tries);

        cr_expect(wait >= longest / 2 && wait <= longest, "%u: %u", tries, wait);
        differ |= wait != kube_backoff(tries);
    }
    cr_expect(differ);
}

/* ---- network namespaces ---- */

static int cgroup(const char *text, char uid[129], char container[254])
{
    strcpy(uid, "unset");
    strcpy(container, "unset");
    return netns_cgroup_parse(text, uid, container);
}

Test(netns_find, control_groups)
{
    static const struct {
        const char *text, *uid, *container;
    } good[] = {
        {"0::/kubepods/besteffort/pod" WEB_UID "/abc123\n", WEB_UID, "abc123"},
        {"0::/kubepods.slice/kubepods-burstable.slice/"
         "kubepods-burstable-pod6a2305d4_300d_48df_9e70_b8bdd3f2234a.slice/"
         "cri-containerd-abc123.scope\n",
         WEB_UID, "abc123"},
        {"0::/kubelet/kubepods/pod0123456789abcdef0123456789abcdef/crio-abc123\n",
         "0123456789abcdef0123456789abcdef", "abc123"},
        {"12:pids:/kubepods/pod" WEB_UID "/abc\n1:name=systemd:/kubepods/pod" WEB_UID "/abc\n0::/\n", WEB_UID,
         "abc"},
        {"0::/kubepods/pod" WEB_UID "/abc/pod11111111-2222-3333-4444-555555555555/def\n", WEB_UID, "abc"},
        {"0::/kubepods/pod" WEB_UID, WEB_UID, ""},
    };
    static const char *const bad[] = {
        "", "0::/\n", "0::/user.slice\n", "0::/kubepods/pod1234/abc\n", "garbage",
        "0:", "::", "0::pod" WEB_UID "\n", "0::/kubepods/pod" WEB_UID "0/abc\n",
        "0::/kubepods/xpod" WEB_UID "/abc\n",
        /* hierarchies that disagree */
        "2:cpu:/kubepods/pod" WEB_UID "/abc\n0::/kubepods/pod11111111-2222-3333-4444-555555555555/abc\n",
        "2:cpu:/kubepods/pod" WEB_UID "/abc\n0::/kubepods/pod" WEB_UID "/def\n"};
    char uid[129], container[254];

    for (size_t i = 0; i < array_size(good); i++) {
        cr_expect_eq(cgroup(good[i].text, uid, container), 0, "%s", good[i].text);
        cr_expect_str_eq(uid, good[i].uid);
        cr_expect_str_eq(container, good[i].container);
    }
    for (size_t i = 0; i < array_size(bad); i++)
        cr_expect_eq(cgroup(bad[i], uid, container), -ENOENT, "%s", bad[i]);
}

static int cache(const char *text, char uid[129], char path[512], char container[254])
{
    return netns_cache_parse(text, strlen(text), uid, path, container);
}

Test(netns_find, files_of_the_cache)
{
    char uid[129], path[512], container[254];

    cr_assert_eq(cache("{\"kind\":\"cniCacheV1\",\"containerId\":\"c1\",\"netns\":\"/var/run/netns/a\","
                       "\"cniArgs\":[[\"K8S_POD_UID\",\"" WEB_UID "\"]],\"result\":{}}",
                       uid, path, container),
                 0);
    cr_expect_str_eq(uid, WEB_UID);
    cr_expect_str_eq(path, "/var/run/netns/a");
    cr_expect_str_eq(container, "c1");
    cr_assert_eq(
        cache(
            "{\"kind\":\"cniCacheV1\",\"containerId\":\"c1\",\"cniArgs\":[[\"A\"],7,[\"K8S_POD_UID\",\"u\"]],"
            "\"result\":{\"interfaces\":[{\"name\":\"v\"},{\"name\":\"e\",\"sandbox\":\"/run/netns/b\"}]}}",
            uid, path, container),
        0);
    cr_expect_str_eq(path, "/run/netns/b", "older libraries");
}

Test(netns_find, wrong_files_of_the_cache)
{
    static const struct {
        const char *text;
        int result;
    } wrong[] = {
        {"", -EBADMSG},
        {"[]", -EBADMSG},
        {"{\"kind\":\"cniCacheV2\",\"containerId\":\"c\"}", -EBADMSG},
        {"{\"kind\":\"cniCacheV1\",\"containerId\":\"../c\"}", -EBADMSG},
        {"{\"kind\":\"cniCacheV1\",\"containerId\":\"c\",\"netns\":\"/n\"}", -ENOENT},
        {"{\"kind\":\"cniCacheV1\",\"containerId\":\"c\",\"cniArgs\":[[\"K8S_POD_UID\",\"u\"]]}", -ENOENT},
        {"{\"kind\":\"cniCacheV1\",\"containerId\":\"c\",\"netns\":\"n\",\"cniArgs\":[[\"K8S_POD_UID\",\"u\"]"
         "]}",
         -EBADMSG},
        {"{\"kind\":\"cniCacheV1\",\"containerId\":\"c\",\"netns\":7,\"cniArgs\":{\"K8S_POD_UID\":\"u\"}}",
         -ENOENT},
    };
    char uid[129], path[512], container[254];

    for (size_t i = 0; i < array_size(wrong); i++)
        cr_expect_eq(cache(wrong[i].text, uid, path, container), wrong[i].result, "%s", wrong[i].text);
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
