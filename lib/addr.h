/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IP addresses of both families as one 16-byte value, IPv4 in its mapped form (::ffff:a.b.c.d), so that one
 * code path serves both. An all-zero value means "no address".
 */
#ifndef LIB_ADDR_H
#define LIB_ADDR_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#define ADDR_TEXT_LEN     INET6_ADDRSTRLEN       /* with the NUL */
#define ENDPOINT_TEXT_LEN (INET6_ADDRSTRLEN + 9) /* "[v6]:65535" with the NUL */

struct addr {
    uint8_t bytes[16];
};

struct endpoint {
    struct addr addr;
    uint16_t port; /* host order */
};

struct cidr {
    struct addr addr;
    uint8_t length; /* of the 128-bit form: an IPv4 /24 is 120 */
};

/* The same address. */
static inline bool addr_equal(const struct addr *a, const struct addr *b)
{
    return !memcmp(a, b, sizeof(*a));
}

/* The same address and port. */
static inline bool endpoint_equal(const struct endpoint *a, const struct endpoint *b)
{
    return a->port == b->port && addr_equal(&a->addr, &b->addr);
}

/* All zero. */
bool addr_is_none(const struct addr *a);
bool addr_is_v4(const struct addr *a);       /* mapped IPv4 */
bool addr_is_loopback(const struct addr *a); /* 127/8 or ::1 */

/*
 * Adds to a list of at most max, which holds none twice. A full list takes the first of a family that it
 * lacks in place of its last: whoever has addresses of both is known by both. 1: added, 0: it is there
 * already, -E2BIG: not added.
 */
int addr_list_add(struct addr *list, int *len, int max, const struct addr *a);

/* Raw bytes as protobuf carries them: 0 for 4 or 16, anything else is -EINVAL. A mapped IPv4 becomes IPv4. */
int addr_from_bytes(const uint8_t *bytes, size_t len, struct addr *ret);
/* The other way: writes 4 or 16 bytes and returns how many. */
size_t addr_to_bytes(const struct addr *a, uint8_t bytes[16]);

/* "10.0.0.1", "fd00::1" or "::ffff:10.0.0.1". 0 or -EINVAL. */
int addr_parse(const char *text, struct addr *ret);
/* Writes it as addr_parse() reads it, IPv4 without "::ffff:"; returns buf. */
const char *addr_format(const struct addr *a, char buf[ADDR_TEXT_LEN]);

/* "10.0.0.0/8", "fd00::/8", or a single address. Host bits are cleared. 0 or -EINVAL. */
int cidr_parse(const char *text, struct cidr *ret);
/* length counts bits of the family of addr: 0, or -EINVAL beyond 32 or 128. Host bits are cleared. */
int cidr_make(const struct addr *addr, unsigned length, struct cidr *ret);
/* A CIDR holds only addresses of its own family. */
bool cidr_contains(const struct cidr *c, const struct addr *a);
/* "10.0.0.0/8"; buf has room for ADDR_TEXT_LEN + 4 bytes. Returns buf. */
const char *cidr_format(const struct cidr *c, char *buf, size_t size);

/* "10.0.0.1:80" or "[fd00::1]:80". 0 or -EINVAL. */
int endpoint_parse(const char *text, struct endpoint *ret);
/* Writes it so; returns buf. */
const char *endpoint_format(const struct endpoint *e, char buf[ENDPOINT_TEXT_LEN]);

/* 0, or -EAFNOSUPPORT for other families. A mapped IPv4 address becomes IPv4. */
int endpoint_from_sockaddr(const struct sockaddr *sa, struct endpoint *ret);
/* family AF_INET6 gives the mapped form of an IPv4 address, AF_INET fails for IPv6 (-EAFNOSUPPORT),
 * AF_UNSPEC chooses by the address. Returns the length of the sockaddr, or -errno. */
int endpoint_to_sockaddr(const struct endpoint *e, int family, struct sockaddr_storage *ret);

#endif
