/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/install/install_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/cleanup.h"

#define PROGRAM_MAX (256 * 1024 * 1024)
#define LEFT_OVER   ".bruma-" /* and six characters: a file that is being written */

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

/* What was written must be found under its name after a power cut. File systems that cannot promise it say
 * so by an error, which changes nothing. */
static void sync_directory(const char *path, int len)
{
    char directory[PATH_MAX];

    snprintf(directory, sizeof(directory), "%.*s", len, path);

    _cleanup_fd_ int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd >= 0)
        (void)fsync(fd);
}

/* Where a read lease is refused, somebody has the file open for writing: what he writes would be lost. While
 * it is held, those who open it for writing wait. -1 where there are no leases: the file system has none, or
 * it is not ours to ask. */
static int lease(const char *path, int *ret)
{
    _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);

    *ret = -1;
    if (fd < 0 || fcntl(fd, F_SETLEASE, F_RDLCK) < 0)
        return errno == EAGAIN ? -EAGAIN : 0;
    *ret = take_fd(&fd);
    return 0;
}

/* Into place, unless path has changed since (NULL: it is not asked). */
static int put_in_place(const char *temporary, const char *path, const struct stat *since)
{
    _cleanup_fd_ int held = -1;
    int r = since ? lease(path, &held) : 0;

    if (r == 0 && since && changed(path, since))
        r = -EAGAIN;
    if (r == 0 && rename(temporary, path) < 0)
        r = -errno;
    return r;
}

/* like: whose mode and owner, NULL for a program's. */
static int replace(const char *path, const struct stat *like, const struct stat *unchanged_since,
                   const char *data, size_t len)
{
    char temporary[PATH_MAX + 32];
    const char *slash = strrchr(path, '/');
    int directory = slash ? (int)(slash - path) : 0, r;
    _cleanup_fd_ int fd = -1;

    /* Not of a name that runtimes would load. */
    snprintf(temporary, sizeof(temporary), "%.*s/.%s" LEFT_OVER "XXXXXX", directory, path,
             slash ? slash + 1 : path);
    fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0)
        return -errno;
    r = write_all(fd, data, len);
    if (r == 0 && (fchmod(fd, like ? like->st_mode & 07777 : 0755) < 0 ||
                   (like && fchown(fd, like->st_uid, like->st_gid) < 0) || fsync(fd) < 0))
        r = -errno;
    if (r == 0)
        r = put_in_place(temporary, path, unchanged_since);
    if (r < 0)
        unlink(temporary);
    else
        sync_directory(path, directory);
    return r;
}

int install_file_replace(const char *path, const struct install_file *read, const char *text, size_t len)
{
    char real[PATH_MAX];

    if (!realpath(path, real))
        return errno == ENOENT ? -EAGAIN : -errno; /* it went away: nothing to edit */
    return replace(real, &read->st, &read->st, text, len);
}

int install_file_make(const char *path, const struct install_file *like, const char *text, size_t len)
{
    struct install_file now = {};
    bool same =
        install_file_read(path, &now) == 0 && now.text && now.len == len && !memcmp(now.text, text, len);
    int r = same ? 0 : replace(path, &like->st, NULL, text, len);

    install_file_clear(&now);
    return r < 0 ? r : !same;
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

/* ".NAME.bruma-123456" */
static bool is_left_over(const char *name)
{
    size_t len = strlen(name), tail = sizeof(LEFT_OVER) - 1 + 6;

    return *name == '.' && len > tail + 1 && !strncmp(name + len - tail, LEFT_OVER, sizeof(LEFT_OVER) - 1);
}

void install_file_sweep(const char *directory)
{
    DIR *dir = opendir(directory);
    struct dirent *e;

    while (dir && (e = readdir(dir))) {
        if (is_left_over(e->d_name))
            unlinkat(dirfd(dir), e->d_name, 0);
    }
    if (dir)
        closedir(dir);
}
