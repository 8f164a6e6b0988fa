/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/source.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bruma/mesh.h"
#include "bruma/protocol.h"
#include "lib/cleanup.h"
#include "lib/seqpacket.h"

#define TIMEOUT_MILLISECONDS 5000
#define DUMP_MAX             (512u * 1024 * 1024)

const char *text_of(const cJSON *object, const char *key)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key));

    return text ? text : "";
}

double number_of(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);

    return cJSON_IsNumber(item) ? item->valuedouble : 0;
}

static int unreachable(const char *who, const char *path, const char *why)
{
    fprintf(stderr, "brumactl: no answer of the %s at %s: %s\n", who, path, why);
    return CTL_UNREACHABLE;
}

static int socket_path(const char *run_dir, const char *name, char *buf, size_t size)
{
    return snprintf(buf, size, "%s/%s", run_dir, name) >= (int)size ? -ENAMETOOLONG : 0;
}

/* Items until the end: each datagram is one. */
static int receive_items(int fd, const char *path, cJSON *items)
{
    _cleanup_free_ char *buf = malloc(BRUMA_MESSAGE_MAX + 1);

    while (buf) {
        int fds[BRUMA_MESSAGE_FDS_MAX];
        size_t fds_len;
        ssize_t n = seqpacket_receive_timeout(fd, buf, BRUMA_MESSAGE_MAX + 1, fds, BRUMA_MESSAGE_FDS_MAX,
                                              &fds_len, TIMEOUT_MILLISECONDS);
        cJSON *message;
        const char *op;

        close_fds(fds, n > 0 ? fds_len : 0);
        if (n <= 0)
            return unreachable("agent", path, n ? strerror((int)-n) : "it closed the connection");
        message = cJSON_ParseWithLength(buf, (size_t)n);
        op = text_of(message, "op");
        if (!strcmp(op, "item")) {
            cJSON_DeleteItemFromObjectCaseSensitive(message, "op");
            cJSON_AddItemToArray(items, message);
            continue;
        }
        if (!strcmp(op, "end")) {
            cJSON_Delete(message);
            return CTL_OK;
        }
        if (!strcmp(op, "error"))
            fprintf(stderr, "brumactl: %s: %s\n", text_of(message, "reason"), text_of(message, "error"));
        else
            fprintf(stderr, "brumactl: the agent's answer is not understood; is it of another version?\n");
        cJSON_Delete(message);
        return CTL_PROBLEM;
    }
    return unreachable("agent", path, "out of memory");
}

/* Takes the question. */
static int ask_agent(const char *run_dir, cJSON *question, cJSON **ret)
{
    _cleanup_free_ char *text = cJSON_PrintUnformatted(question);
    _cleanup_fd_ int fd = -1;
    char path[256];
    cJSON *items;
    int r;

    cJSON_Delete(question);
    if (socket_path(run_dir, BRUMA_AGENT_SOCKET, path, sizeof(path)) < 0)
        return unreachable("agent", run_dir, "the path is too long");
    fd = seqpacket_connect(path, TIMEOUT_MILLISECONDS, false);
    if (fd < 0)
        return unreachable("agent", path, strerror(-fd));
    r = text ? seqpacket_send(fd, text, strlen(text), NULL, 0) : -ENOMEM;
    if (r < 0)
        return unreachable("agent", path, strerror(-r));
    items = cJSON_CreateArray();
    r = receive_items(fd, path, items);
    if (r == CTL_OK)
        *ret = items;
    else
        cJSON_Delete(items);
    return r;
}

static cJSON *question_of(const char *op, const char *pod)
{
    cJSON *question = cJSON_CreateObject();

    cJSON_AddStringToObject(question, "op", op);
    if (pod)
        cJSON_AddStringToObject(question, "pod", pod);
    return question;
}

int agent_query(const char *run_dir, const char *op, const char *argument, cJSON **ret)
{
    return ask_agent(run_dir, question_of(op, argument), ret);
}

int agent_capture(const char *run_dir, const char *pod, const char *to, cJSON **ret)
{
    cJSON *question;
    char path[256];

    /* A proxy may be here without an agent. */
    if (socket_path(run_dir, BRUMA_AGENT_SOCKET, path, sizeof(path)) < 0 || access(path, F_OK) < 0)
        return CTL_UNREACHABLE;
    question = question_of("explain", pod);
    cJSON_AddStringToObject(question, "to", to);
    return ask_agent(run_dir, question, ret);
}

struct body {
    char *data;
    size_t len;
};

static size_t take_body(char *data, size_t size, size_t count, void *user)
{
    struct body *b = user;
    size_t n = size * count;
    char *grown = b->len + n > DUMP_MAX ? NULL : realloc(b->data, b->len + n + 1);

    if (!grown)
        return 0;
    b->data = grown;
    memcpy(grown + b->len, data, n);
    b->len += n;
    grown[b->len] = '\0';
    return n;
}

/* GET of the page at the proxy's socket. *ret_status 0: there was no answer, and *error says why. Frees
 * nothing of *body. */
static CURLcode get(CURL *curl, const char *path, const char *url, struct body *body, long *ret_status,
                    char error[CURL_ERROR_SIZE])
{
    CURLcode code;

    curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, path);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)TIMEOUT_MILLISECONDS * 6);
    curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, body);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, error);
    code = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, ret_status);
    return code;
}

/* GET of PAGE?name=text&..., escaped. An exit code. */
static int ask(const char *run_dir, const char *page, const char *const names[], const char *const texts[],
               size_t len, cJSON **ret)
{
    struct body body = {};
    char path[256], error[CURL_ERROR_SIZE] = "", url[4096];
    CURL *curl = curl_easy_init();
    int n = snprintf(url, sizeof(url), "http://localhost/%s", page);
    bool fits = curl != NULL;
    long status = 0;

    for (size_t i = 0; fits && i < len; i++) {
        char *part = curl_easy_escape(curl, texts[i], 0);

        n += part ? snprintf(url + n, sizeof(url) - (size_t)n, "%c%s=%s", i ? '&' : '?', names[i], part) : 0;
        fits = part && n < (int)sizeof(url);
        curl_free(part);
    }
    *ret = NULL;
    if (fits && socket_path(run_dir, BRUMA_PROXY_SOCKET, path, sizeof(path)) == 0 &&
        get(curl, path, url, &body, &status, error) == CURLE_OK && status == 200)
        *ret = cJSON_ParseWithLength(body.data, body.len);
    curl_easy_cleanup(curl);
    free(body.data);
    return *ret ? CTL_OK : CTL_PROBLEM;
}

int proxy_verdict(const char *run_dir, const char *identity, const char *from, const char *to, cJSON **ret)
{
    const char *const names[] = {"identity", "from", "to"}, *const texts[] = {identity, from, to};

    return ask(run_dir, "verdict", names, texts, 3, ret);
}

int proxy_name(const char *run_dir, const char *pod, const char *name, cJSON **ret)
{
    const char *const names[] = {"pod", "name"}, *const texts[] = {pod, name};

    return ask(run_dir, "name", names, texts, 2, ret);
}

int proxy_hostname(const char *run_dir, const char *hostname, cJSON **ret)
{
    const char *const names[] = {"name"}, *const texts[] = {hostname};

    return ask(run_dir, "hostname", names, texts, 1, ret);
}

int proxy_dump(const char *run_dir, cJSON **ret)
{
    struct body body = {};
    char path[256], error[CURL_ERROR_SIZE] = "";
    CURL *curl = curl_easy_init();
    CURLcode code = CURLE_FAILED_INIT;
    long status = 0;

    if (socket_path(run_dir, BRUMA_PROXY_SOCKET, path, sizeof(path)) < 0) {
        curl_easy_cleanup(curl);
        return unreachable("proxy", run_dir, "the path is too long");
    }
    if (curl)
        code = get(curl, path, "http://localhost/config_dump", &body, &status, error);
    curl_easy_cleanup(curl);
    *ret = code == CURLE_OK && status == 200 ? cJSON_ParseWithLength(body.data, body.len) : NULL;
    free(body.data);
    if (*ret)
        return CTL_OK;
    /* curl's own words would name the host of the URL, which is not asked. */
    if (code == CURLE_COULDNT_CONNECT)
        return unreachable("proxy", path, access(path, W_OK) < 0 ? strerror(errno) : "nothing listens there");
    if (code != CURLE_OK)
        return unreachable("proxy", path, *error ? error : curl_easy_strerror(code));
    return unreachable("proxy", path, status == 200 ? "its answer is not JSON" : "it answered with an error");
}
