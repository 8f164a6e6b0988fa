/* SPDX-License-Identifier: Apache-2.0 */
/* A proxy and the one that takes over from it are brought together, so that live connections can move
 * (bruma/handover.h): the agent makes the socket pair, and sees nothing of what is said on it. */
#ifndef AGENT_PROXIES_HAND_OVER_H
#define AGENT_PROXIES_HAND_OVER_H

#include "agent/proxies/proxy_assignments.h"

/* Nothing is to be sent. */
void hand_over_init(struct local_proxy *proxy);
/* What was to be sent is closed. */
void hand_over_clear(struct local_proxy *proxy);
/* Both can, and the setting allows it: each is to be told. Else connections of the old one end with it, and
 * the log says why. */
void hand_over_begin(struct local_proxy *old, struct local_proxy *young);
/* Something is to be sent. */
bool hand_over_wanted(const struct local_proxy *proxy);
/* The message for it, which the caller owns; NULL: no memory. ret_fds has *ret_fds_len descriptors for it,
 * which stay the proxy's; both are always written. */
cJSON *hand_over_message(const struct local_proxy *proxy, int ret_fds[2], size_t *ret_fds_len);

/* What came of it, as the new one says; kept for the status. 0, or -EBADMSG: that cannot be used. */
int hand_over_told(struct local_proxy *proxy, const cJSON *message);

#endif
