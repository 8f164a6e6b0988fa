/* SPDX-License-Identifier: Apache-2.0 */
/* Lines of a watch: of pods, of namespaces, errors; and pages of lists, which are made of the same objects.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agent/kubernetes/kube_object.h"
#include "lib/message.h"

static char why[256];

static void decode_object(const cJSON *object)
{
    struct kube_pod_object pod;
    const cJSON *labels;
    const char *name;

    if (kube_pod_decode(object, &pod, why, sizeof(why)) == 0 &&
        (!*pod.uid || strchr(pod.uid, '/') || strchr(pod.name, '/') || strchr(pod.namespace, '/') ||
         pod.addresses_len > BRUMA_POD_ADDRESSES))
        abort();
    if (kube_namespace_decode(object, &name, &labels, why, sizeof(why)) == 0 && labels)
        (void)kube_label(labels, "istio.io/dataplane-mode");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    struct kube_line line;
    struct kube_list list;
    const cJSON *item;

    why[0] = '\0';
    if (kube_line_decode(text, size, &line, why, sizeof(why)) == 0) {
        decode_object(line.object);
        cJSON_Delete(line.json);
    } else if (!*why) {
        abort();
    }
    if (kube_list_decode(text, size, &list, why, sizeof(why)) == 0) {
        cJSON_ArrayForEach (item, list.items)
            decode_object(item);
        cJSON_Delete(list.json);
    }
    return 0;
}
