/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/proxy_settings.h"
#include "proxy/socket/socket.h"

static int option(int fd, int level, int name)
{
    int value = -1;
    socklen_t len = sizeof(value);

    cr_assert(getsockopt(fd, level, name, &value, &len) == 0);
    return value;
}

static int socket_with(const struct proxy_settings *settings)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert(fd >= 0);
    socket_keepalive(settings, fd);
    return fd;
}

Test(keepalive, settings_reach_the_socket)
{
    struct proxy_settings s = {.keepalive = true,
                               .keepalive_time = 60000,
                               .keepalive_interval = 7000,
                               .keepalive_retries = 3,
                               .user_timeout = true};
    int fd = socket_with(&s);

    cr_expect_eq(option(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
    cr_expect_eq(option(fd, IPPROTO_TCP, TCP_KEEPIDLE), 60);
    cr_expect_eq(option(fd, IPPROTO_TCP, TCP_KEEPINTVL), 7);
    cr_expect_eq(option(fd, IPPROTO_TCP, TCP_KEEPCNT), 3);
    cr_expect_eq(option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), 81000);
    close(fd);

    s.keepalive_time = 4000000000; /* more than the kernel can count */
    s.keepalive = false;
    fd = socket_with(&s);
    cr_expect_eq(option(fd, SOL_SOCKET, SO_KEEPALIVE), 0);
    cr_expect_eq(option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), INT32_MAX);
    close(fd);

    s.user_timeout = false;
    fd = socket_with(&s);
    cr_expect_eq(option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), 0);
    close(fd);
}
