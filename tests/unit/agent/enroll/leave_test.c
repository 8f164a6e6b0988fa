/* SPDX-License-Identifier: Apache-2.0 */
/* The order of steps out of the mesh, and a pod that is wanted again meanwhile. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/enroll/enroll.h"
#include "agent/enroll/member.h"
#include "agent/proxies/proxy_server.h"
#include "tests/unit/agent/agent_doubles.h"
#include "tests/unit/agent/enroll/enroll_site.h"

TestSuite(leave, .init = enroll_setup, .fini = enroll_teardown);

Test(leave, leaving_stops_outbound_first_and_cleans_last)
{
    enroll_reconcile(&agent, pod);
    steps_clear();
    namespace_is_ambient = false;
    enroll_reconcile(&agent, pod);
    cr_expect(pod->enrollment->state == POD_LEAVING);
    cr_expect(!announced_enrolled, "peers must stop using HBONE before it goes");
    expect_steps("stop_outbound");
    fire(&transition_of(pod)->timer);
    cr_expect(pod->enrollment->state == POD_DRAINING);
    expect_steps("detach");
    transition_of(pod)->clean_not_before = 0;
    fire(&transition_of(pod)->timer);
    cr_expect(pod->enrollment->state == POD_OUTSIDE);
    cr_expect(pod->netns_fd < 0 && pod->enrollment->listeners[0] < 0);
    expect_steps("clean");
}

Test(leave, a_pod_that_is_wanted_again_while_it_leaves_stays)
{
    enroll_reconcile(&agent, pod);
    namespace_is_ambient = false;
    enroll_reconcile(&agent, pod);
    steps_clear();
    namespace_is_ambient = true;
    enroll_reconcile(&agent, pod);
    cr_expect(pod->enrollment->state == POD_ENROLLED);
    cr_expect(announced_enrolled);
    cr_expect(!loop_timer_armed(&transition_of(pod)->timer));
    expect_steps("commit");
}

Test(leave, a_pod_that_is_wanted_again_while_it_drains_keeps_its_listeners)
{
    int outbound;

    enroll_reconcile(&agent, pod);
    outbound = pod->enrollment->listeners[BRUMA_LISTENER_OUTBOUND];
    namespace_is_ambient = false;
    enroll_reconcile(&agent, pod);
    fire(&transition_of(pod)->timer);
    cr_assert(pod->enrollment->state == POD_DRAINING);
    steps_clear();
    namespace_is_ambient = true;
    enroll_reconcile(&agent, pod);
    cr_expect(pod->enrollment->state == POD_ENROLLED);
    cr_expect(pod->enrollment->listeners[BRUMA_LISTENER_OUTBOUND] == outbound);
    expect_steps("prepare attach commit verify");
}

Test(leave, a_failure_to_come_back_from_draining_keeps_the_route_of_live_connections)
{
    enroll_reconcile(&agent, pod);
    namespace_is_ambient = false;
    enroll_reconcile(&agent, pod);
    fire(&transition_of(pod)->timer);
    steps_clear();
    namespace_is_ambient = true;
    failing_step = "attach";
    enroll_reconcile(&agent, pod);
    cr_expect(pod->enrollment->state == POD_DRAINING);
    expect_steps("prepare attach stop_outbound detach");
}

Test(leave, removal_leaves_no_record_and_no_descriptor)
{
    int before = open_descriptors();

    enroll_reconcile(&agent, pod);
    cr_expect(record_exists());
    steps_clear();
    enroll_remove(&agent, pod, "a test");
    expect_steps("stop_outbound detach clean");
    cr_expect(list_empty(&agent.pods.list));
    cr_expect(!record_exists());
    cr_expect(announced_pods == 0);
    cr_expect(open_descriptors() == before);
}
