/* SPDX-License-Identifier: Apache-2.0 */
/* Network configurations of others: refused, or our entry goes in, is found, and comes out; what had none of
 * ours before is then as it was. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agent/install/cni_conf.h"

#define ENTRY "{\"type\":\"bruma-cni\"}"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), *with = NULL, *without = NULL, *clean = NULL, why[100];
    size_t with_len, without_len, clean_len;

    memcpy(text, data, size);
    text[size] = '\0';
    if (cni_conf_kind(text, size, why, sizeof(why)) == CNI_CONF_LIST &&
        cni_conf_add(text, size, ENTRY, &with, &with_len) == 0) {
        int r = cni_conf_remove(text, size, &clean, &clean_len);

        if (!cni_conf_has(with, with_len, ENTRY) ||
            cni_conf_remove(with, with_len, &without, &without_len) != 1 || r < 0)
            abort();
        if (without_len != (r ? clean_len : size) || memcmp(without, r ? clean : text, without_len) != 0)
            abort();
    }
    (void)cni_conf_is_copy(text, size);
    free(text);
    free(with);
    free(without);
    free(clean);
    return 0;
}
