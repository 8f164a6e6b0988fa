/* SPDX-License-Identifier: Apache-2.0 */
/* Who names the pods that are served: bruma-agent or a CNI agent, and the settings for the proxy's own. */
#ifndef PROXY_POD_SOURCES_H
#define PROXY_POD_SOURCES_H

struct proxy;

/* Sets agent or zds, own if the settings ask for it, and pods_events of the proxy, whose loop, workers and
 * clients of the control plane are there. Control thread. 0, or -errno, logged. */
int pod_sources_open(struct proxy *proxy);

#endif
