/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's socket (bruma/protocol.h): connections of root, whole JSON messages, a queue for what the peer
 * cannot take yet. The first message of a connection says which role answers it.
 */
#ifndef AGENT_LOCAL_SERVER_H
#define AGENT_LOCAL_SERVER_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <sys/types.h>

#include "bruma/reasons.h"
#include "lib/loop.h"

struct server;
struct connection;

struct server_role {
    const char *name;
    bool patient; /* no time limit between messages */
    /* Descriptors that are taken are set to -1 in fds; the others are closed afterwards. */
    void (*message)(struct connection *connection, const cJSON *message, int *fds, size_t fds_len);
    /* The queue was full and is empty again. May be NULL. */
    void (*drained)(struct connection *connection);
    /* The last call for this connection, at the peer's end or after connection_close(). May be NULL. */
    void (*closed)(struct connection *connection);
};

/* Says who answers a connection that begins with op; NULL: nobody. *ret_data becomes the connection's data.
 */
typedef const struct server_role *(*server_route_fn)(void *data, const char *op, void **ret_data);

int server_open(struct loop *loop, const char *path, server_route_fn route, void *data, struct server **ret);
/* Whether somebody serves at path already. */
bool server_answers(const char *path);
/* Closes all connections and removes the socket file. */
void server_close(struct server **server);

void *connection_data(const struct connection *connection);
void connection_set_data(struct connection *connection, void *data);
pid_t connection_pid(const struct connection *connection);

/* Takes message (NULL counts as no memory). Descriptors stay with the caller. 0 once it is sent or queued; on
 * errors the connection is closed soon. */
int connection_send(struct connection *connection, cJSON *message, const int *fds, size_t fds_len);
/* Nothing is queued. */
bool connection_flushed(const struct connection *connection);
/* {"op":"error"} with reason and text. */
void connection_send_error(struct connection *connection, enum bruma_reason reason, const char *text);
/* Ends the connection once everything queued is sent. */
void connection_close(struct connection *connection);

#endif
