/* SPDX-License-Identifier: Apache-2.0 */
/* A server on a loop in a thread of its own, whose pages answer at once, later, or with much. */
#ifndef TESTS_UNIT_LIB_RPC_HTTP_FIXTURE_H
#define TESTS_UNIT_LIB_RPC_HTTP_FIXTURE_H

#include "lib/rpc/http_server.h"
#include "tests/unit/lib/rpc/http_client.h"

#define HTTP_TEST_LARGE       (8u * 1024 * 1024) /* the body of /large */
#define HTTP_TEST_CONNECTIONS 8 /* what the server of http_setup() takes, also of one source */

extern struct loop *http_loop;
extern struct http_server *http_server;
extern struct endpoint http_at; /* where http_setup()'s listens */
extern int http_late_began;     /* atomic: the handler has /later */

/* For http_server_new(), with &http_at: /hello, /large, /later (one at a time), /empty, /quit, and /query,
 * which says what was asked with. */
void http_test_request(void *data, struct http_request *request);
/* For TestSuite(). */
void http_setup(void);
void http_teardown(void);

/* One request on a connection of its own. */
void http_expect_status(const char *request, const char *status);

#endif
