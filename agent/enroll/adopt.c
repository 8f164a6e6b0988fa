/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/enroll/adopt.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "agent/enroll/enroll_private.h"
#include "agent/enroll/forwards.h"
#include "agent/enroll/member.h"
#include "agent/enroll/source.h"
#include "agent/enroll/watchdog.h"
#include "bruma/protocol.h"
#include "lib/netns.h"
#include "lib/reasons.h"
#include "lib/seqpacket.h"

#define LOG_SCOPE "adopt"
#include "lib/log.h"

#define RECOVERED       "recovered-"
#define NETNS_DIRECTORY "/run/netns" /* where container runtimes and ip(8) name namespaces */

/* A runtime may keep namespaces where the agent does not see them, and a name may go before its last process
 * does. 1, 0 or -errno. */
static int find_by_process(const struct agent *agent, uint64_t cookie, char *path, size_t size)
{
    DIR *dir = opendir(agent->settings->proc);
    struct dirent *e;
    ino_t last = 0;
    int found = 0;

    if (!dir)
        return -errno;
    while (!found && (e = readdir(dir))) {
        struct stat st;
        uint64_t other;

        if (!isdigit((unsigned char)*e->d_name) ||
            snprintf(path, size, "%s/%s/ns/net", agent->settings->proc, e->d_name) >= (int)size ||
            stat(path, &st) < 0 || st.st_ino == last)
            continue;
        last = st.st_ino; /* neighbours mostly share one */
        _cleanup_fd_ int fd = netns_open(path);
        int r = fd < 0 ? fd : netns_cookie(fd, &other);

        if (r == -EMFILE || r == -ENFILE || r == -ENOMEM)
            found = r;
        else
            found = r == 0 && other == cookie;
    }
    closedir(dir);
    return found;
}

/* Its path leads nowhere: a process that lives there has another one. 1 if there is one, 0 if not, or -errno:
 * it cannot be told. */
static int relocate(const struct agent *agent, struct pod *pod)
{
    char path[512], *copy;
    int r = find_by_process(agent, pod->cookie, path, sizeof(path));

    if (r <= 0)
        return r;
    copy = strdup(path);
    if (!copy)
        return -ENOMEM;
    log_info("a pod's network namespace is reached by one of its processes\tpod=\"%s/%s\" was=%s netns=%s",
             pod->namespace, pod->name, pod->netns_path, path);
    free(pod->netns_path);
    pod->netns_path = copy;
    return 1;
}

static int open_own_netns(struct pod *pod)
{
    _cleanup_fd_ int fd = netns_open(pod->netns_path);
    uint64_t cookie;
    int r;

    if (fd < 0)
        return fd;
    r = netns_cookie(fd, &cookie);
    if (r < 0)
        return r;
    if (cookie != pod->cookie)
        return -ESTALE;
    pod->netns_fd = take_fd(&fd);
    return 0;
}

/* Of a failure that says nothing of the namespace: who has no descriptors left has not seen it go. */
static bool is_inconclusive(int r)
{
    return r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -EACCES || r == -EPERM || r == -EIO;
}

/* Negative: it cannot be told what became of the pod, and nothing was changed. */
static int adopt(struct agent *agent, struct pod *pod)
{
    int r;

    if (pod->enrollment->state == POD_OUTSIDE) {
        if (pod_netns_present(pod) == 0 && relocate(agent, pod) == 0 && pod_netns_present(pod) == 0)
            enroll_remove(agent, pod, "its network namespace was removed while the agent was down");
        return 0;
    }
    r = open_own_netns(pod);
    if (r < 0 && !is_inconclusive(r)) {
        r = relocate(agent, pod);
        r = r == 0 ? -ENOENT : r < 0 ? r : open_own_netns(pod);
    }
    if (r < 0 && is_inconclusive(r))
        return r;
    if (r < 0) {
        enroll_remove(agent, pod, "its network namespace was removed while the agent was down");
        return 0;
    }
    /* Proxies that open listeners themselves have none of ours to give back. */
    if (proxies_open_listeners(agent->proxies))
        (void)steer_pod_pinned_listeners(agent->steer, pod->cookie, enrollment_of(pod)->listener_cookies);
    else
        enrollment_of(pod)->awaits_listeners =
            pod->enrollment->state == POD_ENROLLED || pod->enrollment->state == POD_LEAVING;
    log_info("pod adopted\tpod=\"%s/%s\" cookie=%" PRIu64 " state=%s", pod->namespace, pod->name, pod->cookie,
             pod_state_name(pod->enrollment->state));
    if (pod->enrollment->state == POD_ENROLLED)
        watchdog_follow(agent, pod);
    enroll_resume(agent, pod);
    return 0;
}

/* The path of the namespace with this cookie, if it has a name. */
static bool find_netns(uint64_t cookie, char *path, size_t size)
{
    DIR *dir = opendir(NETNS_DIRECTORY);
    struct dirent *e;
    bool found = false;

    while (dir && !found && (e = readdir(dir))) {
        uint64_t other;

        if (*e->d_name == '.')
            continue;
        snprintf(path, size, "%s/%s", NETNS_DIRECTORY, e->d_name);
        _cleanup_fd_ int fd = netns_open(path);

        found = fd >= 0 && netns_cookie(fd, &other) == 0 && other == cookie;
    }
    if (dir)
        closedir(dir);
    return found;
}

/* Something is pinned and its record is lost: the map entry says enough to go on. */
static struct pod *recover(struct agent *agent, uint64_t cookie, const char *path)
{
    char uid[64], name[BRUMA_POD_NAME_LEN], *slash;
    struct bruma_pod entry;
    struct pod *pod;

    if (steer_pod_entry(agent->steer, cookie, &entry) < 0)
        return NULL;
    memcpy(name, entry.pod, sizeof(name));
    name[sizeof(name) - 1] = '\0';
    slash = strchr(name, '/');
    if (!slash)
        return NULL;
    *slash = '\0';
    snprintf(uid, sizeof(uid), RECOVERED "%" PRIu64, cookie);
    if (enroll_pod_new(&agent->pods, uid, name, slash + 1, &pod) < 0)
        return NULL;
    if (pod_set_sandbox(pod, uid, path, cookie) < 0) {
        enroll_pod_free(pod);
        return NULL;
    }
    for (int i = 0; i < BRUMA_POD_ADDRESSES; i++) {
        struct addr a;

        memcpy(a.bytes, entry.addresses[i].bytes, sizeof(a.bytes));
        if (!addr_is_none(&a))
            pod->addresses[pod->addresses_len++] = a;
    }
    enrollment_of(pod)->generation = entry.generation;
    enrollment_of(pod)->state = POD_ENROLLED;
    return pod;
}

static int adopt_pin(struct agent *agent, uint64_t cookie)
{
    struct steer_error error = {0};
    char path[512];
    struct pod *pod = NULL;

    if (find_netns(cookie, path, sizeof(path)) || find_by_process(agent, cookie, path, sizeof(path)) > 0)
        pod = recover(agent, cookie, path);
    if (pod) {
        log_warn("a pinned pod had no record; it is recovered from its map entry\tpod=\"%s/%s\" netns=%s",
                 pod->namespace, pod->name, path);
        (void)store_save(&agent->store, pod);
        return adopt(agent, pod);
    }
    if (!steer_pod_netns_dead(agent->steer, cookie)) {
        /* It stays steered: better refused by an empty slot than outside the mesh without a word. */
        log_error("a pinned pod has no record and its network namespace has no name; it is left as it "
                  "is\tcookie=%" PRIu64,
                  cookie);
        return 0;
    }
    log_info("pins of a pod that is gone are removed\tcookie=%" PRIu64, cookie);
    (void)steer_pod_stop_outbound(agent->steer, cookie, &error);
    if (steer_pod_detach(agent->steer, cookie, &error) < 0 ||
        steer_pod_clean(agent->steer, cookie, -1, &error) < 0)
        log_error("pins cannot be removed\tcookie=%" PRIu64 " reason=%s error=\"%s\"", cookie,
                  reason_name(error.reason), error.text);
    return 0;
}

int adopt_all(struct agent *agent)
{
    _cleanup_free_ uint64_t *pinned = NULL;
    struct pod *pod;
    int n = store_load(&agent->store, &agent->pods), r;

    if (n < 0)
        return log_error_errno(n, "the records of pods cannot be read\tdirectory=%s", agent->store.directory);
    agent->adopt_until = loop_now(agent->loop) + agent->settings->adopt_wait;
    list_for_each (pod, &agent->pods.list, node) {
        enroll_bind(agent, pod);
        r = adopt(agent, pod);
        if (r < 0)
            return log_error_errno(r, "a pod cannot be adopted; it stays as it is\tpod=\"%s/%s\"",
                                   pod->namespace, pod->name);
    }
    n = steer_pods_pinned(agent->steer, &pinned);
    if (n < 0)
        return log_error_errno(n, "the pinned pods cannot be listed");
    for (int i = 0; i < n; i++) {
        pod = pods_by_cookie(&agent->pods, pinned[i]);
        r = !pod || pod->enrollment->state == POD_OUTSIDE ? adopt_pin(agent, pinned[i]) : 0;
        if (r < 0)
            return log_error_errno(r, "a pinned pod cannot be adopted; it stays as it is");
    }
    list_for_each (pod, &agent->pods.list, node) {
        forwards_look(agent, pod);
        enroll_announce(agent, pod);
    }
    return 0;
}

/* A listening TCP socket of that namespace, nothing else may steer a pod's connections. */
static bool is_listener(int fd, uint64_t netns)
{
    int listening = 0, protocol = 0;
    socklen_t len = sizeof(int);
    uint64_t cookie;

    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) == 0 && listening &&
           getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len) == 0 && protocol == IPPROTO_TCP &&
           socket_netns_cookie(fd, &cookie) == 0 && cookie == netns;
}

static bool offer_is_sound(const struct offered_pod *offer)
{
    uint64_t cookie;

    if (netns_check(offer->fds[BRUMA_POD_FD_NETNS]) < 0 ||
        netns_cookie(offer->fds[BRUMA_POD_FD_NETNS], &cookie) < 0 || cookie != offer->cookie)
        return false;
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++) {
        if (!is_listener(offer->fds[BRUMA_POD_FD_OUTBOUND + i], offer->cookie))
            return false;
    }
    return true;
}

/* Takes the offered listeners whose slot is theirs or empty. True if the pod has all three then. */
static bool take_listeners(struct agent *agent, struct pod *pod, const struct offered_pod *offer)
{
    uint64_t slots[BRUMA_LISTENER_COUNT], cookie;
    bool complete = true;

    if (steer_pod_pinned_listeners(agent->steer, pod->cookie, slots) < 0)
        return false;
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++) {
        int *fd = &offer->fds[BRUMA_POD_FD_OUTBOUND + i];

        if (pod->enrollment->listeners[i] >= 0)
            continue;
        if (socket_cookie(*fd, &cookie) == 0 && (!slots[i] || slots[i] == cookie))
            enrollment_of(pod)->listeners[i] = take_fd(fd);
        else
            complete = false;
    }
    return complete;
}

/* A proxy remembers the uid that the lost record held, or the API server tells it. */
void adopt_uid(struct agent *agent, struct pod *pod, const char *uid)
{
    char *copy;

    if (strncmp(pod->uid, RECOVERED, strlen(RECOVERED)) || !(copy = strdup(uid)))
        return;
    store_remove(&agent->store, pod->uid);
    source_forget(agent, pod->uid);
    free(pod->uid);
    pod->uid = copy;
    (void)store_save(&agent->store, pod);
    enroll_announce(agent, pod);
}

struct pod *adopt_offered(struct agent *agent, const struct offered_pod *offer)
{
    struct pod *pod = pods_by_uid(&agent->pods, offer->uid);
    struct steer_error error = {0};

    if (!pod) {
        pod = pods_by_cookie(&agent->pods, offer->cookie);
        if (pod)
            adopt_uid(agent, pod, offer->uid);
    }
    if (!pod || pod->cookie != offer->cookie || pod->enrollment->state == POD_OUTSIDE)
        return NULL;
    if (!offer_is_sound(offer)) {
        log_error(
            "a proxy offers listeners that are not the pod's; they are not taken\tpod=\"%s/%s\" reason=%s",
            pod->namespace, pod->name, reason_name(BRUMA_REASON_MESSAGE_INVALID));
        return pod;
    }
    if (!pod->enrollment->awaits_listeners || !take_listeners(agent, pod, offer))
        return pod;
    enrollment_of(pod)->awaits_listeners = false;
    log_info("listeners adopted from a proxy\tpod=\"%s/%s\"", pod->namespace, pod->name);
    /* A younger proxy may have connected before, when there was nothing to give it. */
    proxies_pod_add(agent->proxies, pod);
    if (pod->enrollment->state == POD_ENROLLED)
        (void)watchdog_verify(agent, pod, true, &error);
    return pod;
}

static bool may_open(const struct agent *agent, const struct pod *pod)
{
    uint64_t slots[BRUMA_LISTENER_COUNT];

    if (steer_pod_pinned_listeners(agent->steer, pod->cookie, slots) < 0)
        return true;
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++) {
        if (!slots[i])
            return true; /* its last holder is dead: nothing waits in that queue */
    }
    return loop_now(agent->loop) >= agent->adopt_until && proxies_serving(agent->proxies);
}

void adopt_check(struct agent *agent, struct pod *pod)
{
    struct steer_findings findings = {.reasons = {BRUMA_REASON_LISTENER_CLOSED}, .len = 1};
    struct steer_error error = {0};
    struct steer_pod p;
    int r;

    if (!pod->enrollment->awaits_listeners || !may_open(agent, pod))
        return;
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++)
        findings.closed_listeners[i] = pod->enrollment->listeners[i] < 0;
    r = steer_listeners_open(pod->netns_fd, enrollment_of(pod)->listeners, &error);
    if (r == 0) {
        enroll_describe(agent, pod, &p);
        r = steer_pod_repair(agent->steer, &p, &findings, &error);
    }
    if (r < 0) {
        enroll_set_error(pod, error.reason, error.text);
        if (pod->enrollment->logged == error.reason)
            return;
        enrollment_of(pod)->logged = error.reason;
        log_error("new listeners cannot be opened; retrying, logged once\tpod=\"%s/%s\" "
                  "reason=%s error=\"%s\"",
                  pod->namespace, pod->name, reason_name(error.reason), error.text);
        return;
    }
    enrollment_of(pod)->awaits_listeners = false;
    enrollment_of(pod)->logged = BRUMA_REASON_NONE;
    health_of(pod)->repairs[BRUMA_REASON_LISTENER_CLOSED]++;
    agent->repairs[BRUMA_REASON_LISTENER_CLOSED]++;
    log_warn("new listeners were opened: no process holds the old ones\tpod=\"%s/%s\" reason=%s",
             pod->namespace, pod->name, reason_name(BRUMA_REASON_LISTENER_CLOSED));
    proxies_pod_add(agent->proxies, pod);
}
