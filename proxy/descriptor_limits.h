/* SPDX-License-Identifier: Apache-2.0 */
/* How many descriptors the process may have, and what that leaves to a pod, to a peer and for pipes. */
#ifndef PROXY_DESCRIPTOR_LIMITS_H
#define PROXY_DESCRIPTOR_LIMITS_H

#include "proxy/proxy_settings.h"

/* Sets what the settings leave open, by the process's limit. Before threads start. */
void descriptor_limits_derive(struct proxy_settings *settings);

#endif
