/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/worker/endpoint_notes.h"

#include <errno.h>
#include <stdlib.h>

#include "lib/message.h"
#include "lib/reasons.h"

int endpoint_notes_add(struct endpoint_notes *notes, const struct endpoint_note *note)
{
    struct endpoint_note *grown;

    /* doubled at each power of two */
    if ((notes->len & (notes->len - 1)) == 0) {
        grown = realloc(notes->all, (notes->len ? 2 * notes->len : 1) * sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        notes->all = grown;
    }
    notes->all[notes->len++] = *note;
    return 0;
}

static cJSON *item(const struct endpoint_note *note)
{
    cJSON *o = cJSON_CreateObject();
    char text[ENDPOINT_TEXT_LEN];

    cJSON_AddStringToObject(o, "endpoint",
                            note->leaving ? addr_format(&note->endpoint.addr, text)
                                          : endpoint_format(&note->endpoint, text));
    cJSON_AddStringToObject(o, "why", note->leaving ? "leaving" : "failed");
    if (!note->leaving)
        cJSON_AddStringToObject(o, "reason", reason_name(note->reason));
    cJSON_AddNumberToObject(o, "milliseconds", (double)note->milliseconds);
    cJSON_AddNumberToObject(o, "worker", note->worker);
    return o;
}

int endpoint_notes_print(const struct endpoint_notes *notes, FILE *out)
{
    fputc('[', out);
    for (size_t i = 0; i < notes->len; i++) {
        fputs(i ? ",\n" : "\n", out);
        if (message_print(out, item(&notes->all[i])) < 0)
            return -ENOMEM;
    }
    fputc(']', out);
    return 0;
}

void endpoint_notes_clear(struct endpoint_notes *notes)
{
    free(notes->all);
    *notes = (struct endpoint_notes){};
}
