/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses of a host name, from the system's resolver, which may wait for seconds: it runs in a thread of
 * its own. */
#ifndef LIB_RPC_LOOKUP_H
#define LIB_RPC_LOOKUP_H

#include <netdb.h>
#include <stdint.h>

struct lookup;

/* 0, -ENOMEM, or -errno where no descriptor or thread is to be had. host is copied. */
int lookup_start(const char *host, uint16_t port, struct lookup **ret);
/* A descriptor that becomes readable when the answer is there. It stays the lookup's. */
int lookup_fd(const struct lookup *lookup);
/* The answer, which the caller frees (freeaddrinfo()); NULL if there is none. Only once lookup_fd() is
 * readable, and once. */
struct addrinfo *lookup_take(struct lookup *lookup);
/* Does not wait for the thread, which then drops what it finds. */
void lookup_free(struct lookup **lookup);

/* An address in text form needs no waiting: freed by the caller as above; NULL if host is none, or
 * without memory. */
struct addrinfo *lookup_numeric(const char *host, uint16_t port);

#endif
