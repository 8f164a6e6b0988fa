/* SPDX-License-Identifier: Apache-2.0 */
/* `bruma-agent --uninstall`. */
#ifndef AGENT_INSTALL_UNINSTALL_H
#define AGENT_INSTALL_UNINSTALL_H

#include "agent/agent_settings.h"

/* Takes every pod out of the mesh at once and removes pins, rules, records and sockets. The agent must
 * not run (-EBUSY). Goes on after a failure and returns the first one, -errno, or 0; all are logged.
 * before: called on this thread once it is sure that none runs, or NULL. */
int uninstall(const struct agent_settings *settings, int (*before)(const struct agent_settings *settings));

#endif
