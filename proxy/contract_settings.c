/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/contract_settings.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"

#define ACCEPTED_MAX 2

static const struct contract_setting {
    const char *name;
    const char *accepted[ACCEPTED_MAX]; /* beside the empty value, if that is none of a kind */
    bool not_empty;
    const char *why;
} settings[] = {
    {"ENABLE_PROXY", {"true"}, true, "this program is nothing but the proxy"},
    {"FAKE_CA", {"false"}, true, "certificates come from CA_ADDRESS"},
    {"ISTIO_META_DNS_PROXY_ADDR", {"localhost:15053"}, false, "the port in pods is fixed"},
    {"INPOD_ENABLED", {"true"}, false, "the proxy serves the pods of a node"},
    {"LOG_FORMAT", {"plain", "json"}, false, "there are plain and json"},
};

static bool is_accepted(const struct contract_setting *s, const char *value)
{
    for (size_t i = 0; i < ACCEPTED_MAX && s->accepted[i]; i++) {
        if (!strcmp(value, s->accepted[i]))
            return true;
    }
    return !*value && !s->not_empty;
}

int contract_settings_check(char *error, size_t error_size)
{
    for (size_t i = 0; i < array_size(settings); i++) {
        const char *value = getenv(settings[i].name);

        if (value && !is_accepted(&settings[i], value)) {
            snprintf(error, error_size, "%s: \"%.100s\" is not supported: %s", settings[i].name, value,
                     settings[i].why);
            return -EINVAL;
        }
    }
    return 0;
}

void contract_settings_markdown(FILE *out)
{
    for (size_t i = 0; i < array_size(settings); i++) {
        const struct contract_setting *s = &settings[i];

        fprintf(out, "| `%s` | ", s->name);
        for (size_t k = 0; k < ACCEPTED_MAX && s->accepted[k]; k++)
            fprintf(out, "%s`%s`", k ? ", " : "", s->accepted[k]);
        fprintf(out, "%s | %s |\n", s->accepted[0] ? "" : "none", s->why);
    }
}
