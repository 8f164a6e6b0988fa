/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/kubernetes/kube_object.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/message.h"

#define UID_MAX_LEN 128 /* it names a file */
#define LABELS_MAX  1024

#define SIDECAR_ANNOTATION     "sidecar.istio.io/status"
#define REDIRECTION_ANNOTATION "ambient.istio.io/redirection"
#define REROUTE_ANNOTATION     "istio.io/reroute-virtual-interfaces"
#define DEVICES_ANNOTATION     "traffic.sidecar.istio.io/excludeInterfaces"
#define DNS_ANNOTATION         "ambient.istio.io/dns-capture"
#define BYPASS_ANNOTATION      "ambient.istio.io/bypass-inbound-capture"
/* On the API server's copy of a static pod: the UID by which the kubelet runs it. */
#define MIRROR_ANNOTATION "kubernetes.io/config.mirror"

__attribute__((format(printf, 3, 4))) static int bad(char *why, size_t size, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    vsnprintf(why, size, format, ap);
    va_end(ap);
    return -EBADMSG;
}

static const cJSON *get(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

static const char *text_of(const cJSON *object, const char *key)
{
    return cJSON_GetStringValue(get(object, key));
}

static int parse(const char *text, size_t len, cJSON **ret)
{
    _cleanup_message_ cJSON *json = NULL;
    const char *end = NULL;

    json = cJSON_ParseWithLengthOpts(text, len, &end, false);
    if (!json || !cJSON_IsObject(json))
        return -EBADMSG;
    while (end < text + len && strchr(" \n\r\t", *end) && *end)
        end++;
    if (end != text + len)
        return -EBADMSG;
    *ret = take_pointer(json);
    return 0;
}

/* Text that may be missing, which is "". */
static int optional(const cJSON *object, const char *key, size_t max, const char **ret)
{
    const char *text = "";
    int r = message_text(object, key, max, &text);

    *ret = r == 0 ? text : "";
    return r == -EBADMSG ? r : 0;
}

/* ---- lines and lists ---- */

static int line_type(const char *type, enum kube_line_type *ret)
{
    static const struct {
        const char *name;
        enum kube_line_type type;
    } types[] = {{"ADDED", KUBE_LINE_CHANGED},
                 {"MODIFIED", KUBE_LINE_CHANGED},
                 {"DELETED", KUBE_LINE_DELETED},
                 {"BOOKMARK", KUBE_LINE_BOOKMARK},
                 {"ERROR", KUBE_LINE_ERROR}};

    for (size_t i = 0; i < array_size(types); i++) {
        if (!strcmp(type, types[i].name)) {
            *ret = types[i].type;
            return 0;
        }
    }
    return -EBADMSG;
}

static int fill_line(struct kube_line *line, char *why, size_t why_size)
{
    const char *type = text_of(line->json, "type");
    const cJSON *code;

    if (!type)
        return bad(why, why_size, "a watch event without a type");
    if (line_type(type, &line->type) < 0)
        return bad(why, why_size, "a watch event of the unknown type \"%.40s\"", type);
    line->object = get(line->json, "object");
    if (!cJSON_IsObject(line->object))
        return bad(why, why_size, "a watch event without an object");
    if (optional(get(line->object, "metadata"), "resourceVersion", KUBE_VERSION_MAX, &line->version) < 0)
        return bad(why, why_size, "a watch event with a wrong resourceVersion");
    if (line->type != KUBE_LINE_ERROR)
        return 0;
    code = get(line->object, "code");
    if (cJSON_IsNumber(code) && code->valuedouble >= 0 && code->valuedouble < 1000)
        line->code = (int)code->valuedouble;
    line->message = text_of(line->object, "message");
    if (!line->message)
        line->message = "";
    return 0;
}

int kube_line_decode(const char *text, size_t len, struct kube_line *ret, char *why, size_t why_size)
{
    struct kube_line line = {0};

    if (parse(text, len, &line.json) < 0)
        return bad(why, why_size, "a watch line of %zu bytes is not one JSON object", len);
    if (fill_line(&line, why, why_size) < 0) {
        cJSON_Delete(line.json);
        return -EBADMSG;
    }
    *ret = line;
    return 0;
}

int kube_list_decode(const char *body, size_t len, struct kube_list *ret, char *why, size_t why_size)
{
    _cleanup_message_ cJSON *json = NULL;
    struct kube_list list = {0};
    const cJSON *metadata;

    if (parse(body, len, &json) < 0)
        return bad(why, why_size, "a list of %zu bytes is not one JSON object", len);
    list.items = get(json, "items");
    metadata = get(json, "metadata");
    /* "items": null is what Go makes of an empty list. */
    if (!list.items || (!cJSON_IsArray(list.items) && !cJSON_IsNull(list.items)))
        return bad(why, why_size, "a list without items");
    if (optional(metadata, "resourceVersion", KUBE_VERSION_MAX, &list.version) < 0 || !*list.version)
        return bad(why, why_size, "a list without a resourceVersion");
    if (optional(metadata, "continue", KUBE_CONTINUE_MAX, &list.continue_token) < 0)
        return bad(why, why_size, "a list with a wrong continue token");
    list.json = take_pointer(json);
    *ret = list;
    return 0;
}

void kube_status_text(const char *body, size_t len, char *text, size_t size)
{
    _cleanup_message_ cJSON *json = NULL;
    const char *message = parse(body, len, &json) < 0 ? NULL : text_of(json, "message");

    snprintf(text, size, "%.*s", message ? INT_MAX : (int)(len < 200 ? len : 200), message ? message : body);
}

/* ---- pods and namespaces ---- */

const char *kube_label(const cJSON *labels, const char *key)
{
    return text_of(labels, key);
}

static int labels_of(const cJSON *metadata, const cJSON **ret)
{
    const cJSON *labels = get(metadata, "labels"), *label;
    int n = 0;

    *ret = NULL;
    if (!labels || cJSON_IsNull(labels))
        return 0;
    if (!cJSON_IsObject(labels))
        return -EBADMSG;
    cJSON_ArrayForEach (label, labels) {
        if (!cJSON_IsString(label) || ++n > LABELS_MAX)
            return -EBADMSG;
    }
    *ret = labels;
    return 0;
}

static const char neither[] = "neither true nor false";

/* As Go's strconv.ParseBool. */
static int parse_bool(const char *text, bool *ret)
{
    static const char *const yes[] = {"1", "t", "T", "true", "TRUE", "True"};
    static const char *const no[] = {"0", "f", "F", "false", "FALSE", "False"};

    for (size_t i = 0; i < array_size(yes); i++) {
        if (!strcmp(text, yes[i]) || !strcmp(text, no[i])) {
            *ret = !strcmp(text, yes[i]);
            return 0;
        }
    }
    return -EINVAL;
}

/* The first one counts. */
static void say_wrong(char *wrong, size_t size, const char *key, const char *value, const char *what)
{
    char shown[80];

    if (!*wrong)
        snprintf(wrong, size, "%s: %s is %s", key, log_quote(shown, sizeof(shown), value), what);
}

static enum outbound_policy policy_of(const cJSON *annotations, char *wrong, size_t size)
{
    const char *text = text_of(annotations, OUTBOUND_POLICY_ANNOTATION);
    enum outbound_policy policy = OUTBOUND_UNSAID;

    if (text && outbound_policy_parse(text, &policy) < 0) {
        say_wrong(wrong, size, OUTBOUND_POLICY_ANNOTATION, text, "neither ALLOW_ANY nor REGISTRY_ONLY");
        return OUTBOUND_REGISTRY_ONLY;
    }
    return policy;
}

enum outbound_policy kube_namespace_policy(const cJSON *object, char *wrong, size_t wrong_size)
{
    wrong[0] = '\0';
    return policy_of(get(get(object, "metadata"), "annotations"), wrong, wrong_size);
}

static enum direct_switch switch_of(const cJSON *annotations, const char *key, char *wrong, size_t size)
{
    const char *text = text_of(annotations, key);
    bool on = false;

    if (!text)
        return DIRECT_UNSAID;
    if (parse_bool(text, &on) < 0)
        say_wrong(wrong, size, key, text, neither);
    return on ? DIRECT_ON : DIRECT_OFF;
}

static struct direct_switches direct_of(const cJSON *annotations, char *wrong, size_t size)
{
    const char *text = text_of(annotations, SAME_NODE_ANNOTATION);
    struct direct_switches direct = {
        .outside = switch_of(annotations, DIRECT_OUTSIDE_ANNOTATION, wrong, size),
        .inbound = switch_of(annotations, DIRECT_INBOUND_ANNOTATION, wrong, size),
    };

    if (text && same_node_parse(text, &direct.same_node) < 0) {
        say_wrong(wrong, size, SAME_NODE_ANNOTATION, text, "neither hbone nor relay nor kernel");
        direct.same_node = SAME_NODE_HBONE;
    }
    return direct;
}

struct direct_switches kube_namespace_direct(const cJSON *object, char *wrong, size_t wrong_size)
{
    return direct_of(get(get(object, "metadata"), "annotations"), wrong, wrong_size);
}

static void take_annotations(const cJSON *annotations, struct kube_pod_object *pod)
{
    const char *redirection = text_of(annotations, REDIRECTION_ANNOTATION);
    const char *bypass = text_of(annotations, BYPASS_ANNOTATION);
    const char *devices = text_of(annotations, DEVICES_ANNOTATION);
    const char *reroute = text_of(annotations, REROUTE_ANNOTATION);
    const char *dns = text_of(annotations, DNS_ANNOTATION);
    bool capture_dns = false;

    pod->sidecar = get(annotations, SIDECAR_ANNOTATION) != NULL;
    if (dns && parse_bool(dns, &capture_dns) < 0)
        say_wrong(pod->wrong_annotation, sizeof(pod->wrong_annotation), DNS_ANNOTATION, dns, neither);
    else if (dns)
        pod->dns_capture = capture_dns ? KUBE_DNS_ON : KUBE_DNS_OFF;
    if (reroute && *reroute)
        pod->unknown_annotation = REROUTE_ANNOTATION;
    if (devices && *devices)
        pod->unknown_annotation = DEVICES_ANNOTATION;
    if (bypass && parse_bool(bypass, &pod->bypass_inbound) < 0)
        say_wrong(pod->wrong_annotation, sizeof(pod->wrong_annotation), BYPASS_ANNOTATION, bypass, neither);
    for (int i = 0; i < EXCLUSION_ANNOTATIONS; i++)
        pod->exclusions[i] = text_of(annotations, exclusion_annotation_key((enum exclusion_annotation)i));
    pod->outbound_policy = policy_of(annotations, pod->wrong_annotation, sizeof(pod->wrong_annotation));
    pod->direct = direct_of(annotations, pod->wrong_annotation, sizeof(pod->wrong_annotation));
    if (!redirection)
        pod->redirection = KUBE_REDIRECTION_NONE;
    else if (!strcmp(redirection, "enabled"))
        pod->redirection = KUBE_REDIRECTION_ENABLED;
    else if (!strcmp(redirection, "pending"))
        pod->redirection = KUBE_REDIRECTION_PENDING;
    else
        pod->redirection = KUBE_REDIRECTION_OTHER;
}

static int take_address(const char *text, struct kube_pod_object *pod)
{
    struct addr a;

    if (!text || !*text)
        return 0;
    if (addr_parse(text, &a) < 0)
        return -EBADMSG;
    (void)addr_list_add(pod->addresses, &pod->addresses_len, BRUMA_POD_ADDRESSES, &a);
    return 0;
}

static int take_addresses(const cJSON *status, struct kube_pod_object *pod)
{
    const cJSON *item;
    int r = 0;

    cJSON_ArrayForEach (item, get(status, "podIPs")) {
        r = take_address(text_of(item, "ip"), pod);
        if (r < 0)
            return r;
    }
    return pod->addresses_len ? 0 : take_address(text_of(status, "podIP"), pod);
}

/* A number, or the name of one of the container's ports; 0 if it is neither. */
static uint16_t port_of(const cJSON *container, const cJSON *value)
{
    const cJSON *port;

    if (cJSON_IsNumber(value))
        return value->valuedouble >= 1 && value->valuedouble <= UINT16_MAX ? (uint16_t)value->valuedouble : 0;
    if (!cJSON_IsString(value))
        return 0;
    cJSON_ArrayForEach (port, get(container, "ports")) {
        const char *name = text_of(port, "name");
        const cJSON *number = get(port, "containerPort");

        if (name && !strcmp(name, value->valuestring))
            return cJSON_IsNumber(number) ? port_of(container, number) : 0;
    }
    return 0;
}

static void take_port(uint16_t port, struct kube_pod_object *pod)
{
    for (int i = 0; i < pod->probe_ports_len; i++) {
        if (pod->probe_ports[i] == port)
            return;
    }
    if (port && pod->probe_ports_len < KUBE_PROBES_MAX)
        pod->probe_ports[pod->probe_ports_len++] = port;
}

/* One with a host of its own goes to that host: it is not the pod's. */
static void take_handler(const cJSON *container, const cJSON *handler, struct kube_pod_object *pod)
{
    static const char *const kinds[] = {"httpGet", "tcpSocket", "grpc"};

    for (size_t i = 0; i < array_size(kinds); i++) {
        const cJSON *kind = get(handler, kinds[i]);
        const char *host = text_of(kind, "host");

        if (kind && (!host || !*host))
            take_port(port_of(container, get(kind, "port")), pod);
    }
}

static void take_probes(const cJSON *containers, struct kube_pod_object *pod)
{
    static const char *const probes[] = {"livenessProbe", "readinessProbe", "startupProbe"};
    static const char *const hooks[] = {"postStart", "preStop"};
    const cJSON *container;

    cJSON_ArrayForEach (container, containers) {
        for (size_t i = 0; i < array_size(probes); i++)
            take_handler(container, get(container, probes[i]), pod);
        for (size_t i = 0; i < array_size(hooks); i++)
            take_handler(container, get(get(container, "lifecycle"), hooks[i]), pod);
    }
}

/* A hash, which no UID of the API server is like: anybody may write that annotation, and nobody shall take
 * another pod's UID by it. */
static bool is_static_uid(const char *uid)
{
    return strlen(uid) == 32 && strspn(uid, "0123456789abcdef") == 32;
}

static int take_names(const cJSON *object, struct kube_pod_object *pod, char *why, size_t why_size)
{
    const cJSON *metadata = get(object, "metadata"), *annotations = get(metadata, "annotations");

    if (message_name(metadata, "name", &pod->name) < 0)
        return bad(why, why_size, "a pod without a good metadata.name");
    if (message_name(metadata, "namespace", &pod->namespace) < 0)
        return bad(why, why_size, "pod %s without a good metadata.namespace", pod->name);
    if (message_name(metadata, "uid", &pod->uid) < 0 || strlen(pod->uid) > UID_MAX_LEN)
        return bad(why, why_size, "pod %s/%s without a good metadata.uid", pod->namespace, pod->name);
    if (message_name(annotations, MIRROR_ANNOTATION, &pod->runtime_uid) < 0 ||
        !is_static_uid(pod->runtime_uid))
        pod->runtime_uid = pod->uid;
    return 0;
}

int kube_pod_decode(const cJSON *object, struct kube_pod_object *ret, char *why, size_t why_size)
{
    const cJSON *metadata = get(object, "metadata"), *spec = get(object, "spec");
    const cJSON *status = get(object, "status");
    struct kube_pod_object pod = {.service_account = "default"};
    const char *phase = text_of(status, "phase");
    int r = take_names(object, &pod, why, why_size);

    if (r < 0)
        return r;
    if (message_name(spec, "serviceAccountName", &pod.service_account) == -EBADMSG)
        return bad(why, why_size, "pod %s/%s with a wrong spec.serviceAccountName", pod.namespace, pod.name);
    if (labels_of(metadata, &pod.labels) < 0)
        return bad(why, why_size, "pod %s/%s with wrong metadata.labels", pod.namespace, pod.name);
    if (take_addresses(status, &pod) < 0)
        return bad(why, why_size, "pod %s/%s with wrong status.podIPs", pod.namespace, pod.name);
    take_annotations(get(metadata, "annotations"), &pod);
    take_probes(get(spec, "containers"), &pod);
    take_probes(get(spec, "initContainers"), &pod); /* sidecars are among them */
    pod.host_network = cJSON_IsTrue(get(spec, "hostNetwork"));
    pod.deleting = text_of(metadata, "deletionTimestamp") != NULL;
    pod.completed = phase && (!strcmp(phase, "Succeeded") || !strcmp(phase, "Failed"));
    *ret = pod;
    return 0;
}

int kube_namespace_decode(const cJSON *object, const char **ret_name, const cJSON **ret_labels, char *why,
                          size_t why_size)
{
    const cJSON *metadata = get(object, "metadata");
    const char *name;

    if (message_name(metadata, "name", &name) < 0)
        return bad(why, why_size, "a namespace without a good metadata.name");
    if (labels_of(metadata, ret_labels) < 0)
        return bad(why, why_size, "namespace %s with wrong metadata.labels", name);
    *ret_name = name;
    return 0;
}
