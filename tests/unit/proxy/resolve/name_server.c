/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/proxy/resolve/name_server.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TYPE_A = 1, TYPE_CNAME = 5, TYPE_AAAA = 28 };

struct name_server {
    int fd;
    pthread_t thread;
    atomic_uint a, aaaa;
};

/* A message that is written. */
struct out {
    uint8_t bytes[2048];
    size_t len;
    unsigned answers;
};

static void put(struct out *o, const void *bytes, size_t len)
{
    memcpy(o->bytes + o->len, bytes, len);
    o->len += len;
}

static void put16(struct out *o, unsigned n)
{
    const uint8_t bytes[2] = {(uint8_t)(n >> 8), (uint8_t)n};

    put(o, bytes, sizeof(bytes));
}

/* owner: offset of its name in the message. */
static void record(struct out *o, unsigned owner, unsigned type, unsigned ttl, const void *data, size_t len)
{
    put16(o, 0xc000 | owner);
    put16(o, type);
    put16(o, 1);
    put16(o, 0);
    put16(o, ttl);
    put16(o, (unsigned)len);
    put(o, data, len);
    o->answers++;
}

static void address(struct out *o, unsigned owner, bool ipv6, unsigned ttl, const char *text)
{
    uint8_t bytes[16];

    inet_pton(ipv6 ? AF_INET6 : AF_INET, text, bytes);
    record(o, owner, ipv6 ? TYPE_AAAA : TYPE_A, ttl, bytes, ipv6 ? 16 : 4);
}

static void lots(struct out *o, bool ipv6)
{
    char text[64];

    for (int i = 1; i <= 17; i++) {
        snprintf(text, sizeof(text), ipv6 ? "2001:db8::%x" : "192.0.2.%d", i);
        address(o, 12, ipv6, 2, text);
    }
}

static void alias(struct out *o, bool ipv6)
{
    static const uint8_t name[] = "\x05other\x04test";
    unsigned at = (unsigned)o->len + 12;

    record(o, 12, TYPE_CNAME, 1, name, sizeof(name));
    if (!ipv6)
        address(o, at, false, 60, "192.0.2.1");
}

/* Adds the records; the response code, or -1: silence. */
static int answer(struct out *o, const char *label, bool ipv6)
{
    if (!strncmp(label, "both-", 5) || !strncmp(label, ipv6 ? "v6-" : "v4-", 3))
        address(o, 12, ipv6, 2, ipv6 ? "2001:db8::1" : "192.0.2.1");
    else if (!strncmp(label, "loop-", 5))
        address(o, 12, ipv6, 2, ipv6 ? "::1" : "127.0.0.1");
    else if (!strncmp(label, "group-", 6))
        address(o, 12, ipv6, 2, ipv6 ? "ff02::1" : "224.0.0.1");
    else if (!strncmp(label, "lots-", 5))
        lots(o, ipv6);
    else if (!strncmp(label, "cname-", 6))
        alias(o, ipv6);
    else if (!strncmp(label, "half-", 5) && !ipv6)
        address(o, 12, false, 2, "192.0.2.1");
    else if (!strncmp(label, "none-", 5))
        return 3;
    else if (!strncmp(label, "fail-", 5))
        return 2;
    else if (strncmp(label, "v4-", 3) != 0 && strncmp(label, "v6-", 3) != 0 &&
             strncmp(label, "nodata-", 7) != 0)
        return -1;
    return 0;
}

static void serve(struct name_server *s, const uint8_t *query, size_t len, const struct sockaddr_in *peer)
{
    struct out o = {.len = 0};
    size_t end = 12;
    unsigned type;
    char label[64];
    int code;

    while (end < len && query[end])
        end += query[end] + 1u;
    if (end + 5 > len)
        return;
    type = (unsigned)query[end + 1] << 8 | query[end + 2];
    snprintf(label, sizeof(label), "%.*s", query[12] < 64 ? query[12] : 0, (const char *)query + 13);
    put(&o, query, end + 5);
    code = answer(&o, label, type == TYPE_AAAA);
    atomic_fetch_add(type == TYPE_AAAA ? &s->aaaa : &s->a, 1);
    if (code < 0)
        return;
    o.bytes[2] = 0x81;
    o.bytes[3] = (uint8_t)(0x80 | code);
    memset(o.bytes + 6, 0, 6);
    o.bytes[7] = (uint8_t)o.answers;
    sendto(s->fd, o.bytes, o.len, 0, (const struct sockaddr *)peer, sizeof(*peer));
}

static void *run(void *data)
{
    struct name_server *s = data;

    for (;;) {
        struct sockaddr_in peer;
        socklen_t size = sizeof(peer);
        uint8_t query[512];
        ssize_t n = recvfrom(s->fd, query, sizeof(query), 0, (struct sockaddr *)&peer, &size);

        if (n <= 1) /* a byte alone is the end */
            return NULL;
        serve(s, query, (size_t)n, &peer);
    }
}

struct name_server *name_server_start(char *servers, unsigned long size)
{
    struct name_server *s = calloc(1, sizeof(*s));
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(name);

    cr_assert_not_null(s);
    s->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    cr_assert(bind(s->fd, (struct sockaddr *)&name, len) == 0 &&
              getsockname(s->fd, (struct sockaddr *)&name, &len) == 0);
    snprintf(servers, size, "127.0.0.1:%u", ntohs(name.sin_port));
    cr_assert_eq(pthread_create(&s->thread, NULL, run, s), 0);
    return s;
}

void name_server_stop(struct name_server *s)
{
    struct sockaddr_in name;
    socklen_t len = sizeof(name);

    getsockname(s->fd, (struct sockaddr *)&name, &len);
    sendto(s->fd, "", 1, 0, (struct sockaddr *)&name, len);
    pthread_join(s->thread, NULL);
    close(s->fd);
    free(s);
}

unsigned name_server_queries(const struct name_server *s, uint16_t type)
{
    return atomic_load(type == TYPE_AAAA ? &s->aaaa : &s->a);
}
