/* SPDX-License-Identifier: Apache-2.0 */
/* The order of steps into the mesh and out of it, and what is left when one of them fails. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/control_plane/mesh_source.h"
#include "agent/enroll/enroll.h"
#include "agent/enroll/guard.h"
#include "agent/enroll/probes.h"
#include "agent/enroll/source.h"
#include "agent/enroll/watchdog.h"
#include "agent/kubernetes/kubelet.h"
#include "agent/proxies/proxy_server.h"
#include "bruma/protocol.h"
#include "lib/netns.h"
#include "lib/seqpacket.h"
#include "tests/unit/agent/agent_doubles.h"

static struct agent_settings settings = {.node = "node-a",
                                         .source = "file",
                                         .pin_dir = "/nowhere",
                                         .trust_domain = "cluster.local",
                                         .verify_interval = 3600000,
                                         .drain_grace = 100,
                                         .adopt_wait = 100,
                                         .proxy_drain = 1000};
static struct agent agent;
static struct pod *pod;
static char directory[64];
static int netns = -1;

static struct pod *offered(void *data, const struct offered_pod *offer)
{
    return NULL;
}

static void offers_end(void *data)
{
}

static void answered(void *data, struct pod *p, enum bruma_reason reason, const char *error)
{
    enroll_answered(data, p, reason, error);
}

static void drained(void *data, struct pod *p)
{
    enroll_drained(data, p);
}

static void listener_closed(void *data, struct pod *which)
{
    watchdog_look(data, which);
}

static void gone(void *data)
{
    enroll_proxy_gone(data);
}

static const struct server_role *route(void *data, const char *op, void **ret_data)
{
    *ret_data = proxy_server_accept(agent.proxies);
    return &proxy_server_role;
}

/* A network namespace of its own that ends with the test's process. */
static int new_netns(void)
{
    int own = netns_open_own(), fd;

    cr_assert(unshare(CLONE_NEWNET) == 0, "this test needs root: %s", strerror(errno));
    fd = netns_open_own();
    cr_assert(netns_enter(own) == 0);
    close(own);
    return fd;
}

static void setup(void)
{
    const struct proxies_events events = {.offered = offered,
                                          .offers_end = offers_end,
                                          .answered = answered,
                                          .drained = drained,
                                          .listener_closed = listener_closed,
                                          .gone = gone,
                                          .data = &agent};
    char path[64];
    uint64_t cookie;

    strcpy(directory, "/tmp/bruma-unit-XXXXXX");
    cr_assert(mkdtemp(directory) != NULL);
    settings.run_dir = directory;
    agent.settings = &settings;
    agent.verify_pod = watchdog_verify_now;
    pods_init(&agent.pods);
    cr_assert(loop_new(&agent.loop) == 0);
    cr_assert(mesh_source_open(agent.loop, &settings, NULL, NULL, &agent.source) == 0);
    cr_assert(store_open(directory, "boot-1", &agent.store) == 0);
    cr_assert(proxy_server_new(agent.loop, &settings, &agent.pods, 0, -1, &events, &agent.proxies) == 0);
    netns = new_netns();
    cr_assert(netns_cookie(netns, &cookie) == 0);
    cr_assert(pod_new(&agent.pods, "uid-1", "shop", "web", &pod) == 0);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", netns);
    cr_assert(pod_set_sandbox(pod, "container-1", path, cookie) == 0);
    cr_assert(addr_parse("10.0.0.1", &pod->addresses[0]) == 0);
    pod->addresses_len = 1;
    cr_assert(store_save(&agent.store, pod) == 0);
}

static void teardown(void)
{
    if (agent.server)
        server_close(&agent.server);
    pods_free(&agent.pods);
    source_close(&agent.source);
    proxies_free(&agent.proxies);
    store_wipe(&agent.store);
    loop_free(&agent.loop);
    rmdir(directory);
}

TestSuite(enroll, .init = setup, .fini = teardown);

static void expect_steps(const char *expected)
{
    cr_expect(strcmp(steps, expected) == 0, "steps were: %s; expected: %s", steps, expected);
    steps_clear();
}

static bool record_exists(void)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/pods/uid-1.json", directory);
    return access(path, F_OK) == 0;
}

static int open_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;

    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

Test(enroll, a_running_pod_is_listened_for_before_it_is_captured)
{
    enroll_reconcile(&agent, pod);
    cr_expect(pod->state == POD_ENROLLED);
    cr_expect(announced_enrolled);
    cr_expect(!pod->captured_since_start);
    expect_steps("listen prepare attach commit verify");
}

Test(enroll, the_plugin_attaches_and_commit_follows)
{
    struct steer_error error;
    int program = -1;

    cr_assert(enroll_begin(&agent, pod, true, NULL, NULL, &program, &error) == 0);
    cr_expect(program >= 0);
    cr_expect(pod->state == POD_ENROLLING);
    cr_expect(!announced_enrolled, "HBONE must not be announced before the capture is verified");
    expect_steps("listen prepare");
    link_attached = true;
    enroll_attached(&agent, pod);
    cr_expect(pod->state == POD_ENROLLED);
    cr_expect(pod->captured_since_start);
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
        loop_timer_cancel(&pod->timer);
        enroll_reconcile(&agent, pod);
        expect_steps(cases[i].steps);
        cr_expect(pod->state == POD_OUTSIDE);
        cr_expect(pod->last_reason != BRUMA_REASON_NONE && *pod->last_error, "%s", cases[i].failing);
        cr_expect(!announced_enrolled);
        cr_expect(open_descriptors() == before, "%s: descriptors leak", cases[i].failing);
        cr_expect(loop_timer_armed(&pod->timer), "%s: nobody tries again", cases[i].failing);
    }
    failing_step = NULL;
    enroll_reconcile(&agent, pod);
    cr_expect(pod->state == POD_ENROLLED);
    cr_expect(pod->last_reason == BRUMA_REASON_NONE);
}

Test(enroll, a_capture_that_is_broken_at_once_is_not_called_enrolled)
{
    findings_to_report = 1;
    enroll_reconcile(&agent, pod);
    cr_expect(pod->state == POD_OUTSIDE);
    cr_expect(pod->last_reason == BRUMA_REASON_RULE_MISSING);
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
    cr_expect(pod->state == POD_OUTSIDE);
    mesh_is_ready = true;
    enroll_reconcile(&agent, pod);
    cr_expect(pod->state == POD_ENROLLED);
    mesh_is_ready = namespace_is_ambient = false;
    enroll_reconcile(&agent, pod);
    cr_expect(pod->state == POD_ENROLLED, "a mesh file that cannot be read un-enrolls nobody");
}

/* Runs the timer's function as the loop would. */
static void fire(struct loop_timer *timer)
{
    cr_assert(loop_timer_armed(timer));
    loop_timer_cancel(timer);
    timer->fn(timer);
}

Test(enroll, leaving_stops_outbound_first_and_cleans_last)
{
    enroll_reconcile(&agent, pod);
    steps_clear();
    namespace_is_ambient = false;
    enroll_reconcile(&agent, pod);
    cr_expect(pod->state == POD_LEAVING);
    cr_expect(!announced_enrolled, "peers must stop using HBONE before it goes");
    expect_steps("stop_outbound");
    fire(&pod->timer);
    cr_expect(pod->state == POD_DRAINING);
    expect_steps("detach");
    pod->clean_not_before = 0;
    fire(&pod->timer);
    cr_expect(pod->state == POD_OUTSIDE);
    cr_expect(pod->netns_fd < 0 && pod->listeners[0] < 0);
    expect_steps("clean");
}

Test(enroll, a_pod_that_is_wanted_again_while_it_leaves_stays)
{
    enroll_reconcile(&agent, pod);
    namespace_is_ambient = false;
    enroll_reconcile(&agent, pod);
    steps_clear();
    namespace_is_ambient = true;
    enroll_reconcile(&agent, pod);
    cr_expect(pod->state == POD_ENROLLED);
    cr_expect(announced_enrolled);
    cr_expect(!loop_timer_armed(&pod->timer));
    expect_steps("commit");
}

Test(enroll, a_pod_that_is_wanted_again_while_it_drains_keeps_its_listeners)
{
    int outbound;

    enroll_reconcile(&agent, pod);
    outbound = pod->listeners[BRUMA_LISTENER_OUTBOUND];
    namespace_is_ambient = false;
    enroll_reconcile(&agent, pod);
    fire(&pod->timer);
    cr_assert(pod->state == POD_DRAINING);
    steps_clear();
    namespace_is_ambient = true;
    enroll_reconcile(&agent, pod);
    cr_expect(pod->state == POD_ENROLLED);
    cr_expect(pod->listeners[BRUMA_LISTENER_OUTBOUND] == outbound);
    expect_steps("prepare attach commit verify");
}

Test(enroll, a_failure_to_come_back_from_draining_keeps_the_route_of_live_connections)
{
    enroll_reconcile(&agent, pod);
    namespace_is_ambient = false;
    enroll_reconcile(&agent, pod);
    fire(&pod->timer);
    steps_clear();
    namespace_is_ambient = true;
    failing_step = "attach";
    enroll_reconcile(&agent, pod);
    cr_expect(pod->state == POD_DRAINING);
    expect_steps("prepare attach stop_outbound detach");
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

Test(enroll, removal_leaves_no_record_and_no_descriptor)
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
    cr_expect(pod->repairs[BRUMA_REASON_RULE_MISSING] == 1);
    cr_expect(watchdog_verify(&agent, pod, true, &error) == 0);
    findings_to_report = 2;
    cr_expect(watchdog_verify(&agent, pod, true, &error) < 0, "repairing that does not help is an error");
    cr_expect(pod->last_reason == BRUMA_REASON_RULE_MISSING);
}

/* ---- with a proxy at the other end of the real socket ---- */

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
    cr_expect(pod->state == POD_ENROLLED);
    cr_expect(strcmp(proxies_pod_state(agent.proxies, pod), "serving") == 0);
    expect_steps("listen prepare attach commit verify");
}

Test(enroll, a_proxy_that_refuses_keeps_the_pod_out, .timeout = 20)
{
    run_with_proxy(true);
    cr_expect(script.adds >= 1);
    cr_expect(pod->state == POD_OUTSIDE);
    cr_expect(pod->last_reason == BRUMA_REASON_LISTENER_OPEN_FAILED);
    cr_expect(strncmp(steps, "listen prepare stop_outbound detach clean",
                      strlen("listen prepare stop_outbound detach clean")) == 0,
              "%s", steps);
}

static void write_proc(const char *root, const char *pid, const char *name, const char *text)
{
    char path[400];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", root, pid);
    mkdir(path, 0700);
    snprintf(path, sizeof(path), "%s/%s/%s", root, pid, name);
    f = fopen(path, "w");
    cr_assert(f != NULL);
    fputs(text, f);
    fclose(f);
}

#define ROOTS "Uid:\t0\t0\t0\t0\n"

/* What else there is to a process below /proc: its user, its program of that name and mode, and when it
 * began. */
static void make_kubelet(const char *root, const char *pid, const char *program, const char *uid, mode_t mode,
                         unsigned began)
{
    char path[400], link[400], text[300], programs[100];

    snprintf(text, sizeof(text), "Name:\tx\nUmask:\t0022\n%s", uid);
    write_proc(root, pid, "status", text);
    snprintf(text, sizeof(text), "%s (a) b) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 %u 0 0\n", pid, began);
    write_proc(root, pid, "stat", text);
    snprintf(programs, sizeof(programs), "programs-of-%s", pid);
    write_proc(root, programs, program, "");
    snprintf(path, sizeof(path), "%s/%s/%s", root, programs, program);
    cr_assert_eq(chmod(path, mode), 0);
    snprintf(link, sizeof(link), "%s/%s/exe", root, pid);
    unlink(link);
    cr_assert_eq(symlink(path, link), 0);
}

Test(enroll, the_kubelets_cgroup_is_found_by_its_name)
{
    char root[] = "/tmp/bruma-proc-XXXXXX", command[100];
    const struct kubelet_paths place = {.proc = root, .mount = "/cg"};
    struct kubelet_choice c;

    cr_assert(mkdtemp(root) != NULL);
    write_proc(root, "10", "comm", "kubelet-wrapper\n");
    write_proc(root, "10", "cgroup", "0::/wrong\n");
    write_proc(root, "self", "comm", "kubelet\n");
    cr_expect_eq(kubelet_find(&place, "", &c), -ENOENT);
    make_kubelet(root, "11", "kubelet", ROOTS, 0755, 1);
    write_proc(root, "11", "comm", "kubelet\n");
    cr_expect_eq(kubelet_find(&place, "", &c), -ENOENT, "it has just ended");
    write_proc(root, "11", "cgroup", "1:name=systemd:/x\n0::/system.slice/kubelet.service\n");
    cr_expect_eq(kubelet_find(&place, "", &c), 0);
    cr_expect_str_eq(c.cgroup, "/cg/system.slice/kubelet.service");
    cr_expect_eq(c.pid, 11);
    write_proc(root, "11", "cgroup", "0::/\n");
    cr_expect_eq(kubelet_find(&place, "", &c), -EXDEV, "everybody's");
    write_proc(root, "11", "cgroup", "0::/../../kubelet\n");
    cr_expect_eq(kubelet_find(&place, "", &c), -EXDEV, "beyond our namespace");
    snprintf(command, sizeof(command), "rm -r %s", root);
    cr_assert_eq(system(command), 0);
}

Test(enroll, a_pod_that_calls_itself_kubelet_is_none)
{
    static const char *const groups[] = {
        "0::/kubepods/besteffort/pod11111111-2222-3333-4444-555555555555/c\n",
        "0::/kubepods.slice/kubepods-pod11111111_2222_3333_4444_555555555555.slice/cri-containerd-c.scope\n",
        /* hierarchies that disagree */
        "3:cpu:/kubepods/pod11111111-2222-3333-4444-555555555555/c\n0::/system.slice/kubelet.service\n"};
    char root[] = "/tmp/bruma-proc-XXXXXX", command[200];
    const struct kubelet_paths place = {.proc = root, .mount = "/cg"};
    struct kubelet_choice c;

    cr_assert(mkdtemp(root) != NULL);
    make_kubelet(root, "10", "kubelet", ROOTS, 0755, 1);
    write_proc(root, "10", "comm", "kubelet\n");
    for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
        write_proc(root, "10", "cgroup", groups[i]);
        cr_expect_eq(kubelet_find(&place, "", &c), -ENOENT, "%s", groups[i]);
    }
    /* In another network namespace, as a container of any runtime is. */
    write_proc(root, "10", "cgroup", "0::/docker/x\n");
    cr_expect_eq(kubelet_find(&place, "", &c), 0);
    snprintf(command, sizeof(command), "mkdir %s/10/ns && touch %s/10/ns/net", root, root);
    cr_assert_eq(system(command), 0);
    cr_expect_eq(kubelet_find(&place, "", &c), -ENOENT);
    /* The others that are a kubelet. */
    make_kubelet(root, "12", "k3s", ROOTS, 0755, 1);
    write_proc(root, "12", "comm", "k3s-server\n");
    write_proc(root, "12", "cgroup", "0::/system.slice/k3s.service\n");
    cr_expect_eq(kubelet_find(&place, "", &c), 0);
    cr_expect_str_eq(c.cgroup, "/cg/system.slice/k3s.service");
    write_proc(root, "12", "comm", "kubelite\n");
    cr_expect_eq(kubelet_find(&place, "", &c), 0);
    snprintf(command, sizeof(command), "rm -r %s", root);
    cr_assert_eq(system(command), 0);
}

static void expect_refused(const char *root, const char *uid, const char *program, mode_t mode,
                           const char *why)
{
    const struct kubelet_paths place = {.proc = root, .mount = "/cg"};
    struct kubelet_choice c;

    make_kubelet(root, "7", program, uid, mode, 1);
    cr_expect_eq(kubelet_find(&place, "", &c), -ENOENT, "%s", why);
    cr_expect(strstr(c.refused, "pid 7: ") && strstr(c.refused, why), "%s: %s", why, c.refused);
    /* Beside the real one, which began later. */
    make_kubelet(root, "20", "kubelet", ROOTS, 0755, 900);
    write_proc(root, "20", "comm", "kubelet\n");
    write_proc(root, "20", "cgroup", "0::/system.slice/kubelet.service\n");
    cr_expect_eq(kubelet_find(&place, "", &c), 0);
    cr_expect_eq(c.pid, 20, "%s", why);
    cr_expect_str_eq(c.why, "the only one that fits");
    cr_expect(strstr(c.refused, why) != NULL);
    write_proc(root, "20", "comm", "gone\n");
}

Test(enroll, who_calls_himself_kubelet_is_not_believed)
{
    char root[] = "/tmp/bruma-proc-XXXXXX", command[100];

    if (geteuid() != 0)
        cr_skip("needs root, whose files programs are");
    cr_assert(mkdtemp(root) != NULL);
    write_proc(root, "7", "comm", "kubelet\n");
    write_proc(root, "7", "cgroup", "0::/user.slice\n");
    expect_refused(root, "Uid:\t1000\t1000\t1000\t1000\n", "kubelet", 0755, "not root's (uid 1000)");
    /* Of a program that is set-uid: sudo, by a link that is called kubelet. */
    expect_refused(root, "Uid:\t1000\t0\t0\t0\n", "kubelet", 0755, "not root's (uid 1000)");
    expect_refused(root, ROOTS, "sudo", 0755, "its program is another");
    expect_refused(root, ROOTS, "kubelet", 0775, "may be written by others");
    expect_refused(root, ROOTS, "kubelet", 0757, "may be written by others");
    expect_refused(root, "Gid:\t0\t0\t0\t0\n", "kubelet", 0755, "cannot be told");
    snprintf(command, sizeof(command), "rm -r %s", root);
    cr_assert_eq(system(command), 0);
}

Test(enroll, of_several_kubelets_the_known_one_is_taken)
{
    char root[] = "/tmp/bruma-proc-XXXXXX", command[100];
    const struct kubelet_paths place = {.proc = root, .mount = "/cg"};
    static const char *const pids[] = {"31", "32", "33"};
    struct kubelet_choice c;

    if (geteuid() != 0)
        cr_skip("needs root, whose files programs are");
    cr_assert(mkdtemp(root) != NULL);
    for (unsigned i = 0; i < array_size(pids); i++) {
        char group[40];

        snprintf(group, sizeof(group), "0::/group%u\n", i);
        make_kubelet(root, pids[i], "kubelet", ROOTS, 0755, (i + 1) % 3);
        write_proc(root, pids[i], "comm", "kubelet\n");
        write_proc(root, pids[i], "cgroup", group);
    }
    cr_expect_eq(kubelet_find(&place, "", &c), 0);
    cr_expect_eq(c.pid, 33, "the oldest");
    cr_expect_eq(c.candidates, 3);
    cr_expect_eq(kubelet_find(&place, "/cg/group1", &c), 0);
    cr_expect_eq(c.pid, 32, "where it was");
    cr_expect_str_eq(c.why, "in the cgroup where it was before");
    snprintf(command, sizeof(command), "rm -r %s", root);
    cr_assert_eq(system(command), 0);
}

Test(enroll, strangers_in_the_kubelets_cgroup_are_named)
{
    char root[] = "/tmp/bruma-proc-XXXXXX", group[100], below[120], names[100], command[100];
    const struct kubelet_paths place = {.proc = root, .mount = "/cg"};

    cr_assert(mkdtemp(root) != NULL);
    snprintf(group, sizeof(group), "%s/group", root);
    mkdir(group, 0700);
    cr_expect_eq(kubelet_other_processes(&place, 11, group, names, sizeof(names)), 0,
                 "it has gone meanwhile");
    write_proc(root, "11", "comm", "kubelet\n");
    write_proc(root, "11", "stat", "11 (kubelet) S 1 11 11 0\n");
    write_proc(root, "12", "comm", "mount\n");
    write_proc(root, "12", "stat", "12 (a) b) S 11 11 11 0\n");
    write_proc(root, "13", "comm", "containerd-shim\n");
    write_proc(root, "13", "stat", "13 (containerd-shim) S 1 11 11 0\n");
    write_proc(root, "group", "cgroup.procs", "11\n12\n13\n99\n");
    cr_expect_eq(kubelet_other_processes(&place, 11, group, names, sizeof(names)), 0, "%s", names);
    write_proc(root, "14", "comm", "sshd\n");
    write_proc(root, "14", "stat", "14 (sshd) S 1 14 14 0\n");
    write_proc(root, "15", "comm", "nc\n");
    write_proc(root, "15", "stat", "15 (nc) S 14 14 14 0\n");
    write_proc(root, "group", "cgroup.procs", "11\n14\n0\n");
    write_proc(group, "below", "cgroup.procs", "15\n");
    cr_expect_eq(kubelet_other_processes(&place, 11, group, names, sizeof(names)), 3);
    cr_expect_str_eq(names, "sshd, somebody, nc");
    snprintf(below, sizeof(below), "%s/none", group);
    cr_expect_eq(kubelet_other_processes(&place, 11, below, names, sizeof(names)), 0);
    snprintf(command, sizeof(command), "rm -r %s", root);
    cr_assert_eq(system(command), 0);
}

static void make_directories(const char *root, const char *below)
{
    char command[300];

    snprintf(command, sizeof(command), "mkdir -p %s/%s", root, below);
    cr_assert_eq(system(command), 0);
}

Test(enroll, the_cgroup_of_pods_is_found)
{
    static const struct {
        const char *made, *found;
    } cases[] = {
        {"system.slice/a.service", NULL},
        {"kubepods/besteffort/podx", "kubepods"},
        {"kubepods.slice/kubepods-besteffort.slice", "kubepods.slice"},
        {"kubelet.slice/kubelet-kubepods.slice/x", "kubelet.slice/kubelet-kubepods.slice"},
        {"a/b/kubepods", "a/b/kubepods"},
        {"a/b/c/kubepods", NULL}, /* too deep: that is something of a pod's */
        {"my-kubepods", NULL},
        {"-kubepods.slice", NULL},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char root[] = "/tmp/bruma-cgroup-XXXXXX", found[200] = "", command[100];
        int r;

        cr_assert(mkdtemp(root) != NULL);
        make_directories(root, cases[i].made);
        r = guard_find_cgroup(root, found, sizeof(found));
        cr_expect_eq(r, cases[i].found ? 0 : -ENOENT, "%s: %d", cases[i].made, r);
        if (cases[i].found)
            cr_expect_str_eq(found + strlen(root) + 1, cases[i].found);
        cr_expect_neq(guard_find_cgroup(root, found, 8), 0, "no room");
        snprintf(command, sizeof(command), "rm -r %s", root);
        cr_assert_eq(system(command), 0);
    }
    cr_expect_eq(guard_find_cgroup("/nowhere/at/all", (char[50]){}, 50), -ENOENT);
}

Test(enroll, a_cgroup_that_is_the_pods_own_is_taken_as_it_is)
{
    char found[100];

    cr_expect_eq(guard_find_cgroup("/sys/fs/cgroup/kubepods.slice", found, sizeof(found)), 0);
    cr_expect_str_eq(found, "/sys/fs/cgroup/kubepods.slice");
}

Test(enroll, namespaces_of_pods_are_those_of_their_processes)
{
    static const char *const unseen[] = {"0", "999999999", "../../etc"};
    char root[] = "/tmp/bruma-cgroup-XXXXXX", text[100], command[100];
    uint64_t *cookies = NULL, own;
    int fd = netns_open_own();

    cr_assert_geq(fd, 0);
    cr_assert_eq(netns_cookie(fd, &own), 0);
    close(fd);
    cr_assert(mkdtemp(root) != NULL);
    cr_expect_eq(guard_namespaces("/nowhere/at/all", "/proc", &cookies), 0);
    free(cookies);
    /* Twice the same namespace. */
    snprintf(text, sizeof(text), "%d\n", getpid());
    write_proc(root, "pod1", "cgroup.procs", text);
    write_proc(root, "pod2", "cgroup.procs", text);
    make_directories(root, "pod3/without-processes");
    snprintf(command, sizeof(command), "ln -s / %s/pod4", root);
    cr_assert_eq(system(command), 0);
    cr_assert_eq(guard_namespaces(root, "/proc", &cookies), 1);
    cr_expect_eq(cookies[0], own);
    free(cookies);
    /* One that cannot be seen from here, one that is listed and cannot be looked at, and garbage. */
    for (size_t i = 0; i < array_size(unseen); i++) {
        cookies = NULL;
        snprintf(text, sizeof(text), "%d\n%s\n", getpid(), unseen[i]);
        write_proc(root, "pod2", "cgroup.procs", text);
        cr_expect_lt(guard_namespaces(root, "/proc", &cookies), 0, "%s", unseen[i]);
        cr_expect_null(cookies);
    }
    snprintf(command, sizeof(command), "rm -r %s", root);
    cr_assert_eq(system(command), 0);
}
