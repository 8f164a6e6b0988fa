/* SPDX-License-Identifier: Apache-2.0 */
/* Proxies that do not keep the rules of the protocol are hung up on, and their pods stay out. */
#include <criterion/criterion.h>
#include <unistd.h>

#include "agent/enroll/enroll.h"
#include "lib/seqpacket.h"
#include "tests/unit/agent/proxies/zds_site.h"

TestSuite(zds_rules, .init = zds_setup, .fini = zds_teardown);

Test(zds_rules, a_greeting_that_is_none)
{
    struct proxy_end e = proxy_new(1, false);

    cr_assert(seqpacket_send(e.fd, "\xff\xff", 2, NULL, 0) == 0);
    expect_ended(&e);
    close(e.fd);
}

Test(zds_rules, a_message_that_is_too_long)
{
    struct proxy_end e = serving(1);
    static const char huge[4096];

    enroll_reconcile(&agent, web);
    run(1);
    cr_assert(seqpacket_send(e.fd, huge, sizeof(huge), NULL, 0) == 0);
    expect_ended(&e);
    cr_expect(web->enrollment->state == POD_OUTSIDE);
    close(e.fd);
}

Test(zds_rules, an_answer_with_a_descriptor)
{
    struct proxy_end e = serving(1);
    int zero = 0;

    enroll_reconcile(&agent, web);
    run(1);
    cr_assert(seqpacket_send(e.fd, "\x0a\x00", 2, &zero, 1) == 0);
    expect_ended(&e);
    close(e.fd);
}

Test(zds_rules, an_answer_that_nobody_asked_for)
{
    struct proxy_end e = serving(1);

    cr_assert(seqpacket_send(e.fd, "\x0a\x00", 2, NULL, 0) == 0);
    expect_ended(&e);
    close(e.fd);
}

Test(zds_rules, an_answer_that_is_none)
{
    struct proxy_end e = serving(1);

    enroll_reconcile(&agent, web);
    run(1);
    cr_assert(seqpacket_send(e.fd, "\x12\x01\x01", 3, NULL, 0) == 0);
    expect_ended(&e);
    close(e.fd);
}

Test(zds_rules, no_answer_in_time)
{
    struct proxy_end e = serving(1);

    enroll_reconcile(&agent, web);
    run(4500);
    cr_expect(web->enrollment->state == POD_ENROLLING && server->peers_len == 1);
    run(700);
    cr_expect(web->enrollment->state == POD_OUTSIDE && server->peers_len == 0);
    close(e.fd);
}

Test(zds_rules, no_greeting_in_time)
{
    struct proxy_end e = proxy_new(1, false);

    run(4500);
    cr_expect(server->peers_len == 1);
    run(700);
    cr_expect(server->peers_len == 0);
    close(e.fd);
}
