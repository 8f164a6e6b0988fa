/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib/rpc/http_fixture.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"

static const struct http_limits limits = {.connections = HTTP_TEST_CONNECTIONS,
                                          .per_source = HTTP_TEST_CONNECTIONS};

struct loop *http_loop;
struct http_server *http_server;
static struct loop_thread *thread;
struct endpoint http_at;

/* "/later" is answered by a timer. */
static struct http_request *late;
static struct loop_timer late_timer;
int http_late_began;

static void answer_late(struct loop_timer *timer)
{
    http_respond_text(take_pointer(late), 200, "late\n");
}

static void large(struct http_request *request)
{
    struct http_answer answer = {.status = 200, .compress = true};
    char *body = malloc(HTTP_TEST_LARGE);

    cr_assert(body != NULL);
    memset(body, 'x', HTTP_TEST_LARGE);
    http_respond(request, &answer, body, HTTP_TEST_LARGE);
}

static void say_query(struct http_request *request)
{
    char value[16], text[128];
    int r = http_query(request, "level", value, sizeof(value));
    const char *header = http_header(request, "x-said");

    snprintf(text, sizeof(text), "%s %d \"%s\" %s\n", http_has_query(request) ? "query" : "none", r,
             r < 0 ? "" : value, header ? header : "-");
    http_respond_text(request, 200, text);
}

void http_test_request(void *data, struct http_request *request)
{
    cr_assert(data == &http_at);
    if (http_path_is(request, "/hello")) {
        http_respond_text(request, 200, "hello\n");
    } else if (http_path_is(request, "/large")) {
        large(request);
    } else if (http_path_is(request, "/later") && !late) {
        late = request;
        loop_timer_set(http_loop, &late_timer, 100);
        __atomic_store_n(&http_late_began, 1, __ATOMIC_RELEASE);
    } else if (http_path_is(request, "/empty")) {
        http_respond(request, &(struct http_answer){.status = 200}, NULL, 0);
    } else if (http_path_is(request, "/query")) {
        say_query(request);
    } else if (http_path_is(request, "/quit")) {
        http_respond_text(request, 200, "bye\n");
        http_server_close(&http_server);
    } else {
        http_respond_text(request, 404, "not found\n");
    }
}

void http_setup(void)
{
    struct endpoint any = {};

    signal(SIGPIPE, SIG_IGN);
    cr_assert(addr_parse("127.0.0.1", &any.addr) == 0);
    cr_assert(loop_new(&http_loop) == 0);
    loop_timer_init(&late_timer, answer_late);
    cr_assert(http_server_new(http_loop, "test", http_test_request, &http_at, &limits, &http_server) == 0);
    cr_assert(http_server_listen(http_server, &any, false, &http_at) == 0);
    cr_assert(http_at.port != 0);
    thread = loop_thread_start(http_loop);
}

void http_teardown(void)
{
    loop_thread_stop(thread);
    http_server_close(&http_server);
    if (late) {
        loop_timer_cancel(&late_timer);
        answer_late(&late_timer); /* nobody hears it */
    }
    loop_free(&http_loop);
}

void http_expect_status(const char *request, const char *status)
{
    char *answer = client_ask(&http_at, request);

    cr_expect(!strncmp(answer, "HTTP/1.1 ", 9) && !strncmp(answer + 9, status, strlen(status)),
              "%.60s -> %.60s", request, answer);
    free(answer);
}
