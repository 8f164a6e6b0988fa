/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CNI_ATTACH_H
#define CNI_ATTACH_H

/* Attaches an sk_lookup program to a network namespace and pins the link. Undoes itself when it fails:
 * -errno. */
int attach_program(int program_fd, int netns_fd, const char *link_path);

#endif
