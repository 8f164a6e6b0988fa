/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib/rpc/http_client.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define PATIENCE 20 /* seconds */

struct loop_thread {
    struct loop *loop;
    pthread_t thread;
};

static void *run(void *data)
{
    struct loop_thread *t = data;

    loop_run(t->loop);
    return NULL;
}

struct loop_thread *loop_thread_start(struct loop *loop)
{
    struct loop_thread *t = malloc(sizeof(*t));

    cr_assert(t != NULL);
    t->loop = loop;
    cr_assert(pthread_create(&t->thread, NULL, run, t) == 0);
    return t;
}

void loop_thread_stop(struct loop_thread *t)
{
    loop_stop(t->loop);
    pthread_join(t->thread, NULL);
    free(t);
}

static int connect_to(int family, const void *sa, socklen_t len)
{
    struct timeval patience = {.tv_sec = PATIENCE};
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert(fd >= 0);
    cr_assert(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) == 0);
    if (connect(fd, sa, len) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

int client_connect(const struct endpoint *to)
{
    struct sockaddr_storage sa;
    int len = endpoint_to_sockaddr(to, AF_UNSPEC, &sa);

    cr_assert(len > 0);
    return connect_to(sa.ss_family, &sa, (socklen_t)len);
}

int client_connect_unix(const char *path)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};

    cr_assert(strlen(path) < sizeof(sa.sun_path));
    memcpy(sa.sun_path, path, strlen(path) + 1);
    return connect_to(AF_UNIX, &sa, sizeof(sa));
}

/* The server may have closed meanwhile: what it said is looked at, not whether it listened to the end. */
void client_send(int fd, const char *text)
{
    size_t len = strlen(text), sent = 0;

    while (sent < len) {
        ssize_t n = send(fd, text + sent, len - sent, MSG_NOSIGNAL);

        if (n <= 0)
            return;
        sent += (size_t)n;
    }
}

char *client_receive(int fd, bool without_body, size_t *ret_len)
{
    size_t size = 4096, len = 0, wanted = 0;
    char *buf = malloc(size);

    cr_assert(buf != NULL);
    buf[0] = '\0';
    /* Byte by byte up to the end of the head, so that a pipelined answer stays for the next call. */
    while (!wanted || len < wanted) {
        ssize_t n;

        if (len + 65537 > size) {
            size = size * 2 + 65537;
            buf = realloc(buf, size);
            cr_assert(buf != NULL);
        }
        n = recv(fd, buf + len, !wanted ? 1 : wanted - len < 65536 ? wanted - len : 65536, 0);
        if (n <= 0)
            break;
        len += (size_t)n;
        buf[len] = '\0';
        if (!wanted && len >= 4 && !memcmp(buf + len - 4, "\r\n\r\n", 4)) {
            const char *length = strcasestr(buf, "\r\ncontent-length: ");

            wanted = len + (without_body || !length ? 0 : strtoul(length + 18, NULL, 10));
        }
    }
    if (ret_len)
        *ret_len = len;
    return buf;
}

char *client_ask(const struct endpoint *to, const char *request)
{
    int fd = client_connect(to);
    char *answer;

    cr_assert(fd >= 0);
    client_send(fd, request);
    answer = client_receive(fd, !strncmp(request, "HEAD ", 5), NULL);
    close(fd);
    return answer;
}

bool client_ended(int fd)
{
    char scratch[4096];
    ssize_t n;

    while ((n = recv(fd, scratch, sizeof(scratch), 0)) > 0)
        ;
    return n == 0 || errno == ECONNRESET;
}

const char *client_body(const char *answer)
{
    const char *end = strstr(answer, "\r\n\r\n");

    return end ? end + 4 : "";
}
