/* SPDX-License-Identifier: Apache-2.0 */
/* The records that the agent keeps of pods: whatever is read from the disk, the pod made of it is whole. */
#include "agent/enroll/store.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct store store = {.directory = "/nonexistent", .boot_id = "boot-1"};
    struct pods pods;
    struct pod *pod;

    pods_init(&pods);
    if (store_parse(&store, (const char *)data, size, &pods, &pod) == 0) {
        if (!*pod->uid || pod->addresses_len < 0 || pod->addresses_len > BRUMA_POD_ADDRESSES ||
            pod->enrollment->state >= POD_STATE_COUNT)
            abort();
    }
    enroll_pods_free(&pods);
    return 0;
}
