/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection to a port on loopback of a pod, through the API server and the kubelet (the subresource
 * portforward, over WebSocket): what `kubectl port-forward` does. Nothing is opened to other pods for it, and
 * nothing runs in the pod.
 */
#ifndef CTL_KUBE_FORWARD_H
#define CTL_KUBE_FORWARD_H

#include "ctl/kube/api.h"

struct forward;

/* 0; -EACCES, -ENOENT, -EPROTO, -EIO, -ENOMEM with words in error, as api_ask(). access outlives it. The
 * caller closes it. */
int forward_open(const struct kube_access *access, const char *namespace, const char *pod, unsigned port,
                 struct forward **ret, char error[API_ERROR_MAX]);
/* Path of a Unix socket, to which this process may connect once: that is the connection to the
 * port. The forward's, never NULL. */
const char *forward_socket(const struct forward *forward);
/* Once that connection has ended, or nothing more is wanted of it: ends the forward, and says why it has
 * ended, without control characters; "" if nothing was wrong. The forward's, never NULL. */
const char *forward_complaint(struct forward *forward);
/* Ends it, and waits for its thread; the connection has been closed before. NULL is none. */
void forward_close(struct forward **forward);

#endif
