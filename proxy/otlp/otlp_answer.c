/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/otlp/otlp_answer.h"

#include "lib/proto/otlp.pb-c.h"
#include "lib/proto/status.pb-c.h"

/* It goes to the log. */
static void keep_words(const char *text, char ret[OTLP_SAID_MAX])
{
    size_t len = 0;

    for (; text && *text && len + 1 < OTLP_SAID_MAX; text++)
        ret[len++] = *text >= 0x20 && *text < 0x7f && *text != '"' && *text != '\\' ? *text : '?';
    ret[len] = '\0';
}

static void read_success(const uint8_t *body, size_t len, uint64_t items, struct otlp_answer *ret)
{
    Otlp__Answer *answer = otlp__answer__unpack(NULL, len, body);

    if (answer && answer->partial_success) {
        int64_t rejected = answer->partial_success->rejected;

        ret->rejected = rejected < 0 ? 0 : (uint64_t)rejected < items ? (uint64_t)rejected : items;
        keep_words(answer->partial_success->error_message, ret->said);
    }
    if (answer)
        otlp__answer__free_unpacked(answer, NULL);
}

static void read_failure(const uint8_t *body, size_t len, struct otlp_answer *ret)
{
    Google__Rpc__Status *status = google__rpc__status__unpack(NULL, len, body);

    if (!status)
        return;
    keep_words(status->message, ret->said);
    google__rpc__status__free_unpacked(status, NULL);
}

void otlp_answer_read(long status, const uint8_t *body, size_t len, uint64_t items, struct otlp_answer *ret)
{
    *ret = (struct otlp_answer){.outcome = OTLP_REFUSED};
    if (status >= 200 && status < 300) {
        ret->outcome = OTLP_TAKEN;
        read_success(body, len, items, ret);
        return;
    }
    if (status == 429 || status == 502 || status == 503 || status == 504)
        ret->outcome = OTLP_AGAIN;
    read_failure(body, len, ret);
}

uint64_t otlp_answer_wait(unsigned attempt, uint64_t retry_after, uint64_t random)
{
    uint64_t wait = OTLP_RETRY_FIRST;

    if (retry_after)
        return retry_after < OTLP_RETRY_TOTAL / 1000 ? retry_after * 1000 : OTLP_RETRY_TOTAL;
    for (unsigned i = 1; i < attempt && wait < OTLP_RETRY_LAST; i++)
        wait *= 2;
    if (wait > OTLP_RETRY_LAST)
        wait = OTLP_RETRY_LAST;
    return wait / 2 + random % (wait / 2 + 1);
}
