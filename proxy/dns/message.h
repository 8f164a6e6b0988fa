/* SPDX-License-Identifier: Apache-2.0 */
/* Questions and answers of DNS, read and made by ldns. Any thread. */
#ifndef PROXY_DNS_MESSAGE_H
#define PROXY_DNS_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proxy/dns/names.h"

#define MESSAGE_HEADER   12    /* bytes */
#define MESSAGE_UDP_MIN  512   /* what everybody takes by UDP */
#define MESSAGE_UDP_MAX  65507 /* what fits a datagram, whatever the client says that it takes */
#define MESSAGE_TCP_MAX  65535 /* the length of a message in a stream has 16 bits */
#define MESSAGE_READ_MAX 4096  /* a longer question is never read, and goes on as it is */

enum message_kind {
    MESSAGE_NONE,    /* no question: too short, or an answer */
    MESSAGE_OPAQUE,  /* cannot be read, or is none of our business: goes on as it is */
    MESSAGE_ADDRESS, /* asks for A or AAAA of one name */
};

struct ldns_struct_pkt;

struct message_question {
    enum message_kind kind;
    struct ldns_struct_pkt *packet; /* as it was read, or NULL: not one question alone; of ADDRESS never */
    const char *type;               /* in lower case, of a list that is short: "a", "srv", ... "other" */
    bool ipv6;                      /* ADDRESS: AAAA */
    size_t udp_size;                /* bytes that the client takes by UDP */
    char name[NAME_LEN];            /* ADDRESS: in lower case, without the dot at the end; "" : the root */
};

/* Never fails: what cannot be read is OPAQUE, and *ret is always written. message_release() frees what it
 * holds. */
void message_read(const uint8_t *data, size_t len, struct message_question *ret);
void message_release(struct message_question *question);

/*
 * The answer for a name of the mesh, at most limit bytes long: with fewer addresses and marked as truncated
 * if all would be more. *ret is the caller's, to be freed. 0 or -ENOMEM.
 */
int message_answer(const struct message_question *question, const struct names_found *found, size_t limit,
                   uint8_t **ret, size_t *ret_len);
/* The answer SERVFAIL to a question that could be read. *ret is the caller's, to be freed. 0, -ENOMEM, or
 * -EINVAL: it could not. */
int message_failure(const struct message_question *question, uint8_t **ret, size_t *ret_len);

/* How many bytes of a message are enough to fail it: all of one that can be read, the header of another. */
size_t message_kept(size_t len);

/* True if data may be an answer to a question with this id. */
bool message_answers(const uint8_t *data, size_t len, uint16_t id);
/* The id of a message of at least MESSAGE_HEADER bytes: 16 bits that the client has drawn. */
uint16_t message_id(const uint8_t *data);

#endif
