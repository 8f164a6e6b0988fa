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
struct local_connection;

/* Who answers a connection: functions, all called on the loop's thread. */
struct server_role {
    const char *name;
    bool patient; /* no time limit between messages */
    /* Called for each message, which is valid during the call. Descriptors that are taken are set to -1 in
     * fds; the others are closed afterwards. */
    void (*message)(struct local_connection *connection, const cJSON *message, int *fds, size_t fds_len);
    /* Called when the queue is empty again after messages had to wait. May be NULL. */
    void (*drained)(struct local_connection *connection);
    /* The last call for this connection, at the peer's end or after connection_close(). May be NULL. */
    void (*closed)(struct local_connection *connection);
};

/* Called on the loop's thread, once for each connection: says who answers one that begins with op.
 * *ret_data becomes the connection's data. A static role; NULL: nobody. */
typedef const struct server_role *(*server_route_fn)(void *data, const char *op, void **ret_data);

/* Listens at path, for root alone. 0, -ENOMEM, or -errno: nothing is left at path. */
int server_open(struct loop *loop, const char *path, server_route_fn route, void *data, struct server **ret);
/* Whether somebody serves at path already. */
bool server_answers(const char *path);
/* Closes all connections and removes the socket file. */
void server_close(struct server **server);

/* What the role has set, which owns it; NULL at first. */
void *connection_data(const struct local_connection *connection);
/* In place of what was set before. */
void connection_set_data(struct local_connection *connection, void *data);
/* The pid of the process that connected, as the agent's pid namespace sees it. */
pid_t connection_pid(const struct local_connection *connection);

/* Takes message (NULL counts as no memory). Descriptors stay with the caller. 0 once it is sent or queued; on
 * errors the connection is closed soon. */
int connection_send(struct local_connection *connection, cJSON *message, const int *fds, size_t fds_len);
/* Whether everything is sent. */
bool connection_flushed(const struct local_connection *connection);
/* {"op":"error"} with reason and text. */
void connection_send_error(struct local_connection *connection, enum bruma_reason reason, const char *text);
/* Ends the connection once everything queued is sent. */
void connection_close(struct local_connection *connection);

#endif
