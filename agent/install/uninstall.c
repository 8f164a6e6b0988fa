/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/install/uninstall.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/control_plane/mesh.h"
#include "agent/enroll/store.h"
#include "agent/install/install.h"
#include "agent/local/server.h"
#include "agent/pod/pods.h"
#include "agent/steer/steer.h"
#include "bruma/direct.h"
#include "bruma/mesh.h"
#include "bruma/protocol.h"
#include "lib/cleanup.h"
#include "lib/netns.h"
#include "lib/reasons.h"

#define LOG_SCOPE "uninstall"
#include "lib/log.h"

static int report(const char *what, const char *pod, int r, const struct steer_error *error)
{
    if (r >= 0 || r == -ENOENT)
        return 0;
    log_error("%s failed\tpod=\"%s\" reason=%s error=\"%s\"", what, pod, reason_name(error->reason),
              error->text);
    return r;
}

static int take_out(struct steer *steer, uint64_t cookie, int netns_fd, const char *name)
{
    struct steer_error error = {0};
    int first = 0, r;

    r = report("stopping outbound capture", name, steer_pod_stop_outbound(steer, cookie, &error), &error);
    first = first ? first : r;
    r = report("detaching", name, steer_pod_detach(steer, cookie, &error), &error);
    first = first ? first : r;
    r = report("cleaning", name, steer_pod_clean(steer, cookie, netns_fd, &error), &error);
    return first ? first : r;
}

static int take_out_all(const struct agent_settings *settings, struct pods *pods)
{
    const struct steer_config sc = {
        .pin_dir = settings->pin_dir, .cgroup = settings->cgroup, .probe_cgroup = settings->probe_cgroup};
    struct steer_error error = {0};
    struct steer *steer = NULL;
    struct pod *pod;
    int first = 0, r;

    r = steer_open(&sc, &steer, &error);
    if (r < 0 && error.reason == BRUMA_REASON_PINS_OTHER_VERSION) {
        /* Nothing can be read from them, and nothing has to: their removal detaches the pods, and what is
         * left is in the pods' namespaces. */
        r = report("removing the pins", "-", steer_uninstall(settings->pin_dir, &error), &error);
        if (r == 0)
            r = steer_open(&sc, &steer, &error);
    }
    if (r < 0)
        return report("opening what is pinned", "-", r, &error);
    list_for_each (pod, &pods->list, node) {
        char name[2 * MESSAGE_NAME_MAX + 2];
        uint64_t cookie;

        if (pod->enrollment->state == POD_OUTSIDE)
            continue;
        _cleanup_fd_ int fd = netns_open(pod->netns_path);

        if (fd >= 0 && (netns_cookie(fd, &cookie) < 0 || cookie != pod->cookie)) {
            close(fd);
            fd = -1;
        }
        snprintf(name, sizeof(name), "%s/%s", pod->namespace, pod->name);
        r = take_out(steer, pod->cookie, fd, name);
        first = first ? first : r;
    }
    steer_close(&steer);
    return first;
}

int uninstall(const struct agent_settings *settings, int (*before)(const struct agent_settings *settings))
{
    struct steer_error error = {0};
    struct store store;
    struct pods pods;
    char path[512];
    int first = 0, prepared, r;

    snprintf(path, sizeof(path), "%s/%s", settings->run_dir, BRUMA_AGENT_SOCKET);
    if (server_answers(path)) {
        log_error("bruma-agent is running; stop it first\trun-dir=%s", settings->run_dir);
        return -EBUSY;
    }
    prepared = before ? before(settings) : 0;
    /* The runtime must no longer call the plugin before pods are let go. */
    first = install_configured(settings) ? install_remove(settings) : 0;
    pods_init(&pods);
    r = store_open(settings->run_dir, NULL, &store);
    if (r < 0)
        return log_error_errno(r, "the records of pods cannot be opened\trun-dir=%s", settings->run_dir);
    r = store_load(&store, &pods);
    if (r < 0)
        log_error_errno(r, "the records of pods cannot be read");
    if (access(settings->pin_dir, F_OK) == 0) {
        r = take_out_all(settings, &pods);
        if (r == -EBUSY) {
            enroll_pods_free(&pods);
            return r; /* of an agent that runs with another run directory */
        }
        first = first ? first : r;
        r = report("removing the pins", "-", steer_uninstall(settings->pin_dir, &error), &error);
        first = first ? first : r;
    }
    enroll_pods_free(&pods);
    if (first == 0)
        store_wipe(&store); /* else a second try still knows the pods */
    unlink(path);
    snprintf(path, sizeof(path), "%s/%s", settings->run_dir, BRUMA_DECISIONS);
    unlink(path);
    snprintf(path, sizeof(path), "%s/%s", settings->run_dir, BRUMA_FLOW_LOCK);
    unlink(path);
    mesh_uninstall(settings);
    rmdir(settings->run_dir); /* fails where others keep something there */
    return first ? first : prepared;
}
