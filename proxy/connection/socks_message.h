/* SPDX-License-Identifier: Apache-2.0 */
/* What a SOCKS5 client says, and the answers (RFC 1928). No input or output here. */
#ifndef PROXY_CONNECTION_SOCKS_MESSAGE_H
#define PROXY_CONNECTION_SOCKS_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

#include "bruma/reasons.h"
#include "lib/addr.h"

#define SOCKS_HOST_LEN  256 /* with the NUL */
#define SOCKS_REPLY_LEN 10

/* The field REP of a reply; the last one is not said in a reply. */
enum socks_status {
    SOCKS_SUCCEEDED = 0,
    SOCKS_FAILED = 1,
    SOCKS_NOT_ALLOWED = 2,
    SOCKS_NETWORK_UNREACHABLE = 3,
    SOCKS_HOST_UNREACHABLE = 4,
    SOCKS_REFUSED = 5,
    SOCKS_COMMAND_UNKNOWN = 7,
    SOCKS_ADDRESS_UNKNOWN = 8,
    SOCKS_NO_METHOD = 0xff,
};

enum socks_step {
    SOCKS_MORE,   /* need has grown */
    SOCKS_CHOOSE, /* answer is to be sent, and the request follows */
    SOCKS_ASKED,  /* host or addr, and port, are there */
    SOCKS_WRONG,  /* status says what */
};

struct socks_message {
    uint8_t bytes[264]; /* of the message that is being read */
    size_t len, need;   /* bytes that are there, and with which socks_step() goes on */
    int part;           /* private */
    uint8_t answer[2];
    enum socks_status status;
    char host[SOCKS_HOST_LEN]; /* in lower case, without a dot at its end; "": addr counts */
    struct addr addr;
    uint16_t port;
};

/* Nothing has been read. */
void socks_message_init(struct socks_message *message);
/* len has become need. */
enum socks_step socks_step(struct socks_message *message);
/* Writes the reply, with 0.0.0.0:0 as the address that it was bound to. */
void socks_reply(enum socks_status status, uint8_t reply[SOCKS_REPLY_LEN]);
/* How a failure is said. */
enum socks_status socks_status_of(enum bruma_reason reason);

#endif
