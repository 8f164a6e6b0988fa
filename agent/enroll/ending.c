/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/enroll/ending.h"

#include <time.h>

#include "agent/enroll/enroll.h"
#include "agent/enroll/member.h"
#include "agent/enroll/store.h"

#define LOG_SCOPE "enroll"
#include "lib/log.h"

void ending_set(struct agent *agent, struct pod *pod, bool ends, const char *why)
{
    if (ends == (pod->enrollment->ending_at != 0))
        return;
    enrollment_of(pod)->ending_at = ends ? (int64_t)time(NULL) : 0;
    (void)store_save(&agent->store, pod);
    log_info("%s\tpod=\"%s/%s\" state=%s why=\"%s\"", ends ? "pod ends" : "pod does not end after all",
             pod->namespace, pod->name, pod_state_name(pod->enrollment->state), why);
    if (ends)
        proxies_pod_ending(agent->proxies, pod);
    else
        proxies_pod_add(agent->proxies, pod);
}
