/* SPDX-License-Identifier: Apache-2.0 */
/* A DNS server on loopback, on a thread of its own, that answers as the first label of the name says:
 *
 *   v4-..., v6-..., both-...   192.0.2.1 and 2001:db8::1, for 2 s
 *   lots-...                   17 of each family
 *   loop-...                   127.0.0.1 and ::1
 *   group-...                  224.0.0.1 and ff02::1
 *   none-..., nodata-...       NXDOMAIN; no record
 *   fail-...                   SERVFAIL
 *   half-...                   192.0.2.1, and silence for AAAA
 *   cname-...                  an alias for 1 s of another name with 192.0.2.1 for 60 s
 *   anything else              silence
 */
#ifndef TESTS_UNIT_PROXY_RESOLVE_NAME_SERVER_H
#define TESTS_UNIT_PROXY_RESOLVE_NAME_SERVER_H

#include <stdint.h>

struct name_server;

/* servers: written as the setting has it. Ends the program if it cannot. */
struct name_server *name_server_start(char *servers, unsigned long size);
void name_server_stop(struct name_server *server);
/* Queries that have come so far, of the type (1 or 28). Any thread. */
unsigned name_server_queries(const struct name_server *server, uint16_t type);

#endif
