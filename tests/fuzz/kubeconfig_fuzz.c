/* SPDX-License-Identifier: Apache-2.0 */
/* A kubeconfig, which may come from anybody; and what a credential plugin prints, for whoever has one. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/kube/exec_credential.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char error[KUBECONFIG_ERROR_MAX] = "", version[] = "client.authentication.k8s.io/v1", command[] = "x";
    struct kube_exec exec = {.api_version = version, .command = command};
    struct kube_access *a = NULL, said = {.exec = &exec};

    if (kubeconfig_parse((const char *)data, size, "/nowhere", NULL, &a, error) == 0) {
        if (!a->server || strncmp(a->server, "https://", 8) != 0 || !a->certificate != !a->key)
            abort();
    } else if (!*error || a) {
        abort();
    }
    kube_access_free(&a);
    error[0] = '\0';
    if (exec_credential_take(&said, (const char *)data, size, error) < 0 && !*error)
        abort();
    free(said.token);
    free(said.certificate);
    free(said.key);
    return 0;
}
