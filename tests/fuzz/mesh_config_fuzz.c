/* SPDX-License-Identifier: Apache-2.0 */
/* Mesh configurations: refused with a sentence, or taken. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/xds/mesh_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), error[200] = "";
    struct mesh_config config;

    memcpy(text, data, size);
    text[size] = '\0';
    if (mesh_config_load("/nowhere", text, &config, error, sizeof(error)) == 0)
        mesh_config_free(&config);
    else if (!error[0])
        abort();
    free(text);
    return 0;
}
