/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/agent/enroll/enroll_site.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/control_plane/mesh_source.h"
#include "agent/enroll/enroll.h"
#include "agent/enroll/source.h"
#include "agent/enroll/watchdog.h"
#include "agent/proxies/proxy_server.h"
#include "lib/netns.h"
#include "tests/unit/agent/agent_doubles.h"

static struct agent_settings settings = {.node = "node-a",
                                         .source = "file",
                                         .pin_dir = "/nowhere",
                                         .trust_domain = "cluster.local",
                                         .verify_interval = 3600000,
                                         .drain_grace = 100,
                                         .adopt_wait = 100,
                                         .proxy_drain = 1000};
struct agent agent;
struct pod *pod;
char directory[64];
int netns = -1;

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

void enroll_setup(void)
{
    const struct proxies_events events = {.offered = offered,
                                          .offers_end = offers_end,
                                          .answered = answered,
                                          .drained = drained,
                                          .listener_closed = listener_closed,
                                          .gone = gone,
                                          .data = &agent};
    const struct proxy_maps maps = {.deliveries = -1, .direct = {-1}};
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
    cr_assert(proxy_server_new(agent.loop, &settings, &agent.pods, &maps, &events, &agent.proxies) == 0);
    netns = new_netns();
    cr_assert(netns_cookie(netns, &cookie) == 0);
    cr_assert(enroll_pod_new(&agent.pods, "uid-1", "shop", "web", &pod) == 0);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", netns);
    cr_assert(pod_set_sandbox(pod, "container-1", path, cookie) == 0);
    cr_assert(addr_parse("10.0.0.1", &pod->addresses[0]) == 0);
    pod->addresses_len = 1;
    cr_assert(store_save(&agent.store, pod) == 0);
}

void enroll_teardown(void)
{
    if (agent.server)
        server_close(&agent.server);
    enroll_pods_free(&agent.pods);
    source_close(&agent.source);
    proxies_free(&agent.proxies);
    store_wipe(&agent.store);
    loop_free(&agent.loop);
    rmdir(directory);
}

void expect_steps(const char *expected)
{
    cr_expect(strcmp(steps, expected) == 0, "steps were: %s; expected: %s", steps, expected);
    steps_clear();
}

void fire(struct loop_timer *timer)
{
    cr_assert(loop_timer_armed(timer));
    loop_timer_cancel(timer);
    timer->fn(timer);
}

bool record_exists(void)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/pods/uid-1.json", directory);
    return access(path, F_OK) == 0;
}

int open_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;

    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}
