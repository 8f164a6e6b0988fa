/* SPDX-License-Identifier: Apache-2.0 */
/* What stock node proxies are told, in which order, and what becomes of pods by their answers. The proxies
 * are this test, at the other end of the socket. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "agent/control_plane/mesh_source.h"
#include "agent/enroll/enroll.h"
#include "agent/enroll/source.h"
#include "agent/enroll/watchdog.h"
#include "agent/proxies/zds_peers.h"
#include "lib/netns.h"
#include "lib/seqpacket.h"
#include "lib/zds.h"
#include "tests/unit/agent/agent_doubles.h"

static struct agent_settings settings = {.node = "node-a",
                                         .source = "file",
                                         .pin_dir = "/nowhere",
                                         .trust_domain = "cluster.local",
                                         .verify_interval = 3600000,
                                         .drain_grace = 50,
                                         .adopt_wait = 50,
                                         .proxy_drain = 5000};
static struct agent agent;
static struct zds_server *server;
static struct pod *web;
static char directory[64], socket_path[96];
static char told[2048]; /* what the proxies were told, in words */

static int listeners_opened(void *data, struct pod *pod, const int listeners[BRUMA_LISTENER_COUNT],
                            struct steer_error *error)
{
    return enroll_listeners_opened(data, pod, listeners, error);
}

static void answered(void *data, struct pod *pod, enum bruma_reason reason, const char *error)
{
    enroll_answered(data, pod, reason, error);
}

static void drained(void *data, struct pod *pod)
{
    enroll_drained(data, pod);
}

static void serves(void *data)
{
    enroll_reconcile_all(data);
}

static void gone(void *data)
{
    enroll_proxy_gone(data);
}

static struct pod *new_pod(const char *uid, const char *name, const char *ip)
{
    int own = netns_open_own(), fd;
    struct pod *pod;
    uint64_t cookie;
    char path[64];

    cr_assert(unshare(CLONE_NEWNET) == 0, "this test needs root: %s", strerror(errno));
    fd = netns_open_own();
    cr_assert(netns_enter(own) == 0);
    close(own);
    cr_assert(netns_cookie(fd, &cookie) == 0);
    cr_assert(pod_new(&agent.pods, uid, "shop", name, &pod) == 0);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    cr_assert(pod_set_sandbox(pod, uid, path, cookie) == 0);
    cr_assert(addr_parse(ip, &pod->addresses[0]) == 0);
    pod->addresses_len = 1;
    return pod;
}

static void setup(void)
{
    const struct proxies_events events = {.listeners_opened = listeners_opened,
                                          .answered = answered,
                                          .drained = drained,
                                          .serves = serves,
                                          .gone = gone,
                                          .data = &agent};

    strcpy(directory, "/tmp/bruma-unit-XXXXXX");
    cr_assert(mkdtemp(directory) != NULL);
    snprintf(socket_path, sizeof(socket_path), "%s/made/ztunnel.sock", directory);
    settings.run_dir = directory;
    settings.zds_socket = socket_path;
    settings.cgroup = directory;
    agent.settings = &settings;
    agent.verify_pod = watchdog_verify_now;
    pods_init(&agent.pods);
    cr_assert(loop_new(&agent.loop) == 0);
    cr_assert(mesh_source_open(agent.loop, &settings, NULL, NULL, &agent.source) == 0);
    cr_assert(store_open(directory, "boot-1", &agent.store) == 0);
    proxy_cgroups_open(&agent.proxy_cgroups, agent.loop, NULL, settings.cgroup);
    cr_assert(zds_server_new(agent.loop, &settings, &agent.pods, &agent.proxy_cgroups, &events,
                             &agent.proxies) == 0);
    server = (struct zds_server *)agent.proxies;
    web = new_pod("uid-web", "web", "10.0.0.1");
}

static void teardown(void)
{
    char path[96];

    proxies_free(&agent.proxies);
    cr_expect(access(socket_path, F_OK) < 0, "the socket's file must go");
    proxy_cgroups_close(&agent.proxy_cgroups);
    pods_free(&agent.pods);
    source_close(&agent.source);
    store_wipe(&agent.store);
    loop_free(&agent.loop);
    snprintf(path, sizeof(path), "%s/made", directory);
    rmdir(path);
    rmdir(directory);
}

TestSuite(zds_server, .init = setup, .fini = teardown);

static void stop(struct loop_timer *timer)
{
    (void)timer;
    loop_stop(agent.loop);
}

static void run(unsigned milliseconds)
{
    struct loop_timer timer;

    loop_timer_init(&timer, stop);
    loop_timer_set(agent.loop, &timer, milliseconds);
    cr_assert(loop_run(agent.loop) == 0);
}

/* ---- a proxy ---- */

struct proxy_end {
    int fd;
    struct zds_peer *peer;
};

/* started orders them by age, as the start of a process would; pid is what foreign_pid shows. */
static struct proxy_end proxy_new(int pid, bool greet)
{
    struct proxy_end e;
    uint8_t buf[ZDS_MESSAGE_MAX];
    int pair[2];

    cr_assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    e.fd = pair[0];
    e.peer = zds_peer_new(server, pair[1], pid, pidfd_open(getpid(), 0));
    cr_assert(e.peer != NULL);
    if (greet)
        cr_assert(seqpacket_send(e.fd, buf, (size_t)zds_hello_encode(buf), NULL, 0) == 0);
    return e;
}

/* Takes one request, writes it down, and answers. False: there is none, "END" if the connection is over. */
static bool answer(struct proxy_end *e, const char *error)
{
    char buf[ZDS_MESSAGE_MAX + 1];
    _cleanup_zds_request_ struct zds_request request = {0};
    uint8_t response[ZDS_MESSAGE_MAX];
    int fds[2] = {-1, -1};
    size_t fds_len, len = strlen(told);
    ssize_t n = seqpacket_receive(e->fd, buf, sizeof(buf), fds, 2, &fds_len);

    if (n == -EAGAIN)
        return false;
    if (n <= 0) {
        snprintf(told + len, sizeof(told) - len, "%sEND", len ? " " : "");
        return false;
    }
    cr_assert(zds_request_decode(buf, (size_t)n, &request) == 0);
    cr_expect(fds_len == (request.kind == ZDS_ADD ? 1 : 0), "%s with %zu descriptors",
              zds_request_kind_name(request.kind), fds_len);
    cr_expect(request.kind != ZDS_ADD || (request.has_info && netns_check(fds[0]) == 0));
    close_fds(fds, fds_len);
    snprintf(told + len, sizeof(told) - len, "%s%s%s%s", len ? " " : "", zds_request_kind_name(request.kind),
             request.uid ? "=" : "", request.uid ? request.uid : "");
    /* only one message waits at a time */
    cr_expect(seqpacket_receive(e->fd, buf, sizeof(buf), fds, 2, &fds_len) <= 0);
    if (error)
        seqpacket_send(e->fd, response, (size_t)zds_response_encode(error, response), NULL, 0);
    return true;
}

/* Says yes to everything that comes within the time. */
static void obey(struct proxy_end *e, unsigned milliseconds)
{
    for (unsigned i = 0; i < milliseconds / 20; i++) {
        run(1);
        while (answer(e, ""))
            run(1);
    }
}

static void expect_told(const char *expected)
{
    cr_expect(strcmp(told, expected) == 0, "told: %s; expected: %s", told, expected);
    told[0] = '\0';
}

static void expect_ended(struct proxy_end *e)
{
    run(20);
    told[0] = '\0';
    while (answer(e, NULL))
        ;
    cr_expect(strstr(told, "END") != NULL, "the connection must be over: %s", told);
    cr_expect(server->peers_len == 0);
    told[0] = '\0';
}

static struct proxy_end serving(int pid)
{
    struct proxy_end e = proxy_new(pid, true);

    /* No pod is enrolled by this. */
    namespace_is_ambient = false;
    obey(&e, 60);
    namespace_is_ambient = true;
    cr_assert(zds_find_serving(server) == e.peer);
    return e;
}

/* ---- enrollment ---- */

Test(zds_server, without_a_proxy_no_pod_is_enrolled)
{
    struct steer_error error = {0};
    int program = -1;

    cr_expect(enroll_begin(&agent, web, true, NULL, NULL, &program, &error) == -ENOTCONN);
    cr_expect(error.reason == BRUMA_REASON_PROXY_NOT_CONNECTED);
    cr_expect(strcmp(steps, "") == 0, "%s", steps);
    enroll_reconcile(&agent, web);
    cr_expect(web->state == POD_OUTSIDE && web->last_reason == BRUMA_REASON_PROXY_NOT_CONNECTED);
    /* and at once when there is one, whenever the next try would be */
    web->failed_tries = 20;
    loop_timer_cancel(&web->timer);
    told[0] = '\0';
    struct proxy_end e = proxy_new(1, true);

    obey(&e, 60);
    expect_told("snapshot-sent add=uid-web");
    cr_expect(web->state == POD_ENROLLED);
    close(e.fd);
}

Test(zds_server, a_pod_is_captured_once_it_is_listened_for)
{
    struct proxy_end e = serving(1);

    expect_told("snapshot-sent");
    enroll_reconcile(&agent, web);
    run(1);
    cr_expect(web->state == POD_ENROLLING);
    cr_expect(strcmp(steps, "prepare") == 0, "%s", steps);
    cr_assert(answer(&e, ""));
    run(20);
    expect_told("add=uid-web");
    cr_expect(web->state == POD_ENROLLED && foreign_pid == 1);
    cr_expect(strcmp(steps, "prepare set_listeners attach commit verify") == 0, "%s", steps);
    cr_expect(web->listener_cookies[0] && web->listeners[0] < 0, "no descriptor of a listener may be kept");
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
    cr_expect(web->state == POD_OUTSIDE && web->last_reason == BRUMA_REASON_PROXY_REFUSED_POD);
    cr_expect(strstr(web->last_error, "address in use") != NULL, "%s", web->last_error);
    cr_expect(strstr(steps, "clean") != NULL, "%s", steps);
    cr_assert(answer(&e, ""));
    expect_told("add=uid-web del=uid-web");
    /* it is tried again by itself, and then goes */
    obey(&e, 1500);
    cr_expect(web->state == POD_ENROLLED);
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
        cr_expect(web->state == POD_ENROLLING);
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
    cr_expect(web->state == POD_OUTSIDE && web->last_reason == BRUMA_REASON_PROXY_LISTENERS_MISSING);
    close(e.fd);
}

Test(zds_server, of_two_listeners_the_older_is_waited_for_to_go)
{
    struct proxy_end e = serving(1);

    foreign_result = -EBUSY;
    enroll_reconcile(&agent, web);
    cr_assert(answer(&e, ""));
    run(800);
    cr_expect(web->state == POD_ENROLLING);
    foreign_result = 0;
    run(200);
    cr_expect(web->state == POD_ENROLLED);
    close(e.fd);
}

Test(zds_server, a_proxy_that_dies_meanwhile)
{
    struct proxy_end e = serving(1);

    enroll_reconcile(&agent, web);
    run(1);
    close(e.fd);
    run(20);
    cr_expect(web->state == POD_OUTSIDE && web->last_reason == BRUMA_REASON_PROXY_AWAY);
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
    cr_expect(web->state == POD_ENROLLED);
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
    cr_expect(web->state == POD_DRAINING);
    expect_told("");
    /* wanted again: told of again, which is nothing to the proxy */
    namespace_is_ambient = true;
    enroll_reconcile(&agent, web);
    obey(&e, 60);
    cr_expect(web->state == POD_ENROLLED);
    expect_told("add=uid-web");
    namespace_is_ambient = false;
    enroll_reconcile(&agent, web);
    obey(&e, 500);
    cr_expect(web->state == POD_DRAINING);
    marked_connections = 0;
    obey(&e, 700);
    expect_told("del=uid-web");
    cr_expect(web->state == POD_OUTSIDE && web->netns_fd < 0);
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
    cr_expect(web->state == POD_ENROLLED, "what is captured stays captured");
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
    cr_expect(web->last_reason == BRUMA_REASON_PROXY_AWAY && !web->repairs[BRUMA_REASON_LISTENER_CLOSED]);
    e = proxy_new(2, true);
    foreign_live = true;
    obey(&e, 60);
    cr_expect(web->last_reason == BRUMA_REASON_NONE);
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
    cr_expect(web->repairs[BRUMA_REASON_LISTENER_CLOSED] == 1);
    foreign_live = true;
    foreign_result = 0;
    obey(&e, 60);
    expect_told("del=uid-web add=uid-web");
    cr_expect(strcmp(proxies_pod_state(agent.proxies, web), "serving") == 0);
    close(e.fd);
}

/* ---- who does not keep the rules ---- */

Test(zds_server, a_greeting_that_is_none)
{
    struct proxy_end e = proxy_new(1, false);

    cr_assert(seqpacket_send(e.fd, "\xff\xff", 2, NULL, 0) == 0);
    expect_ended(&e);
    close(e.fd);
}

Test(zds_server, a_message_that_is_too_long)
{
    struct proxy_end e = serving(1);
    static const char huge[4096];

    enroll_reconcile(&agent, web);
    run(1);
    cr_assert(seqpacket_send(e.fd, huge, sizeof(huge), NULL, 0) == 0);
    expect_ended(&e);
    cr_expect(web->state == POD_OUTSIDE);
    close(e.fd);
}

Test(zds_server, an_answer_with_a_descriptor)
{
    struct proxy_end e = serving(1);
    int zero = 0;

    enroll_reconcile(&agent, web);
    run(1);
    cr_assert(seqpacket_send(e.fd, "\x0a\x00", 2, &zero, 1) == 0);
    expect_ended(&e);
    close(e.fd);
}

Test(zds_server, an_answer_that_nobody_asked_for)
{
    struct proxy_end e = serving(1);

    cr_assert(seqpacket_send(e.fd, "\x0a\x00", 2, NULL, 0) == 0);
    expect_ended(&e);
    close(e.fd);
}

Test(zds_server, an_answer_that_is_none)
{
    struct proxy_end e = serving(1);

    enroll_reconcile(&agent, web);
    run(1);
    cr_assert(seqpacket_send(e.fd, "\x12\x01\x01", 3, NULL, 0) == 0);
    expect_ended(&e);
    close(e.fd);
}

Test(zds_server, no_answer_in_time)
{
    struct proxy_end e = serving(1);

    enroll_reconcile(&agent, web);
    run(4500);
    cr_expect(web->state == POD_ENROLLING && server->peers_len == 1);
    run(700);
    cr_expect(web->state == POD_OUTSIDE && server->peers_len == 0);
    close(e.fd);
}

Test(zds_server, no_greeting_in_time)
{
    struct proxy_end e = proxy_new(1, false);

    run(4500);
    cr_expect(server->peers_len == 1);
    run(700);
    cr_expect(server->peers_len == 0);
    close(e.fd);
}

/* ---- cgroups ---- */

Test(zds_server, a_process_needs_a_cgroup_below_the_pods)
{
    struct steer_error error;
    char path[128], line[128];
    uint64_t id;
    FILE *f;

    snprintf(path, sizeof(path), "%s/7", directory);
    cr_assert(mkdir(path, 0700) == 0);
    snprintf(path, sizeof(path), "%s/7/cgroup", directory);
    for (int i = 0; i < 3; i++) {
        static const char *const lines[] = {"1:name=systemd:/\n", "0::/\n", "0::/../outside\n"};

        snprintf(line, sizeof(line), "%s", lines[i]);
        f = fopen(path, "w");
        fputs(line, f);
        fclose(f);
        cr_expect(proxy_cgroups_find(directory, 7, "/sys/fs/cgroup", &id, &error) < 0, "%s", line);
        cr_expect(error.reason == BRUMA_REASON_PROXY_CGROUP);
    }
    cr_expect(proxy_cgroups_find(directory, 8, "/sys/fs/cgroup", &id, &error) == -ENOENT);
    unlink(path);
    snprintf(path, sizeof(path), "%s/7", directory);
    rmdir(path);
}

static void write_cgroup(const char *path, const char *cgroup)
{
    FILE *f = fopen(path, "w");

    cr_assert(f);
    fprintf(f, "0::%s\n", cgroup);
    fclose(f);
}

/* --cgroup may name a mount of the directory; the kernel knows one path alone. */
Test(zds_server, the_cgroup_of_pods_may_have_a_second_path)
{
    static const char *const mounts[] = {"/sys/fs/cgroup/unified", "/sys/fs/cgroup"};
    char base[96], pods[128], proxy[160], second[128], proc[128], file[160];
    struct steer_error error;
    const char *root = NULL;
    struct statfs fs;
    struct stat st;
    uint64_t id = 0;

    for (size_t i = 0; i < 2 && !root; i++)
        root = statfs(mounts[i], &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC ? mounts[i] : NULL;
    cr_assert(root, "no cgroup2 is mounted on this machine");
    snprintf(base, sizeof(base), "%s/bruma-%d", root, getpid());
    snprintf(pods, sizeof(pods), "%s/pods", base);
    snprintf(proxy, sizeof(proxy), "%s/proxy", pods);
    snprintf(second, sizeof(second), "%s/second", base);
    snprintf(proc, sizeof(proc), "%s/7", directory);
    snprintf(file, sizeof(file), "%s/cgroup", proc);
    cr_assert(unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    cr_assert(!mkdir(base, 0755) && !mkdir(pods, 0755) && !mkdir(proxy, 0755) && !mkdir(second, 0755));
    cr_assert(mkdir(proc, 0700) == 0 && mount(pods, second, NULL, MS_BIND, NULL) == 0);
    cr_expect(stat(proxy, &st) == 0);

    write_cgroup(file, proxy + strlen(root));
    cr_expect(proxy_cgroups_find(directory, 7, second, &id, &error) == 0 && id == st.st_ino);
    cr_expect(proxy_cgroups_find(directory, 7, pods, &id, &error) == 0 && id == st.st_ino);
    write_cgroup(file, pods + strlen(root));
    cr_expect(proxy_cgroups_find(directory, 7, second, &id, &error) == -EXDEV, "it must be below");
    write_cgroup(file, base + strlen(root));
    cr_expect(proxy_cgroups_find(directory, 7, second, &id, &error) == -EXDEV, "it must not be above");

    cr_expect(umount(second) == 0);
    cr_expect(!rmdir(second) && !rmdir(proxy) && !rmdir(pods) && !rmdir(base));
    cr_expect(!unlink(file) && !rmdir(proc));
}
