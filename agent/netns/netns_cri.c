/* SPDX-License-Identifier: Apache-2.0 */
/* Asks the container runtime on its socket: gRPC calls of one message each, made with libcurl, which blocks.
 */
#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/netns/netns_find.h"
#include "lib/cleanup.h"
#include "lib/message.h"
#include "lib/proto/cri.pb-c.h"

#define LOG_SCOPE "netns"
#include "lib/log.h"

#define LIST_PATH   "/runtime.v1.RuntimeService/ListPodSandbox"
#define STATUS_PATH "/runtime.v1.RuntimeService/PodSandboxStatus"
#define CALL_MS     3000L
#define PREFIX      5 /* of a gRPC message: a flag and its length */
#define ANSWER_MAX  (16u * 1024 * 1024)

struct runtime {
    CURL *easy;
    const char *socket;
    uint8_t *answer;
    size_t len, size;
    int status; /* of gRPC, from header or trailer; -1: none came */
    char error[CURL_ERROR_SIZE];
};

static size_t on_body(char *bytes, size_t one, size_t len, void *data)
{
    struct runtime *r = data;

    (void)one;
    if (len > ANSWER_MAX - r->len)
        return 0;
    if (r->len + len > r->size) {
        size_t size = 2 * (r->len + len);
        uint8_t *answer = realloc(r->answer, size);

        if (!answer)
            return 0;
        r->answer = answer;
        r->size = size;
    }
    memcpy(r->answer + r->len, bytes, len);
    r->len += len;
    return len;
}

/* Trailers come here too. */
static size_t on_header(char *bytes, size_t one, size_t len, void *data)
{
    static const char name[] = "grpc-status:";
    struct runtime *r = data;

    (void)one;
    if (len > sizeof(name) && !strncasecmp(bytes, name, sizeof(name) - 1)) {
        size_t i = sizeof(name) - 1;

        while (i < len && bytes[i] == ' ')
            i++;
        r->status = i < len && bytes[i] >= '0' && bytes[i] <= '9' ? bytes[i] - '0' : 2;
    }
    return len;
}

static void set_options(struct runtime *r, const char *path, struct curl_slist *headers, const uint8_t *body,
                        size_t len)
{
    char url[128];

    snprintf(url, sizeof(url), "http://localhost%s", path);
    curl_easy_reset(r->easy);
    curl_easy_setopt(r->easy, CURLOPT_URL, url);
    curl_easy_setopt(r->easy, CURLOPT_UNIX_SOCKET_PATH, r->socket);
    curl_easy_setopt(r->easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE);
    /* Releases around 7.88 cannot use such a connection twice. */
    curl_easy_setopt(r->easy, CURLOPT_FORBID_REUSE, 1L);
    curl_easy_setopt(r->easy, CURLOPT_PROXY, "");
    curl_easy_setopt(r->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(r->easy, CURLOPT_TIMEOUT_MS, CALL_MS);
    curl_easy_setopt(r->easy, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(r->easy, CURLOPT_POSTFIELDSIZE, (long)len);
    curl_easy_setopt(r->easy, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(r->easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(r->easy, CURLOPT_WRITEDATA, r);
    curl_easy_setopt(r->easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(r->easy, CURLOPT_HEADERDATA, r);
    curl_easy_setopt(r->easy, CURLOPT_ERRORBUFFER, r->error);
}

/* The one message of the answer, or NULL with words in error. */
static const uint8_t *message_of(struct runtime *r, CURLcode code, size_t *ret_len)
{
    size_t len;

    if (code != CURLE_OK) {
        if (!*r->error)
            snprintf(r->error, sizeof(r->error), "%s", curl_easy_strerror(code));
        return NULL;
    }
    if (r->status != 0 || r->len < PREFIX || r->answer[0] != 0) {
        snprintf(r->error, sizeof(r->error), "gRPC status %d, %zu bytes", r->status, r->len);
        return NULL;
    }
    len = (size_t)r->answer[1] << 24 | (size_t)r->answer[2] << 16 | (size_t)r->answer[3] << 8 | r->answer[4];
    if (len != r->len - PREFIX) {
        snprintf(r->error, sizeof(r->error), "%zu bytes of a message of %zu", r->len - PREFIX, len);
        return NULL;
    }
    *ret_len = len;
    return r->answer + PREFIX;
}

static const uint8_t *call(struct runtime *r, const char *path, const ProtobufCMessage *request,
                           size_t *ret_len)
{
    size_t len = protobuf_c_message_get_packed_size(request);
    _cleanup_free_ uint8_t *body = malloc(PREFIX + len);
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/grpc"), *more = NULL;
    CURLcode code = CURLE_OUT_OF_MEMORY;

    if (headers)
        more = curl_slist_append(headers, "TE: trailers");
    r->len = 0;
    r->status = -1;
    r->error[0] = '\0';
    if (body && more) {
        body[0] = 0;
        for (int i = 0; i < 4; i++)
            body[1 + i] = (uint8_t)(len >> (24 - 8 * i));
        protobuf_c_message_pack(request, body + PREFIX);
        set_options(r, path, more, body, PREFIX + len);
        code = curl_easy_perform(r->easy);
    }
    curl_slist_free_all(headers);
    return message_of(r, code, ret_len);
}

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

static void ask_status(struct runtime *r, uint64_t own, struct netns_wanted *w, const char *id)
{
    Runtime__V1__PodSandboxStatusRequest request = RUNTIME__V1__POD_SANDBOX_STATUS_REQUEST__INIT;
    Runtime__V1__PodSandboxStatusResponse *answer;
    const uint8_t *message;
    char path[512] = "";
    size_t len;

    request.pod_sandbox_id = (char *)id;
    request.verbose = 1;
    message = call(r, STATUS_PATH, &request.base, &len);
    answer = message ? runtime__v1__pod_sandbox_status_response__unpack(NULL, len, message) : NULL;
    for (size_t i = 0; answer && i < answer->n_info && !*path; i++) {
        if (!strcmp(answer->info[i]->key, "info"))
            (void)namespace_path(answer->info[i]->value, path, sizeof(path));
    }
    if (answer)
        runtime__v1__pod_sandbox_status_response__free_unpacked(answer, NULL);
    if (*path)
        (void)netns_take(w, own, path, id, "cri");
    else
        snprintf(w->error, sizeof(w->error),
                 "the container runtime does not say where sandbox %.80s is: %.120s", id,
                 message ? "no network namespace in its answer" : r->error);
}

static void ask_list(struct runtime *r, uint64_t own, struct netns_wanted *wanted, size_t len)
{
    Runtime__V1__ListPodSandboxRequest request = RUNTIME__V1__LIST_POD_SANDBOX_REQUEST__INIT;
    Runtime__V1__PodSandboxFilter filter = RUNTIME__V1__POD_SANDBOX_FILTER__INIT;
    Runtime__V1__PodSandboxStateValue ready = RUNTIME__V1__POD_SANDBOX_STATE_VALUE__INIT;
    Runtime__V1__ListPodSandboxResponse *answer;
    const uint8_t *message;
    size_t message_len;

    filter.state = &ready;
    request.filter = &filter;
    message = call(r, LIST_PATH, &request.base, &message_len);
    answer = message ? runtime__v1__list_pod_sandbox_response__unpack(NULL, message_len, message) : NULL;
    if (!answer) {
        log_warn("the container runtime does not say which pods it runs\tsocket=%s error=\"%s\"", r->socket,
                 message ? "no message of its kind" : r->error);
        return;
    }
    for (size_t i = 0; i < answer->n_items; i++) {
        const Runtime__V1__PodSandbox *s = answer->items[i];
        struct netns_wanted *w =
            s->metadata ? netns_wanted_by_uid(wanted, len, s->metadata->uid, strlen(s->metadata->uid)) : NULL;

        if (w && w->fd < 0 && strlen(s->id) < sizeof(w->container_id))
            ask_status(r, own, w, s->id);
    }
    runtime__v1__list_pod_sandbox_response__free_unpacked(answer, NULL);
}

void netns_find_by_cri(const char *socket, uint64_t own, struct netns_wanted *wanted, size_t len)
{
    struct runtime r = {.easy = curl_easy_init(), .socket = socket};

    if (!r.easy)
        return;
    ask_list(&r, own, wanted, len);
    curl_easy_cleanup(r.easy);
    free(r.answer);
}
