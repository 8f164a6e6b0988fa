/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/dns/message.h"

#include <ctype.h>
#include <errno.h>
#include <ldns/ldns.h>
#include <string.h>

#include "lib/cleanup.h"

#define TTL 30 /* seconds (contract section 11) */

static const struct {
    ldns_rr_type type;
    const char *name;
} types[] = {
    {LDNS_RR_TYPE_A, "a"},         {LDNS_RR_TYPE_AAAA, "aaaa"}, {LDNS_RR_TYPE_SRV, "srv"},
    {LDNS_RR_TYPE_TXT, "txt"},     {LDNS_RR_TYPE_PTR, "ptr"},   {LDNS_RR_TYPE_CNAME, "cname"},
    {LDNS_RR_TYPE_MX, "mx"},       {LDNS_RR_TYPE_NS, "ns"},     {LDNS_RR_TYPE_SOA, "soa"},
    {LDNS_RR_TYPE_NAPTR, "naptr"}, {LDNS_RR_TYPE_DS, "ds"},     {LDNS_RR_TYPE_DNSKEY, "dnskey"},
    {LDNS_RR_TYPE_ANY, "any"},     {LDNS_RR_TYPE_CAA, "caa"},   {LDNS_RR_TYPE_SVCB, "svcb"},
    {LDNS_RR_TYPE_HTTPS, "https"},
};

static const char *type_name(ldns_rr_type type)
{
    for (size_t i = 0; i < array_size(types); i++) {
        if (types[i].type == type)
            return types[i].name;
    }
    return "other";
}

size_t message_kept(size_t len)
{
    return len <= MESSAGE_READ_MAX ? len : MESSAGE_HEADER;
}

uint16_t message_id(const uint8_t *data)
{
    return (uint16_t)(data[0] << 8 | data[1]);
}

static bool is_answer(const uint8_t *data)
{
    return data[2] & 0x80;
}

bool message_answers(const uint8_t *data, size_t len, uint16_t id)
{
    return len >= MESSAGE_HEADER && is_answer(data) && message_id(data) == id;
}

/* False: a name with bytes that are no host name's. Nobody has such a service. */
static bool read_name(const ldns_rdf *owner, char ret[NAME_LEN])
{
    _cleanup_free_ char *text = ldns_rdf2str(owner);
    size_t len = text ? strlen(text) : 0;

    if (!len || strchr(text, '\\'))
        return false;
    if (text[len - 1] == '.')
        text[--len] = '\0';
    if (len >= NAME_LEN)
        return false;
    for (size_t i = 0; i <= len; i++)
        ret[i] = (char)tolower((unsigned char)text[i]);
    return true;
}

/* A signed question wants a signed answer. */
static bool is_plain(const ldns_pkt *p)
{
    return ldns_pkt_get_opcode(p) == LDNS_PACKET_QUERY && ldns_pkt_qdcount(p) == 1 && !ldns_pkt_ancount(p) &&
           !ldns_pkt_nscount(p) && !ldns_pkt_tsig(p) && ldns_rr_list_rr_count(ldns_pkt_question(p)) == 1;
}

/* With its end; 0: it does not end, or a pointer is in it. */
static size_t plain_name_len(const uint8_t *data, size_t len)
{
    for (size_t at = 0; at < len && data[at] < 64; at += 1 + (size_t)data[at]) {
        if (!data[at])
            return at + 1;
    }
    return 0;
}

/*
 * One question, and behind it the record of EDNS or nothing. Nothing else is given to the library: it follows
 * 65,535 pointers in a row, for each name anew, and so is busy for milliseconds with a message that a pod has
 * made for that.
 */
static bool is_simple(const uint8_t *data, size_t len)
{
    static const uint8_t counts[] = {0, 1, 0, 0, 0, 0, 0}, edns[] = {0, 0, LDNS_RR_TYPE_OPT};
    size_t at = MESSAGE_HEADER, name = plain_name_len(data + at, len - at);

    at += name + 4; /* type and class */
    if (!name || at > len || memcmp(data + 4, counts, sizeof(counts)) != 0 || data[11] > 1)
        return false;
    return !data[11] || (len - at >= sizeof(edns) && !memcmp(data + at, edns, sizeof(edns)));
}

void message_read(const uint8_t *data, size_t len, struct message_question *ret)
{
    struct message_question q = {.kind = MESSAGE_OPAQUE, .type = "other", .udp_size = MESSAGE_UDP_MIN};
    const ldns_rr *asked;
    ldns_rr_type type;

    *ret = q;
    if (len < MESSAGE_HEADER || is_answer(data)) {
        ret->kind = MESSAGE_NONE;
        return;
    }
    if (len > MESSAGE_READ_MAX || !is_simple(data, len) ||
        ldns_wire2pkt(&q.packet, data, len) != LDNS_STATUS_OK)
        return;
    if (ldns_pkt_edns(q.packet) && ldns_pkt_edns_udp_size(q.packet) > q.udp_size)
        q.udp_size = ldns_pkt_edns_udp_size(q.packet);
    if (q.udp_size > MESSAGE_UDP_MAX)
        q.udp_size = MESSAGE_UDP_MAX;
    if (is_plain(q.packet)) {
        asked = ldns_rr_list_rr(ldns_pkt_question(q.packet), 0);
        type = ldns_rr_get_type(asked);
        q.type = type_name(type);
        q.ipv6 = type == LDNS_RR_TYPE_AAAA;
        if ((type == LDNS_RR_TYPE_A || q.ipv6) && ldns_rr_get_class(asked) == LDNS_RR_CLASS_IN &&
            read_name(ldns_rr_owner(asked), q.name))
            q.kind = MESSAGE_ADDRESS;
    }
    *ret = q;
}

void message_release(struct message_question *q)
{
    if (q->packet)
        ldns_pkt_free(q->packet);
    q->packet = NULL;
}

/* ---- answers ---- */

static void free_packet(ldns_pkt **packet)
{
    if (*packet)
        ldns_pkt_free(*packet);
}

/* Without records. NULL without memory. */
static ldns_pkt *new_answer(const ldns_pkt *question, ldns_pkt_rcode rcode)
{
    ldns_pkt *a = ldns_pkt_new();
    ldns_rr_list *asked = ldns_rr_list_clone(ldns_pkt_question(question));

    if (!a || !asked) {
        free_packet(&a);
        ldns_rr_list_deep_free(asked);
        return NULL;
    }
    ldns_pkt_set_id(a, ldns_pkt_id(question));
    ldns_pkt_set_opcode(a, ldns_pkt_get_opcode(question));
    ldns_pkt_set_qr(a, true);
    ldns_pkt_set_ra(a, true);
    ldns_pkt_set_rd(a, ldns_pkt_rd(question));
    ldns_pkt_set_cd(a, ldns_pkt_cd(question));
    ldns_pkt_set_rcode(a, (uint8_t)rcode);
    if (ldns_pkt_edns(question)) {
        uint16_t size = ldns_pkt_edns_udp_size(question);

        ldns_pkt_set_edns_udp_size(a, size > MESSAGE_UDP_MIN ? size : MESSAGE_UDP_MIN);
        ldns_pkt_set_edns_version(a, ldns_pkt_edns_version(question));
        ldns_pkt_set_edns_do(a, ldns_pkt_edns_do(question));
    }
    if (!ldns_pkt_push_rr_list(a, LDNS_SECTION_QUESTION, asked)) {
        ldns_rr_list_deep_free(asked);
        free_packet(&a);
        return NULL;
    }
    ldns_rr_list_free(asked); /* its records are the packet's */
    return a;
}

/* Takes data, also on failure. */
static int add_record(ldns_pkt *a, const ldns_rdf *owner, ldns_rr_type type, ldns_rdf *data)
{
    ldns_rr *rr = ldns_rr_new();
    ldns_rdf *name = ldns_rdf_clone(owner);

    if (!rr || !name || !data || !ldns_rr_push_rdf(rr, data)) {
        ldns_rdf_deep_free(data);
        ldns_rdf_deep_free(name);
        ldns_rr_free(rr);
        return -ENOMEM;
    }
    ldns_rr_set_owner(rr, name);
    ldns_rr_set_type(rr, type);
    ldns_rr_set_class(rr, LDNS_RR_CLASS_IN);
    ldns_rr_set_ttl(rr, TTL);
    if (ldns_pkt_push_rr(a, LDNS_SECTION_ANSWER, rr))
        return 0;
    ldns_rr_free(rr);
    return -ENOMEM;
}

static int add_address(ldns_pkt *a, const ldns_rdf *owner, const struct addr *address)
{
    uint8_t bytes[16];
    size_t len = addr_to_bytes(address, bytes);

    return add_record(a, owner, len == 4 ? LDNS_RR_TYPE_A : LDNS_RR_TYPE_AAAA,
                      ldns_rdf_new_frm_data(len == 4 ? LDNS_RDF_TYPE_A : LDNS_RDF_TYPE_AAAA, len, bytes));
}

static int make_answer(const struct message_question *q, const struct names_found *found, size_t addresses,
                       uint8_t **ret, size_t *ret_len)
{
    cleanup(free_packet) ldns_pkt *a = new_answer(q->packet, LDNS_RCODE_NOERROR);
    const ldns_rdf *asked = ldns_rr_owner(ldns_rr_list_rr(ldns_pkt_question(q->packet), 0));
    ldns_rdf *other = NULL;
    int r = a ? 0 : -ENOMEM;

    if (r < 0)
        return r;
    ldns_pkt_set_aa(a, true);
    ldns_pkt_set_tc(a, addresses < found->addresses_len);
    if (found->form == NAMES_SEARCHED && !found->wildcard) {
        other = ldns_dname_new_frm_str(found->stripped);
        r = other ? add_record(a, asked, LDNS_RR_TYPE_CNAME, ldns_rdf_clone(other)) : -ENOMEM;
    }
    for (size_t i = 0; i < addresses && r == 0; i++)
        r = add_address(a, other ? other : asked, &found->addresses[i]);
    ldns_rdf_deep_free(other);
    if (r == 0 && ldns_pkt2wire(ret, a, ret_len) != LDNS_STATUS_OK)
        r = -ENOMEM;
    return r;
}

int message_answer(const struct message_question *q, const struct names_found *found, size_t limit,
                   uint8_t **ret, size_t *ret_len)
{
    /* No message holds more: a record has 16 bytes at the least. */
    size_t n = found->addresses_len, most = limit / 16;

    if (n > most)
        n = most;
    for (;;) {
        _cleanup_free_ uint8_t *wire = NULL;
        size_t len = 0;
        int r = make_answer(q, found, n, &wire, &len);

        if (r < 0)
            return r;
        if (len <= limit || !n) {
            *ret = take_pointer(wire);
            *ret_len = len;
            return 0;
        }
        n = n * limit / len < n ? n * limit / len : n - 1;
    }
}

int message_failure(const struct message_question *q, uint8_t **ret, size_t *ret_len)
{
    cleanup(free_packet) ldns_pkt *a = NULL;

    if (!q->packet)
        return -EINVAL;
    a = new_answer(q->packet, LDNS_RCODE_SERVFAIL);
    return a && ldns_pkt2wire(ret, a, ret_len) == LDNS_STATUS_OK ? 0 : -ENOMEM;
}
