/* SPDX-License-Identifier: Apache-2.0 */
/* What a process of a pod sends to port 53. The answer is made by the library that reads it again. */
#include <ldns/ldns.h>
#include <stdint.h>
#include <stdlib.h>

#include "proxy/dns/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(uint8_t *wire, size_t len, size_t limit)
{
    ldns_pkt *p = NULL;

    if (len > limit || !message_answers(wire, len, message_id(wire)) ||
        ldns_wire2pkt(&p, wire, len) != LDNS_STATUS_OK)
        abort();
    ldns_pkt_free(p);
    free(wire);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct addr addresses[200] = {{{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1}}};
    struct names_found found = {.addresses = addresses, .addresses_len = size % 200, .stripped = "a.b"};
    struct message_question q;
    uint8_t *wire;
    size_t len;

    message_read(data, size, &q);
    found.form = size % 3;
    for (size_t i = 1; i < 200; i++)
        addresses[i] = addresses[0];
    if (q.kind == MESSAGE_ADDRESS && message_answer(&q, &found, q.udp_size, &wire, &len) == 0)
        check(wire, len, q.udp_size);
    if (message_failure(&q, &wire, &len) == 0)
        check(wire, len, MESSAGE_TCP_MAX);
    message_release(&q);
    return 0;
}
