/* SPDX-License-Identifier: Apache-2.0 */
/* The entries of pods in direct_pods: which ways each of them may take, and why not the others. */
#define LOG_SCOPE "direct"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/log.h"
#include "proxy/direct/charge.h"
#include "proxy/direct/direct_private.h"
#include "proxy/direct/inbound_answer.h"
#include "proxy/direct/node_judge.h"
#include "proxy/pod/pod.h"
#include "proxy/proxy.h"

/* ---- what an entry says ---- */

static enum bruma_long_way outside_why(const struct direct *d, const struct pod *pod, uint32_t ways)
{
    if (!d->outside)
        return BRUMA_LONG_WAY_SWITCHED_OFF;
    if (pod->draining || pod->ending)
        return BRUMA_LONG_WAY_ENDING;
    if (pod->direct_outside == DIRECT_OFF)
        return BRUMA_LONG_WAY_SWITCHED_OFF_FOR_POD;
    if (!state_local_workload(d->proxy->state, pod->namespace, pod->name, pod->service_account))
        return BRUMA_LONG_WAY_WORKLOAD_UNKNOWN;
    if (atomic_load(&pod->outbound_policy) == OUTBOUND_REGISTRY_ONLY)
        return BRUMA_LONG_WAY_REGISTRY_ONLY;
    if (!(ways & DIRECT_OUTSIDE_WAYS))
        return BRUMA_LONG_WAY_SET_INCOMPLETE;
    return BRUMA_LONG_WAY_NONE;
}

/* True: the answer to inbound plaintext has changed. */
static bool compose(const struct direct *d, struct pod *pod, uint32_t ways, bool changing,
                    struct bruma_direct_pod *ret)
{
    enum bruma_long_way outside = outside_why(d, pod, ways);
    bool changed;

    *ret = (struct bruma_direct_pod){.proxy = d->number, .generation = pod->generation};
    changed = direct_inbound_fill(pod, d->unable ? NULL : d->cutter, changing, ret);
    if (!d->inbound)
        ret->inbound_why = BRUMA_LONG_WAY_SWITCHED_OFF;
    ret->ways &= ways;
    ret->outside_why = outside;
    if (outside == BRUMA_LONG_WAY_NONE)
        ret->ways |= DIRECT_OUTSIDE_WAYS;
    return changed;
}

/* ---- writing it ---- */

static int erase(struct direct *d, struct pod *pod)
{
    uint64_t cookie = pod->cookie;
    int r = d->maps.ops.erase(d->maps.ops.data, BRUMA_DIRECT_FD_PODS, &cookie);

    pod->direct_written = false;
    return r == -ENOENT ? 0 : r;
}

static bool write_entry(struct direct *d, struct pod *pod, const struct bruma_direct_pod *entry, bool always)
{
    uint64_t cookie = pod->cookie;
    int r;

    if (!always && pod->direct_written && !memcmp(&pod->direct, entry, sizeof(*entry)))
        return true;
    pod->direct = *entry;
    r = d->maps.ops.update(d->maps.ops.data, BRUMA_DIRECT_FD_PODS, &cookie, entry);
    if (r == 0) {
        pod->direct_written = true;
        return true;
    }
    d->pod_failures++;
    log_error_errno(r,
                    "direct ways: the entry of a pod cannot be written; it takes the long way\tpod=\"%s/%s\"",
                    pod->namespace, pod->name);
    return erase(d, pod) == 0;
}

/* What was let go to outside the mesh before ends as what the proxy carries does. */
static void deal_with_outside(struct direct *d, struct pod *pod, bool taken)
{
    bool registry_only = atomic_load(&pod->outbound_policy) == OUTBOUND_REGISTRY_ONLY;
    char name[BRUMA_POD_NAME_LEN];
    const struct cutter_pod about = {
        .cookie = pod->cookie, .netns_fd = pod->fds[BRUMA_POD_FD_NETNS], .name = name};
    int r = 0;

    if (!d->cutter || (registry_only == pod->registry_only && !(taken && registry_only)))
        return;
    snprintf(name, sizeof(name), "%s/%s", pod->namespace, pod->name);
    if (registry_only)
        r = cutter_end_outside(d->cutter, &about);
    else
        cutter_allow(d->cutter, pod->cookie, DIRECT_OUTSIDE_WAYS);
    if (r < 0)
        log_error_errno(r, "direct connections of pod %s to outside the mesh live on", name);
    pod->registry_only = registry_only;
}

bool direct_pod_write(struct direct *direct, struct pod *pod, uint32_t ways, enum direct_occasion occasion)
{
    struct bruma_direct_pod entry;
    bool changed;

    if (pod->redirected || pod->deleted)
        return true;
    changed = compose(direct, pod, ways, occasion == DIRECT_CHANGING, &entry);
    if (!write_entry(direct, pod, &entry, occasion == DIRECT_TAKEN))
        return false;
    if (occasion == DIRECT_CHANGING)
        return true;
    if (changed || occasion != DIRECT_NEWS)
        direct_inbound_written(pod, direct->cutter);
    deal_with_outside(direct, pod, occasion == DIRECT_TAKEN);
    return true;
}

bool direct_pods_write(struct direct *direct, uint32_t ways, enum direct_occasion occasion)
{
    bool good = true;
    struct pod *pod;

    list_for_each (pod, &direct->proxy->pods, node)
        good &= direct_pod_write(direct, pod, ways, occasion);
    return good;
}

void direct_pods_repair(struct direct *direct)
{
    struct pod *pod;

    list_for_each (pod, &direct->proxy->pods, node) {
        struct bruma_direct_pod there;
        uint64_t cookie = pod->cookie;

        if (pod->redirected || !pod->direct_written)
            continue;
        if (direct->maps.ops.find(direct->maps.ops.data, BRUMA_DIRECT_FD_PODS, &cookie, &there) == 0 &&
            !memcmp(&there, &pod->direct, sizeof(there)))
            continue;
        direct->repaired++;
        write_entry(direct, pod, &pod->direct, true);
    }
}

/* ---- what is told ---- */

/* An entry that says too much cannot be taken back: nobody may look at any. */
static void give_up(struct direct *direct)
{
    direct->lost++;
    charge_drop(direct->control, direct->number, BRUMA_LONG_WAY_POD_UNKNOWN);
}

/* Nobody is in charge, for all ways are switched off, say. What passed while they were on is still ended when
 * the answer changes. */
static void judge_former(struct direct *d, struct pod *pod, bool policies)
{
    struct bruma_direct_pod entry;

    if (pod->redirected || pod->deleted)
        return;
    if (compose(d, pod, 0, false, &entry) || policies)
        direct_inbound_written(pod, d->cutter);
    deal_with_outside(d, pod, false);
}

/* Who does not serve the pods, or does not know the mesh yet, says nothing about them. */
static bool judges_former(const struct direct *d)
{
    return d->pods_named && d->mesh_known && !d->in_charge && !d->draining && d->control &&
           !charge_holder(d->control);
}

void direct_pod_changed(struct direct *direct, struct pod *pod)
{
    node_judge_pod_changed(pod->proxy->node_judge, pod);
    if (direct && judges_former(direct))
        judge_former(direct, pod, false);
    if (direct && direct->in_charge && !direct_pod_write(direct, pod, direct->ways, DIRECT_NEWS))
        give_up(direct);
}

void direct_pods_changed(struct direct *direct, bool policies)
{
    struct pod *pod;

    if (!direct)
        return;
    node_judge_mesh_changed(direct->proxy->node_judge);
    if (judges_former(direct)) {
        list_for_each (pod, &direct->proxy->pods, node)
            judge_former(direct, pod, policies);
    }
    if (direct->in_charge &&
        !direct_pods_write(direct, direct->ways, policies ? DIRECT_POLICIES : DIRECT_NEWS))
        give_up(direct);
}

void direct_policies_changing(void *data)
{
    struct direct *direct = data;

    if (direct->in_charge && !direct_pods_write(direct, direct->ways, DIRECT_CHANGING))
        give_up(direct);
}

void direct_pod_restrict(struct direct *direct, struct pod *pod)
{
    struct bruma_direct_pod entry;

    if (!direct || !direct->in_charge || !pod->direct_written || pod->redirected)
        return;
    entry = pod->direct;
    entry.ways &= ~DIRECT_OUTSIDE_WAYS;
    entry.outside_why = BRUMA_LONG_WAY_REGISTRY_ONLY;
    if (!write_entry(direct, pod, &entry, false))
        give_up(direct);
}

void direct_pod_gone(struct direct *direct, struct pod *pod)
{
    node_judge_pod_changed(pod->proxy->node_judge, pod);
    if (!direct || !direct->control)
        return;
    if (pod->direct_written && erase(direct, pod) < 0)
        give_up(direct);
    if (direct->cutter)
        cutter_forget(direct->cutter, pod->cookie);
}
