/* SPDX-License-Identifier: Apache-2.0 */
#include "install_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"

#define PROGRAM_MAX (256 * 1024 * 1024)

static int read_all(const char *path, size_t max, struct install_file *ret)
{
    _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct install_file f = {};

    if (fd < 0 || fstat(fd, &f.st) < 0)
        return errno > 0 ? -errno : -EIO;
    if (!S_ISREG(f.st.st_mode))
        return -EINVAL;
    if ((size_t)f.st.st_size > max)
        return -EFBIG;
    f.text = malloc((size_t)f.st.st_size + 1);
    if (!f.text)
        return -ENOMEM;
    while (f.len < (size_t)f.st.st_size) {
        ssize_t n = read(fd, f.text + f.len, (size_t)f.st.st_size - f.len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            free(f.text);
            return n < 0 ? -errno : -EAGAIN; /* cut off under our eyes */
        }
        f.len += (size_t)n;
    }
    f.text[f.len] = '\0';
    *ret = f;
    return 0;
}

int install_file_read(const char *path, struct install_file *ret)
{
    return read_all(path, INSTALL_FILE_MAX, ret);
}

void install_file_clear(struct install_file *file)
{
    free(file->text);
    memset(file, 0, sizeof(*file));
}

static int write_all(int fd, const char *data, size_t len)
{
    while (len) {
        ssize_t n = write(fd, data, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        data += n;
        len -= (size_t)n;
    }
    return 0;
}

static bool changed(const char *path, const struct stat *before)
{
    struct stat now;

    return stat(path, &now) == 0 &&
           (now.st_ino != before->st_ino || now.st_dev != before->st_dev || now.st_size != before->st_size ||
            now.st_mtim.tv_sec != before->st_mtim.tv_sec || now.st_mtim.tv_nsec != before->st_mtim.tv_nsec);
}

/* like: whose mode and owner, NULL for a program's. unchanged_since: NULL if that does not matter. */
static int replace(const char *path, const struct stat *like, const struct stat *unchanged_since,
                   const char *data, size_t len)
{
    char temporary[PATH_MAX + 16];
    const char *slash = strrchr(path, '/');
    int directory = slash ? (int)(slash - path) : 0, r;
    _cleanup_fd_ int fd = -1;

    /* Not of a name that runtimes would load. */
    snprintf(temporary, sizeof(temporary), "%.*s/.%s.XXXXXX", directory, path, slash ? slash + 1 : path);
    fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0)
        return -errno;
    r = write_all(fd, data, len);
    if (r == 0 && (fchmod(fd, like ? like->st_mode & 07777 : 0755) < 0 ||
                   (like && fchown(fd, like->st_uid, like->st_gid) < 0) || fsync(fd) < 0))
        r = -errno;
    if (r == 0 && unchanged_since && changed(path, unchanged_since))
        r = -EAGAIN;
    if (r == 0 && rename(temporary, path) < 0)
        r = -errno;
    if (r < 0)
        unlink(temporary);
    return r;
}

int install_file_replace(const char *path, const struct install_file *read, const char *text, size_t len)
{
    char real[PATH_MAX];
    struct stat st;
    bool own = realpath(path, real) && stat(real, &st) == 0 && st.st_ino == read->st.st_ino;

    return replace(own ? real : path, &read->st, own ? &read->st : NULL, text, len);
}

int install_file_copy(const char *from, const char *to)
{
    struct install_file source = {}, target = {};
    int r = read_all(from, PROGRAM_MAX, &source);

    if (r < 0)
        return r;
    if (read_all(to, PROGRAM_MAX, &target) == 0 && target.len == source.len && target.text && source.text &&
        !memcmp(target.text, source.text, source.len) && (target.st.st_mode & 0111) == 0111) {
        r = 0;
    } else {
        r = replace(to, NULL, NULL, source.text, source.len);
        if (r == 0)
            r = 1;
    }
    install_file_clear(&source);
    install_file_clear(&target);
    return r;
}
