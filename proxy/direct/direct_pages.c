/* SPDX-License-Identifier: Apache-2.0 */
/* What people and brumactl are told of direct ways. */
#include "lib/cleanup.h"
#include "lib/message.h"
#include "lib/metrics_text.h"
#include "proxy/direct/charge.h"
#include "proxy/direct/direct_private.h"
#include "proxy/pod/pod.h"
#include "proxy/proxy.h"
#include "proxy/verdicts/node_verdicts.h"

const char *direct_long_way_name(uint32_t why)
{
#define NAME(id, name, what) #name,
    static const char *const names[] = {BRUMA_LONG_WAYS(NAME)};
#undef NAME

    return why < array_size(names) ? names[why] : "unknown";
}

void direct_write_metrics(const struct direct *direct, FILE *out)
{
    struct node_refusals refused = node_verdicts_refused(direct->proxy->node_verdicts);

    if (!direct->control)
        return;
    metric_gauge(out, "bruma_direct_in_charge",
                 "1 if the kernel goes by this proxy's word on connections that need no proxy.",
                 direct->in_charge);
    metric_gauge(out, "bruma_direct_mesh_addresses", "Addresses that this proxy has in mesh_addresses.",
                 mesh_copy_addresses(&direct->copy));
    metric_gauge(out, "bruma_direct_mesh_prefixes", "Ranges that this proxy has in mesh_prefixes.",
                 mesh_copy_prefixes(&direct->copy));
    metric_gauge(out, "bruma_direct_mesh_complete", "1 if these maps have all of the mesh, whatever comes.",
                 direct->copy.phase == MESH_COPY_COMPLETE);
    metric_counter(out, "bruma_direct_taken", "How often this proxy has taken charge of direct ways.",
                   direct->taken);
    metric_counter(out, "bruma_direct_lost",
                   "How often it gave that back since something could not be written to the maps.",
                   direct->lost);
    metric_counter(out, "bruma_direct_mesh_failures", "How often the maps did not take all of the mesh.",
                   direct->copy.failures);
    metric_counter(out, "bruma_direct_mesh_rebuilds", "How often all of the mesh was written again.",
                   direct->copy.rebuilds);
    metric_counter(out, "bruma_direct_pod_failures", "Entries of pods that could not be written.",
                   direct->pod_failures);
    metric_counter(out, "bruma_direct_pod_repairs", "Entries of pods that others had changed or removed.",
                   direct->repaired);
    metric_counter(out, "bruma_direct_socket_failures",
                   "How often the kernel could not be shown that this process lives.",
                   direct->alive_failures);
    if (direct->cutter)
        metric_counter(out, "bruma_direct_cut",
                       "Direct connections that were ended since they are not allowed any more.",
                       cutter_ended(direct->cutter));
    metric_counter(out, "bruma_direct_swept", "Entries of proxies that are gone, which this one removed.",
                   direct->sweep.removed);
    metric_counter(
        out, "bruma_direct_pod_verdicts_full",
        "Connections between pods of the node that may not stay in the kernel the next time, since "
        "their source has as many verdicts as one pod may have.",
        refused.pod_verdicts_full);
    metric_counter(out, "bruma_direct_verdicts_full",
                   "The same, since the map of verdicts is full, or the kernel has no memory for one.",
                   refused.verdicts_full);
}

/* As it was written last; before that nobody knows. */
static cJSON *dump_pod(const struct pod *pod)
{
    const struct bruma_direct_pod unknown = {.outside_why = BRUMA_LONG_WAY_POD_UNKNOWN,
                                             .inbound_why = BRUMA_LONG_WAY_POD_UNKNOWN};
    const struct bruma_direct_pod entry = pod->direct_written ? pod->direct : unknown;
    cJSON *o = cJSON_CreateObject();

    cJSON_AddStringToObject(o, "uid", pod->uid);
    cJSON_AddStringToObject(o, "pod", pod->name);
    cJSON_AddStringToObject(o, "namespace", pod->namespace);
    cJSON_AddStringToObject(o, "outside", direct_long_way_name(entry.outside_why));
    cJSON_AddStringToObject(o, "inbound",
                            entry.ways & BRUMA_DIRECT_PASS     ? "pass"
                            : entry.ways & BRUMA_DIRECT_REFUSE ? "refuse"
                            : entry.ways & BRUMA_DIRECT_BYPASS ? "bypass"
                                                               : direct_long_way_name(entry.inbound_why));
    cJSON_AddNumberToObject(o, "inboundChanges", entry.inbound_changes);
    cJSON_AddBoolToObject(o, "written", pod->direct_written);
    return o;
}

static void dump_ways(cJSON *o, const char *key, uint32_t ways)
{
    cJSON *ret = cJSON_AddObjectToObject(o, key);

    cJSON_AddBoolToObject(ret, "outside", (ways & DIRECT_OUTSIDE_WAYS) != 0);
    cJSON_AddBoolToObject(ret, "inbound", (ways & DIRECT_INBOUND_WAYS) != 0);
    cJSON_AddBoolToObject(ret, "node", (ways & BRUMA_DIRECT_NODE) != 0);
}

cJSON *direct_dump(const struct direct *direct)
{
    const struct direct *d = direct;
    cJSON *o = cJSON_CreateObject(), *pods;
    struct pod *pod;

    message_add_u64(o, "number", d->number);
    cJSON_AddBoolToObject(o, "maps", d->control != NULL);
    cJSON_AddBoolToObject(o, "inCharge", d->in_charge);
    if (!d->control)
        return o;
    message_add_u64(o, "holder", charge_holder(d->control));
    cJSON_AddStringToObject(o, "why", direct_long_way_name(d->control->why));
    dump_ways(o, "ways", d->ways);
    dump_ways(o, "switches",
              (d->outside ? DIRECT_OUTSIDE_WAYS : 0) | (d->inbound ? DIRECT_INBOUND_WAYS : 0) |
                  (d->node ? BRUMA_DIRECT_NODE : 0u));
    cJSON_AddStringToObject(o, "set", mesh_copy_phase_name(d->copy.phase));
    cJSON_AddNumberToObject(o, "addresses", (double)mesh_copy_addresses(&d->copy));
    cJSON_AddNumberToObject(o, "prefixes", (double)mesh_copy_prefixes(&d->copy));
    cJSON_AddNumberToObject(o, "failures", (double)d->copy.failures);
    cJSON_AddNumberToObject(o, "rebuilds", (double)d->copy.rebuilds);
    cJSON_AddNumberToObject(o, "taken", (double)d->taken);
    cJSON_AddNumberToObject(o, "lost", (double)d->lost);
    cJSON_AddNumberToObject(o, "swept", (double)d->sweep.removed);
    pods = cJSON_AddArrayToObject(o, "pods");
    list_for_each (pod, &d->proxy->pods, node) {
        if (!pod->redirected)
            cJSON_AddItemToArray(pods, dump_pod(pod));
    }
    return o;
}
