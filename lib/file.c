/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/cleanup.h"

/* Up to size bytes: how many there were. */
static ssize_t read_up_to(int fd, char *buf, size_t size)
{
    size_t len = 0;

    while (len < size) {
        ssize_t n = read(fd, buf + len, size - len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        len += (size_t)n;
    }
    return (ssize_t)len;
}

ssize_t file_read_text(int directory, const char *path, int flags, char *buf, size_t size)
{
    _cleanup_fd_ int fd = openat(directory, path, O_RDONLY | O_CLOEXEC | flags);
    ssize_t n = fd < 0 ? -errno : read_up_to(fd, buf, size);

    if (n == (ssize_t)size) {
        buf[size - 1] = '\0';
        return -EFBIG;
    }
    buf[n < 0 ? 0 : n] = '\0';
    return n;
}

int file_read(int directory, const char *path, int flags, size_t max, char **ret, size_t *ret_len)
{
    _cleanup_fd_ int fd = openat(directory, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | flags);
    _cleanup_free_ char *text = NULL;
    struct stat st;
    ssize_t n;

    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    text = malloc(max + 1);
    if (!text)
        return -ENOMEM;
    n = read_up_to(fd, text, max + 1);
    if (n < 0)
        return (int)n;
    if ((size_t)n > max)
        return -EFBIG;
    text[n] = '\0';
    *ret = take_pointer(text);
    *ret_len = (size_t)n;
    return 0;
}
