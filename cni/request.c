/* SPDX-License-Identifier: Apache-2.0 */
#include "cni/request.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bruma/mesh.h"
#include "lib/cleanup.h"
#include "lib/json_slice.h"

#define DEFAULT_TIMEOUT_SECONDS 10.0
#define IFNAME_MAX_LEN          15

static const char *const versions[] = {CNI_VERSIONS};

static const struct {
    const char *name;
    bool container, netns;
} commands[] = {
    [CNI_ADD] = {"ADD", true, true},         [CNI_DEL] = {"DEL", true, false},
    [CNI_CHECK] = {"CHECK", true, true},     [CNI_GC] = {"GC", false, false},
    [CNI_STATUS] = {"STATUS", false, false}, [CNI_VERSION] = {"VERSION", false, false},
};

static int fail(struct cni_error *error, enum cni_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int fail(struct cni_error *error, enum cni_code code, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    error->code = code;
    vsnprintf(error->message, sizeof(error->message), format, ap);
    va_end(ap);
    return -EINVAL;
}

bool cni_version_known(const char *version)
{
    for (size_t i = 0; i < array_size(versions); i++) {
        if (!strcmp(versions[i], version))
            return true;
    }
    return false;
}

static const char *environment(const char *name)
{
    const char *value = getenv(name);

    return value ? value : "";
}

/* ---- environment ---- */

static int parse_command(struct cni_request *q, struct cni_error *error)
{
    const char *name = environment("CNI_COMMAND");

    for (size_t i = 0; i < array_size(commands); i++) {
        if (!strcmp(commands[i].name, name)) {
            q->command = (enum cni_command)i;
            return 0;
        }
    }
    return fail(error, CNI_BAD_ENVIRONMENT,
                "CNI_COMMAND \"%.40s\" is none of ADD, DEL, CHECK, GC, STATUS, VERSION", name);
}

static int check_container_id(const char *id, struct cni_error *error)
{
    if (!*id)
        return fail(error, CNI_BAD_ENVIRONMENT, "CNI_CONTAINERID is missing");
    for (const char *c = id; *c; c++) {
        if (!isalnum((unsigned char)*c) && (c == id || !strchr("_.-", *c)))
            return fail(error, CNI_BAD_ENVIRONMENT,
                        "CNI_CONTAINERID \"%.80s\" has a character that is not allowed", id);
    }
    return 0;
}

static int check_ifname(const char *name, struct cni_error *error)
{
    if (!*name)
        return fail(error, CNI_BAD_ENVIRONMENT, "CNI_IFNAME is missing");
    if (strlen(name) > IFNAME_MAX_LEN || !strcmp(name, ".") || !strcmp(name, "..") ||
        strpbrk(name, "/: \t\r\n\v\f"))
        return fail(error, CNI_BAD_ENVIRONMENT, "CNI_IFNAME \"%.40s\" is not the name of an interface", name);
    return 0;
}

/* Runtimes set more variables than an operation needs, and leave them empty: only what is needed is looked
 * at. */
static int parse_environment(struct cni_request *q, struct cni_error *error)
{
    int r = 0;

    q->container_id = environment("CNI_CONTAINERID");
    q->netns = environment("CNI_NETNS");
    q->ifname = environment("CNI_IFNAME");
    if (commands[q->command].container) {
        r = check_container_id(q->container_id, error);
        if (r == 0)
            r = check_ifname(q->ifname, error);
    }
    if (r == 0 && commands[q->command].netns && !*q->netns)
        r = fail(error, CNI_BAD_ENVIRONMENT, "CNI_NETNS is missing");
    return r;
}

/* K=V;K=V. Unknown keys and pieces without '=' are somebody else's. */
static int parse_args(struct cni_request *q, struct cni_error *error)
{
    _cleanup_free_ char *copy = strdup(environment("CNI_ARGS"));
    char *save = NULL;
    struct {
        const char *key;
        char **value;
    } known[] = {{"K8S_POD_NAME", &q->pod_name},
                 {"K8S_POD_NAMESPACE", &q->pod_namespace},
                 {"K8S_POD_UID", &q->pod_uid}};

    if (!copy)
        return fail(error, CNI_IO_FAILURE, "out of memory");
    for (char *part = strtok_r(copy, ";", &save); part; part = strtok_r(NULL, ";", &save)) {
        char *equals = strchr(part, '=');

        for (size_t i = 0; equals && i < array_size(known); i++) {
            if (strlen(known[i].key) == (size_t)(equals - part) &&
                !strncmp(known[i].key, part, (size_t)(equals - part))) {
                free(*known[i].value);
                *known[i].value = strdup(equals + 1);
            }
        }
    }
    for (size_t i = 0; i < array_size(known); i++) {
        if (!*known[i].value)
            *known[i].value = strdup("");
        if (!*known[i].value)
            return fail(error, CNI_IO_FAILURE, "out of memory");
    }
    return 0;
}

/* ---- configuration ---- */

/* Our own keys are checked: a misspelt type must not silently mean the default. */
static int parse_own_keys(struct cni_request *q, struct cni_error *error)
{
    const json_t *v = json_object_get(q->config, "run_dir");

    if (v && (!json_is_string(v) || *json_string_value(v) != '/'))
        return fail(error, CNI_INVALID_CONFIG, "run_dir is not an absolute path");
    q->run_dir = v ? json_string_value(v) : BRUMA_DEFAULT_RUN_DIR;
    v = json_object_get(q->config, "log_level");
    if (v && !json_is_string(v))
        return fail(error, CNI_INVALID_CONFIG, "log_level is not a text");
    q->log_level = v ? json_string_value(v) : "info";
    v = json_object_get(q->config, "status_gate");
    if (v && !json_is_boolean(v))
        return fail(error, CNI_INVALID_CONFIG, "status_gate is not true or false");
    q->status_gate = json_is_true(v);
    v = json_object_get(q->config, "timeout");
    q->timeout_seconds = v ? json_number_value(v) : DEFAULT_TIMEOUT_SECONDS;
    if ((v && !json_is_number(v)) || q->timeout_seconds < 0.1 || q->timeout_seconds > 300)
        return fail(error, CNI_INVALID_CONFIG, "timeout is not a number of seconds from 0.1 to 300");
    v = json_object_get(q->config, "exclude_namespaces");
    if (v && !json_is_array(v) && !json_is_null(v))
        return fail(error, CNI_INVALID_CONFIG, "exclude_namespaces is not a list");
    return 0;
}

static int parse_config(struct cni_request *q, size_t len, struct cni_error *error)
{
    json_error_t where;
    const json_t *v;

    q->config = json_loadb(q->text, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &where);
    if (!q->config)
        return fail(error, CNI_DECODE_FAILURE,
                    "the network configuration is not JSON: line %d column %d: %.120s", where.line,
                    where.column, where.text);
    if (!json_is_object(q->config))
        return fail(error, CNI_DECODE_FAILURE, "the network configuration is not an object");
    v = json_object_get(q->config, "cniVersion");
    if (v && !json_is_string(v))
        return fail(error, CNI_DECODE_FAILURE, "cniVersion is not a text");
    q->version = v && *json_string_value(v) ? json_string_value(v) : "0.1.0";
    if (!cni_version_known(q->version))
        return fail(error, CNI_INCOMPATIBLE_VERSION, "cniVersion \"%.40s\" is not supported", q->version);
    v = json_object_get(q->config, "name");
    if (!json_is_string(v) || !*json_string_value(v))
        return fail(error, CNI_INVALID_CONFIG, "the network configuration has no name");
    q->network = json_string_value(v);
    v = json_object_get(q->config, "prevResult");
    if (v && !json_is_null(v)) {
        if (!json_is_object(v))
            return fail(error, CNI_INVALID_CONFIG, "prevResult is not an object");
        /* What the others have built is passed on to the letter, unknown keys, order and all. */
        if (json_slice_find(q->text, len, "prevResult", &q->previous, &q->previous_len) < 0)
            return fail(error, CNI_DECODE_FAILURE, "prevResult cannot be found in the configuration");
    }
    return parse_own_keys(q, error);
}

int cni_request_parse(char *text, size_t len, struct cni_request *ret, struct cni_error *error)
{
    struct cni_request q = {.text = text, .version = "0.1.0", .network = ""};
    int r = parse_command(&q, error);

    if (r == 0)
        r = parse_environment(&q, error);
    if (r == 0)
        r = parse_args(&q, error);
    if (r == 0 && q.command != CNI_VERSION)
        r = parse_config(&q, len, error);
    if (r < 0)
        cni_request_clear(&q);
    else
        *ret = q;
    return r;
}

void cni_request_clear(struct cni_request *q)
{
    free(q->pod_name);
    free(q->pod_namespace);
    free(q->pod_uid);
    free(q->text);
    json_decref(q->config);
    memset(q, 0, sizeof(*q));
}

bool cni_request_excluded(const struct cni_request *q)
{
    const json_t *list = json_object_get(q->config, "exclude_namespaces"), *item;
    size_t i;

    if (!list)
        return !strcmp(q->pod_namespace, "kube-system");
    json_array_foreach(list, i, item)
    {
        if (json_is_string(item) && !strcmp(json_string_value(item), q->pod_namespace))
            return true;
    }
    return false;
}

static void add_address(json_t *array, const json_t *address)
{
    if (json_is_string(address))
        json_array_append_new(array, json_string(json_string_value(address)));
}

json_t *cni_request_addresses(const struct cni_request *q)
{
    const json_t *previous = json_object_get(q->config, "prevResult"),
                 *ips = json_object_get(previous, "ips"), *item;
    json_t *array = json_array();
    size_t i;

    json_array_foreach(ips, i, item) add_address(array, json_object_get(item, "address"));
    /* before 0.3.0 */
    add_address(array, json_object_get(json_object_get(previous, "ip4"), "ip"));
    add_address(array, json_object_get(json_object_get(previous, "ip6"), "ip"));
    return array;
}
