/* SPDX-License-Identifier: Apache-2.0 */
/* What stock node proxies are told, in which order, and what becomes of pods by their answers. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "agent/enroll/enroll.h"
#include "agent/enroll/member.h"
#include "agent/enroll/watchdog.h"
#include "lib/netns.h"
#include "lib/seqpacket.h"
#include "tests/unit/agent/agent_doubles.h"
#include "tests/unit/agent/proxies/zds_site.h"

TestSuite(zds_server, .init = zds_setup, .fini = zds_teardown);

/* ---- enrollment ---- */

Test(zds_server, without_a_proxy_no_pod_is_enrolled)
{
    struct steer_error error = {0};
    int program = -1;

    cr_expect(enroll_begin(&agent, web, true, NULL, NULL, &program, &error) == -ENOTCONN);
    cr_expect(error.reason == BRUMA_REASON_PROXY_NOT_CONNECTED);
    cr_expect(strcmp(steps, "") == 0, "%s", steps);
    enroll_reconcile(&agent, web);
    cr_expect(web->enrollment->state == POD_OUTSIDE &&
              web->enrollment->last_reason == BRUMA_REASON_PROXY_NOT_CONNECTED);
    /* and at once when there is one, whenever the next try would be */
    enrollment_of(web)->failed_tries = 20;
    loop_timer_cancel(&transition_of(web)->timer);
    told[0] = '\0';
    struct proxy_end e = proxy_new(1, true);

    obey(&e, 60);
    expect_told("snapshot-sent add=uid-web");
    cr_expect(web->enrollment->state == POD_ENROLLED);
    close(e.fd);
}

Test(zds_server, a_pod_is_captured_once_it_is_listened_for)
{
    struct proxy_end e = serving(1);

    expect_told("snapshot-sent");
    enroll_reconcile(&agent, web);
    run(1);
    cr_expect(web->enrollment->state == POD_ENROLLING);
    cr_expect(strcmp(steps, "prepare") == 0, "%s", steps);
    cr_assert(answer(&e, ""));
    run(20);
    expect_told("add=uid-web");
    cr_expect(web->enrollment->state == POD_ENROLLED && foreign_pid == 1);
    cr_expect(strcmp(steps, "prepare set_listeners attach commit verify") == 0, "%s", steps);
    cr_expect(web->enrollment->listener_cookies[0] && web->enrollment->listeners[0] < 0,
              "no descriptor of a listener may be kept");
    cr_expect(strcmp(proxies_pod_state(agent.proxies, web), "serving") == 0);
    close(e.fd);
}

Test(zds_server, a_pod_that_is_refused_is_rolled_back)
{
    struct proxy_end e = serving(1);

    told[0] = '\0';
    enroll_reconcile(&agent, web);
    cr_assert(answer(&e, "address in use"));
    run(20);
    cr_expect(web->enrollment->state == POD_OUTSIDE &&
              web->enrollment->last_reason == BRUMA_REASON_PROXY_REFUSED_POD);
    cr_expect(strstr(web->enrollment->last_error, "address in use") != NULL, "%s",
              web->enrollment->last_error);
    cr_expect(strstr(steps, "clean") != NULL, "%s", steps);
    cr_assert(answer(&e, ""));
    expect_told("add=uid-web del=uid-web");
    /* it is tried again by itself, and then goes */
    obey(&e, 1500);
    cr_expect(web->enrollment->state == POD_ENROLLED);
    close(e.fd);
}

static int done_result;
static enum bruma_reason done_reason;

static void on_done(void *data, struct pod *p, int r, const struct steer_error *error)
{
    (void)data, (void)p;
    done_result = r;
    done_reason = error ? error->reason : BRUMA_REASON_NONE;
}

Test(zds_server, what_the_plugin_attaches_to_is_not_taken_from_under_it)
{
    struct proxy_end e = serving(1);
    struct steer_error error;
    int program = -1;

    for (int i = 0; i < 2; i++) {
        steps_clear();
        cr_assert(enroll_begin(&agent, web, true, on_done, NULL, &program, &error) == 0);
        close(program);
        run(1);
        cr_assert(answer(&e, "address in use"));
        run(20);
        cr_expect(web->enrollment->state == POD_ENROLLING);
        cr_expect(strcmp(steps, "prepare") == 0, "%s", steps);
        link_attached = true;
        /* whatever it says, the proxy's refusal is the reason */
        if (i == 0)
            enroll_attached(&agent, web);
        else
            enroll_abort(&agent, web, BRUMA_REASON_ATTACH_FAILED, "the plugin could not");
        cr_expect(done_result == -EPROTO && done_reason == BRUMA_REASON_PROXY_REFUSED_POD);
        cr_expect(list_empty(&agent.pods.list));
        web = new_pod("uid-web", "web", "10.0.0.1");
        obey(&e, 40);
    }
    close(e.fd);
}

Test(zds_server, another_service_account_begins_anew)
{
    struct proxy_end e = serving(1);

    enroll_reconcile(&agent, web);
    obey(&e, 60);
    told[0] = '\0';
    service_account = "shopkeeper";
    enroll_reconcile(&agent, web);
    obey(&e, 60);
    expect_told("del=uid-web add=uid-web");
    enroll_reconcile(&agent, web);
    obey(&e, 60);
    expect_told("");
    cr_expect(strcmp(proxies_pod_state(agent.proxies, web), "serving") == 0);
    close(e.fd);
}

Test(zds_server, a_proxy_that_has_no_listeners_gets_no_pod)
{
    struct proxy_end e = serving(1);

    foreign_result = -ENOENT;
    enroll_reconcile(&agent, web);
    cr_assert(answer(&e, ""));
    run(700); /* looked for several times, and not tried again yet */
    cr_expect(web->enrollment->state == POD_OUTSIDE &&
              web->enrollment->last_reason == BRUMA_REASON_PROXY_LISTENERS_MISSING);
    close(e.fd);
}

Test(zds_server, of_two_listeners_the_older_is_waited_for_to_go)
{
    struct proxy_end e = serving(1);

    foreign_result = -EBUSY;
    enroll_reconcile(&agent, web);
    cr_assert(answer(&e, ""));
    run(800);
    cr_expect(web->enrollment->state == POD_ENROLLING);
    foreign_result = 0;
    run(200);
    cr_expect(web->enrollment->state == POD_ENROLLED);
    close(e.fd);
}

Test(zds_server, a_proxy_that_dies_meanwhile)
{
    struct proxy_end e = serving(1);

    enroll_reconcile(&agent, web);
    run(1);
    close(e.fd);
    run(20);
    cr_expect(web->enrollment->state == POD_OUTSIDE &&
              web->enrollment->last_reason == BRUMA_REASON_PROXY_AWAY);
    cr_expect(server->peers_len == 0);
}

/* ---- what is told ---- */

Test(zds_server, all_pods_then_the_snapshot_then_those_that_come_and_go)
{
    struct proxy_end e = serving(1), second;
    struct pod *cart = new_pod("uid-cart", "cart", "10.0.0.2");

    enroll_reconcile_all(&agent);
    obey(&e, 60);
    expect_told("snapshot-sent add=uid-web add=uid-cart");
    second = proxy_new(2, true);
    run(20);
    cr_assert(answer(&second, ""));
    /* one that comes while the snapshot is under way is in it */
    struct pod *late = new_pod("uid-late", "late", "10.0.0.3");

    enroll_reconcile(&agent, late);
    obey(&second, 60);
    expect_told("add=uid-web add=uid-cart add=uid-late snapshot-sent");
    obey(&e, 60);
    expect_told("add=uid-late");
    enroll_remove(&agent, cart, "test");
    obey(&e, 40);
    obey(&second, 40);
    expect_told("del=uid-cart del=uid-cart");
    close(e.fd);
    close(second.fd);
}

Test(zds_server, the_same_uid_in_a_new_sandbox_is_let_go_first)
{
    struct proxy_end e = serving(1);

    told[0] = '\0';
    enroll_reconcile(&agent, web);
    run(1); /* the add is under way, not answered */
    enroll_remove(&agent, web, "its sandbox is gone");
    web = new_pod("uid-web", "web", "10.0.0.1");
    enroll_reconcile(&agent, web);
    obey(&e, 100);
    expect_told("add=uid-web del=uid-web add=uid-web");
    cr_expect(web->enrollment->state == POD_ENROLLED);
    close(e.fd);
}

Test(zds_server, a_pod_leaves_when_nothing_of_it_lives)
{
    struct proxy_end e = serving(1);

    enroll_reconcile(&agent, web);
    obey(&e, 60);
    told[0] = '\0';
    marked_connections = 2;
    namespace_is_ambient = false;
    enroll_reconcile(&agent, web);
    obey(&e, 700);
    cr_expect(web->enrollment->state == POD_DRAINING);
    expect_told("");
    /* wanted again: told of again, which is nothing to the proxy */
    namespace_is_ambient = true;
    enroll_reconcile(&agent, web);
    obey(&e, 60);
    cr_expect(web->enrollment->state == POD_ENROLLED);
    expect_told("add=uid-web");
    namespace_is_ambient = false;
    enroll_reconcile(&agent, web);
    obey(&e, 500);
    cr_expect(web->enrollment->state == POD_DRAINING);
    marked_connections = 0;
    obey(&e, 700);
    expect_told("del=uid-web");
    cr_expect(web->enrollment->state == POD_OUTSIDE && web->netns_fd < 0);
    close(e.fd);
}

/* ---- several ---- */

Test(zds_server, the_youngest_serves_once_it_knows_all_and_the_older_one_after_it)
{
    struct proxy_end old = serving(1), young;

    enroll_reconcile(&agent, web);
    obey(&old, 60);
    cr_expect(foreign_pid == 1);
    young = proxy_new(2, true);
    run(20);
    cr_assert(answer(&young, ""));
    run(20);
    cr_expect(foreign_pid == 1, "it does not know all pods yet");
    obey(&young, 60);
    cr_expect(foreign_pid == 2 && zds_find_serving(server) == young.peer);
    close(young.fd);
    run(20);
    cr_expect(foreign_pid == 1 && zds_find_serving(server) == old.peer);
    cr_expect(strcmp(proxies_pod_state(agent.proxies, web), "serving") == 0);
    close(old.fd);
    run(20);
    cr_expect(!proxies_serving(agent.proxies));
    cr_expect(strcmp(proxies_pod_state(agent.proxies, web), "not_connected") == 0);
    cr_expect(web->enrollment->state == POD_ENROLLED, "what is captured stays captured");
}

Test(zds_server, while_nobody_serves_each_answer_counts)
{
    struct proxy_end e = serving(1);
    struct pod *cart = new_pod("uid-cart", "cart", "10.0.0.2");

    enroll_reconcile_all(&agent);
    obey(&e, 60);
    close(e.fd);
    run(20);
    steps_clear();
    e = proxy_new(7, true);
    run(20);
    cr_assert(answer(&e, ""));
    run(20);
    cr_expect(foreign_pid == 7, "the first pod is served before the second is told of");
    cr_expect(strcmp(steps, "set_listeners") == 0, "%s", steps);
    obey(&e, 60);
    cr_expect(strcmp(proxies_pod_state(agent.proxies, cart), "serving") == 0);
    close(e.fd);
}

/* ---- verification ---- */

Test(zds_server, without_a_proxy_the_capture_is_not_broken)
{
    struct proxy_end e = serving(1);
    struct steer_error error = {0};

    enroll_reconcile(&agent, web);
    obey(&e, 60);
    foreign_live = false;
    close(e.fd);
    run(20);
    steps_clear();
    cr_expect(watchdog_verify(&agent, web, false, &error) == 0, "%s", error.text);
    cr_expect(watchdog_verify(&agent, web, true, &error) == 0, "%s", error.text);
    cr_expect(strcmp(steps, "verify verify") == 0, "nothing is to be repaired: %s", steps);
    cr_expect(web->enrollment->last_reason == BRUMA_REASON_PROXY_AWAY &&
              !web->health->repairs[BRUMA_REASON_LISTENER_CLOSED]);
    e = proxy_new(2, true);
    foreign_live = true;
    obey(&e, 60);
    cr_expect(web->enrollment->last_reason == BRUMA_REASON_NONE);
    close(e.fd);
}

Test(zds_server, listeners_that_somebody_closed_are_opened_anew)
{
    struct proxy_end e = serving(1);
    struct steer_error error = {0};

    enroll_reconcile(&agent, web);
    obey(&e, 60);
    told[0] = '\0';
    foreign_live = false;
    foreign_result = -ENOENT;
    cr_expect(watchdog_verify(&agent, web, false, &error) < 0);
    cr_expect(error.reason == BRUMA_REASON_LISTENER_CLOSED);
    cr_expect(watchdog_verify(&agent, web, true, &error) == 0);
    cr_expect(web->health->repairs[BRUMA_REASON_LISTENER_CLOSED] == 1);
    foreign_live = true;
    foreign_result = 0;
    obey(&e, 60);
    expect_told("del=uid-web add=uid-web");
    cr_expect(strcmp(proxies_pod_state(agent.proxies, web), "serving") == 0);
    close(e.fd);
}
