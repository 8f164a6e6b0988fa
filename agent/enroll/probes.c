/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "probes"
#include "agent/enroll/probes.h"

#include <stdlib.h>
#include <string.h>

#include "agent/enroll/source.h"
#include "lib/cleanup.h"
#include "lib/log.h"

/* ---- what pods declare ---- */

static const struct pod *pod_of(const struct agent *agent, uint64_t cookie)
{
    const struct pod *pod;

    list_for_each (pod, &agent->pods.list, node) {
        if (pod->cookie == cookie && pod->enrollment->state == POD_ENROLLED)
            return pod;
    }
    return NULL;
}

static bool declares(const struct agent *agent, const struct pod *pod, const struct endpoint *target)
{
    const uint16_t *ports;
    int n = source_probe_ports(agent, pod, &ports);
    bool own = false;

    for (int i = 0; i < pod->addresses_len; i++)
        own |= addr_equal(&pod->addresses[i], &target->addr);
    for (int i = 0; own && i < n; i++) {
        if (ports[i] == target->port)
            return true;
    }
    return false;
}

void probes_register(struct agent *agent, const struct pod *pod)
{
    const uint16_t *ports;
    int n = source_probe_ports(agent, pod, &ports);

    for (int i = 0; i < n; i++) {
        for (int k = 0; k < pod->addresses_len; k++) {
            struct endpoint target = {.addr = pod->addresses[k], .port = ports[i]};
            int r = steer_probe_add(agent->steer, pod->cookie, &target);

            if (r < 0)
                log_error("a probe's port cannot be registered; policy decides about it\tpod=\"%s/%s\" "
                          "port=%u error=\"%s\"",
                          pod->namespace, pod->name, ports[i], strerror(-r));
        }
    }
}

void probes_verify(struct agent *agent)
{
    _cleanup_free_ struct steer_probe *list = NULL;
    struct pod *pod;
    int n = steer_probes(agent->steer, &list);

    if (n < 0) {
        log_error("the registered probes cannot be read\terror=\"%s\"", strerror(-n));
        return;
    }
    for (int i = 0; i < n; i++) {
        const struct pod *owner = pod_of(agent, list[i].cookie);

        /* A source that is not ready yet has told nothing: what an earlier agent registered stays. */
        if (owner ? source_knows_pod(agent, owner) && !declares(agent, owner, &list[i].target)
                  : source_ready(agent))
            steer_probe_remove(agent->steer, &list[i].target);
    }
    list_for_each (pod, &agent->pods.list, node) {
        if (pod->enrollment->state == POD_ENROLLED)
            probes_register(agent, pod);
    }
}
