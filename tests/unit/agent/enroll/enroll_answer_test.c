/* SPDX-License-Identifier: Apache-2.0 */
/* A pod is enrolled once a proxy at the other end of the real socket has answered for it. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/enroll/enroll.h"
#include "agent/proxies/proxy_server.h"
#include "bruma/protocol.h"
#include "lib/seqpacket.h"
#include "tests/unit/agent/agent_doubles.h"
#include "tests/unit/agent/enroll/enroll_site.h"

TestSuite(enroll, .init = enroll_setup, .fini = enroll_teardown);

static const struct server_role *route(void *data, const char *op, void **ret_data)
{
    *ret_data = proxy_server_accept(agent.proxies);
    return &proxy_server_role;
}

static int proxy_fd = -1;

static bool receive(char *buf, size_t size)
{
    int fds[BRUMA_MESSAGE_FDS_MAX];
    size_t n;
    ssize_t len = seqpacket_receive(proxy_fd, buf, size, fds, BRUMA_MESSAGE_FDS_MAX, &n);

    if (len > 0)
        close_fds(fds, n);
    return len > 0;
}

static void say(const char *text)
{
    cr_assert(seqpacket_send(proxy_fd, text, strlen(text), NULL, 0) == 0);
}

struct script {
    struct loop_timer timer;
    bool refuse;
    int turns, adds;
} script;

/* Plays the proxy a little whenever the loop comes by. */
static void play(struct loop_timer *timer)
{
    char buf[4096], answer[200], *seq;

    while (receive(buf, sizeof(buf))) {
        seq = strstr(buf, "\"seq\":");
        cr_assert(seq != NULL, "no seq in %s", buf);
        if (strstr(buf, "\"pod-add\"") && ++script.adds && script.refuse)
            snprintf(answer, sizeof(answer),
                     "{\"op\":\"ack\",\"seq\":%lu,\"reason\":\"listener_open_failed\",\"error\":\"no\"}",
                     strtoul(seq + 6, NULL, 10));
        else
            snprintf(answer, sizeof(answer), "{\"op\":\"ack\",\"seq\":%lu}", strtoul(seq + 6, NULL, 10));
        say(answer);
    }
    if (++script.turns == 5)
        enroll_reconcile(&agent, pod);
    if (script.turns == 15)
        loop_stop(agent.loop);
    else
        loop_timer_set(agent.loop, &script.timer, 20);
}

static void run_with_proxy(bool refuse)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/agent.sock", directory);
    cr_assert(server_open(agent.loop, path, route, &agent, &agent.server) == 0);
    proxy_fd = seqpacket_connect(path, 1000, true);
    cr_assert(proxy_fd >= 0);
    say("{\"op\":\"proxy-hello\",\"pid\":1,\"version\":\"test\"}");
    say("{\"op\":\"held-end\"}");
    script.refuse = refuse;
    loop_timer_init(&script.timer, play);
    loop_timer_set(agent.loop, &script.timer, 0);
    cr_assert(loop_run(agent.loop) == 0);
}

Test(enroll, a_live_pod_waits_for_the_proxys_answer, .timeout = 20)
{
    run_with_proxy(false);
    cr_expect(proxies_serving(agent.proxies));
    cr_expect(script.adds == 1);
    cr_expect(pod->enrollment->state == POD_ENROLLED);
    cr_expect(strcmp(proxies_pod_state(agent.proxies, pod), "serving") == 0);
    expect_steps("listen prepare attach commit verify");
}

Test(enroll, a_proxy_that_refuses_keeps_the_pod_out, .timeout = 20)
{
    run_with_proxy(true);
    cr_expect(script.adds >= 1);
    cr_expect(pod->enrollment->state == POD_OUTSIDE);
    cr_expect(pod->enrollment->last_reason == BRUMA_REASON_LISTENER_OPEN_FAILED);
    cr_expect(strncmp(steps, "listen prepare stop_outbound detach clean",
                      strlen("listen prepare stop_outbound detach clean")) == 0,
              "%s", steps);
}
