/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/otlp/otlp_answer.h"

#include <criterion/criterion.h>
#include <string.h>

#include "lib/proto/otlp.pb-c.h"
#include "lib/proto/status.pb-c.h"

static uint8_t body[1024];
static struct otlp_answer answer;

static size_t partly(int64_t rejected, const char *message)
{
    Otlp__PartialSuccess partial = OTLP__PARTIAL_SUCCESS__INIT;
    Otlp__Answer a = OTLP__ANSWER__INIT;

    partial.rejected = rejected;
    partial.error_message = (char *)(uintptr_t)message;
    a.partial_success = &partial;
    return otlp__answer__pack(&a, body);
}

static size_t failed(const char *message)
{
    Google__Rpc__Status status = GOOGLE__RPC__STATUS__INIT;

    status.message = (char *)(uintptr_t)message;
    return google__rpc__status__pack(&status, body);
}

Test(otlp_answer, outcomes_by_status)
{
    static const struct {
        long status;
        enum otlp_outcome outcome;
    } all[] = {
        {200, OTLP_TAKEN},   {202, OTLP_TAKEN},   {204, OTLP_TAKEN},   {301, OTLP_REFUSED},
        {400, OTLP_REFUSED}, {401, OTLP_REFUSED}, {408, OTLP_REFUSED}, {413, OTLP_REFUSED},
        {429, OTLP_AGAIN},   {500, OTLP_REFUSED}, {501, OTLP_REFUSED}, {502, OTLP_AGAIN},
        {503, OTLP_AGAIN},   {504, OTLP_AGAIN},   {0, OTLP_REFUSED},   {-1, OTLP_REFUSED},
        {100, OTLP_REFUSED},
    };

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        otlp_answer_read(all[i].status, body, 0, 7, &answer);
        cr_expect_eq(answer.outcome, all[i].outcome, "%ld", all[i].status);
        cr_expect_eq(answer.rejected, 0);
        cr_expect_str_empty(answer.said);
    }
}

Test(otlp_answer, what_was_rejected)
{
    otlp_answer_read(200, body, partly(3, "three \"old\"\n\xc3\xbc"), 7, &answer);
    cr_expect_eq(answer.outcome, OTLP_TAKEN);
    cr_expect_eq(answer.rejected, 3);
    cr_expect_str_eq(answer.said, "three ?old????");
    otlp_answer_read(200, body, partly(INT64_MAX, ""), 7, &answer);
    cr_expect_eq(answer.rejected, 7, "no more than there were");
    otlp_answer_read(200, body, partly(-1, NULL), 7, &answer);
    cr_expect_eq(answer.rejected, 0);
    otlp_answer_read(503, body, partly(3, "no"), 7, &answer);
    cr_expect_eq(answer.rejected, 0, "nothing was taken");
}

Test(otlp_answer, words)
{
    char words[900];

    memset(words, 'w', sizeof(words));
    words[sizeof(words) - 1] = '\0';
    otlp_answer_read(400, body, failed(words), 7, &answer);
    cr_expect_eq(strlen(answer.said), OTLP_SAID_MAX - 1);
    otlp_answer_read(400, body, failed("no such path"), 7, &answer);
    cr_expect_str_eq(answer.said, "no such path");
}

Test(otlp_answer, garbage)
{
    size_t len = partly(3, "three");

    for (size_t cut = 1; cut < len; cut++) {
        otlp_answer_read(200, body, cut, 7, &answer);
        cr_expect_eq(answer.outcome, OTLP_TAKEN);
    }
    memset(body, 0xff, sizeof(body));
    otlp_answer_read(200, body, sizeof(body), 7, &answer);
    cr_expect(answer.outcome == OTLP_TAKEN && !answer.rejected);
    otlp_answer_read(400, body, sizeof(body), 7, &answer);
    cr_expect(answer.outcome == OTLP_REFUSED && !answer.said[0]);
}

Test(otlp_answer, waits)
{
    static const uint64_t longest[] = {1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000};

    for (unsigned i = 0; i < sizeof(longest) / sizeof(longest[0]); i++) {
        cr_expect_eq(otlp_answer_wait(i + 1, 0, 0), longest[i] / 2);
        cr_expect_eq(otlp_answer_wait(i + 1, 0, longest[i] / 2), longest[i]);
        cr_expect_leq(otlp_answer_wait(i + 1, 0, UINT64_MAX), longest[i]);
    }
    cr_expect_eq(otlp_answer_wait(UINT32_MAX, 0, 0), OTLP_RETRY_LAST / 2);
    cr_expect_eq(otlp_answer_wait(1, 7, 12345), 7000, "what the collector asks for, and no less");
    cr_expect_eq(otlp_answer_wait(9, UINT64_MAX, 0), OTLP_RETRY_TOTAL, "but bounded");
}
