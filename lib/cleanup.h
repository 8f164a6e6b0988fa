/* SPDX-License-Identifier: Apache-2.0 */
/* Scope-bound release of resources. A `take_*` hands the resource to the caller and disarms the release. */
#ifndef LIB_CLEANUP_H
#define LIB_CLEANUP_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define cleanup(fn) __attribute__((cleanup(fn)))

/* p: the address of a pointer of any type, from malloc() or NULL. */
static inline void cleanup_free_pointer(void *p)
{
    free(*(void **)p);
}

/* A negative descriptor is none. errno stays as it was. */
static inline void cleanup_close_fd(int *fd)
{
    if (*fd >= 0) {
        int saved = errno;

        close(*fd);
        errno = saved;
    }
}

/* NULL is none; errors of what was not written yet are lost. */
static inline void cleanup_close_file(FILE **f)
{
    if (*f)
        fclose(*f);
}

#define _cleanup_free_ cleanup(cleanup_free_pointer)
#define _cleanup_fd_   cleanup(cleanup_close_fd)
#define _cleanup_file_ cleanup(cleanup_close_file)

/* Moves a descriptor out of a variable that would close it, and returns it; -1 if there is none. */
static inline int take_fd(int *fd)
{
    int r = *fd;

    *fd = -1;
    return r;
}

/* The same for a pointer: its value, and the variable is NULL. */
#define take_pointer(p)             \
    ({                              \
        __typeof__(p) _taken = (p); \
        (p) = NULL;                 \
        _taken;                     \
    })

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define array_size(a)                   (sizeof(a) / sizeof((a)[0]))

#endif
