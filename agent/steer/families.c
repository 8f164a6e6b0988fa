/* SPDX-License-Identifier: Apache-2.0 */
/* Which address families a pod can use. */
#include <ifaddrs.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "agent/steer/internal.h"
#include "lib/cleanup.h"
#include "lib/netns.h"

static uint32_t leads_somewhere(const struct sockaddr *sa)
{
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)sa;
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)sa;

    if (sa->sa_family == AF_INET)
        return ntohl(v4->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET ? 0 : BRUMA_POD_NO_IPV4;
    if (sa->sa_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr) || IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr)
                   ? 0
                   : BRUMA_POD_NO_IPV6;
    return 0;
}

uint32_t pod_no_family_here(void)
{
    const uint32_t both = BRUMA_POD_NO_IPV4 | BRUMA_POD_NO_IPV6;
    uint32_t missing = both;
    struct ifaddrs *all;

    if (getifaddrs(&all) < 0)
        return 0;
    for (const struct ifaddrs *a = all; a; a = a->ifa_next)
        missing &= a->ifa_addr ? ~leads_somewhere(a->ifa_addr) : both;
    freeifaddrs(all);
    /* Without any address, one is about to come, or all have just been flushed. */
    return missing == both ? 0 : missing;
}

uint32_t pod_no_family(int netns_fd)
{
    _cleanup_netns_ int home = netns_visit(netns_fd);

    return home < 0 ? 0 : pod_no_family_here();
}
