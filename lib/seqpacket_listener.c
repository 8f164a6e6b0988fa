/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/seqpacket_listener.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/seqpacket.h"

/* 0: there is none */
static ino_t inode_of(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 ? st.st_ino : 0;
}

static void remove_own(const char *path, ino_t inode)
{
    if (inode && inode_of(path) == inode)
        unlink(path);
}

int seqpacket_listener_open(struct seqpacket_listener *l, struct loop *loop, const char *path, mode_t mode,
                            loop_watch_fn fn)
{
    _cleanup_free_ char *own_path = strdup(path);
    _cleanup_fd_ int fd = own_path ? seqpacket_listen(path, mode) : -ENOMEM;
    ino_t inode;
    int r;

    if (fd < 0)
        return fd;
    inode = inode_of(path);
    r = loop_watch_add(loop, &l->watch, fd, EPOLLIN, fn);
    if (r < 0) {
        remove_own(path, inode);
        return r;
    }
    take_fd(&fd);
    l->loop = loop;
    l->path = take_pointer(own_path);
    l->inode = inode;
    return 0;
}

void seqpacket_listener_close(struct seqpacket_listener *l)
{
    int fd = l->watch.fd;

    loop_watch_remove(l->loop, &l->watch);
    close(fd);
    remove_own(l->path, l->inode);
    free(take_pointer(l->path));
}
