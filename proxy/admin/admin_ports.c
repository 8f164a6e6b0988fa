/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "admin"
#include "proxy/admin/admin_ports.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "lib/cleanup.h"
#include "lib/log.h"

#define AGAIN_MILLISECONDS    100
#define PATIENCE_MILLISECONDS 1500

static int open_loopback(struct http_server *server, uint16_t port, bool ipv6)
{
    struct endpoint at = {.port = port};
    int r = addr_parse("127.0.0.1", &at.addr);

    if (r == 0)
        r = http_server_listen(server, &at, false, NULL);
    if (r < 0 || !ipv6)
        return r;
    r = addr_parse("::1", &at.addr);
    if (r == 0)
        r = http_server_listen(server, &at, true, NULL);
    /* A machine without IPv6 has no such address. */
    return r == -EAFNOSUPPORT || r == -EADDRNOTAVAIL ? 0 : r;
}

static int open_one(const struct admin_ports *ports, struct admin_port *p)
{
    int r = p->loopback ? open_loopback(p->server, p->port, ports->ipv6)
                        : http_server_listen_any(p->server, p->port, ports->ipv6, NULL);

    p->open = r == 0;
    if (r < 0)
        http_server_unlisten(p->server);
    return r;
}

static bool other_is_here(const char *path)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    _cleanup_fd_ int fd = -1;

    if (!path || strlen(path) >= sizeof(sa.sun_path))
        return false;
    memcpy(sa.sun_path, path, strlen(path));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0;
}

/* Its socket may be away for as long as it looks after it once. Before anybody is served, so nobody waits. 0,
 * -EADDRINUSE: it is here, and has the port; or -errno. */
static int wait_for_other(const struct admin_ports *ports, struct admin_port *p, bool *ret_here)
{
    int r = -EADDRINUSE;

    *ret_here = other_is_here(ports->other);
    for (int waited = 0; ports->other && !*ret_here && r == -EADDRINUSE && waited < PATIENCE_MILLISECONDS;
         waited += AGAIN_MILLISECONDS) {
        nanosleep(&(struct timespec){.tv_nsec = AGAIN_MILLISECONDS * 1000000L}, NULL);
        r = open_one(ports, p);
        *ret_here = other_is_here(ports->other);
    }
    return r;
}

static void on_again(struct loop_timer *timer)
{
    struct admin_ports *ports = container_of(timer, struct admin_ports, again);
    bool all = true;

    for (int i = 0; i < ADMIN_PORT_COUNT; i++) {
        struct admin_port *p = &ports->each[i];

        if (p->port && !p->open && open_one(ports, p) < 0)
            all = false;
    }
    if (!all)
        loop_timer_set(ports->loop, timer, AGAIN_MILLISECONDS);
}

int admin_ports_open(struct admin_ports *ports)
{
    loop_timer_init(&ports->again, on_again);
    for (int i = 0; i < ADMIN_PORT_COUNT; i++) {
        struct admin_port *p = &ports->each[i];
        int r = p->port ? open_one(ports, p) : 0;
        bool here = false;

        if (r == -EADDRINUSE)
            r = wait_for_other(ports, p, &here);
        if (r == -EADDRINUSE && here) {
            log_info("another proxy has the port until it is replaced\tof=\"%s\" port=%u", p->what, p->port);
            loop_timer_set(ports->loop, &ports->again, AGAIN_MILLISECONDS);
        } else if (r < 0) {
            return log_error_errno(r, "cannot open the %s\tport=%u", p->what, p->port);
        }
    }
    return 0;
}

void admin_ports_close(struct admin_ports *ports)
{
    loop_timer_cancel(&ports->again);
    for (int i = 0; i < ADMIN_PORT_COUNT; i++) {
        struct admin_port *p = &ports->each[i];

        if (p->open)
            http_server_unlisten(p->server);
        p->open = false;
    }
}

void admin_ports_take(struct admin_ports *ports)
{
    loop_timer_set(ports->loop, &ports->again, 0);
}
