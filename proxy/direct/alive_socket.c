/* SPDX-License-Identifier: Apache-2.0 */
/* The socket whose entry in direct_proxies goes with the process, however that ends. */
#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "proxy/direct/direct_private.h"

/* The map takes sockets that listen or are connected. No SYN comes through to this one, and nobody but this
 * process has it: no child, since the proxy makes none, and no other, since it is never passed on. */
int alive_socket_open(void)
{
    struct sock_filter nothing[] = {BPF_STMT(BPF_RET | BPF_K, 0)};
    const struct sock_fprog program = {.len = array_size(nothing), .filter = nothing};
    const struct sockaddr_in loopback = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), r;

    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) == 0 &&
        bind(fd, (const struct sockaddr *)&loopback, sizeof(loopback)) == 0 && listen(fd, 1) == 0)
        return fd;
    r = -errno;
    close(fd);
    return r;
}
