/* SPDX-License-Identifier: Apache-2.0 */
/* Tells the service manager (sd_notify(3)) how things stand. */
#ifndef AGENT_API_NOTIFY_H
#define AGENT_API_NOTIFY_H

/* state: "READY=1" and the like. 0 also where nobody asked to be told (NOTIFY_SOCKET is not set). */
int notify(const char *state);

#endif
