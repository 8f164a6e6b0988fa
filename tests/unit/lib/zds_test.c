/* SPDX-License-Identifier: Apache-2.0 */
/* Against the bytes that the contract names, and against what a stock agent sent (tests/data/zds). */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/zds.h"

static void expect_bytes(ssize_t len, const uint8_t *buf, const char *expected, size_t expected_len)
{
    cr_assert(len == (ssize_t)expected_len, "%zd", len);
    cr_expect(memcmp(buf, expected, expected_len) == 0);
}

static ssize_t encode(const struct zds_request *request, uint8_t *buf)
{
    return zds_request_encode(request, buf);
}

#define EXPECT_REQUEST(bytes, ...)                                                                      \
    do {                                                                                                \
        uint8_t buf_[ZDS_MESSAGE_MAX];                                                                  \
        expect_bytes(encode(&(struct zds_request){__VA_ARGS__}, buf_), buf_, bytes, sizeof(bytes) - 1); \
    } while (0)

Test(zds, writes_the_bytes_of_the_contract)
{
    uint8_t buf[ZDS_MESSAGE_MAX];

    expect_bytes(zds_hello_encode(buf), buf, "\x08\x01", 2);
    expect_bytes(zds_response_encode(NULL, buf), buf, "\x0a\x00", 2);
    expect_bytes(zds_response_encode("", buf), buf, "\x0a\x00", 2);
    EXPECT_REQUEST("\x1a\x00", .kind = ZDS_SNAPSHOT_SENT);
    EXPECT_REQUEST("\x12\x03\x12\x01"
                   "a",
                   .kind = ZDS_DEL, .uid = "a");
    EXPECT_REQUEST("\x2a\x03\x0a\x01"
                   "a",
                   .kind = ZDS_KEEP, .uid = "a");
    EXPECT_REQUEST("\x0a\x0e\x0a\x01u\x12\x09\x0a\x01n\x12\x01s\x1a\x01"
                   "a",
                   .kind = ZDS_ADD, .uid = "u", .has_info = true, .name = "n", .namespace = "s",
                   .service_account = "a");
}

static struct zds_request recorded(int number)
{
    char path[512];
    uint8_t buf[ZDS_MESSAGE_MAX];
    struct zds_request request = {};
    size_t len;
    FILE *f;

    snprintf(path, sizeof(path), "%s/zds/zds-%d.bin", TEST_DATA, number);
    f = fopen(path, "r");
    cr_assert(f, "%s", path);
    len = fread(buf, 1, sizeof(buf), f);
    fclose(f);
    cr_assert(zds_request_decode(buf, len, &request) == 0, "%s", path);
    return request;
}

Test(zds, reads_what_a_stock_agent_sent)
{
    static const enum zds_request_kind kinds[] = {ZDS_ADD, ZDS_ADD, ZDS_ADD, ZDS_SNAPSHOT_SENT,
                                                  ZDS_ADD, ZDS_DEL, ZDS_DEL, ZDS_DEL};

    for (int i = 0; i < 8; i++) {
        _cleanup_zds_request_ struct zds_request r = recorded(i + 1);

        cr_expect(r.kind == kinds[i], "%d", i);
        cr_expect(r.has_info == (r.kind == ZDS_ADD));
        if (i == 0) {
            cr_expect_str_eq(r.uid, "c65dbb38-efbc-417b-87ea-882e41095b44");
            cr_expect_str_eq(r.name, "cart-6b99b75d5f-9c2fb");
            cr_expect_str_eq(r.namespace, "shop");
            cr_expect_str_eq(r.service_account, "cart");
        }
        if (i == 5)
            cr_expect_str_eq(r.uid, "2175f95c-3305-4aab-8425-6cd5c555a059");
    }
}

static int decode(const char *bytes, size_t len)
{
    struct zds_request request = {};
    int r = zds_request_decode(bytes, len, &request);

    zds_request_clear(&request);
    return r;
}

#define DECODE(bytes) decode(bytes, sizeof(bytes) - 1)

Test(zds, refuses_what_is_no_request)
{
    cr_expect(DECODE("") == -EBADMSG, "no payload");
    cr_expect(DECODE("\xff\xff") == -EBADMSG, "not protobuf");
    cr_expect(DECODE("\x0a\x40\x0a\x01u") == -EBADMSG, "cut");
    cr_expect(DECODE("\x22\x00") == -EBADMSG, "payload 4, of no version that is known");
    cr_expect(DECODE("\x2a\x04\x0a\x02"
                     "a\n") == -EBADMSG,
              "a line break in a name");
    cr_expect(DECODE("\x2a\x03\x0a\x01\"") == -EBADMSG, "a quote in a name");
    cr_expect(DECODE("\x2a\x03\x0a\x01\\") == -EBADMSG, "a backslash in a name");
    cr_expect(DECODE("\x2a\x03\x0a\x01\xff") == -EBADMSG, "not UTF-8");
    cr_expect(DECODE("\x2a\x04\x0a\x02\xc0\x80") == -EBADMSG, "overlong");
    cr_expect(DECODE("\x2a\x05\x0a\x03\xed\xa0\x80") == -EBADMSG, "half a surrogate pair");
    cr_expect(DECODE("\x2a\x04\x0a\x02\xc3\xa9") == 0, "UTF-8 is fine");
    cr_expect(DECODE("\x2a\x05\x0a\x01u\x38\x01") == 0, "unknown fields are skipped");
}

Test(zds, a_del_with_its_uid_in_field_1_names_nobody)
{
    struct zds_request request = {};

    cr_assert(zds_request_decode("\x12\x03\x0a\x01"
                                 "a",
                                 5, &request) == 0);
    cr_expect(request.kind == ZDS_DEL);
    cr_expect_str_empty(request.uid);
    zds_request_clear(&request);
}

Test(zds, an_add_without_workload_info_can_be_told)
{
    struct zds_request request = {};

    cr_assert(zds_request_decode("\x0a\x03\x0a\x01u", 5, &request) == 0);
    cr_expect(request.kind == ZDS_ADD && !request.has_info);
    zds_request_clear(&request);
}

/* The whole message is long: 1024 bytes pass, 1025 do not. */
Test(zds, keeps_to_the_size_of_a_message)
{
    char name[1200];
    uint8_t buf[ZDS_MESSAGE_MAX + 8];
    struct zds_request request = {.kind = ZDS_KEEP, .uid = name}, back = {};

    memset(name, 'a', sizeof(name));
    name[ZDS_MESSAGE_MAX - 6] = '\0';
    cr_assert(zds_request_encode(&request, buf) == ZDS_MESSAGE_MAX);
    cr_assert(zds_request_decode(buf, ZDS_MESSAGE_MAX, &back) == 0);
    cr_expect_str_eq(back.uid, name);
    zds_request_clear(&back);
    memcpy(buf + ZDS_MESSAGE_MAX, "\x38\x01", 2);
    cr_expect(zds_request_decode(buf, ZDS_MESSAGE_MAX + 2, &back) == -EBADMSG);
    name[ZDS_MESSAGE_MAX - 6] = 'a';
    name[ZDS_MESSAGE_MAX - 5] = '\0';
    cr_expect(zds_request_encode(&request, buf) == -EMSGSIZE);
}

Test(zds, a_refusal_is_short_whatever_it_says)
{
    char text[3000], back[2000];
    uint8_t buf[ZDS_MESSAGE_MAX];
    ssize_t len;

    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = "\xe2\x82\xac"[i % 3];
    text[sizeof(text) - 1] = '\0';
    len = zds_response_encode(text, buf);
    cr_assert(len > 0 && len <= ZDS_ERROR_MAX + 8);
    cr_assert(zds_response_decode(buf, (size_t)len, back, sizeof(back)) == 0);
    cr_expect(strlen(back) == ZDS_ERROR_MAX / 3 * 3, "cut between characters: %zu", strlen(back));
    cr_expect(memcmp(back, text, strlen(back)) == 0);
    len = zds_response_encode("\xff is not UTF-8", buf);
    cr_assert(zds_response_decode(buf, (size_t)len, back, sizeof(back)) == 0);
    cr_expect(*back, "still a refusal");
}

Test(zds, reads_responses)
{
    char error[16] = "untouched";

    cr_expect(zds_response_decode("", 0, error, sizeof(error)) == -EBADMSG);
    cr_expect(zds_response_decode("\x0a\x05x", 3, error, sizeof(error)) == -EBADMSG);
    cr_expect_str_eq(error, "untouched");
    cr_assert(zds_response_decode("\x0a\x00", 2, error, sizeof(error)) == 0);
    cr_expect_str_empty(error);
    cr_assert(zds_response_decode("\x0a\x06\x0a\x04no\nx", 8, error, sizeof(error)) == 0);
    cr_expect_str_eq(error, "no x");
    cr_assert(zds_response_decode("\x0a\x06\x0a\x04long", 8, error, 3) == 0);
    cr_expect_str_eq(error, "lo");
}

Test(zds, reads_hellos)
{
    unsigned version = 0;

    cr_assert(zds_hello_decode("\x08\x01", 2, &version) == 0);
    cr_expect(version == 1);
    cr_assert(zds_hello_decode("\x08\x02", 2, &version) == 0, "a later one");
    cr_expect(version == 2);
    cr_expect(zds_hello_decode("", 0, &version) == -EBADMSG, "none");
    cr_expect(version == 2, "a greeting that is refused leaves no number behind");
    cr_expect(zds_hello_decode("GET / HTTP/1.1", 14, &version) == -EBADMSG);
}
