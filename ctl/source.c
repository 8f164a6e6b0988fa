/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/source.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bruma/mesh.h"
#include "bruma/protocol.h"
#include "ctl/page.h"
#include "ctl/safe_text.h"
#include "lib/cleanup.h"
#include "lib/seqpacket.h"

#define TIMEOUT_MILLISECONDS 5000

/* Where the place wants it. */
__attribute__((format(printf, 2, 3))) static void complain(const struct place *place, const char *format, ...)
{
    char text[PLACE_COMPLAINT_MAX];
    va_list ap;

    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    text_clean(text);
    if (place->complaint)
        snprintf(place->complaint, PLACE_COMPLAINT_MAX, "%s", text);
    else
        fprintf(stderr, "brumactl: %s\n", text);
}

cJSON *answer_parse(const struct place *place, const char *text, size_t len)
{
    cJSON *json = text ? cJSON_ParseWithLength(text, len) : NULL;

    if (!place->as_json)
        json_clean(json);
    return json;
}

static int unreachable(const struct place *place, const char *who, const char *where, const char *why)
{
    complain(place, "no answer of the %s%s%.250s: %.300s", who, where ? " at " : "", where ? where : "", why);
    return CTL_UNREACHABLE;
}

static int socket_path(const char *run_dir, const char *name, char *buf, size_t size)
{
    return snprintf(buf, size, "%s/%s", run_dir, name) >= (int)size ? -ENAMETOOLONG : 0;
}

/* Items until the end: each datagram is one. */
static int receive_items(const struct place *place, int fd, const char *path, cJSON *items)
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
            return unreachable(place, "agent", path, n ? strerror((int)-n) : "it closed the connection");
        message = answer_parse(place, buf, (size_t)n);
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
            complain(place, "%s: %s", text_of(message, "reason"), text_of(message, "error"));
        else
            complain(place, "the agent's answer is not understood; is it of another version?");
        cJSON_Delete(message);
        return CTL_PROBLEM;
    }
    return unreachable(place, "agent", path, "out of memory");
}

/* Takes the question. */
static int ask_agent(const struct place *place, cJSON *question, cJSON **ret)
{
    _cleanup_free_ char *text = cJSON_PrintUnformatted(question);
    _cleanup_fd_ int fd = -1;
    char path[256];
    cJSON *items;
    int r;

    cJSON_Delete(question);
    if (socket_path(place->run_dir, BRUMA_AGENT_SOCKET, path, sizeof(path)) < 0)
        return unreachable(place, "agent", place->run_dir, "the path is too long");
    fd = seqpacket_connect(path, TIMEOUT_MILLISECONDS, false);
    if (fd < 0)
        return unreachable(place, "agent", path, strerror(-fd));
    r = text ? seqpacket_send(fd, text, strlen(text), NULL, 0) : -ENOMEM;
    if (r < 0)
        return unreachable(place, "agent", path, strerror(-r));
    items = cJSON_CreateArray();
    r = receive_items(place, fd, path, items);
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

/* The body of PAGE?name=text&..., escaped, if the status is 200; NULL, with words in error. */
static cJSON *ask(const struct place *place, enum page_whose whose, const char *page,
                  const char *const names[], const char *const texts[], size_t len, char *error)
{
    struct page_session *session = NULL;
    struct received_body body = {};
    cJSON *json = NULL;
    long status = 0;
    char url[4096];
    int n = snprintf(url, sizeof(url), "%s", page);
    bool fits = true;

    for (size_t i = 0; fits && i < len; i++) {
        char *part = curl_easy_escape(NULL, texts[i], 0);

        n += part ? snprintf(url + n, sizeof(url) - (size_t)n, "%c%s=%s", i ? '&' : '?', names[i], part) : 0;
        fits = part && n < (int)sizeof(url);
        curl_free(part);
    }
    snprintf(error, PLACE_COMPLAINT_MAX, "the question is too long");
    if (fits && page_open(place, whose, &session, error) == 0 &&
        page_get(session, url, &body, &status, error) == 0) {
        json = status == 200 || whose == PAGE_AGENT ? answer_parse(place, body.data, body.len) : NULL;
        snprintf(error, PLACE_COMPLAINT_MAX,
                 status == 200 ? "its answer is not JSON" : "it answered with status %ld", status);
    }
    page_close(&session);
    free(body.data);
    return json;
}

/* ---- the agent through the API server ---- */

static int ask_agent_page(const struct place *place, const char *op, const char *pod, const char *to,
                          cJSON **ret)
{
    const char *const names[] = {"pod", "to"}, *const texts[] = {pod, to};
    char error[PLACE_COMPLAINT_MAX], page[64];
    cJSON *json;

    snprintf(page, sizeof(page), "/brumactl/%s", op);
    json = ask(place, PAGE_AGENT, page, names, texts, to ? 2 : pod ? 1 : 0, error);
    if (cJSON_IsArray(json)) {
        *ret = json;
        return CTL_OK;
    }
    if (!json || !*text_of(json, "error")) {
        cJSON_Delete(json);
        return unreachable(place, "agent", place->agent, error);
    }
    complain(place, "%s: %s", text_of(json, "reason"), text_of(json, "error"));
    cJSON_Delete(json);
    return CTL_PROBLEM;
}

int agent_query(const struct place *place, const char *op, const char *argument, cJSON **ret)
{
    return place->run_dir ? ask_agent(place, question_of(op, argument), ret)
                          : ask_agent_page(place, op, argument, NULL, ret);
}

int agent_capture(const struct place *place, const char *pod, const char *to, cJSON **ret)
{
    char path[256], unsaid[PLACE_COMPLAINT_MAX];
    struct place quiet = *place;
    cJSON *question;

    if (!place->run_dir) {
        quiet.complaint = unsaid;
        return ask_agent_page(&quiet, "explain", pod, to, ret);
    }
    /* A proxy may be here without an agent. */
    if (socket_path(place->run_dir, BRUMA_AGENT_SOCKET, path, sizeof(path)) < 0 || access(path, F_OK) < 0)
        return CTL_UNREACHABLE;
    question = question_of("explain", pod);
    cJSON_AddStringToObject(question, "to", to);
    return ask_agent(place, question, ret);
}

/* ---- the proxy ---- */

int proxy_verdict(const struct place *place, const char *identity, const char *from, const char *to,
                  cJSON **ret)
{
    const char *const names[] = {"identity", "from", "to"}, *const texts[] = {identity, from, to};
    char error[PLACE_COMPLAINT_MAX];

    *ret = ask(place, PAGE_PROXY, "/verdict", names, texts, 3, error);
    return *ret ? CTL_OK : CTL_PROBLEM;
}

int proxy_name(const struct place *place, const char *pod, const char *name, cJSON **ret)
{
    const char *const names[] = {"pod", "name"}, *const texts[] = {pod, name};
    char error[PLACE_COMPLAINT_MAX];

    *ret = ask(place, PAGE_PROXY, "/name", names, texts, 2, error);
    return *ret ? CTL_OK : CTL_PROBLEM;
}

int proxy_hostname(const struct place *place, const char *hostname, cJSON **ret)
{
    const char *const names[] = {"name"}, *const texts[] = {hostname};
    char error[PLACE_COMPLAINT_MAX];

    *ret = ask(place, PAGE_PROXY, "/hostname", names, texts, 1, error);
    return *ret ? CTL_OK : CTL_PROBLEM;
}

int proxy_dump(const struct place *place, cJSON **ret)
{
    char error[PLACE_COMPLAINT_MAX], path[256];

    *ret = ask(place, PAGE_PROXY, "/config_dump", NULL, NULL, 0, error);
    if (*ret)
        return CTL_OK;
    if (place->run_dir)
        snprintf(path, sizeof(path), "%s/%s", place->run_dir, BRUMA_PROXY_SOCKET);
    return unreachable(place, "proxy", place->run_dir ? path : place->proxy, error);
}
