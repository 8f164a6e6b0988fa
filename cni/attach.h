/* SPDX-License-Identifier: Apache-2.0 */
/* The one step of an enrollment that the plugin does itself, in place of the agent. */
#ifndef CNI_ATTACH_H
#define CNI_ATTACH_H

/* Attaches an sk_lookup program to a network namespace and pins the link, in place of a pin that is there.
 * 0, or -errno: it is not attached then. The descriptors stay with the caller. */
int attach_program(int program_fd, int netns_fd, const char *link_path);

#endif
