/* SPDX-License-Identifier: Apache-2.0 */
/* The search domains of the machine that the proxy runs on, for its DNS answers. */
#ifndef PROXY_SEARCH_DOMAINS_H
#define PROXY_SEARCH_DOMAINS_H

/* Of /etc/resolv.conf, or LOCALDOMAIN, in lower case, NULL at the end; valid for good. 0 or -ENOMEM. Before
 * it serves. */
int search_domains_load(const char *const **ret);

#endif
