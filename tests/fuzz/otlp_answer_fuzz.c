/* SPDX-License-Identifier: Apache-2.0 */
/* What a collector answers: the first byte chooses the status. */
#include <stdlib.h>
#include <string.h>

#include "proxy/otlp/otlp_answer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const long statuses[] = {200, 400, 429, 503};
    struct otlp_answer answer;

    if (!size)
        return 0;
    otlp_answer_read(statuses[data[0] % 4], data + 1, size - 1, data[0], &answer);
    if (answer.rejected > data[0] || (answer.rejected && answer.outcome != OTLP_TAKEN))
        abort();
    for (size_t i = 0; i < strlen(answer.said); i++) {
        if (answer.said[i] < 0x20 || answer.said[i] > 0x7e || answer.said[i] == '"')
            abort();
    }
    return 0;
}
