/* SPDX-License-Identifier: Apache-2.0 */
/* The proxy's side of the local protocol, with an agent played by the test and pods that only write down. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/message.h"
#include "lib/seqpacket.h"
#include "proxy/pods/agent_client.h"
#include "proxy/pods/pods.h"

static char calls[4096], directory[64], path[128];
static char held_uids[4][16];
static int held_len, refused, names;
static struct loop *loop;
static struct agent_client *link_;
static struct loop_timer pump;
static int listener = -1, agent = -1, pumps;

static void note(const char *what, const char *uid)
{
    size_t len = strlen(calls);

    snprintf(calls + len, sizeof(calls) - len, "%s%s(%s)", len ? " " : "", what, uid);
}

int pods_add(struct proxy *proxy, const struct pod_info *info, int fds[BRUMA_POD_FD_COUNT],
             enum bruma_reason *reason, char *error, size_t error_size)
{
    note("add", info->uid);
    if (info->outbound_policy)
        note(outbound_policy_name(info->outbound_policy), info->uid);
    if (info->direct.outside)
        note(info->direct.outside == DIRECT_ON ? "outside" : "no-outside", info->uid);
    if (info->direct.inbound)
        note(info->direct.inbound == DIRECT_ON ? "inbound" : "no-inbound", info->uid);
    if (info->direct.same_node)
        note(same_node_name(info->direct.same_node), info->uid);
    if (info->bypass_inbound)
        note("bypass", info->uid);
    close_fds(fds, BRUMA_POD_FD_COUNT);
    if (!refused)
        return 0;
    *reason = BRUMA_REASON_OUT_OF_RESOURCES;
    snprintf(error, error_size, "no room");
    return -ENOMEM;
}

void pods_drain(struct proxy *proxy, const char *uid)
{
    note("drain", uid);
    agent_client_pod_drained(link_, uid);
}

void pods_ending(struct proxy *proxy, const char *uid)
{
    note("ending", uid);
}

int pods_set_dns(struct proxy *proxy, const char *uid, int udp, int tcp)
{
    cr_assert_eq(tcp, -1);
    note(udp >= 0 ? "dns" : "no-dns", uid);
    if (udp >= 0)
        close(udp);
    return 0;
}

void pods_delete(struct proxy *proxy, const char *uid)
{
    note("delete", uid);
}

void pods_each(struct proxy *proxy, pods_each_fn fn, void *data)
{
    int fds[BRUMA_POD_FD_COUNT] = {0, 0, 0, 0};

    for (int i = 0; i < held_len; i++) {
        const struct pod_info info = {.uid = held_uids[i], .cookie = 4101, .generation = 3};

        fn(data, &info, i == 1, fds);
    }
}

void pods_set_maps(struct proxy *proxy, int exempt, int deliveries)
{
    note("map", deliveries >= 0 ? "and deliveries" : "");
    close(exempt);
    if (deliveries >= 0)
        close(deliveries);
}

static void replaced(struct proxy *proxy, uint64_t deadline_milliseconds)
{
    note("replaced", deadline_milliseconds == 1234 ? "1234" : "?");
}

static void resumed(struct proxy *proxy)
{
    note("resumed", "");
}

static int direct(struct proxy *proxy, const struct direct_switches *switches, int fds[BRUMA_DIRECT_FD_COUNT])
{
    note("direct", switches->outside == DIRECT_ON ? "outside" : "");
    note(switches->inbound == DIRECT_ON ? "inbound" : "no-inbound", same_node_name(switches->same_node));
    for (int i = 0; fds && i < BRUMA_DIRECT_FD_COUNT; i++)
        cr_expect(fcntl(fds[i], F_GETFD) >= 0);
    if (fds)
        close_fds(fds, BRUMA_DIRECT_FD_COUNT);
    else
        note("without maps", "");
    return refused ? -ENOMEM : 0;
}

static void named(struct proxy *proxy)
{
    names++;
}

static void unwanted(struct proxy *proxy)
{
    note("unwanted", "");
}

static const struct agent_client_events events = {
    .replaced = replaced, .resumed = resumed, .direct = direct, .named = named, .unwanted = unwanted};

/* The agent's part: steps that are gone through while the loop runs. TERMINATE: the proxy is told to end.
 * KNOW: it gets to know the mesh. */
enum action { ACCEPT, EXPECT, EXPECT_END, SEND, SEND_FDS, CLOSE, TERMINATE, KNOW };

struct step {
    enum action action;
    const char *text; /* to send, or what the next message must contain */
    int fds;          /* to send, or that must come along */
};

static const struct step *script;
static int script_len, at;
static bool knows = true; /* the mesh, from the start */

static bool receive(const struct step *step)
{
    char buf[4096];
    int fds[BRUMA_MESSAGE_FDS_MAX];
    size_t n;
    ssize_t len = seqpacket_receive(agent, buf, sizeof(buf), fds, BRUMA_MESSAGE_FDS_MAX, &n);

    if (len == -EAGAIN)
        return false;
    if (step->action == EXPECT_END) {
        cr_assert(len <= 0, "step %d: the connection should end, but: %s", at, buf);
        return true;
    }
    cr_assert(len > 0, "step %d: the connection ended instead of %s", at, step->text);
    cr_assert(strstr(buf, step->text) != NULL, "step %d: %s is not in %s", at, step->text, buf);
    cr_assert((int)n == step->fds, "step %d: %zu descriptors with %s", at, n, buf);
    close_fds(fds, n);
    return true;
}

static bool take(const struct step *step)
{
    int fds[BRUMA_MESSAGE_FDS_MAX] = {0};

    switch (step->action) {
    case ACCEPT:
        agent = seqpacket_accept(listener, NULL);
        return agent >= 0;
    case EXPECT:
    case EXPECT_END:
        return receive(step);
    case SEND:
    case SEND_FDS:
        cr_assert(seqpacket_send(agent, step->text, strlen(step->text), fds, (size_t)step->fds) == 0);
        return true;
    case CLOSE:
        close(agent);
        return true;
    case TERMINATE:
        agent_client_ending(link_);
        return true;
    case KNOW:
        agent_client_serves(link_);
        return true;
    }
    return false;
}

static void on_pump(struct loop_timer *timer)
{
    while (at < script_len && take(&script[at]))
        at++;
    /* A few turns more: nothing may come that was not expected. */
    if (at == script_len && ++pumps == 5)
        loop_stop(loop);
    else
        loop_timer_set(loop, &pump, 10);
}

static void setup(void)
{
    strcpy(directory, "/tmp/bruma-unit-XXXXXX");
    cr_assert(mkdtemp(directory) != NULL);
    snprintf(path, sizeof(path), "%s/agent.sock", directory);
    listener = seqpacket_listen(path, 0600);
    cr_assert(listener >= 0);
    cr_assert(loop_new(&loop) == 0);
    loop_timer_init(&pump, on_pump);
}

static void teardown(void)
{
    agent_client_free(&link_);
    loop_free(&loop);
    close(listener);
    unlink(path);
    rmdir(directory);
}

TestSuite(agent_client, .init = setup, .fini = teardown, .timeout = 30);

static void play(const struct step *steps, int len)
{
    script = steps;
    script_len = len;
    cr_assert(agent_client_new(loop, NULL, path, &events, &link_) == 0);
    if (knows)
        agent_client_serves(link_);
    loop_timer_set(loop, &pump, 10);
    cr_assert(loop_run(loop) == 0);
}

#define PLAY(...)                                         \
    do {                                                  \
        static const struct step steps[] = {__VA_ARGS__}; \
        play(steps, array_size(steps));                   \
    } while (0)

#define POD(uid) POD_WITH(uid, "")
#define POD_WITH(uid, more)                                                                               \
    "{\"op\":\"pod-add\",\"seq\":2,\"uid\":\"" uid                                                        \
    "\",\"cookie\":\"4101\",\"generation\":1,\"name\":\"web\","                                           \
    "\"namespace\":\"shop\",\"serviceAccount\":\"web\",\"trustDomain\":\"cluster.local\",\"node\":\"n\"," \
    "\"ips\":[\"10.0.0.1\"]," more "\"unknown\":{}}"
#define HELLO                 \
    {ACCEPT},                 \
    {                         \
        EXPECT, "proxy-hello" \
    }
#define SETUP                                                    \
    {SEND, "{\"op\":\"setup\",\"seq\":1,\"pinDir\":\"/x\"}", 1}, \
    {                                                            \
        EXPECT, "\"seq\":1}"                                     \
    }
#define END                                        \
    {SEND, "{\"op\":\"snapshot-end\",\"seq\":3}"}, \
    {                                              \
        EXPECT, "{\"op\":\"ack\",\"seq\":3}"       \
    }

Test(agent_client, a_snapshot_is_taken_and_acknowledged)
{
    PLAY(HELLO, {EXPECT, "held-end"}, SETUP, {SEND, POD("a"), 4}, {EXPECT, "{\"op\":\"ack\",\"seq\":2}"},
         END);
    cr_expect(agent_client_ready(link_));
    cr_expect(strcmp(calls, "map() add(a)") == 0, "%s", calls);
}

#define POLICY(policy) "\"outboundPolicy\":" policy ","

Test(agent_client, the_outbound_policy_is_the_agents_and_fails_closed)
{
    PLAY(HELLO, {EXPECT, "held-end"}, SETUP, {SEND, POD_WITH("a", POLICY("\"ALLOW_ANY\"")), 4},
         {EXPECT, "\"seq\":2}"}, {SEND, POD_WITH("b", POLICY("\"REGISTRY_ONLY\"")), 4},
         {EXPECT, "\"seq\":2}"}, {SEND, POD_WITH("c", POLICY("\"OF_A_NEWER_AGENT\"")), 4},
         {EXPECT, "\"seq\":2}"}, {SEND, POD_WITH("d", POLICY("null")), 4}, {EXPECT, "\"seq\":2}"}, END);
    cr_expect(strcmp(calls, "map() add(a) ALLOW_ANY(a) add(b) REGISTRY_ONLY(b) add(c) REGISTRY_ONLY(c) "
                            "add(d)") == 0,
              "%s", calls);
}

/* What is not known is the long way. */
Test(agent_client, direct_ways_of_a_pod)
{
    PLAY(HELLO, {EXPECT, "held-end"}, SETUP,
         {SEND, POD_WITH("a", "\"directOutside\":false,\"sameNode\":\"relay\","), 4}, {EXPECT, "\"seq\":2}"},
         {SEND, POD_WITH("b", "\"directInbound\":false,\"sameNode\":\"of_a_newer_agent\","), 4},
         {EXPECT, "\"seq\":2}"}, {SEND, POD_WITH("c", "\"bypassInbound\":true,"), 4}, {EXPECT, "\"seq\":2}"},
         {SEND, POD_WITH("d", "\"directOutside\":true,\"bypassInbound\":false,"), 4}, {EXPECT, "\"seq\":2}"},
         END);
    cr_expect(strcmp(calls,
                     "map() add(a) no-outside(a) relay(a) add(b) no-inbound(b) hbone(b) add(c) bypass(c) "
                     "add(d) outside(d)") == 0,
              "%s", calls);
}

Test(agent_client, others_serve_the_pods)
{
    PLAY(HELLO, {EXPECT, "held-end"},
         {SEND, "{\"op\":\"error\",\"reason\":\"proxy_not_connected\",\"error\":\"others\"}"}, {CLOSE}, HELLO,
         {EXPECT, "held-end"}, {SEND, "{\"op\":\"error\",\"reason\":\"internal\",\"error\":\"else\"}"});
    cr_expect(strcmp(calls, "unwanted()") == 0, "%s", calls);
}

#define DIRECT(more) "{\"op\":\"direct\",\"seq\":4," more "\"unknown\":{}}"

Test(agent_client, direct_ways_of_the_agents_settings)
{
    PLAY({ACCEPT}, {EXPECT, "\"direct\":true"}, {EXPECT, "held-end"}, SETUP,
         {SEND, DIRECT("\"outside\":true,\"inbound\":false,\"sameNode\":\"kernel\","), 7},
         {EXPECT, "{\"op\":\"ack\",\"seq\":4}"}, {SEND, DIRECT("\"sameNode\":\"of_a_newer_agent\","), 7},
         {EXPECT, "{\"op\":\"ack\",\"seq\":4}"}, END);
    cr_expect(strcmp(calls, "map() direct(outside) no-inbound(kernel) direct() no-inbound(hbone)") == 0, "%s",
              calls);
    cr_expect_eq(names, 1);
}

Test(agent_client, a_kernel_without_direct_ways)
{
    PLAY(HELLO, {EXPECT, "held-end"}, SETUP,
         {SEND, DIRECT("\"outside\":false,\"inbound\":false,\"sameNode\":\"relay\",\"noKernel\":true,")},
         {EXPECT, "{\"op\":\"ack\",\"seq\":4}"}, END);
    cr_expect(strcmp(calls, "map() direct() no-inbound(relay) without maps()") == 0, "%s", calls);
}

Test(agent_client, a_kernel_without_direct_ways_that_has_their_maps)
{
    PLAY(HELLO, {EXPECT, "held-end"}, SETUP, {SEND, DIRECT("\"outside\":false,\"noKernel\":true,"), 7},
         {EXPECT, "{\"op\":\"ack\",\"seq\":4}"}, END);
    cr_expect(strcmp(calls, "map() direct() no-inbound(hbone)") == 0, "%s", calls);
}

Test(agent_client, maps_of_direct_ways_that_cannot_be_used_are_refused)
{
    refused = 1;
    PLAY(HELLO, {EXPECT, "held-end"}, SETUP, {SEND, DIRECT(""), 7},
         {EXPECT, "\"seq\":4,\"reason\":\"out_of_resources\",\"error\":\"the maps of direct ways: "}, END);
}

Test(agent_client, it_is_not_ready_before_the_end_of_the_snapshot)
{
    PLAY(HELLO, {EXPECT, "held-end"}, SETUP, {SEND, POD("a"), 4}, {EXPECT, "\"seq\":2}"});
    cr_expect(!agent_client_ready(link_));
}

Test(agent_client, what_is_held_is_offered_and_what_is_not_named_is_removed)
{
    held_len = 3;
    strcpy(held_uids[0], "a");
    strcpy(held_uids[1], "b");
    strcpy(held_uids[2], "c");
    PLAY(HELLO, {EXPECT, "\"uid\":\"a\",\"cookie\":\"4101\",\"generation\":3,\"draining\":false", 4},
         {EXPECT, "\"uid\":\"b\",\"cookie\":\"4101\",\"generation\":3,\"draining\":true", 4},
         {EXPECT, "\"uid\":\"c\"", 4}, {EXPECT, "held-end"}, SETUP, {SEND, POD("c"), 4},
         {EXPECT, "\"seq\":2}"}, {SEND, "{\"op\":\"pod-keep\",\"seq\":2,\"uid\":\"b\"}"},
         {EXPECT, "\"seq\":2}"}, END);
    cr_expect(strcmp(calls, "map() add(c) delete(a)") == 0, "%s", calls);
}

Test(agent_client, orders_after_the_snapshot)
{
    PLAY(HELLO, {EXPECT, "held-end"}, SETUP, END, {SEND, POD("a"), 4}, {EXPECT, "\"seq\":2}"},
         {SEND, "{\"op\":\"pod-drain\",\"seq\":4,\"uid\":\"a\"}"},
         {EXPECT, "{\"op\":\"pod-drained\",\"uid\":\"a\"}"}, {EXPECT, "\"seq\":4}"},
         {SEND, "{\"op\":\"pod-del\",\"seq\":5,\"uid\":\"a\"}"}, {EXPECT, "\"seq\":5}"},
         {SEND, "{\"op\":\"drain\",\"seq\":6,\"deadlineMilliseconds\":1234}"}, {EXPECT, "\"seq\":6}"});
    cr_expect(strcmp(calls, "map() add(a) drain(a) delete(a) replaced(1234)") == 0, "%s", calls);
}

Test(agent_client, a_pod_that_was_told_to_end)
{
    PLAY({ACCEPT}, {EXPECT, "\"endings\":true"}, {EXPECT, "held-end"}, SETUP, {SEND, POD("a"), 4},
         {EXPECT, "\"seq\":2}"}, {SEND, "{\"op\":\"pod-ending\",\"seq\":4,\"uid\":\"a\"}"},
         {EXPECT, "{\"op\":\"ack\",\"seq\":4}"}, END);
    cr_expect(strcmp(calls, "map() add(a) ending(a)") == 0, "%s", calls);
}

Test(agent_client, a_refusal_names_its_reason_and_the_connection_goes_on)
{
    refused = 1;
    PLAY(HELLO, {EXPECT, "held-end"}, SETUP, {SEND, POD("a"), 4},
         {EXPECT, "\"seq\":2,\"reason\":\"out_of_resources\",\"error\":\"no room\"}"}, END);
    cr_expect(agent_client_ready(link_));
}

Test(agent_client, an_unknown_order_is_refused_and_the_connection_goes_on)
{
    PLAY(HELLO, {EXPECT, "held-end"}, SETUP, {SEND, "{\"op\":\"dance\",\"seq\":9}"},
         {EXPECT, "\"seq\":9,\"reason\":\"message_invalid\""}, END);
}

Test(agent_client, it_comes_back_after_the_agent_has_gone)
{
    PLAY(HELLO, {EXPECT, "held-end"}, SETUP, {SEND, POD("a"), 4}, {EXPECT, "\"seq\":2}"}, END, {CLOSE}, HELLO,
         {EXPECT, "held-end"}, SETUP, END);
    cr_expect(agent_client_ready(link_));
}

Test(agent_client, a_proxy_that_was_told_to_drain_says_so_when_it_comes_back)
{
    PLAY(HELLO, {EXPECT, "\"op\":\"held-end\",\"draining\":false"}, SETUP, END,
         {SEND, "{\"op\":\"drain\",\"seq\":6,\"deadlineMilliseconds\":1234}"}, {EXPECT, "\"seq\":6}"},
         {CLOSE}, HELLO, {EXPECT, "\"op\":\"held-end\",\"draining\":true"});
}

Test(agent_client, a_proxy_that_was_told_to_resume_is_as_one_that_never_drained)
{
    PLAY(HELLO, {EXPECT, "held-end"}, SETUP, END,
         {SEND, "{\"op\":\"drain\",\"seq\":6,\"deadlineMilliseconds\":1234}"}, {EXPECT, "\"seq\":6}"},
         {SEND, "{\"op\":\"resume\",\"seq\":7}"}, {EXPECT, "{\"op\":\"ack\",\"seq\":7}"}, {CLOSE}, HELLO,
         {EXPECT, "{\"op\":\"held-end\",\"draining\":false}"});
    cr_expect(strcmp(calls, "map() replaced(1234) resumed()") == 0, "%s", calls);
}

Test(agent_client, a_proxy_that_ends_says_so_and_again_when_the_agent_is_new)
{
    PLAY(HELLO, {EXPECT, "{\"op\":\"held-end\",\"draining\":false}"}, SETUP, END, {TERMINATE},
         {EXPECT, "{\"op\":\"ending\"}"}, {CLOSE}, HELLO,
         {EXPECT, "{\"op\":\"held-end\",\"draining\":false,\"ending\":true}"});
}

Test(agent_client, a_proxy_that_knows_nothing_of_the_mesh_says_so_and_when_it_does)
{
    knows = false;
    PLAY(HELLO, {EXPECT, "held-end"}, SETUP, {SEND, "{\"op\":\"snapshot-end\",\"seq\":3}"},
         {EXPECT, "{\"op\":\"ack\",\"seq\":3,\"ready\":false}"}, {KNOW}, {EXPECT, "{\"op\":\"ready\"}"},
         {CLOSE}, HELLO, {EXPECT, "held-end"}, SETUP, {SEND, "{\"op\":\"snapshot-end\",\"seq\":3}"},
         {EXPECT, "{\"op\":\"ack\",\"seq\":3}"});
}

Test(agent_client, a_proxy_that_knows_the_mesh_before_the_snapshot_is_ready_with_it)
{
    knows = false;
    PLAY(HELLO, {EXPECT, "held-end"}, SETUP, {KNOW}, {SEND, "{\"op\":\"snapshot-end\",\"seq\":3}"},
         {EXPECT, "{\"op\":\"ack\",\"seq\":3}"});
}

Test(agent_client, a_proxy_without_an_agent_to_tell_can_end)
{
    agent_client_ending(NULL);
}

#define BAD(name, message, descriptors)                                                             \
    Test(agent_client, bad_message_##name)                                                          \
    {                                                                                               \
        PLAY(HELLO, {EXPECT, "held-end"}, SETUP, {SEND, message, descriptors}, {EXPECT_END}, HELLO, \
             {EXPECT, "held-end"}, SETUP, END);                                                     \
        cr_expect(strcmp(calls, "map() map()") == 0, "%s", calls);                                  \
    }

BAD(not_json, "{", 0)
BAD(no_object, "[]", 0)
BAD(no_op, "{\"seq\":1}", 0)
BAD(no_seq, "{\"op\":\"pod-del\",\"uid\":\"a\"}", 0)
BAD(no_uid, "{\"op\":\"pod-del\",\"seq\":4}", 0)
BAD(odd_uid, "{\"op\":\"pod-del\",\"seq\":4,\"uid\":\"../a\"}", 0)
BAD(no_descriptors, POD("a"), 0)
BAD(few_descriptors, POD("a"), 3)
BAD(many_descriptors, POD("a"), 5)
BAD(setup_without_map, "{\"op\":\"setup\",\"seq\":4}", 0)
BAD(no_cookie, "{\"op\":\"pod-add\",\"seq\":4,\"uid\":\"a\",\"generation\":1}", 4)
BAD(direct_without_maps, DIRECT("\"outside\":true,"), 0)
BAD(direct_with_few_maps, DIRECT("\"outside\":true,"), 6)
BAD(direct_few_maps_of_no_kernel, DIRECT("\"noKernel\":true,"), 6)
BAD(direct_odd_kernel, DIRECT("\"noKernel\":1,"), 7)
BAD(direct_odd_outside, DIRECT("\"outside\":1,"), 7)
BAD(direct_odd_inbound, DIRECT("\"inbound\":\"yes\","), 7)
BAD(direct_odd_same_node, DIRECT("\"sameNode\":true,"), 7)
BAD(odd_policy, POD_WITH("a", POLICY("1")), 4)
BAD(odd_outside, POD_WITH("a", "\"directOutside\":\"false\","), 4)
BAD(odd_inbound, POD_WITH("a", "\"directInbound\":null,"), 4)
BAD(odd_same_node, POD_WITH("a", "\"sameNode\":1,"), 4)
BAD(odd_bypass, POD_WITH("a", "\"bypassInbound\":1,"), 4)
BAD(drain_without_deadline, "{\"op\":\"drain\",\"seq\":4}", 0)
