/* SPDX-License-Identifier: Apache-2.0 */
/* The TCP ports of the admin, metrics and readiness servers. On a machine that two proxies share during an
 * upgrade the one that is replaced lets them go, and the next one, which has started without them, takes
 * them. Control thread. */
#ifndef PROXY_ADMIN_ADMIN_PORTS_H
#define PROXY_ADMIN_ADMIN_PORTS_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/loop.h"
#include "lib/rpc/http_server.h"

enum { ADMIN_PORT_PAGES, ADMIN_PORT_METRICS, ADMIN_PORT_READY, ADMIN_PORT_COUNT };

struct admin_port {
    struct http_server *server;
    uint16_t port; /* 0: not opened */
    bool loopback; /* on its addresses alone */
    bool open;
    const char *what; /* for the log */
};

/* Embedded in its owner, which sets what is above the line before it is opened. */
struct admin_ports {
    struct loop *loop;
    bool ipv6;
    const char *other; /* Unix socket of the proxy that may have them still; NULL: nobody may */
    struct admin_port each[ADMIN_PORT_COUNT];
    /* ---- */
    struct loop_timer again;
};

/* 0 if all are open, or will be once another proxy lets them go; -errno, logged. */
int admin_ports_open(struct admin_ports *ports);
/* Lets them go; connections go on. */
void admin_ports_close(struct admin_ports *ports);
/* Takes them as soon as they are free. */
void admin_ports_take(struct admin_ports *ports);

#endif
