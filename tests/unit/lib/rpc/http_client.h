/* SPDX-License-Identifier: Apache-2.0 */
/* A plain client for tests of HTTP servers that run on a loop in a thread of their own. */
#ifndef TESTS_UNIT_LIB_RPC_HTTP_CLIENT_H
#define TESTS_UNIT_LIB_RPC_HTTP_CLIENT_H

#include <stddef.h>

#include "lib/addr.h"
#include "lib/loop.h"

struct loop_thread;

/* Runs the loop in a thread until loop_thread_stop(). */
struct loop_thread *loop_thread_start(struct loop *loop);
void loop_thread_stop(struct loop_thread *thread);

int client_connect(const struct endpoint *to);
int client_connect_unix(const char *path);
void client_send(int fd, const char *text);
/* One answer by its Content-Length, or to the end where it has none. The caller frees it; "" if the server
 * closed. without_body: the answer to HEAD. */
char *client_receive(int fd, bool without_body, size_t *ret_len);
/* Connects, sends one request and returns the answer. */
char *client_ask(const struct endpoint *to, const char *request);
/* True if the other side has ended the connection, within 20 s. */
bool client_ended(int fd);
/* Where the body begins. */
const char *client_body(const char *answer);

#endif
