/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/dns/message.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <ldns/ldns.h>
#include <stdio.h>

#include "lib/cleanup.h"
#include "tests/unit/proxy/mesh_samples.h"

static const uint8_t plain[] =
    "\x12\x34\x01\x10\x00\x01\x00\x00\x00\x00\x00\x00\x03Web\x04shop\x00\x00\x01\x00\x01";

static void read_all(const uint8_t *data, size_t len, enum message_kind kind)
{
    struct message_question q;

    message_read(data, len, &q);
    cr_expect_eq(q.kind, kind);
    message_release(&q);
}

Test(message, what_is_asked)
{
    struct message_question q;

    message_read(plain, sizeof(plain) - 1, &q);
    cr_assert_eq(q.kind, MESSAGE_ADDRESS);
    cr_expect_str_eq(q.name, "web.shop");
    cr_expect_str_eq(q.type, "a");
    cr_expect(!q.ipv6);
    cr_expect_eq(q.udp_size, 512);
    cr_expect_eq(message_id(plain), 0x1234);
    message_release(&q);
}

Test(message, what_is_none_of_ours)
{
    uint8_t data[sizeof(plain) - 1];
    static const struct {
        size_t at;
        uint8_t value;
        enum message_kind kind;
    } cases[] = {
        {2, 0x81, MESSAGE_NONE},    /* an answer */
        {2, 0x28, MESSAGE_OPAQUE},  /* an update */
        {5, 2, MESSAGE_OPAQUE},     /* questions that are not there */
        {5, 0, MESSAGE_OPAQUE},     /* none */
        {7, 1, MESSAGE_OPAQUE},     /* an answer that is not there */
        {23, 33, MESSAGE_OPAQUE},   /* SRV */
        {25, 3, MESSAGE_OPAQUE},    /* class CHAOS */
        {12, 0xc0, MESSAGE_OPAQUE}, /* a pointer */
        {14, '.', MESSAGE_OPAQUE},  /* a dot in a label */
        {23, 28, MESSAGE_ADDRESS},  /* AAAA */
    };

    for (size_t i = 0; i < array_size(cases); i++) {
        memcpy(data, plain, sizeof(data));
        data[cases[i].at] = cases[i].value;
        read_all(data, sizeof(data), cases[i].kind);
    }
    for (size_t len = 0; len < sizeof(data); len++)
        read_all(plain, len, len < MESSAGE_HEADER ? MESSAGE_NONE : MESSAGE_OPAQUE);
}

static void expect_unread(const uint8_t *data, size_t len)
{
    struct message_question q;

    message_read(data, len, &q);
    cr_expect_eq(q.kind, MESSAGE_OPAQUE);
    cr_expect_null(q.packet);
    message_release(&q);
}

/* The library is busy for milliseconds with each of these. */
Test(message, what_would_take_long_is_not_read)
{
    enum { POINTERS = 1000, QUESTIONS = 300 };
    static const uint8_t pointers[] =
        "\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0e\xc0\x0c\x00\x01",
                         behind[] = "\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x01"
                                    "a\x00\x00\x01\x00\x01\xc0\x13\x00\x29\x02\x00\x00\x00\x00\x00\x00\x00",
                         alias[] =
                             "\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x01"
                             "a\x00\x00\x01\x00\x01\x00\x00\x05\x00\x01\x00\x00\x00\x00\x00\x02\xc0\x1e";
    uint8_t data[MESSAGE_READ_MAX] = {0, 1, 1, 0, QUESTIONS >> 8, QUESTIONS & 255};
    size_t chain = sizeof(data) - 2 * POINTERS;

    expect_unread(pointers, sizeof(pointers) - 1);
    expect_unread(behind, sizeof(behind) - 1);
    expect_unread(alias, sizeof(alias) - 1);
    for (size_t i = 0; i < QUESTIONS; i++)
        memcpy(data + MESSAGE_HEADER + 6 * i,
               (uint8_t[]){(uint8_t)(0xc0 | chain >> 8), (uint8_t)chain, 0, 1, 0, 1}, 6);
    for (size_t at = chain; at < sizeof(data) - 2; at += 2) {
        data[at] = (uint8_t)(0xc0 | (at + 2) >> 8);
        data[at + 1] = (uint8_t)(at + 2);
    }
    expect_unread(data, sizeof(data));
}

Test(message, what_answers_a_question)
{
    uint8_t data[] = "\x12\x34\x81\x80\x00\x00\x00\x00\x00\x00\x00\x00";

    cr_expect(message_answers(data, 12, 0x1234));
    cr_expect(!message_answers(data, 12, 0x1235));
    cr_expect(!message_answers(data, 11, 0x1234));
    data[2] = 1;
    cr_expect(!message_answers(data, 12, 0x1234));
}

/* The answer of ldns, read again, as text without the lines of comments. */
static ldns_pkt *answered(const struct message_question *q, const struct names_found *found, size_t limit)
{
    uint8_t *wire;
    size_t len;
    ldns_pkt *p = NULL;

    cr_assert_eq(message_answer(q, found, limit, &wire, &len), 0);
    cr_assert_leq(len, limit);
    cr_assert_eq(ldns_wire2pkt(&p, wire, len), LDNS_STATUS_OK);
    free(wire);
    return p;
}

static char *record(const ldns_pkt *p, size_t i)
{
    char *text = ldns_rr2str(ldns_rr_list_rr(ldns_pkt_answer(p), i));

    text[strcspn(text, "\n")] = '\0';
    return text;
}

#define EXPECT_RECORD(p, i, expected)      \
    do {                                   \
        char *_text = record(p, i);        \
        cr_expect_str_eq(_text, expected); \
        free(_text);                       \
    } while (0)

Test(message, an_answer)
{
    struct addr addresses[] = {sample_addr("10.0.0.1"), sample_addr("10.0.0.2")};
    struct names_found found = {.addresses = addresses, .addresses_len = 2};
    struct message_question q;
    ldns_pkt *p;

    message_read(plain, sizeof(plain) - 1, &q);
    p = answered(&q, &found, 512);
    cr_expect_eq(ldns_pkt_id(p), 0x1234);
    cr_expect(ldns_pkt_qr(p) && ldns_pkt_aa(p) && ldns_pkt_ra(p) && ldns_pkt_rd(p) && ldns_pkt_cd(p));
    cr_expect(!ldns_pkt_tc(p) && !ldns_pkt_ad(p) && !ldns_pkt_edns(p));
    cr_expect_eq(ldns_pkt_get_rcode(p), LDNS_RCODE_NOERROR);
    cr_expect_eq(ldns_pkt_qdcount(p), 1);
    cr_assert_eq(ldns_pkt_ancount(p), 2);
    EXPECT_RECORD(p, 0, "Web.shop.\t30\tIN\tA\t10.0.0.1"); /* in the letters of the question */
    EXPECT_RECORD(p, 1, "Web.shop.\t30\tIN\tA\t10.0.0.2");
    ldns_pkt_free(p);
    found.addresses_len = 0;
    p = answered(&q, &found, 512);
    cr_expect_eq(ldns_pkt_ancount(p), 0);
    cr_expect(ldns_pkt_aa(p));
    ldns_pkt_free(p);
    message_release(&q);
}

Test(message, a_searched_name_is_an_alias)
{
    struct addr address = sample_addr("10.0.0.1");
    struct names_found found = {
        .form = NAMES_SEARCHED, .stripped = "web", .addresses = &address, .addresses_len = 1};
    struct message_question q;
    ldns_pkt *p;

    message_read(plain, sizeof(plain) - 1, &q);
    p = answered(&q, &found, 512);
    cr_assert_eq(ldns_pkt_ancount(p), 2);
    EXPECT_RECORD(p, 0, "Web.shop.\t30\tIN\tCNAME\tweb.");
    EXPECT_RECORD(p, 1, "web.\t30\tIN\tA\t10.0.0.1");
    ldns_pkt_free(p);
    found.wildcard = true;
    p = answered(&q, &found, 512);
    cr_assert_eq(ldns_pkt_ancount(p), 1);
    EXPECT_RECORD(p, 0, "Web.shop.\t30\tIN\tA\t10.0.0.1");
    ldns_pkt_free(p);
    message_release(&q);
}

Test(message, as_much_as_fits)
{
    static struct addr addresses[5000];
    struct names_found found = {.addresses = addresses, .addresses_len = 5000};
    struct message_question q;

    for (size_t i = 0; i < 5000; i++) {
        addresses[i] = sample_addr("10.0.0.0");
        addresses[i].bytes[14] = (uint8_t)(i >> 8);
        addresses[i].bytes[15] = (uint8_t)i;
    }
    message_read(plain, sizeof(plain) - 1, &q);
    for (size_t limit = 512; limit < 70000; limit += limit / 2) {
        size_t bytes = limit > MESSAGE_TCP_MAX ? MESSAGE_TCP_MAX : limit;
        ldns_pkt *p = answered(&q, &found, bytes);

        cr_expect(ldns_pkt_tc(p));
        cr_expect_gt(ldns_pkt_ancount(p), (bytes - 60) / 16 * 9 / 10, "%zu: %u", bytes, ldns_pkt_ancount(p));
        ldns_pkt_free(p);
    }
    message_release(&q);
}

Test(message, edns)
{
    static const uint8_t asked[] = "\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x01\x01"
                                   "a\x00\x00\x1c\x00\x01"
                                   "\x00\x00\x29\x04\x00\x00\x00\x80\x00\x00\x00";
    struct names_found found = {};
    struct message_question q;
    ldns_pkt *p;

    message_read(asked, sizeof(asked) - 1, &q);
    cr_assert_eq(q.kind, MESSAGE_ADDRESS);
    cr_expect(q.ipv6);
    cr_expect_eq(q.udp_size, 1024);
    p = answered(&q, &found, 512);
    cr_expect(ldns_pkt_edns(p) && ldns_pkt_edns_do(p));
    cr_expect_eq(ldns_pkt_edns_udp_size(p), 1024);
    cr_expect(!ldns_pkt_rd(p));
    ldns_pkt_free(p);
    message_release(&q);
}

Test(message, more_than_a_datagram_holds)
{
    static const uint8_t asked[] = "\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x01\x01"
                                   "a\x00\x00\x1c\x00\x01"
                                   "\x00\x00\x29\xff\xff\x00\x00\x80\x00\x00\x00";
    struct message_question q;

    message_read(asked, sizeof(asked) - 1, &q);
    cr_assert_eq(q.kind, MESSAGE_ADDRESS);
    cr_expect_eq(q.udp_size, MESSAGE_UDP_MAX);
    message_release(&q);
}

Test(message, a_failure)
{
    struct message_question q;
    uint8_t *wire;
    size_t len;
    ldns_pkt *p;

    message_read(plain, sizeof(plain) - 1, &q);
    cr_assert_eq(message_failure(&q, &wire, &len), 0);
    cr_assert_eq(ldns_wire2pkt(&p, wire, len), LDNS_STATUS_OK);
    cr_expect_eq(ldns_pkt_get_rcode(p), LDNS_RCODE_SERVFAIL);
    cr_expect_eq(ldns_pkt_id(p), 0x1234);
    cr_expect(ldns_pkt_qr(p) && !ldns_pkt_aa(p));
    ldns_pkt_free(p);
    free(wire);
    message_release(&q);
    message_read(plain, 13, &q);
    cr_expect_eq(message_failure(&q, &wire, &len), -EINVAL);
    message_release(&q);
}
