/* SPDX-License-Identifier: Apache-2.0 */
/* Asks the container runtime which sandboxes there are, and where their network namespaces are. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/netns/cri_call.h"
#include "agent/netns/netns_find.h"
#include "lib/message.h"
#include "lib/proto/cri.pb-c.h"

#define LOG_SCOPE "netns"
#include "lib/log.h"

#define LIST_PATH   "/runtime.v1.RuntimeService/ListPodSandbox"
#define STATUS_PATH "/runtime.v1.RuntimeService/PodSandboxStatus"

static const cJSON *get(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

/* From the specification that the OCI runtime was given. */
static bool namespace_path(const char *info, char *path, size_t size)
{
    _cleanup_message_ cJSON *json = cJSON_Parse(info);
    const cJSON *n;

    cJSON_ArrayForEach (n, get(get(get(json, "runtimeSpec"), "linux"), "namespaces")) {
        const char *type = cJSON_GetStringValue(get(n, "type")), *text = cJSON_GetStringValue(get(n, "path"));

        if (type && !strcmp(type, "network") && text && *text == '/' && strlen(text) < size) {
            strcpy(path, text);
            return true;
        }
    }
    return false;
}

/* Writes "" where the answer names no namespace. */
static int ask_status(const char *socket, const char *id, char *path, size_t size, char error[CRI_ERROR_SIZE])
{
    Runtime__V1__PodSandboxStatusRequest request = RUNTIME__V1__POD_SANDBOX_STATUS_REQUEST__INIT;
    Runtime__V1__PodSandboxStatusResponse *answer;
    ProtobufCMessage *message;
    int r;

    request.pod_sandbox_id = (char *)id;
    request.verbose = 1; /* or there is no "info" */
    r = cri_call(socket, STATUS_PATH, &request.base, &runtime__v1__pod_sandbox_status_response__descriptor,
                 &message, error);
    if (r < 0)
        return r;
    answer = (Runtime__V1__PodSandboxStatusResponse *)message;
    *path = '\0';
    for (size_t i = 0; i < answer->n_info && !*path; i++) {
        if (!strcmp(answer->info[i]->key, "info"))
            (void)namespace_path(answer->info[i]->value, path, size);
    }
    if (!*path)
        snprintf(error, CRI_ERROR_SIZE, "no network namespace in its answer");
    protobuf_c_message_free_unpacked(message, NULL);
    return 0;
}

static int locate(const char *socket, uint64_t own, struct netns_wanted *w, const char *id)
{
    char path[512] = "", error[CRI_ERROR_SIZE];
    int r = ask_status(socket, id, path, sizeof(path), error);

    if (*path)
        (void)netns_take(w, own, path, id, "cri");
    else
        snprintf(w->error, sizeof(w->error),
                 "the container runtime does not say where sandbox %.80s is: %.120s", id, error);
    return r;
}

static Runtime__V1__ListPodSandboxResponse *list_ready(const char *socket, char error[CRI_ERROR_SIZE])
{
    Runtime__V1__ListPodSandboxRequest request = RUNTIME__V1__LIST_POD_SANDBOX_REQUEST__INIT;
    Runtime__V1__PodSandboxFilter filter = RUNTIME__V1__POD_SANDBOX_FILTER__INIT;
    Runtime__V1__PodSandboxStateValue ready = RUNTIME__V1__POD_SANDBOX_STATE_VALUE__INIT;
    ProtobufCMessage *answer = NULL;

    filter.state = &ready;
    request.filter = &filter;
    if (cri_call(socket, LIST_PATH, &request.base, &runtime__v1__list_pod_sandbox_response__descriptor,
                 &answer, error) < 0)
        return NULL;
    return (Runtime__V1__ListPodSandboxResponse *)answer;
}

void netns_find_by_cri(const char *socket, uint64_t own, struct netns_wanted *wanted, size_t len)
{
    char error[CRI_ERROR_SIZE], quoted[2 * CRI_ERROR_SIZE];
    Runtime__V1__ListPodSandboxResponse *answer = list_ready(socket, error);
    int r = 0;

    if (!answer) {
        log_warn("the container runtime does not say which pods it runs\tsocket=%s error=%s", socket,
                 log_quote(quoted, sizeof(quoted), error));
        return;
    }
    /* A runtime that hangs is not asked about each pod of the node: the control groups may know them. */
    for (size_t i = 0; i < answer->n_items && r != -ETIMEDOUT; i++) {
        const Runtime__V1__PodSandbox *s = answer->items[i];
        struct netns_wanted *w =
            s->metadata ? netns_wanted_by_uid(wanted, len, s->metadata->uid, strlen(s->metadata->uid)) : NULL;

        if (w && w->fd < 0 && strlen(s->id) < sizeof(w->container_id))
            r = locate(socket, own, w, s->id);
    }
    runtime__v1__list_pod_sandbox_response__free_unpacked(answer, NULL);
}
