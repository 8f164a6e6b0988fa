/* SPDX-License-Identifier: Apache-2.0 */
/* When a connection between two pods is forgotten, and that nothing is left of it by then; that others have
 * their turns while many are looked at. */
#include "proxy/direct/node_judge.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <unistd.h>

#include "lib/netns.h"
#include "proxy/direct/map_walk.h"
#include "proxy/direct/node_tuples.h"
#include "proxy/direct/socket_destroy.h"
#include "proxy/state/rcu.h"
#include "tests/unit/proxy/direct/node_site.h"
#include "tests/unit/proxy/mesh_samples.h"

#define FAR 33333 /* a port of 10.9.0.77 */

static struct bruma_tuple tuple;

static void setup(void)
{
    int fds[BRUMA_NODE_FD_COUNT];

    if (!site_begin())
        cr_skip("maps of the kernel, and a network namespace, need root");
    /* The source has the address that is silent, too. */
    site.source.addresses_len = 2;
    cr_assert(addr_parse("10.9.0.77", &site.source.addresses[1]) == 0);
    cr_assert(node_judge_new(&site.proxy, &site.proxy.node_judge) == 0);
    site_same_maps(site.maps, fds);
    cr_assert(node_judge_take_maps(site.proxy.node_judge, fds) == 0);
    node_judge_in_charge(site.proxy.node_judge, SITE_NUMBER);
    tuple = site_tuple("10.9.0.77", FAR);
}

static void teardown(void)
{
    node_judge_free(&site.proxy.node_judge);
    site_end();
}

TestSuite(node_judge, .init = setup, .fini = teardown, .timeout = 120);

static bool is_gone(void)
{
    return !site_has(&tuple);
}

/* A look at all, once, as the sweep does. */
static void look(bool judge)
{
    struct bruma_node_tuple value;
    struct node_tuples turn;

    cr_assert(node_tuples_begin(&turn, &site.proxy) == 0);
    cr_assert(site_get(site.maps[BRUMA_NODE_FD_TUPLES], &tuple, &value) == 0);
    node_tuples_look(&turn, &tuple, &value, judge);
    node_tuples_end(&turn);
}

Test(node_judge, half_open_connections_are_found_and_listeners_are_not)
{
    int listener = site_listen();
    struct socket_destroyer *d;
    struct bruma_tuple other = site_tuple("10.9.0.77", FAR + 1);
    uint64_t cookie;

    site_half_open(FAR);
    cr_assert(socket_destroyer_new(site.destination.fds[BRUMA_POD_FD_NETNS], &d) == 0);
    cr_expect_eq(socket_find(d, &other, &cookie), -ENOENT, "a listener would take its SYN");
    cr_expect_eq(socket_destroy_any(d, &other), -ENOENT);
    cr_expect_eq(site_half_open_count(), 1);
    cr_expect_eq(socket_find(d, &tuple, &cookie), 0);
    cr_expect_eq(socket_destroy_any(d, &tuple), 0);
    cr_expect_eq(site_half_open_count(), 0);
    cr_expect_eq(socket_destroy_any(d, &tuple), -ENOENT);
    socket_destroyer_free(&d);
    site_half_open(FAR); /* it listens on */
    close(listener);
}

Test(node_judge, nothing_is_left_at_the_destination_of_a_source_that_is_gone)
{
    int listener = site_listen();

    site_half_open(FAR);
    site_register(&tuple, (struct bruma_node_tuple){});
    look(true);
    cr_assert(site_has(&tuple) && site_half_open_count() == 1);
    cr_expect_eq(site_tuples(SITE_SOURCE), 1);
    site_forget(&site.source);
    node_judge_changed(site.proxy.node_judge);
    site_until(is_gone, "the tuple is forgotten");
    cr_expect_eq(site_half_open_count(), 0);
    cr_expect_eq(node_verdicts_control(site.proxy.node_verdicts)->tuples, 0);
    cr_expect_eq(site_tuples(SITE_SOURCE), 0);
    close(listener);
}

Test(node_judge, what_cannot_be_ended_is_not_forgotten)
{
    int netns = site.destination.fds[BRUMA_POD_FD_NETNS], listener = site_listen();

    site_half_open(FAR);
    site_register(&tuple, (struct bruma_node_tuple){});
    site_forget(&site.source);
    site.destination.fds[BRUMA_POD_FD_NETNS] = -1;
    look(true);
    cr_expect(site_has(&tuple));
    site.destination.fds[BRUMA_POD_FD_NETNS] = netns;
    look(false);
    cr_expect(!site_has(&tuple) && site_half_open_count() == 0);
    close(listener);
}

static void closed(unsigned seconds, struct bruma_node_tuple value, bool stays)
{
    value.source_closed = 1;
    value.closed_nanoseconds = site_ago(seconds);
    site_register(&tuple, value);
    look(true);
    cr_expect_eq(site_has(&tuple), stays, "closed %u s ago", seconds);
    cr_expect_eq(site_half_open_count(), stays ? 1 : 0, "closed %u s ago", seconds);
}

Test(node_judge, an_unanswered_one_stays_as_long_as_its_destination_may_answer)
{
    int listener = site_listen();

    site_half_open(FAR);
    closed(5, (struct bruma_node_tuple){}, true);
    closed(140, (struct bruma_node_tuple){}, true);
    closed(9, (struct bruma_node_tuple){.refused = 1}, true);
    closed(151, (struct bruma_node_tuple){}, false);
    site_half_open(FAR);
    closed(11, (struct bruma_node_tuple){.refused = 1}, false);
    close(listener);
}

/* The source's policy changes while its SYN has been answered and nothing more: it must not be able to go
 * on. */
Test(node_judge, a_half_open_one_that_is_not_allowed_any_more)
{
    int listener = site_listen();

    site_half_open(FAR);
    site_register(&tuple, (struct bruma_node_tuple){.source_closed = 1, .closed_nanoseconds = site_ago(1)});
    look(true);
    cr_expect_eq(site_half_open_count(), 1);
    site.source.draining = true;
    look(false);
    cr_expect_eq(site_half_open_count(), 1);
    look(true);
    cr_expect_eq(site_half_open_count(), 0);
    cr_expect(site_has(&tuple));
    close(listener);
}

/* ---- one that was accepted ---- */

static void connect_to(int listener, int ret[2])
{
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    socklen_t len = sizeof(from);

    to.sin_port = htons(SITE_PORT);
    inet_pton(AF_INET, "10.9.0.9", &from.sin_addr);
    inet_pton(AF_INET, "10.9.0.1", &to.sin_addr);
    ret[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert(bind(ret[0], (struct sockaddr *)&from, sizeof(from)) == 0);
    cr_assert(connect(ret[0], (struct sockaddr *)&to, sizeof(to)) == 0);
    ret[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    cr_assert(ret[1] >= 0 && getsockname(ret[0], (struct sockaddr *)&from, &len) == 0);
    tuple = site_tuple("10.9.0.9", ntohs(from.sin_port));
}

static struct bruma_node_tuple accepted(const int fds[2])
{
    struct bruma_node_tuple value = {};

    cr_assert(socket_cookie(fds[0], (uint64_t *)&value.socket_cookie) == 0);
    cr_assert(socket_cookie(fds[1], (uint64_t *)&value.accepted_cookie) == 0);
    return value;
}

static int error_of(int fd)
{
    char byte;

    return recv(fd, &byte, 1, MSG_DONTWAIT) < 0 ? errno : 0;
}

Test(node_judge, an_application_may_take_its_time_to_close)
{
    int listener = site_listen(), fds[2];
    struct bruma_node_tuple value;

    connect_to(listener, fds);
    value = accepted(fds);
    value.source_closed = 1;
    value.closed_nanoseconds = site_ago(200);
    site_register(&tuple, value);
    look(true);
    cr_expect(site_has(&tuple));
    cr_expect_eq(error_of(fds[1]), EAGAIN);
    close(fds[1]);
    close(fds[0]);
    look(true);
    cr_expect(!site_has(&tuple), "nobody has told of its end");
    close(listener);
}

static int ends[2];

static bool have_ended(void)
{
    return error_of(ends[0]) != EAGAIN && error_of(ends[1]) != EAGAIN;
}

Test(node_judge, a_policy_ends_both_ends)
{
    int listener = site_listen();

    connect_to(listener, ends);
    site_register(&tuple, accepted(ends));
    look(true);
    cr_expect_eq(error_of(ends[0]), EAGAIN);
    POLICY(site.proxy.state, .name = "no", .scope = 1, .action = 1, .rules_len = 1,
           .rules = {{.clauses_len = 1,
                      .clauses = {{.matches_len = 1, .matches = {{.destination_ports = {"8080"}}}}}}});
    state_commit(site.proxy.state);
    node_judge_changed(site.proxy.node_judge);
    site_until(have_ended, "both are ended");
    cr_expect(site_has(&tuple), "the programs tell of its end, or it is swept");
    close(ends[0]);
    close(ends[1]);
    close(listener);
}

static bool has_ended_and_is_gone(void)
{
    return have_ended() && is_gone();
}

Test(node_judge, switched_off_all_are_ended_and_forgotten)
{
    int listener = site_listen();

    connect_to(listener, ends);
    site_register(&tuple, accepted(ends));
    atomic_store(&site.proxy.same_node, SAME_NODE_RELAY);
    node_judge_in_charge(site.proxy.node_judge, 0);
    site_until(has_ended_and_is_gone, "it is ended, and forgotten");
    cr_expect_eq(node_verdicts_control(site.proxy.node_verdicts)->tuples, 0);
    close(ends[0]);
    close(ends[1]);
    close(listener);
}

/* ---- many ---- */

static unsigned turns;

static void count_turns(void *data)
{
    (void)data;
    turns++;
    loop_post(site.proxy.loop, count_turns, NULL);
}

static bool all_are_gone(void)
{
    return node_verdicts_control(site.proxy.node_verdicts)->tuples == 0;
}

Test(node_judge, others_have_their_turns_while_many_are_looked_at)
{
    for (unsigned i = 0; i < BRUMA_MAX_NODE_TUPLES; i++) {
        struct bruma_tuple t = site_tuple("10.9.0.9", (uint16_t)i);

        site_register(&t, (struct bruma_node_tuple){.source_cookie = 4711, .destination_cookie = 4712});
    }
    node_judge_changed(site.proxy.node_judge);
    loop_post(site.proxy.loop, count_turns, NULL);
    site_until(all_are_gone, "all are forgotten, since their pods are gone");
    cr_expect_gt(turns, 16, "%u turns", turns);
    cr_expect_eq(site_count(site.maps[BRUMA_NODE_FD_TUPLES], sizeof(struct bruma_tuple)), 0);
}

Test(node_judge, a_walk_sees_all_that_stays)
{
    static bool seen[BRUMA_MAX_NODE_TUPLES];
    struct map_walk walk = {};
    const void *key, *value;
    unsigned n = 0;

    for (unsigned i = 0; i < BRUMA_MAX_NODE_TUPLES; i++) {
        struct bruma_tuple t = site_tuple("10.9.0.9", (uint16_t)i);

        site_register(&t, (struct bruma_node_tuple){.asked_port = i});
    }
    map_walk_start(&walk, site.maps[BRUMA_NODE_FD_TUPLES], sizeof(struct bruma_tuple),
                   sizeof(struct bruma_node_tuple));
    while (map_walk_next(&walk, &key, &value) > 0) {
        const struct bruma_tuple *t = key;

        cr_assert_eq(((const struct bruma_node_tuple *)value)->asked_port, t->remote_port);
        n += !seen[t->remote_port];
        seen[t->remote_port] = true;
    }
    cr_expect_eq(n, BRUMA_MAX_NODE_TUPLES);
    cr_expect_eq(map_walk_next(&walk, &key, &value), 0);
    map_walk_start(&walk, -1, 4, 4);
    cr_expect_eq(map_walk_next(&walk, &key, &value), -EBADF);
    map_walk_stop(&walk);
}
