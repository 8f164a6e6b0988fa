/* SPDX-License-Identifier: Apache-2.0 */
/* A page about the mesh, for the browser of the operator's machine. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "ctl/commands.h"
#include "ctl/dashboard/assets.h"
#include "ctl/dashboard/browser.h"
#include "ctl/dashboard/flow_buffer.h"
#include "ctl/dashboard/gate.h"
#include "ctl/dashboard/question.h"
#include "ctl/dashboard/traffic.h"

#include "ctl/fleet.h"
#include "ctl/source.h"
#include "lib/cleanup.h"
#include "lib/loop.h"
#include "lib/rpc/http_local.h"
#include "lib/rpc/http_server.h"

#define CONNECTIONS_MAX 64 /* of browsers, all of which are on this machine */

struct dashboard {
    struct ctl_options options;
    struct loop *loop;
    struct http_server *server;
    struct page_questions *questions;
    struct flow_buffer *flows;
    char token[GATE_TOKEN_LEN + 1];
};

/* Nothing is loaded from elsewhere, framed, kept or told to others. */
static const char policy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
static const char *const headers[] = {"Content-Security-Policy",
                                      policy,
                                      "X-Content-Type-Options",
                                      "nosniff",
                                      "X-Frame-Options",
                                      "DENY",
                                      "Referrer-Policy",
                                      "no-referrer",
                                      "Cache-Control",
                                      "no-store",
                                      "Cross-Origin-Resource-Policy",
                                      "same-origin",
                                      "Cross-Origin-Opener-Policy",
                                      "same-origin",
                                      NULL};

static const struct http_answer as_json = {
    .status = 200, .type = "application/json", .compress = true, .headers = headers};

/* ---- answers ---- */

static void refuse(struct http_request *request, int status, const char *text)
{
    struct http_answer answer = {.status = status, .headers = headers};
    char *body = strdup(text);

    http_respond(request, &answer, body, body ? strlen(body) : 0);
}

static bool serve_asset(struct http_request *request, const char *path)
{
    for (size_t i = 0; i < dashboard_assets_len; i++) {
        const struct dashboard_asset *asset = &dashboard_assets[i];
        struct http_answer answer = {
            .status = 200, .type = asset->type, .compress = true, .headers = headers};
        char *body;

        if (strcmp(path, asset->path) != 0)
            continue;
        body = malloc(asset->len + 1);
        if (body)
            memcpy(body, asset->data, asset->len);
        http_respond(request, &answer, body, body ? asset->len : 0);
        return true;
    }
    return false;
}

static void serve_about(struct dashboard *d, struct http_request *request)
{
    char *body = NULL;
    int n = asprintf(&body, "{\"version\":\"" BRUMA_VERSION "\",\"fleet\":%s,\"nodes\":%zu}\n",
                     d->options.fleet ? "true" : "false", d->options.fleet ? fleet_len(d->options.fleet) : 1);

    http_respond(request, &as_json, n < 0 ? NULL : body, n < 0 ? 0 : (size_t)n);
}

static void serve_flows(struct dashboard *d, struct http_request *request)
{
    char after[24] = "0", *end, *body = NULL;
    unsigned long long number;
    size_t len = 0;
    FILE *f;

    if (http_query(request, "after", after, sizeof(after)) == -EINVAL ||
        strspn(after, "0123456789") != strlen(after)) {
        refuse(request, 400, "after is no number\n");
        return;
    }
    number = strtoull(after, &end, 10);
    f = open_memstream(&body, &len);
    if (f)
        flow_buffer_tell(d->flows, number, f);
    if (f && fclose(f) == 0)
        http_respond(request, &as_json, body, len);
    else
        refuse(request, 503, "out of memory\n");
}

static void serve_explain(struct dashboard *d, struct http_request *request)
{
    char from[QUESTION_ARGUMENT_MAX], to[QUESTION_ARGUMENT_MAX] = "";
    char *argv[] = {from, to, NULL};
    int r = http_query(request, "from", from, sizeof(from));

    if (r <= 0 || http_query(request, "to", to, sizeof(to)) == -EINVAL) {
        refuse(request, 400, "from and to are NAMESPACE/POD, IP:PORT, a host name or a reason\n");
        return;
    }
    questions_ask(d->questions, request, &as_json, command_explain, *to ? 2 : 1, argv);
}

static bool serve_command(struct dashboard *d, struct http_request *request, const char *path)
{
    static const struct {
        const char *path;
        child_fn fn;
    } commands[] = {
        {"/api/status", command_status},           {"/api/pods", command_pods},
        {"/api/identities", command_identities},   {"/api/policy", command_policy},
        {"/api/connections", command_connections}, {"/api/traffic", command_traffic},
        {"/api/waypoints", command_waypoints},
    };

    for (size_t i = 0; i < array_size(commands); i++) {
        if (strcmp(path, commands[i].path) != 0)
            continue;
        questions_ask(d->questions, request, &as_json, commands[i].fn, 0, NULL);
        return true;
    }
    return false;
}

/* A browser tells of its own pages' modules by Origin too, and says in Sec-Fetch-Site whose they are. */
static bool is_of_another_page(const struct http_request *request)
{
    const char *site = http_header(request, "Sec-Fetch-Site");

    return (!site || strcasecmp(site, "same-origin") != 0) && http_is_of_another_page(request);
}

static void on_request(void *data, struct http_request *request)
{
    struct dashboard *d = data;
    const char *path = gate_path(http_path(request), d->token);

    if (!http_names_loopback(request))
        refuse(request, 421, "this page is for 127.0.0.1 and localhost\n");
    else if (!path)
        refuse(request, 403,
               "the token of the URL is missing or wrong: brumactl dashboard prints the whole URL\n");
    else if (strcmp(path, "/") != 0 && is_of_another_page(request))
        refuse(request, 403, "another page may not ask this\n");
    else if (!http_method_is(request, "GET"))
        http_respond(request, &(struct http_answer){.status = 405, .allow = "GET", .headers = headers}, NULL,
                     0);
    else if (!strcmp(path, "/api/about"))
        serve_about(d, request);
    else if (!strcmp(path, "/api/flows"))
        serve_flows(d, request);
    else if (!strcmp(path, "/api/explain"))
        serve_explain(d, request);
    else if (!serve_asset(request, path) && !serve_command(d, request, path))
        refuse(request, 404, "there is no such page\n");
}

/* ---- the whole ---- */

static void on_signal(void *data, int number)
{
    struct dashboard *d = data;

    (void)number;
    loop_stop(d->loop);
}

static int listen_on_loopback(struct dashboard *d, unsigned port, struct endpoint *ret_bound)
{
    struct endpoint at = {.port = (uint16_t)port};
    int r = addr_parse("127.0.0.1", &at.addr);

    return r < 0 ? r : http_server_listen(d->server, &at, false, ret_bound);
}

static int open_all(struct dashboard *d, struct endpoint *ret_bound)
{
    static const int signals[] = {SIGINT, SIGTERM};
    const struct http_limits limits = {CONNECTIONS_MAX, CONNECTIONS_MAX};
    int r = loop_new(&d->loop);

    if (r == 0)
        r = loop_signals(d->loop, signals, array_size(signals), on_signal, d);
    if (r < 0)
        return r;
    (void)signal(SIGPIPE, SIG_IGN); /* clients end as they like */
    d->questions = questions_new(d->loop, &d->options);
    d->flows = flow_buffer_new(d->loop, &d->options);
    if (!d->questions || !d->flows)
        return -ENOMEM;
    r = gate_token_new(d->token);
    if (r == 0)
        r = http_server_new(d->loop, "dashboard", on_request, d, &limits, &d->server);
    return r < 0 ? r : listen_on_loopback(d, d->options.port, ret_bound);
}

static void close_all(struct dashboard *d)
{
    questions_free(&d->questions);
    flow_buffer_free(&d->flows);
    http_server_close(&d->server);
    if (d->loop)
        loop_free(&d->loop);
}

static int serve(struct dashboard *d, const struct endpoint *bound)
{
    char url[128], file[BROWSER_FILE_MAX];
    int r;

    snprintf(url, sizeof(url), "http://127.0.0.1:%u/%s/", bound->port, d->token);
    printf("%s\n", url);
    fflush(stdout);
    fprintf(stderr,
            "brumactl: the dashboard is at this address of this machine, until it is interrupted; whoever "
            "has the address sees all that brumactl shows\n");
    file[0] = '\0';
    if (!d->options.no_browser)
        browser_open(url, file);
    r = loop_run(d->loop);
    browser_forget(file);
    return r;
}

int command_dashboard(const struct ctl_options *o, int argc, char **argv)
{
    struct dashboard d = {.options = *o};
    struct endpoint bound;
    int r;

    (void)argc;
    (void)argv;
    d.options.json = true;
    r = open_all(&d, &bound);
    if (r == 0)
        r = serve(&d, &bound);
    if (r < 0)
        fprintf(stderr, "brumactl: the dashboard cannot be served: %s\n", strerror(-r));
    close_all(&d);
    return r < 0 ? CTL_PROBLEM : CTL_OK;
}
