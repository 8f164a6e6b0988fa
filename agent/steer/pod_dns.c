/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pod's DNS queries. A rule leads them to lo with the address that they are sent to, and the pod's
 * program hands them to the socket. Nothing of the application's socket or of the addresses is changed: it
 * may be connected or not, and ask one server or several.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/steer/internal.h"
#include "bruma/mesh.h"
#include "lib/cleanup.h"
#include "lib/netns.h"

#define QUEUE_BYTES (1024 * 1024) /* of questions, while no proxy takes them */

#ifndef SO_BINDTOIFINDEX
#define SO_BINDTOIFINDEX 62
#endif

static int option(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof(value)) < 0 ? -errno : 0;
}

/* Any port: the program finds the socket in its map. On lo, so that nobody outside reaches that port. */
static int open_here(int *ret)
{
    struct sockaddr_in6 any6 = {.sin6_family = AF_INET6};
    struct sockaddr_in any4 = {.sin_family = AF_INET};
    _cleanup_fd_ int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    bool ipv6 = fd >= 0;
    int r;

    if (fd < 0 && errno == EAFNOSUPPORT)
        fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    r = option(fd, SOL_SOCKET, SO_BINDTOIFINDEX, BRUMA_LOOPBACK_IFINDEX);
    if (r == 0 && ipv6)
        r = option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    if (r == 0)
        r = ipv6 ? option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1) : option(fd, IPPROTO_IP, IP_PKTINFO, 1);
    if (r < 0)
        return r;
    (void)option(fd, SOL_SOCKET, SO_RCVBUFFORCE, QUEUE_BYTES);
    if ((ipv6 ? bind(fd, (struct sockaddr *)&any6, sizeof(any6))
              : bind(fd, (struct sockaddr *)&any4, sizeof(any4))) < 0)
        return -errno;
    *ret = take_fd(&fd);
    return 0;
}

int steer_dns_open(int netns_fd, int *ret_fd, struct steer_error *error)
{
    _cleanup_fd_ int own = netns_open_own();
    int r = own < 0 ? own : netns_enter(netns_fd);

    if (r < 0)
        return steer_fail(error, BRUMA_REASON_NETNS_UNUSABLE, r, "cannot enter the pod's network namespace");
    r = open_here(ret_fd);
    if (netns_enter(own) < 0)
        abort(); /* the agent would go on in a pod */
    return r < 0 ? steer_fail(error, BRUMA_REASON_LISTENER_OPEN_FAILED, r, "the socket for DNS queries") : 0;
}

static int set_flag(struct steer *s, uint64_t cookie, bool on, struct steer_error *error)
{
    struct bruma_pod entry;
    int r = steer_pod_entry(s, cookie, &entry);

    if (r == -ENOENT && !on)
        return 0;
    if (r == 0) {
        entry.flags &= ~(__u32)BRUMA_POD_CAPTURE_DNS;
        entry.flags |= on ? BRUMA_POD_CAPTURE_DNS : 0;
        r = bpf_map_update_elem(s->pods_fd, &cookie, &entry, BPF_EXIST) < 0 ? -errno : 0;
    }
    return r < 0 ? steer_fail(error, BRUMA_REASON_MAP_UPDATE_FAILED, r, "cannot write the pods map") : 0;
}

int steer_dns_start(struct steer *s, const struct steer_pod *pod, int fd, struct steer_error *error)
{
    struct steer_error ignored;
    __u64 value = (__u64)fd;
    uint64_t cookie;
    int r = socket_netns_cookie(fd, &cookie);

    if (r == 0 && cookie != pod->cookie)
        r = -EXDEV;
    if (r == 0 && bpf_map_update_elem(s->dns_sockets_fd, &pod->cookie, &value, BPF_ANY) < 0)
        r = -errno;
    if (r < 0)
        return steer_fail(error, BRUMA_REASON_MAP_UPDATE_FAILED, r, "the socket for DNS queries");
    r = set_flag(s, pod->cookie, true, error);
    if (r == 0)
        r = pod_netns_dns(pod, true, error);
    if (r < 0)
        (void)steer_dns_stop(s, pod, &ignored);
    return r;
}

/* The rule first: what it still led to lo would be refused there. */
int steer_dns_stop(struct steer *s, const struct steer_pod *pod, struct steer_error *error)
{
    int r = pod_netns_dns(pod, false, error);

    if (r == 0)
        r = set_flag(s, pod->cookie, false, error);
    if (r == 0)
        bpf_map_delete_elem(s->dns_sockets_fd, &pod->cookie);
    return r;
}

bool steer_dns_started(struct steer *s, uint64_t cookie)
{
    struct bruma_pod entry;

    return steer_pod_entry(s, cookie, &entry) == 0 && entry.flags & BRUMA_POD_CAPTURE_DNS;
}

int steer_dns_verify(struct steer *s, const struct steer_pod *pod, int fd)
{
    uint64_t registered, own;
    int r = pod_netns_dns_lacks(pod);

    if (r != 0)
        return r < 0 ? r : 0;
    return steer_dns_started(s, pod->cookie) &&
           bpf_map_lookup_elem(s->dns_sockets_fd, &pod->cookie, &registered) == 0 &&
           socket_cookie(fd, &own) == 0 && registered == own;
}
