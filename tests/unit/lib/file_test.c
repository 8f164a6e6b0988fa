/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/file.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/cleanup.h"

static char directory[] = "/tmp/bruma-file-XXXXXX";
static int dir = -1;

static void make(void)
{
    cr_assert(mkdtemp(directory));
    dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    cr_assert_geq(dir, 0);
}

static void put(const char *name, const char *text, size_t len)
{
    _cleanup_fd_ int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    cr_assert_eq(write(fd, text, len), (ssize_t)len);
}

static void clean(void)
{
    const char *const names[] = {"file", "link", "fifo"};

    for (size_t i = 0; i < array_size(names); i++)
        unlinkat(dir, names[i], 0);
    close(dir);
    rmdir(directory);
}

TestSuite(file, .init = make, .fini = clean, .timeout = 10);

Test(file, text)
{
    char buf[8];

    put("file", "1234567", 7);
    cr_expect_eq(file_read_text(dir, "file", 0, buf, sizeof(buf)), 7);
    cr_expect_str_eq(buf, "1234567");
    cr_expect_eq(file_read_text(dir, "file", 0, buf, 7), -EFBIG);
    cr_expect_str_eq(buf, "123456", "the first ones are there");
    put("file", "", 0);
    cr_expect_eq(file_read_text(dir, "file", 0, buf, sizeof(buf)), 0);
    cr_expect_str_eq(buf, "");
    strcpy(buf, "old");
    cr_expect_eq(file_read_text(dir, "none", 0, buf, sizeof(buf)), -ENOENT);
    cr_expect_str_eq(buf, "");
    strcpy(buf, "old");
    cr_expect_eq(file_read_text(AT_FDCWD, directory, 0, buf, sizeof(buf)), -EISDIR);
    cr_expect_str_eq(buf, "");
}

Test(file, text_of_proc)
{
    char buf[4096];

    cr_expect_gt(file_read_text(AT_FDCWD, "/proc/self/stat", 0, buf, sizeof(buf)), 10,
                 "its size is said to be zero");
}

Test(file, whole)
{
    _cleanup_free_ char *text = NULL, *none = NULL;
    size_t len = 99;

    put("file", "a\0b", 3);
    cr_expect_eq(file_read(dir, "file", 0, 3, &text, &len), 0);
    cr_expect_eq(len, 3);
    cr_expect_eq(memcmp(text, "a\0b", 4), 0, "and a NUL behind");
    len = 99;
    cr_expect_eq(file_read(dir, "file", 0, 2, &none, &len), -EFBIG);
    cr_expect_eq(file_read(dir, "none", 0, 2, &none, &len), -ENOENT);
    cr_expect_eq(file_read(AT_FDCWD, directory, 0, 2, &none, &len), -EINVAL);
    cr_assert_eq(mkfifoat(dir, "fifo", 0600), 0);
    cr_expect_eq(file_read(dir, "fifo", 0, 2, &none, &len), -EINVAL,
                 "nobody writes there, and it is not waited for");
    cr_assert_eq(symlinkat("file", dir, "link"), 0);
    cr_expect_eq(file_read(dir, "link", O_NOFOLLOW, 3, &none, &len), -ELOOP);
    cr_expect_null(none);
    cr_expect_eq(len, 99);
    cr_expect_eq(file_read(dir, "link", 0, 3, &none, &len), 0);
}
