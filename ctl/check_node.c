/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/check_node.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl/page.h"
#include "ctl/say.h"
#include "ctl/source.h"

/* Seconds, or a tenth of its life if that is less: it is renewed at half of it. */
#define EXPIRES_SOON (15 * 60)

static const enum bruma_reason away = BRUMA_REASON_AGENT_NOT_READY;
static const enum bruma_reason no_proxy = BRUMA_REASON_PROXY_NOT_CONNECTED;
static const enum bruma_reason no_certificate = BRUMA_REASON_IDENTITY_UNAVAILABLE;
static const enum bruma_reason no_control_plane = BRUMA_REASON_XDS_UNREACHABLE;

static const cJSON *get(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

/* ---- questions ---- */

static double wall_clock(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Into the answer under the op's name. False: why not is said there. */
static bool add_op(const struct place *place, const char *op, cJSON *answer)
{
    char error[PLACE_COMPLAINT_MAX] = "";
    struct place quiet = *place;
    cJSON *items;

    quiet.complaint = error;
    if (agent_query(&quiet, op, NULL, &items) != CTL_OK) {
        if (!get(answer, "agentError"))
            cJSON_AddStringToObject(answer, "agentError", error);
        return false;
    }
    cJSON_AddItemToObject(answer, op, items);
    return true;
}

/* The node's clock is read between two readings of ours. */
static void add_status(const struct place *place, cJSON *answer)
{
    double before = wall_clock(), after;
    const cJSON *status;

    if (!add_op(place, "status", answer))
        return;
    after = wall_clock();
    status = cJSON_GetArrayItem(get(answer, "status"), 0);
    if (number_of(status, "now") > 0 && after >= before) {
        cJSON_AddNumberToObject(answer, "offset", number_of(status, "now") - (before + after) / 2);
        cJSON_AddNumberToObject(answer, "uncertainty", (after - before) / 2);
    }
}

/* "bruma_xds_connected 1": whether there is a stream; nothing where the page does not say. */
static void add_connected(const struct place *place, cJSON *answer)
{
    static const char name[] = "\nbruma_xds_connected ";
    struct page_session *session = NULL;
    struct received_body body = {};
    char error[PLACE_COMPLAINT_MAX];
    const char *found;
    long status = 0;

    if (page_open(place, PAGE_PROXY, &session, error) == 0 &&
        page_get(session, "/metrics", &body, &status, error) == 0 && status == 200 && body.data) {
        found = strstr(body.data, name);
        if (found)
            cJSON_AddBoolToObject(answer, "connected", found[strlen(name)] == '1');
    }
    page_close(&session);
    free(body.data);
}

static void add_dump(const struct place *place, cJSON *answer)
{
    char error[PLACE_COMPLAINT_MAX] = "";
    struct place quiet = *place;
    cJSON *dump;

    quiet.complaint = error;
    if (proxy_dump(&quiet, &dump) != CTL_OK) {
        cJSON_AddStringToObject(answer, "proxyError", error);
        return;
    }
    cJSON_AddItemToObject(answer, "certificates",
                          cJSON_DetachItemFromObjectCaseSensitive(dump, "certificates"));
    cJSON_Delete(dump);
    add_connected(place, answer);
}

int check_ask(const struct place *place, const void *data, cJSON **ret)
{
    cJSON *answer = cJSON_CreateObject();

    (void)data;
    add_status(place, answer);
    if (get(answer, "status")) {
        (void)add_op(place, "doctor", answer);
        (void)add_op(place, "pods", answer);
    }
    add_dump(place, answer);
    if (get(answer, "agentError") && get(answer, "proxyError")) {
        if (place->complaint)
            snprintf(place->complaint, PLACE_COMPLAINT_MAX, "%s", text_of(answer, "agentError"));
        else
            fprintf(stderr, "brumactl: %s\n", text_of(answer, "agentError"));
        cJSON_Delete(answer);
        return CTL_UNREACHABLE;
    }
    *ret = answer;
    return CTL_OK;
}

/* ---- findings ---- */

static void check_answers(cJSON *lines, const cJSON *answer, const cJSON *status)
{
    const cJSON *proxy = cJSON_GetArrayItem(get(status, "proxies"), 0);

    if (!status)
        say(lines, "agent", &away, "%s", text_of(answer, "agentError"));
    else
        say(lines, "agent", NULL, "version %s answers", text_of(status, "version"));
    if (proxy && !strcmp(text_of(proxy, "kind"), "ztunnel"))
        say(lines, "proxy", NULL, "a stock ztunnel is connected to the agent; it is not asked");
    else if (get(answer, "proxyError"))
        say(lines, "proxy", &no_proxy, "%s", text_of(answer, "proxyError"));
    else if (status && !proxy)
        say(lines, "proxy", &no_proxy, "it answers, and is not connected to the agent");
    else if (!proxy)
        say(lines, "proxy", NULL, "it answers");
    else
        say(lines, "proxy", NULL, "%s%s answers%s%s", *text_of(proxy, "version") ? "version " : "",
            *text_of(proxy, "version") ? text_of(proxy, "version") : text_of(proxy, "kind"),
            *text_of(proxy, "state") ? ", " : "", text_of(proxy, "state"));
}

static void check_control_plane(cJSON *lines, const cJSON *answer)
{
    const cJSON *connected = get(answer, "connected");

    if (connected)
        say(lines, "control plane", cJSON_IsTrue(connected) ? NULL : &no_control_plane, "%s",
            cJSON_IsTrue(connected) ? "the proxy is connected to it" : "the proxy is not connected to it");
}

/* "2026-01-02T03:04:05Z". False: it is none. */
static bool parse_time(const char *text, time_t *ret)
{
    struct tm tm = {};
    const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);

    if (!end || (*end != 'Z' && *end != '.'))
        return false;
    *ret = timegm(&tm);
    return true;
}

/* The first end of the chain, 0: there is no chain; in *ret_soon when it should have been renewed for long.
 */
static time_t end_of(const cJSON *certificate, time_t *ret_soon)
{
    const cJSON *one;
    time_t first = 0, end, begin;

    *ret_soon = 0;
    cJSON_ArrayForEach (one, get(certificate, "certChain")) {
        if (!parse_time(text_of(one, "expirationTime"), &end) || (first && end >= first))
            continue;
        first = end;
        *ret_soon = end - EXPIRES_SOON;
        if (parse_time(text_of(one, "validFrom"), &begin) && end - (end - begin) / 10 > *ret_soon)
            *ret_soon = end - (end - begin) / 10;
    }
    return first;
}

/* now: by the clock of the node that has them. */
static void check_certificates(cJSON *lines, const cJSON *answer, time_t now)
{
    const cJSON *c;
    time_t first = 0;
    int good = 0;

    cJSON_ArrayForEach (c, get(answer, "certificates")) {
        time_t soon, end = end_of(c, &soon);

        if (!end || now >= soon || *text_of(c, "error")) {
            say(lines, "certificates", &no_certificate, "%s: %s%s%s", text_of(c, "identity"),
                !end          ? text_of(c, "state")
                : end <= now  ? "expired"
                : now >= soon ? "expires soon, and should have been renewed"
                              : "good, and not renewed",
                *text_of(c, "error") ? ": " : "", text_of(c, "error"));
            continue;
        }
        good++;
        first = !first || end < first ? end : first;
    }
    if (good)
        say(lines, "certificates", NULL, "%d, of which the first one expires in %ld minutes", good,
            (long)(first - now) / 60);
}

/* Those that belong to the mesh, and are not in it. */
static void check_pods(cJSON *lines, const cJSON *answer)
{
    const cJSON *p;
    int in = 0;

    cJSON_ArrayForEach (p, get(answer, "pods")) {
        bool enrolled = !strcmp(text_of(p, "state"), "enrolled");
        enum bruma_reason reason = reason_from_name(text_of(p, "lastReason"));

        in += enrolled;
        if (!cJSON_IsTrue(get(p, "wanted")) || enrolled || number_of(p, "endingAt") > 0)
            continue;
        reason = reason == BRUMA_REASON_COUNT || reason == BRUMA_REASON_NONE ? BRUMA_REASON_AGENT_NOT_READY
                                                                             : reason;
        say(lines, "pods", &reason, "%s/%s belongs to the mesh and is %s%s%s", text_of(p, "namespace"),
            text_of(p, "name"), text_of(p, "state"), *text_of(p, "lastError") ? ": " : "",
            text_of(p, "lastError"));
    }
    if (get(answer, "pods"))
        say(lines, "pods", NULL, "%d in the mesh", in);
}

/* Of the agent's own checks what is wrong, and what it says of the machine. */
static void check_doctor(cJSON *lines, const cJSON *answer)
{
    const cJSON *item;

    cJSON_ArrayForEach (item, get(answer, "doctor")) {
        const char *check = text_of(item, "check");

        if (!strcmp(check, "proxy") || !strcmp(check, "pods"))
            continue; /* said above */
        cJSON_AddItemToArray(lines, cJSON_Duplicate(item, true));
    }
}

static bool is_said(const cJSON *lines, int among, const char *reason)
{
    const cJSON *line;

    cJSON_ArrayForEach (line, lines) {
        if (among-- > 0 && !cJSON_IsTrue(get(line, "ok")) && !strcmp(text_of(line, "reason"), reason))
            return true;
    }
    return false;
}

/* The entry of the plugin, and of the agent's problems those that no line is about yet. */
static void check_problems(cJSON *lines, const cJSON *status)
{
    int before = cJSON_GetArraySize(lines);
    const cJSON *p;

    if (*text_of(status, "cniFile") && !*text_of(status, "cniReason"))
        say(lines, "CNI network", NULL, "the plugin's entry is in %s", text_of(status, "cniFile"));
    cJSON_ArrayForEach (p, get(status, "problems")) {
        const char *name = text_of(p, "reason");
        enum bruma_reason reason = reason_from_name(name);
        const char *check = !strncmp(name, "cni_", 4)                ? "CNI network"
                            : reason == BRUMA_REASON_NETNS_NOT_FOUND ? "pods"
                                                                     : "agent";

        if (reason == BRUMA_REASON_COUNT)
            say_wrong(lines, check, "%s: %s", name, text_of(p, "detail"));
        else if (!is_said(lines, before, name))
            say(lines, check, &reason, "%s", text_of(p, "detail"));
    }
}

void check_node(cJSON *lines, const cJSON *answer)
{
    const cJSON *status = cJSON_GetArrayItem(get(answer, "status"), 0);
    double now = wall_clock() + number_of(answer, "offset");

    check_answers(lines, answer, status);
    check_control_plane(lines, answer);
    check_certificates(lines, answer, (time_t)now);
    check_pods(lines, answer);
    check_doctor(lines, answer);
    check_problems(lines, status);
}
