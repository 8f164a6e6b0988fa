/* SPDX-License-Identifier: Apache-2.0 */
/* Which address families and which device a pod can use. */
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "agent/steer/internal.h"
#include "bruma/mesh.h"
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

uint32_t pod_only_device(int netns_fd)
{
    _cleanup_netns_ int home = netns_visit(netns_fd);
    _cleanup_fd_ int fd = -1;
    struct if_nameindex *all = NULL;
    uint32_t found = 0;
    int n = 0;

    if (home < 0)
        return 0;
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    all = fd < 0 ? NULL : if_nameindex();
    netns_leave(&home);
    for (struct if_nameindex *i = all; i && i->if_index; i++) {
        struct ifreq request = {};

        snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", i->if_name);
        if (i->if_index == BRUMA_LOOPBACK_IFINDEX || ioctl(fd, SIOCGIFFLAGS, &request) < 0 ||
            !(request.ifr_flags & IFF_UP))
            continue;
        found = i->if_index;
        n++;
    }
    if (all)
        if_freenameindex(all);
    return n == 1 && found <= BRUMA_POD_DEVICE_MAX ? found : 0;
}
