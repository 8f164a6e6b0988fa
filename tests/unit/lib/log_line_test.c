/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/log_line.h"

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <string.h>

#include "lib/utf8.h"

static char line[4096];

static const char *format(bool json, const char *message, const char *error)
{
    const struct log_line l = {"2026-01-02T03:04:05.678901Z", "info", "xds", message, error};
    size_t n = log_line_format(&l, json, line, sizeof(line) - 1);

    cr_assert(n < sizeof(line));
    line[n] = '\0';
    cr_assert(n && line[n - 1] == '\n' && strchr(line, '\n') == line + n - 1, "one line: %s", line);
    return line;
}

static void expect_plain(const char *message, const char *error, const char *wanted)
{
    const char *have = format(false, message, error) + strlen("2026-01-02T03:04:05.678901Z\tinfo\txds\t");

    cr_expect(!strncmp(have, wanted, strlen(wanted)) && have[strlen(wanted)] == '\n', "\"%s\" is %s", wanted,
              have);
}

Test(log_line, plain)
{
    cr_expect(!strcmp(format(false, "started", NULL), "2026-01-02T03:04:05.678901Z\tinfo\txds\tstarted\n"));
    expect_plain("started\tworkers=1 node=\"a\"", NULL, "started\tworkers=1 node=\"a\"");
    expect_plain("failed", "No such file", "failed\terror=\"No such file\"");
    expect_plain("failed\tpath=/x", "No such file", "failed\tpath=/x error=\"No such file\"");
    expect_plain("failed", "a \"b\"\n", "failed\terror=\"a \\\"b\\\"\\n\"");
}

Test(log_line, nobodys_bytes_make_another_line)
{
    expect_plain("peer\tidentity=\"x\n2026 info access connection complete\"", NULL,
                 "peer\tidentity=\"x\\n2026 info access connection complete\"");
    expect_plain("peer \x1b[31m\r\x7f", NULL, "peer \\u001b[31m\\u000d\\u007f");
}

static cJSON *object(const char *message, const char *error)
{
    cJSON *o = cJSON_Parse(format(true, message, error));

    cr_assert(o != NULL, "%s", line);
    cr_expect(!strcmp(cJSON_GetObjectItem(o, "level")->valuestring, "info"));
    cr_expect(!strcmp(cJSON_GetObjectItem(o, "scope")->valuestring, "xds"));
    cr_expect(!strcmp(cJSON_GetObjectItem(o, "time")->valuestring, "2026-01-02T03:04:05.678901Z"));
    return o;
}

static void expect_text(const cJSON *o, const char *key, const char *wanted)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(o, key);

    cr_expect(cJSON_IsString(item) && !strcmp(item->valuestring, wanted), "%s of %s", key, line);
}

Test(log_line, json_has_the_pairs_as_members)
{
    cJSON *o = object(
        "started\tworkers=12 node=\"a \\\"b\\\" \\n\" path=/x/y empty=\"\" zero=0 leading=007 took=5ms",
        "why");

    expect_text(o, "message", "started");
    cr_expect(cJSON_GetObjectItem(o, "workers")->valuedouble == 12 &&
              cJSON_GetObjectItem(o, "zero")->valuedouble == 0);
    expect_text(o, "node", "a \"b\" \n");
    expect_text(o, "path", "/x/y");
    expect_text(o, "empty", "");
    expect_text(o, "leading", "007");
    expect_text(o, "took", "5ms");
    expect_text(o, "error", "why");
    cr_expect(cJSON_GetArraySize(o) == 4 + 8);
    cJSON_Delete(o);
}

Test(log_line, json_of_whatever_there_is)
{
    static const char *const messages[] = {
        "",
        "\t",
        "\t\t",
        "a\tb",
        "a\t=b",
        "a\tk=\"",
        "a\tk=\"x\"y",
        "a\tk=\"\\q\"",
        "a\tk=\"\\u12\"",
        "a\tk=\"\\u0041\\\"",
        "a\tk=\"\\",
        "a\tk=v k",
        "a\tk=v  l=w",
        "a\tk=\xff",
        "a\tk=\"\xff\xfe\"",
        "\xc3(\x80",
        "a\tk=\"line\nbreak\"",
        "a\tk=\x01",
        "a\tk=v\tl=\"w\"",
        "a \"quoted\"\tk=-1",
    };

    for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++) {
        cJSON_Delete(object(messages[i], i % 2 ? NULL : "\x80 error \"\n"));
        for (const char *at = line; *at;) {
            size_t n = utf8_character(at, 4);

            cr_assert(n && ((unsigned char)*at >= 0x20 || *at == '\n'), "%s", line);
            at += n;
        }
    }
}

Test(log_line, what_is_too_long_is_cut_and_stays_whole)
{
    static char message[9000], error[4000];

    for (size_t len = 0; len < sizeof(message) - 1; len += 97) {
        memset(message, '"', len);
        message[len] = '\0';
        if (len > 200)
            memcpy(message + 100, "\tk=\"", 4);
        memset(error, '\n', sizeof(error) - 1);
        cJSON_Delete(object(message, len % 2 ? error : NULL));
        format(false, message, len % 2 ? error : NULL);
    }
}
