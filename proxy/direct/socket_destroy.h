/* SPDX-License-Identifier: Apache-2.0 */
/* Ends TCP connections of a pod's applications (SOCK_DESTROY): both sides see a reset, and the application
 * ECONNABORTED. Any thread, one at a time for each handle. */
#ifndef PROXY_DIRECT_SOCKET_DESTROY_H
#define PROXY_DIRECT_SOCKET_DESTROY_H

#include <stdbool.h>
#include <stdint.h>

#include "bruma/direct.h"

struct socket_destroyer;

/* In the network namespace of the descriptor, which stays the caller's; the calling thread visits it. As long
 * as it lives it keeps the namespace. 0 or -errno. */
int socket_destroyer_new(int netns_fd, struct socket_destroyer **ret);
/* Closes it; the namespace may go. */
void socket_destroyer_free(struct socket_destroyer **destroyer);

/* The one socket that has the tuple, as its pod sees it, and the cookie (SO_COOKIE), whatever device it is
 * bound to. 0; -ENOENT: there is none, or it has been closed; or -errno. */
int socket_destroy(struct socket_destroyer *destroyer, const struct bruma_tuple *tuple, uint64_t cookie);

/* The connection, or the request for one that the pod has answered, that has the tuple: its cookie in
 * *ret_cookie. It is never a listener, nor what is left after a connection has ended (TIME_WAIT). 0; -ENOENT:
 * there is none; or -errno. */
int socket_find(struct socket_destroyer *destroyer, const struct bruma_tuple *tuple, uint64_t *ret_cookie);
/* Ends what socket_find() finds. 0, -ENOENT or -errno. */
int socket_destroy_any(struct socket_destroyer *destroyer, const struct bruma_tuple *tuple);

/* Whether the kernel can do it (CONFIG_INET_DIAG_DESTROY), found out with a connection of our own in the
 * namespace of the calling thread. */
bool socket_destroy_works(void);

#endif
