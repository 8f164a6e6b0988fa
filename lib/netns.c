/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/netns.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include "lib/cleanup.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

int netns_check(int fd)
{
    int type = ioctl(fd, NS_GET_NSTYPE);

    return type == CLONE_NEWNET ? 0 : -EINVAL;
}

int netns_open(const char *path)
{
    _cleanup_fd_ int place = open(path, O_PATH | O_CLOEXEC), fd = -1;
    struct statfs fs;
    char again[40];

    /* Whatever the name leads to is not opened before it is known to be a namespace: a FIFO has no end of it,
     * and a device may do something. */
    if (place < 0 || fstatfs(place, &fs) < 0)
        return -errno;
    if (fs.f_type != NSFS_MAGIC)
        return -EINVAL;
    snprintf(again, sizeof(again), "/proc/self/fd/%d", place);
    fd = open(again, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (netns_check(fd) < 0)
        return -EINVAL;
    return take_fd(&fd);
}

int netns_open_own(void)
{
    int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

int netns_enter(int fd)
{
    return setns(fd, CLONE_NEWNET) < 0 ? -errno : 0;
}

int netns_visit(int fd)
{
    _cleanup_fd_ int home = netns_open_own();
    int r = home < 0 ? home : netns_enter(fd);

    return r < 0 ? r : take_fd(&home);
}

void netns_leave(int *home)
{
    int saved = errno;

    if (*home < 0)
        return;
    if (netns_enter(*home) < 0)
        abort();
    close(take_fd(home));
    errno = saved;
}

int socket_netns_cookie(int fd, uint64_t *ret)
{
    socklen_t len = sizeof(*ret);

    return getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, ret, &len) < 0 ? -errno : 0;
}

int socket_cookie(int fd, uint64_t *ret)
{
    socklen_t len = sizeof(*ret);

    return getsockopt(fd, SOL_SOCKET, SO_COOKIE, ret, &len) < 0 ? -errno : 0;
}

int netns_cookie(int fd, uint64_t *ret)
{
    _cleanup_netns_ int home = netns_visit(fd);

    if (home < 0)
        return home;
    _cleanup_fd_ int sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    return sock < 0 ? -errno : socket_netns_cookie(sock, ret);
}

int netns_inode(int fd, uint64_t *ret)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    *ret = st.st_ino;
    return 0;
}
