/* SPDX-License-Identifier: Apache-2.0 */
/* What handlers are told of a request. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"
#include "tests/unit/lib/rpc/http_fixture.h"

TestSuite(http_request, .init = http_setup, .fini = http_teardown, .timeout = 60);

/* Result of http_query("level") into 16 bytes, and what was found. */
Test(http_request, queries)
{
    static const struct {
        const char *query, *said;
    } cases[] = {
        {"?level=xds%3Ddebug&reset", "query 9 \"xds=debug\" -\n"},
        {"?level=a=b", "query 3 \"a=b\" -\n"},
        {"?level=a+b", "query 3 \"a b\" -\n"},
        {"?level=%41", "query 1 \"A\" -\n"},
        {"?level", "query 0 \"\" -\n"},
        {"?reset&level=", "query 0 \"\" -\n"},
        {"?levels", "query -2 \"\" -\n"}, /* ENOENT */
        {"", "none -2 \"\" -\n"},
        {"?level=a%00b", "query -22 \"\" -\n"}, /* EINVAL */
        {"?level=0123456789abcde", "query 15 \"0123456789abcde\" -\n"},
        {"?level=0123456789abcdef", "query -22 \"\" -\n"},
    };

    for (size_t i = 0; i < array_size(cases); i++) {
        char text[256], *answer;

        snprintf(text, sizeof(text), "GET /query%s HTTP/1.1\r\nHost: a\r\n\r\n", cases[i].query);
        answer = client_ask(&http_at, text);
        cr_expect(!strcmp(client_body(answer), cases[i].said), "%s -> %s", cases[i].query,
                  client_body(answer));
        free(answer);
    }
}

Test(http_request, headers_and_targets)
{
    char *answer =
        client_ask(&http_at, "GET /query HTTP/1.1\r\nHost: a\r\nX-SAID:  y z\r\nX-Said: w\r\n\r\n");

    cr_expect(!strcmp(client_body(answer), "none -2 \"\" y z\n"), "%s", answer);
    free(answer);
    http_expect_status("GET http://h:1/hello?y HTTP/1.1\r\nHost: a\r\n\r\n", "200");
    http_expect_status("GET http://h HTTP/1.1\r\nHost: a\r\n\r\n", "404");
    http_expect_status("GET hello HTTP/1.1\r\nHost: a\r\n\r\n", "400");
    http_expect_status("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "404");
    http_expect_status("GET /hello/ HTTP/1.1\r\nHost: a\r\n\r\n", "404");
    http_expect_status("GET /hello HTTP/1.0\r\n\r\n", "200");
}
