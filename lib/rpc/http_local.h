/* SPDX-License-Identifier: Apache-2.0 */
/* Who asks on loopback, where every user of the machine can connect, and every web page that a browser of
 * this machine shows. */
#ifndef LIB_RPC_HTTP_LOCAL_H
#define LIB_RPC_HTTP_LOCAL_H

#include "lib/rpc/http_server.h"

/* Whether the Host header is one of loopback's names. Another name that leads here has been made to (DNS
 * rebinding): the page that asks is somebody else's. */
bool http_names_loopback(const struct http_request *request);
/* Whether a browser asks for another page. A tool of an operator does not look like it. */
bool http_is_of_another_page(const struct http_request *request);
/* Whether the client is root, or the user that this process runs as. */
bool http_is_roots(const struct http_request *request);

#endif
