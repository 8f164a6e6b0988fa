/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "admin"
#include "proxy/admin/admin.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "lib/metrics_text.h"
#include "lib/rpc/http_local.h"
#include "lib/rpc/http_server.h"
#include "lib/spiffe.h"
#include "proxy/admin/admin_access.h"
#include "proxy/admin/admin_ports.h"
#include "proxy/admin/flows_page.h"
#include "proxy/admin/log_levels.h"
#include "proxy/admin/metrics_page.h"

#define SOCKET_MODE  0600
#define PENDING_MAX  512
#define SOCKET_CHECK 1000 /* milliseconds */

/* A dump that is being made, and who waits for it. Those who ask meanwhile get one of their own: theirs must
 * tell of everything that was before they asked. */
struct dump {
    struct dump_waiter *first;
};

struct dump_waiter {
    struct dump_waiter *next;
    struct http_request *request;
};

struct admin {
    struct loop *loop;
    struct admin_config config;
    struct loop_timer socket_check;
    bool complained;   /* that the socket cannot be taken back; said once */
    char *unix_socket; /* or NULL */
    struct http_server *pages, *metrics, *ready, *local;
    struct admin_ports ports;
    struct metrics_page *page;
    struct admin_refusals refusals;
    struct flows_page flows;
    struct dump running, next;
    bool dumping;
    char first_filter[LOG_LEVELS_MAX]; /* in force at the start: what ?reset goes back to */
};

/* ---- config dump ---- */

static void answer_waiting(struct dump *dump, int (*open)(void *data, struct http_source *ret), void *data)
{
    while (dump->first) {
        struct http_answer answer = {.status = 200, .type = "application/json", .compress = true};
        struct dump_waiter *w = dump->first;
        struct http_source source;

        dump->first = w->next;
        if (open && open(data, &source) == 0)
            http_respond_source(w->request, &answer, &source);
        else
            http_respond_text(w->request, 500, "the dump could not be made\n");
        free(w);
    }
}

static void start_dump(struct admin *admin)
{
    admin->running = admin->next;
    admin->next.first = NULL;
    admin->dumping = true;
    admin->config.config_dump(admin->config.data, admin, &admin->running);
}

void admin_dump_done(struct admin *admin, void *token, int (*open)(void *data, struct http_source *ret),
                     void *data)
{
    if (token != &admin->running || !admin->dumping)
        return;
    answer_waiting(&admin->running, open, data);
    admin->dumping = false;
    if (admin->next.first)
        start_dump(admin);
}

static void config_dump(struct admin *admin, struct http_request *request)
{
    struct dump_waiter *w = malloc(sizeof(*w));

    if (!w) {
        http_respond_text(request, 503, "out of memory\n");
        return;
    }
    w->request = request;
    w->next = admin->next.first;
    admin->next.first = w;
    if (!admin->dumping)
        start_dump(admin);
}

/* ---- log levels ---- */

static void say_level(struct http_request *request)
{
    char filter[LOG_LEVELS_MAX], text[LOG_LEVELS_MAX + 32];

    log_get_filter(filter, sizeof(filter));
    snprintf(text, sizeof(text), "current log level is %s\n", filter);
    http_respond_text(request, 200, text);
}

static void logging_usage(struct http_request *request)
{
    http_respond_text(request, 400,
                      "usage: POST /logging                       show the levels\n"
                      "       POST /logging?level=LIST            add levels\n"
                      "       POST /logging?reset                 back to the levels of the start\n"
                      "       POST /logging?level=LIST&reset      the levels of the start, and then these\n"
                      "LIST: LEVEL, SCOPE=LEVEL or SCOPE:LEVEL, separated by commas\n"
                      "LEVEL: error, warn, info, debug, trace, off\n");
}

static void logging(struct admin *admin, struct http_request *request)
{
    char filter[LOG_LEVELS_MAX], more[LOG_LEVELS_MAX], merged[LOG_LEVELS_MAX];
    char reset[8];
    int level_len = http_query(request, "level", more, sizeof(more));
    bool has_reset = http_query(request, "reset", reset, sizeof(reset)) != -ENOENT;

    /* An empty level asks as well: so does istioctl. */
    if (!http_has_query(request) || (level_len == 0 && !has_reset)) {
        say_level(request);
        return;
    }
    if (level_len < 0 && (level_len != -ENOENT || !has_reset)) {
        logging_usage(request);
        return;
    }
    if (level_len < 0)
        more[0] = '\0';
    log_get_filter(filter, sizeof(filter));
    if (log_levels_merge(has_reset ? admin->first_filter : filter, more, merged) < 0 ||
        log_set_filter(merged) < 0) {
        logging_usage(request);
        return;
    }
    log_info("log levels changed\tfilter=\"%s\"", merged);
    say_level(request);
}

/* ---- pages ---- */

static void index_page(struct http_request *request)
{
    static const char page[] =
        "<!DOCTYPE html>\n<html><head><title>bruma-proxy</title></head><body>\n<h1>bruma-proxy</h1>\n<ul>\n"
        "<li><a href=\"config_dump\">config_dump</a>: what the proxy knows and does, as JSON</li>\n"
        "<li>POST <code>logging</code>: log levels; <code>?level=debug</code>, "
        "<code>?level=xds=debug</code>, "
        "<code>?reset</code></li>\n"
        "<li>POST <code>quitquitquit</code>: drain and end</li>\n"
        "</ul>\n<p>Metrics are on port 15020, readiness is on port 15021.</p>\n</body></html>\n";
    struct http_answer answer = {.status = 200, .type = "text/html; charset=utf-8"};
    char *body = strdup(page);

    http_respond(request, &answer, body, body ? sizeof(page) - 1 : 0);
}

/* True if it is; otherwise the request has been answered. */
static bool must_be(struct http_request *request, const char *method)
{
    struct http_answer answer = {.status = 405, .allow = method};
    char *body;

    if (http_method_is(request, method))
        return true;
    body = strdup("method not allowed\n");
    http_respond(request, &answer, body, body ? strlen(body) : 0);
    return false;
}

/* False if the path is none of these. */
static bool serve_pages(struct admin *admin, struct http_request *request)
{
    if (http_path_is(request, "/")) {
        index_page(request);
    } else if (http_path_is(request, "/config_dump")) {
        config_dump(admin, request);
    } else if (http_path_is(request, "/logging")) {
        if (must_be(request, "POST"))
            logging(admin, request);
    } else if (http_path_is(request, "/quitquitquit")) {
        if (must_be(request, "POST")) {
            http_respond_text(request, 200, "shutdown now\n");
            admin->config.quit(admin->config.data);
        }
    } else {
        return false;
    }
    return true;
}

static void turned_away(const struct http_server *server, const char *name, FILE *out)
{
    uint64_t n = http_server_turned_away(server);

    if (n)
        metric_labelled(out, "bruma_connections_turned_away_total", "server", name, n);
}

static void turned_away_metrics(const struct admin *admin, FILE *out)
{
    if (!http_server_turned_away(admin->pages) && !http_server_turned_away(admin->metrics) &&
        !http_server_turned_away(admin->ready) && !http_server_turned_away(admin->local))
        return;
    metric_family(
        out, "bruma_connections_turned_away", "counter",
        "Connections to the proxy's servers that were closed or refused because there were too many.");
    turned_away(admin->pages, "admin", out);
    turned_away(admin->metrics, "metrics", out);
    turned_away(admin->ready, "readiness", out);
    turned_away(admin->local, "admin socket", out);
}

static void own_metrics(void *data, FILE *out)
{
    const struct admin *admin = data;

    admin->config.metrics(admin->config.data, out);
    turned_away_metrics(admin, out);
    metric_counter(out, "bruma_admin_requests_refused",
                   "Requests to the admin pages on loopback that were refused.", admin->refusals.count);
}

static void large_metrics(void *data, FILE *out)
{
    const struct admin *admin = data;

    if (admin->config.large_metrics)
        admin->config.large_metrics(admin->config.data, out);
}

static bool serve_metrics(struct admin *admin, struct http_request *request)
{
    if (!http_path_is(request, "/metrics") && !http_path_is(request, "/stats/prometheus"))
        return false;
    metrics_page_ask(admin->page, request);
    return true;
}

static bool serve_ready(struct admin *admin, struct http_request *request)
{
    char pending[PENDING_MAX] = "", text[PENDING_MAX + 32];

    if (!http_path_is(request, "/healthz/ready"))
        return false;
    if (!must_be(request, "GET"))
        return true;
    admin->config.pending(admin->config.data, pending, sizeof(pending));
    snprintf(text, sizeof(text), *pending ? "not ready, pending: %s\n" : "ready\n", pending);
    http_respond_text(request, *pending ? 500 : 200, text);
    return true;
}

static bool query_endpoint(struct http_request *request, const char *name, struct endpoint *ret)
{
    char text[ENDPOINT_TEXT_LEN];

    return http_query(request, name, text, sizeof(text)) > 0 && endpoint_parse(text, ret) == 0;
}

/* Takes the object. what: is said where there is none. */
static void answer_object(struct http_request *request, cJSON *object, const char *what)
{
    static const struct http_answer answer = {.status = 200, .type = "application/json"};
    char *body = object ? cJSON_PrintUnformatted(object) : NULL;

    cJSON_Delete(object);
    if (body)
        http_respond(request, &answer, body, strlen(body));
    else
        http_respond_text(request, 404, what);
}

/* For `brumactl explain`: it takes the same way through the policies as a connection would. */
static bool serve_verdict(struct admin *admin, struct http_request *request)
{
    char identity[SPIFFE_MAX];
    struct endpoint from, to;

    if (!http_path_is(request, "/verdict"))
        return false;
    if (http_query(request, "identity", identity, sizeof(identity)) < 0 ||
        !query_endpoint(request, "from", &from) || !query_endpoint(request, "to", &to)) {
        http_respond_text(request, 400, "usage: GET /verdict?identity=URI&from=IP:PORT&to=IP:PORT\n");
        return true;
    }
    answer_object(request, admin->config.verdict(admin->config.data, identity, &from, &to),
                  "no such destination\n");
    return true;
}

static bool serve_hostname(struct admin *admin, struct http_request *request)
{
    char name[512];

    if (!admin->config.hostname || !http_path_is(request, "/hostname"))
        return false;
    if (http_query(request, "name", name, sizeof(name)) < 0)
        http_respond_text(request, 400, "usage: GET /hostname?name=NAME\n");
    else
        answer_object(request, admin->config.hostname(admin->config.data, name), "out of memory\n");
    return true;
}

static bool serve_hand_over(struct admin *admin, struct http_request *request)
{
    if (!admin->config.hand_over || !http_path_is(request, "/hand-over"))
        return false;
    answer_object(request, admin->config.hand_over(admin->config.data), "out of memory\n");
    return true;
}

static bool serve_direct(struct admin *admin, struct http_request *request)
{
    if (!admin->config.direct || !http_path_is(request, "/direct"))
        return false;
    answer_object(request, admin->config.direct(admin->config.data), "out of memory\n");
    return true;
}

static bool serve_name(struct admin *admin, struct http_request *request)
{
    char pod[512], name[512];

    if (!admin->config.name || !http_path_is(request, "/name"))
        return false;
    if (http_query(request, "pod", pod, sizeof(pod)) < 0 ||
        http_query(request, "name", name, sizeof(name)) < 0) {
        http_respond_text(request, 400, "usage: GET /name?pod=NAMESPACE/NAME&name=NAME\n");
        return true;
    }
    answer_object(request, admin->config.name(admin->config.data, pod, name), "no such pod\n");
    return true;
}

static void not_found(struct http_request *request)
{
    http_respond_text(request, 404, "not found\n");
}

/* What brumactl asks: for root alone, also on loopback. */
static bool serve_questions(struct admin *admin, struct http_request *request)
{
    return serve_verdict(admin, request) || serve_name(admin, request) || serve_hostname(admin, request) ||
           serve_direct(admin, request) || serve_hand_over(admin, request) || serve_metrics(admin, request) ||
           flows_page_serve(&admin->flows, request);
}

static void on_pages(void *data, struct http_request *request)
{
    struct admin *admin = data;

    if (admin_may_ask(request, admin->config.local_only, admin->unix_socket, &admin->refusals,
                      loop_now(admin->loop)) &&
        !serve_pages(admin, request) && (!http_is_roots(request) || !serve_questions(admin, request)))
        not_found(request);
}

static void on_metrics(void *data, struct http_request *request)
{
    if (!serve_metrics(data, request))
        not_found(request);
}

static void on_ready(void *data, struct http_request *request)
{
    if (!serve_ready(data, request))
        not_found(request);
}

/* The Unix socket has them all. */
static void on_local(void *data, struct http_request *request)
{
    if (!serve_pages(data, request) && !serve_ready(data, request) && !serve_questions(data, request))
        not_found(request);
}

/* ---- servers ---- */

static int take_socket(struct admin *admin)
{
    int r = http_server_listen_unix(admin->local, admin->unix_socket, SOCKET_MODE);

    if (r < 0 && !admin->complained)
        log_error_errno(r, "cannot open the admin socket\tpath=\"%s\"", admin->unix_socket);
    admin->complained = r < 0;
    return r;
}

/* The socket goes to whoever has started last, and that one may never come to serve, or end before this one
 * does. */
static void on_socket_check(struct loop_timer *timer)
{
    struct admin *admin = container_of(timer, struct admin, socket_check);

    if (admin->config.owns_socket(admin->config.data) &&
        !http_server_holds_unix(admin->local, admin->unix_socket))
        (void)take_socket(admin);
    loop_timer_set(admin->loop, timer, SOCKET_CHECK);
}

static int open_ports(struct admin *admin)
{
    const struct admin_config *c = &admin->config;

    admin->ports = (struct admin_ports){
        .loop = admin->loop,
        .ipv6 = c->ipv6,
        .other = c->local_only ? admin->unix_socket : NULL,
        .each = {[ADMIN_PORT_PAGES] = {admin->pages, c->admin_port, true, false, "admin pages"},
                 [ADMIN_PORT_METRICS] = {admin->metrics, c->metrics_port, false, false, "metrics server"},
                 [ADMIN_PORT_READY] = {admin->ready, c->ready_port, false, false, "readiness server"}},
    };
    return admin_ports_open(&admin->ports);
}

void admin_take_metrics(struct admin *admin, void (*taken)(void *data, const char *text, size_t len),
                        void *data)
{
    metrics_page_take(admin->page, taken, data);
}

void admin_replaced(struct admin *admin)
{
    if (admin->config.local_only)
        admin_ports_close(&admin->ports);
}

void admin_resumed(struct admin *admin)
{
    if (admin->config.local_only)
        admin_ports_take(&admin->ports);
}

static int open_servers(struct loop *loop, struct admin *admin)
{
    const struct admin_config *c = &admin->config;
    const struct http_limits limits = {c->connections, c->connections_per_source};
    const struct metrics_page_source page = {own_metrics, large_metrics, admin};
    int r = http_server_new(loop, "admin", on_pages, admin, &limits, &admin->pages);

    if (r == 0)
        r = metrics_page_new(loop, &page, &admin->page);
    if (r == 0)
        r = http_server_new(loop, "metrics", on_metrics, admin, &limits, &admin->metrics);
    if (r == 0)
        r = http_server_new(loop, "readiness", on_ready, admin, &limits, &admin->ready);
    if (r == 0)
        r = http_server_new(loop, "admin socket", on_local, admin, &limits, &admin->local);
    if (r < 0)
        return r;
    r = open_ports(admin);
    if (r < 0)
        return r;
    if (!admin->unix_socket)
        return 0;
    loop_timer_set(loop, &admin->socket_check, SOCKET_CHECK);
    return take_socket(admin);
}

int admin_open(struct loop *loop, const struct admin_config *config, struct admin **ret)
{
    struct admin *admin = calloc(1, sizeof(*admin));
    int r;

    if (!admin)
        return -ENOMEM;
    admin->loop = loop;
    admin->config = *config;
    loop_timer_init(&admin->socket_check, on_socket_check);
    flows_page_open(&admin->flows, loop);
    admin->unix_socket = config->unix_socket ? strdup(config->unix_socket) : NULL;
    if (config->unix_socket && !admin->unix_socket) {
        free(admin);
        return -ENOMEM;
    }
    log_get_filter(admin->first_filter, sizeof(admin->first_filter));
    r = open_servers(loop, admin);
    if (r < 0) {
        admin_close(&admin);
        return r;
    }
    *ret = admin;
    return 0;
}

void admin_close(struct admin **ptr)
{
    struct admin *admin = *ptr;

    if (!admin)
        return;
    loop_timer_cancel(&admin->socket_check);
    flows_page_close(&admin->flows);
    if (admin->ports.loop)
        admin_ports_close(&admin->ports);
    http_server_close(&admin->pages);
    http_server_close(&admin->metrics);
    http_server_close(&admin->ready);
    http_server_close(&admin->local);
    answer_waiting(&admin->running, NULL, NULL);
    answer_waiting(&admin->next, NULL, NULL);
    metrics_page_free(&admin->page);
    free(admin->unix_socket);
    free(admin);
    *ptr = NULL;
}
