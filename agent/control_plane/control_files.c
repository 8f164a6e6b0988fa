/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/control_plane/control_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/cleanup.h"

static int write_all(int fd, const char *text, size_t len)
{
    while (len) {
        ssize_t n = write(fd, text, len);

        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0) {
            text += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

int control_file_write(const char *path, const char *text, size_t len, mode_t mode)
{
    _cleanup_fd_ int fd = -1;
    char temporary[544];
    int r;

    if ((size_t)snprintf(temporary, sizeof(temporary), "%s.new", path) >= sizeof(temporary))
        return -ENAMETOOLONG;
    if (unlink(temporary) < 0 && errno != ENOENT)
        return -errno;
    fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0)
        return -errno;
    r = fchmod(fd, mode) < 0 ? -errno : write_all(fd, text, len);
    if (r == 0 && rename(temporary, path) < 0)
        r = -errno;
    if (r < 0)
        (void)unlink(temporary);
    return r;
}
