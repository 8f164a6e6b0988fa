/* SPDX-License-Identifier: Apache-2.0 */
/* One call of the container runtime's CRI on its socket, by the gRPC client of lib/rpc. */
#ifndef AGENT_NETNS_CRI_CALL_H
#define AGENT_NETNS_CRI_CALL_H

#include <protobuf-c/protobuf-c.h>

#define CRI_ERROR_SIZE 300 /* bytes, with the NUL */

/*
 * Sends request to the method at path ("/runtime.v1.RuntimeService/...") and waits for its answer, 3 s at
 * most: to be called in a thread that may wait. The call has a loop and a connection of its own, which end
 * with it.
 *
 * Returns 0 and the answer, of the given type, for protobuf_c_message_free_unpacked(). Otherwise -ENOMEM,
 * -errno of the connection, -ETIMEDOUT (the runtime did not answer), or -EPROTO: it said no, or not one
 * message of that type. Words for the log are in error, the runtime's own behind the number of its gRPC
 * status.
 */
int cri_call(const char *socket, const char *path, const ProtobufCMessage *request,
             const ProtobufCMessageDescriptor *type, ProtobufCMessage **ret, char error[CRI_ERROR_SIZE]);

#endif
