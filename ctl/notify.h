/* SPDX-License-Identifier: Apache-2.0 */
/* What systemd is told by who runs in one of its units: sd_notify(3). */
#ifndef CTL_NOTIFY_H
#define CTL_NOTIFY_H

/* Sends the text to the socket of NOTIFY_SOCKET. 0, also where nobody has set it; or -errno. */
int notify_manager(const char *text);

#endif
