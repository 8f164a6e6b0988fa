/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/rpc/lookup.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct lookup {
    int references; /* atomic: the caller's and the thread's */
    int fd;
    struct addrinfo *found; /* of the thread until fd is readable */
    char port[8];
    char host[];
};

static void unref(struct lookup *l)
{
    if (__atomic_sub_fetch(&l->references, 1, __ATOMIC_ACQ_REL))
        return;
    if (l->found)
        freeaddrinfo(l->found);
    if (l->fd >= 0)
        close(l->fd);
    free(l);
}

static void *resolve(void *data)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG}, *found = NULL;
    struct lookup *l = data;
    uint64_t one = 1;

    if (getaddrinfo(l->host, l->port, &hints, &found) != 0) {
        /* A machine with loopback alone has no configured address by that flag's measure. */
        hints.ai_flags = 0;
        if (getaddrinfo(l->host, l->port, &hints, &found) != 0)
            found = NULL;
    }
    l->found = found;
    /* An eventfd's first write cannot fail, and orders what was written before it. */
    if (write(l->fd, &one, sizeof(one)) < 0)
        abort();
    unref(l);
    return NULL;
}

int lookup_start(const char *host, uint16_t port, struct lookup **ret)
{
    struct lookup *l = calloc(1, sizeof(*l) + strlen(host) + 1);
    pthread_attr_t attributes;
    pthread_t thread;
    int r;

    if (!l)
        return -ENOMEM;
    strcpy(l->host, host);
    snprintf(l->port, sizeof(l->port), "%u", port);
    l->references = 2;
    l->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (l->fd < 0) {
        r = -errno;
        free(l);
        return r;
    }
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    r = pthread_create(&thread, &attributes, resolve, l);
    pthread_attr_destroy(&attributes);
    if (r) {
        l->references = 1;
        unref(l);
        return -r;
    }
    *ret = l;
    return 0;
}

int lookup_fd(const struct lookup *l)
{
    return l->fd;
}

struct addrinfo *lookup_take(struct lookup *l)
{
    struct addrinfo *found;
    uint64_t count;

    if (read(l->fd, &count, sizeof(count)) != sizeof(count))
        return NULL;
    found = l->found;
    l->found = NULL;
    return found;
}

void lookup_free(struct lookup **ptr)
{
    if (*ptr)
        unref(*ptr);
    *ptr = NULL;
}

struct addrinfo *lookup_numeric(const char *host, uint16_t port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV},
                    *found = NULL;
    char text[8];

    snprintf(text, sizeof(text), "%u", port);
    return getaddrinfo(host, text, &hints, &found) == 0 ? found : NULL;
}
