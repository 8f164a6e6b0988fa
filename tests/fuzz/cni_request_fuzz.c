/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a runtime sends: CNI_ARGS up to the first newline, then stdin. Either an error with its text, or a
 * request whose prevResult is a piece of the input that is an object by itself.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cni/request.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    setenv("CNI_COMMAND", "ADD", 1);
    setenv("CNI_CONTAINERID", "c", 1);
    setenv("CNI_NETNS", "/proc/self/ns/net", 1);
    setenv("CNI_IFNAME", "eth0", 1);
    return 0;
}

static void set_arguments(const uint8_t *data, size_t len)
{
    char *args = malloc(len + 1);

    memcpy(args, data, len);
    args[len] = '\0';
    setenv("CNI_ARGS", args, 1);
    free(args);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *newline = memchr(data, '\n', size);
    struct cni_error error = {};
    struct cni_request request;
    char *text;
    size_t len;

    if (!newline)
        return 0;
    set_arguments(data, (size_t)(newline - data));
    len = size - (size_t)(newline - data) - 1;
    text = malloc(len + 1);
    memcpy(text, newline + 1, len);
    text[len] = '\0';
    if (cni_request_parse(text, len, &request, &error) < 0) {
        if (!error.code || !*error.message)
            abort();
        return 0;
    }
    if (!cni_version_known(request.version) || !request.pod_name || !request.pod_namespace ||
        !request.pod_uid)
        abort();
    if (request.previous) {
        json_t *previous = json_loadb(request.previous, request.previous_len, 0, NULL);

        if (!json_is_object(previous) || !json_equal(previous, json_object_get(request.config, "prevResult")))
            abort();
        json_decref(previous);
    }
    json_decref(cni_request_addresses(&request));
    (void)cni_request_excluded(&request);
    cni_request_clear(&request);
    return 0;
}
