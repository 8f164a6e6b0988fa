/* SPDX-License-Identifier: Apache-2.0 */
/* Mesh files: either an error that names a place, or a mesh whose messages are whole. */
#include <stdlib.h>
#include <string.h>

#include "lib/mesh_file/mesh_file.h"
#include "lib/proto/authorization.pb-c.h"
#include "lib/proto/workload.pb-c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const ProtobufCMessageDescriptor *descriptor, const uint8_t *bytes, size_t len)
{
    ProtobufCMessage *message = protobuf_c_message_unpack(descriptor, NULL, len, bytes);

    if (!message)
        abort();
    protobuf_c_message_free_unpacked(message, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mesh_file_error error;
    struct mesh_file *file = NULL;

    if (mesh_file_parse("mesh.yaml", data, size, "cluster.local", &file, &error) < 0) {
        if (file || strncmp(error.text, "mesh.yaml:", 10) != 0 || !error.line)
            abort();
        return 0;
    }
    for (size_t i = 0; i < file->workloads_len; i++) {
        const struct mesh_workload *w = &file->workloads[i];

        check(&istio__workload__workload__descriptor, w->message, w->message_len);
        if (mesh_file_workload_by_uid(file, w->uid) != w ||
            !mesh_file_workload(file, w->namespace, w->name, "node"))
            abort();
    }
    for (size_t i = 0; i < file->services_len; i++)
        check(&istio__workload__service__descriptor, file->services[i].message,
              file->services[i].message_len);
    for (size_t i = 0; i < file->policies_len; i++)
        check(&istio__security__authorization__descriptor, file->policies[i].message,
              file->policies[i].message_len);
    mesh_file_free(&file);
    return 0;
}
