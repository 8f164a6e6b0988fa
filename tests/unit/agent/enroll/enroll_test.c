/* SPDX-License-Identifier: Apache-2.0 */
/* The order of steps into the mesh, and what is left when one of them fails. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "agent/enroll/enroll.h"
#include "agent/enroll/member.h"
#include "agent/enroll/probes.h"
#include "agent/enroll/watchdog.h"
#include "agent/proxies/proxy_server.h"
#include "lib/netns.h"
#include "tests/unit/agent/agent_doubles.h"
#include "tests/unit/agent/enroll/enroll_site.h"

TestSuite(enroll, .init = enroll_setup, .fini = enroll_teardown);

Test(enroll, a_running_pod_is_listened_for_before_it_is_captured)
{
    enroll_reconcile(&agent, pod);
    cr_expect(pod->enrollment->state == POD_ENROLLED);
    cr_expect(announced_enrolled);
    cr_expect(!pod->enrollment->captured_since_start);
    expect_steps("listen prepare attach commit verify");
}

Test(enroll, the_plugin_attaches_and_commit_follows)
{
    struct steer_error error;
    int program = -1;

    cr_assert(enroll_begin(&agent, pod, true, NULL, NULL, &program, &error) == 0);
    cr_expect(program >= 0);
    cr_expect(pod->enrollment->state == POD_ENROLLING);
    cr_expect(!announced_enrolled, "HBONE must not be announced before the capture is verified");
    expect_steps("listen prepare");
    link_attached = true;
    enroll_attached(&agent, pod);
    cr_expect(pod->enrollment->state == POD_ENROLLED);
    cr_expect(pod->enrollment->captured_since_start);
    expect_steps("commit verify");
    close(program);
}

static int done_result;
static enum bruma_reason done_reason;

static void on_done(void *data, struct pod *p, int r, const struct steer_error *error)
{
    done_result = r;
    done_reason = error ? error->reason : BRUMA_REASON_NONE;
}

Test(enroll, a_plugin_that_lies_about_attaching_is_found_out)
{
    struct steer_error error;
    int program = -1;

    cr_assert(enroll_begin(&agent, pod, true, on_done, NULL, &program, &error) == 0);
    link_attached = false;
    steps_clear();
    enroll_attached(&agent, pod);
    cr_expect(done_result < 0);
    cr_expect(done_reason == BRUMA_REASON_ATTACH_FAILED);
    cr_expect(list_empty(&agent.pods.list));
    cr_expect(!record_exists());
    cr_expect(strstr(steps, "stop_outbound detach clean") == steps, "%s", steps);
    close(program);
}

Test(enroll, whatever_fails_is_undone_in_reverse_order)
{
    static const struct {
        const char *failing, *steps;
    } cases[] = {
        {"listen", "listen"},
        {"prepare", "listen prepare"},
        {"attach", "listen prepare attach stop_outbound detach clean"},
        {"commit", "listen prepare attach commit stop_outbound detach clean"},
        {"verify", "listen prepare attach commit verify stop_outbound detach clean"},
    };

    for (size_t i = 0; i < array_size(cases); i++) {
        int before = open_descriptors();

        failing_step = cases[i].failing;
        loop_timer_cancel(&transition_of(pod)->timer);
        enroll_reconcile(&agent, pod);
        expect_steps(cases[i].steps);
        cr_expect(pod->enrollment->state == POD_OUTSIDE);
        cr_expect(pod->enrollment->last_reason != BRUMA_REASON_NONE && *pod->enrollment->last_error, "%s",
                  cases[i].failing);
        cr_expect(!announced_enrolled);
        cr_expect(open_descriptors() == before, "%s: descriptors leak", cases[i].failing);
        cr_expect(loop_timer_armed(&transition_of(pod)->timer), "%s: nobody tries again", cases[i].failing);
    }
    failing_step = NULL;
    enroll_reconcile(&agent, pod);
    cr_expect(pod->enrollment->state == POD_ENROLLED);
    cr_expect(pod->enrollment->last_reason == BRUMA_REASON_NONE);
}

Test(enroll, a_capture_that_is_broken_at_once_is_not_called_enrolled)
{
    findings_to_report = 1;
    enroll_reconcile(&agent, pod);
    cr_expect(pod->enrollment->state == POD_OUTSIDE);
    cr_expect(pod->enrollment->last_reason == BRUMA_REASON_RULE_MISSING);
}

Test(enroll, a_pod_without_address_is_refused_by_name)
{
    struct steer_error error;

    pod->addresses_len = 0;
    cr_expect(enroll_begin(&agent, pod, false, NULL, NULL, NULL, &error) < 0);
    cr_expect(error.reason == BRUMA_REASON_POD_ADDRESS_MISSING);
    expect_steps("");
}

Test(enroll, the_namespace_of_the_node_is_never_enrolled)
{
    struct steer_error error;

    agent.own_cookie = pod->cookie;
    cr_expect(enroll_begin(&agent, pod, false, NULL, NULL, NULL, &error) < 0);
    cr_expect(error.reason == BRUMA_REASON_NETNS_IS_HOST);
    expect_steps("");
}

Test(enroll, another_namespace_at_the_same_path_is_not_touched)
{
    struct steer_error error;

    pod->cookie++;
    cr_expect(enroll_begin(&agent, pod, false, NULL, NULL, NULL, &error) < 0);
    cr_expect(error.reason == BRUMA_REASON_NETNS_UNUSABLE);
    expect_steps("");
}

Test(enroll, nothing_is_decided_while_the_mesh_is_unknown)
{
    mesh_is_ready = false;
    enroll_reconcile(&agent, pod);
    expect_steps("");
    cr_expect(pod->enrollment->state == POD_OUTSIDE);
    mesh_is_ready = true;
    enroll_reconcile(&agent, pod);
    cr_expect(pod->enrollment->state == POD_ENROLLED);
    mesh_is_ready = namespace_is_ambient = false;
    enroll_reconcile(&agent, pod);
    cr_expect(pod->enrollment->state == POD_ENROLLED, "a mesh file that cannot be read un-enrolls nobody");
}

Test(enroll, labels_of_the_pod_win_over_its_namespace)
{
    const char *why;

    namespace_is_ambient = true;
    free(pod->name);
    pod->name = strdup("opted-out");
    cr_expect(!enroll_wanted(&agent, pod, &why));
    namespace_is_ambient = false;
    free(pod->name);
    pod->name = strdup("opted-in");
    cr_expect(enroll_wanted(&agent, pod, &why));
    free(pod->name);
    pod->name = strdup("neither");
    cr_expect(!enroll_wanted(&agent, pod, &why));
}

Test(enroll, what_is_found_broken_is_repaired_and_counted)
{
    struct steer_error error;

    enroll_reconcile(&agent, pod);
    steps_clear();
    findings_to_report = 1;
    cr_expect(watchdog_verify(&agent, pod, false, &error) == -EIO);
    cr_expect(error.reason == BRUMA_REASON_RULE_MISSING);
    expect_steps("verify");
    findings_to_report = 1;
    cr_expect(watchdog_verify(&agent, pod, true, &error) == 1);
    expect_steps("verify repair verify");
    cr_expect(pod->health->repairs[BRUMA_REASON_RULE_MISSING] == 1);
    cr_expect(watchdog_verify(&agent, pod, true, &error) == 0);
    findings_to_report = 2;
    cr_expect(watchdog_verify(&agent, pod, true, &error) < 0, "repairing that does not help is an error");
    cr_expect(pod->enrollment->last_reason == BRUMA_REASON_RULE_MISSING);
}
