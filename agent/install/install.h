/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps bruma-cni on the node: its binary where the container runtime looks for plugins, and its entry at the
 * end of the network that the runtime really loads, whoever else writes there.
 */
#ifndef AGENT_INSTALL_INSTALL_H
#define AGENT_INSTALL_INSTALL_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "agent/agent_settings.h"
#include "lib/loop.h"

struct install;

/* True if the settings ask for it. */
bool install_configured(const struct agent_settings *settings);

/* Installs now, and again whenever something has changed. missing is called on the loop when the
 * runtime's network was found without the entry, which it had before. Trouble is logged, reported and
 * tried again, and is no error here, nor is it that there is no inotify: 0, -ENOMEM, or -errno of the loop,
 * logged. */
int install_open(struct loop *loop, const struct agent_settings *settings, void (*missing)(void *data),
                 void *data, struct install **ret);
/* Leaves everything in place. */
void install_close(struct install **install);

/* The runtime would call the plugin for a new pod. True if nothing is to be installed. */
bool install_in_place(const struct install *install);

/* Rounds that changed something, or failed. */
enum install_result { INSTALL_SUCCESS, INSTALL_PROGRAM_FAILED, INSTALL_NETWORK_FAILED, INSTALL_RESULT_COUNT };
/* How many there were since the start; 0 for NULL. */
uint64_t install_result(const struct install *install, enum install_result result);

/* For status: the file, or the reason and text of what is wrong. */
void install_report(const struct install *install, cJSON *object);

/* Takes the entry out of all files and removes the lists that were made, then the binary. Waits up to 5
 * s for who writes a file. 0, or -errno, logged: the binary stays for as long as the entry does. */
int install_remove(const struct agent_settings *settings);

#endif
