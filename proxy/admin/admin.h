/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP/1.1 servers of the proxy: admin (127.0.0.1 and ::1 port 15000, and RUN_DIR/proxy.sock), metrics
 * (15020), readiness (15021). Contract section 9. They run on the control thread's loop.
 */
#ifndef PROXY_ADMIN_ADMIN_H
#define PROXY_ADMIN_ADMIN_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "lib/addr.h"
#include "lib/loop.h"
#include "lib/rpc/http_server.h"

struct admin;

/* Ports, and who makes the pages: functions, called on the loop's thread where nothing else is said. */
struct admin_config {
    uint16_t admin_port, metrics_port, ready_port; /* 0: not opened */
    const char *unix_socket;                       /* or NULL */
    bool ipv6;
    bool local_only;                              /* a single machine: admin_access.h */
    unsigned connections, connections_per_source; /* of each server; 0: the usual ones */
    /* Fills the config dump. May finish later: it calls admin_dump_done() with the same token (from this
     * loop's thread). */
    void (*config_dump)(void *data, struct admin *admin, void *token);
    /* Called for each page of metrics; append, together the whole page but the "# EOF": what is short, and
     * may only be read on this loop's thread; and what may be long, on another thread, or NULL. */
    void (*metrics)(void *data, FILE *out);
    void (*large_metrics)(void *data, FILE *out); /* called on a thread of its own */
    /* Called for each question whether we are ready: names of what is pending, comma separated; empty:
     * ready. */
    void (*pending)(void *data, char *buf, size_t size);
    void (*quit)(void *data); /* called once for POST /quitquitquit */
    /* Called now and then. True: the Unix socket's path is to be this process's, whoever has taken it or
     * removed it meanwhile. */
    bool (*owns_socket)(void *data);
    /* Called for each question of that kind: what the policies of the destination say of a connection;
     * identity "": without mutual TLS. The caller owns it; NULL: nobody knows the destination, or no
     * memory. */
    cJSON *(*verdict)(void *data, const char *identity, const struct endpoint *from,
                      const struct endpoint *to);
    /* Called for each question of that kind: how a name that a pod asks DNS for is answered (name_dump.h).
     * The caller owns it; NULL: nobody knows the pod, or no memory. */
    cJSON *(*name)(void *data, const char *pod, const char *name);
    /* Called for each question of that kind: what is known of the hostname of a workload (hostname_dump.h).
     * The caller owns it; NULL: no memory. */
    cJSON *(*hostname)(void *data, const char *hostname);
    /* Called for each question of that kind: what the kernel lets pass without the proxy, and why not more
     * (direct.h). The caller owns it; NULL: no memory. */
    cJSON *(*direct)(void *data);
    /* Called for /hand-over: connections that moved between this process and another. The caller owns it;
     * NULL: no memory. */
    cJSON *(*hand_over)(void *data);
    void *data;
};

/* config is copied; its data and texts must live as long. 0, -ENOMEM, or -errno of a listener, logged. */
int admin_open(struct loop *loop, const struct admin_config *config, struct admin **ret);
void admin_close(struct admin **admin);
/* A page of metrics for who sends it elsewhere: taken is called once, soon, on the loop's thread, with the
 * text, or NULL if it could not be made; also by admin_close(). */
void admin_take_metrics(struct admin *admin, void (*taken)(void *data, const char *text, size_t len),
                        void *data);
/* Another proxy has taken over: on a machine that both share its ports are for that one. */
void admin_replaced(struct admin *admin);
/* That one is gone. */
void admin_resumed(struct admin *admin);
/* Opens the dump for each who waits for it: open(data, source) is 0 or -errno. open NULL: the answer is
 * 500. */
void admin_dump_done(struct admin *admin, void *token, int (*open)(void *data, struct http_source *ret),
                     void *data);

#endif
