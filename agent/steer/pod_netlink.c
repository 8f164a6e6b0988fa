/* SPDX-License-Identifier: Apache-2.0 */
/* Requests to the kernel about the namespace that the calling thread is in. */
#include "agent/steer/pod_netlink.h"

#include <errno.h>
#include <time.h>

#define DUMP_READS 256 /* of that size: some 20,000 rules. Who has more gets no more of our time. */

struct mnl_socket *pod_netlink_open(void)
{
    /* The kernel has answered when a request is sent: there is never anything to wait for. */
    struct mnl_socket *nl = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC | SOCK_NONBLOCK);
    int on = 1;

    if (nl && mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0) {
        mnl_socket_close(nl);
        return NULL;
    }
    /* lets the kernel filter a dump by table */
    if (nl)
        mnl_socket_setsockopt(nl, NETLINK_GET_STRICT_CHK, &on, sizeof(on));
    return nl;
}

int pod_netlink_transact(struct mnl_socket *nl, struct nlmsghdr *request, mnl_cb_t each, void *data)
{
    char buf[NETLINK_BUFFER];
    unsigned sequence = (unsigned)time(NULL), port = mnl_socket_get_portid(nl);
    int r = 1;

    request->nlmsg_seq = sequence;
    if (mnl_socket_sendto(nl, request, request->nlmsg_len) < 0)
        return -errno;
    for (int reads = 0; r > 0; reads++) {
        ssize_t n = reads < DUMP_READS ? mnl_socket_recvfrom(nl, buf, sizeof(buf)) : (errno = E2BIG, -1);

        if (n < 0)
            return -errno;
        r = mnl_cb_run(buf, (size_t)n, sequence, port, each, data);
        if (!each)
            break;
    }
    return r < 0 ? -errno : 0;
}
