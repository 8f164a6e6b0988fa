/* SPDX-License-Identifier: Apache-2.0 */
/* What the programs in the kernel are told of our sockets. */
#include <errno.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include "bruma/mesh.h"
#include "proxy/socket/socket_internal.h"

#ifndef IPV6_FREEBIND
#define IPV6_FREEBIND 78
#endif

/* Written through the map's descriptor, which only the agent hands out: nothing in a pod can set it. */
int socket_exempt(struct proxy *proxy, int fd)
{
    struct bruma_proxy_socket value = {.exempt = 1};
    union bpf_attr attr = {};
    int map = __atomic_load_n(&proxy->exempt_map_fd, __ATOMIC_ACQUIRE);

    if (map < 0)
        return 0; /* no agent: no hook that would capture the socket */
    attr.map_fd = (__u32)map;
    attr.key = (__u64)(uintptr_t)&fd;
    attr.value = (__u64)(uintptr_t)&value;
    return syscall(SYS_bpf, BPF_MAP_UPDATE_ELEM, &attr, sizeof(attr)) < 0 ? -errno : 0;
}

/* -errno: the source is not bound, or not known. */
static int source_of(int fd, const struct endpoint *target, struct endpoint *ret)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);

    if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
        return -errno;
    if (endpoint_from_sockaddr((struct sockaddr *)&sa, ret) < 0)
        return -EAFNOSUPPORT;
    if (ret->port)
        return 0;
    /* From itself to itself, as the kernel would have it; but its port is needed now. (It may have the
     * address by a route alone.) */
    if (!addr_is_v4(&target->addr))
        (void)socket_option(fd, IPPROTO_IPV6, IPV6_FREEBIND, 1);
    *ret = (struct endpoint){.addr = target->addr};
    len = (socklen_t)endpoint_to_sockaddr(ret, AF_UNSPEC, &sa);
    if (bind(fd, (struct sockaddr *)&sa, len) < 0)
        return -errno;
    len = sizeof(sa);
    if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
        return -errno;
    return endpoint_from_sockaddr((struct sockaddr *)&sa, ret) < 0 ? -EAFNOSUPPORT : 0;
}

static void put_address(struct bruma_address *to, const struct addr *from)
{
    memcpy(to->bytes, from->bytes, sizeof(to->bytes));
}

/*
 * Of the addresses that a pod has, its program knows those that its network has named. A connection over lo
 * to another one would be taken for one of the pod's own, and handed to us again: the program is told of it
 * before it begins.
 */
int socket_register_delivery(const struct pod *pod, int fd, const struct endpoint *target)
{
    struct bruma_delivery key = {.netns_cookie = pod->cookie};
    struct bruma_delivery_made value = {};
    struct endpoint source = {0};
    struct timespec now;
    union bpf_attr attr = {};
    int map = __atomic_load_n(&pod->proxy->deliveries_map_fd, __ATOMIC_ACQUIRE), r;

    if (pod->redirected || pod_has_address(pod, &target->addr) || addr_is_loopback(&target->addr))
        return 0;
    if (map < 0)
        return -EOPNOTSUPP; /* an agent of before */
    r = source_of(fd, target, &source);
    if (r < 0)
        return r;
    clock_gettime(CLOCK_MONOTONIC, &now);
    value.registered_nanoseconds = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    put_address(&key.tuple.remote_address, &source.addr);
    put_address(&key.tuple.local_address, &target->addr);
    key.tuple.remote_port = source.port;
    key.tuple.local_port = target->port;
    attr.map_fd = (__u32)map;
    attr.key = (__u64)(uintptr_t)&key;
    attr.value = (__u64)(uintptr_t)&value;
    return syscall(SYS_bpf, BPF_MAP_UPDATE_ELEM, &attr, sizeof(attr)) < 0 ? -errno : 0;
}
