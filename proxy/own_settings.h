/* SPDX-License-Identifier: Apache-2.0 */
/* What the settings say of the network namespace that the proxy itself runs in: whether a pod is served in
 * it, and which (proxy/pods/own_pod.h). */
#ifndef PROXY_OWN_SETTINGS_H
#define PROXY_OWN_SETTINGS_H

#include <stddef.h>

#include "proxy/proxy_settings.h"

/* Sets dedicated, own_hbone and own, and the node ID's defaults. 0, or -EINVAL with a sentence in error that
 * names the setting. Before threads start. */
int own_settings_derive(struct proxy_settings *settings, char *error, size_t error_size);

#endif
