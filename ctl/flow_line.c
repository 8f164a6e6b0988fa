/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/flow_line.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl/json_text.h"
#include "ctl/safe_text.h"
#include "lib/cleanup.h"

#define RED   "\033[31m"
#define PLAIN "\033[0m"

/* "policy_denied" of "policy_denied: words"; the length. */
static int reason_len(const char *error)
{
    return (int)strcspn(error, ":");
}

/* "10.0.0.1" of "10.0.0.1:80", and the same of IPv6. */
static bool has_address(const char *endpoint, const char *address)
{
    bool v6 = *endpoint == '[';
    const char *end = v6 ? strchr(endpoint, ']') : strrchr(endpoint, ':');
    size_t len = end ? (size_t)(end - endpoint) - v6 : strlen(endpoint);

    return *address &&
           (!strcmp(endpoint, address) || (len == strlen(address) && !strncmp(endpoint + v6, address, len)));
}

static const char *of_end(const cJSON *line, const char *end, const char *key)
{
    char name[32];

    snprintf(name, sizeof(name), "%s.%s", end, key);
    return text_of(line, name);
}

static bool is_end(const cJSON *line, const char *end, const char *wanted)
{
    char name[600];

    if (!wanted || !*wanted)
        return !wanted;
    snprintf(name, sizeof(name), "%s/%s", of_end(line, end, "namespace"), of_end(line, end, "workload"));
    return !strcmp(name, wanted) || !strcmp(of_end(line, end, "namespace"), wanted) ||
           !strcmp(of_end(line, end, "identity"), wanted) || !strcmp(of_end(line, end, "service"), wanted) ||
           has_address(of_end(line, end, "addr"), wanted) ||
           has_address(of_end(line, end, "hbone_addr"), wanted);
}

bool flow_filter_has(const struct flow_filter *f, const cJSON *line)
{
    const char *error = text_of(line, "error");
    int len = reason_len(error);

    return is_end(line, "src", f->from) && is_end(line, "dst", f->to) && (!f->refused || *error) &&
           (!f->reason || ((int)strlen(f->reason) == len && !strncmp(error, f->reason, (size_t)len)));
}

static const char *event_of(const cJSON *line)
{
    const char *message = text_of(line, "message");

    return !strcmp(message, "connection opened")   ? "opened"
           : !strcmp(message, "connection failed") ? "refused"
           : *text_of(line, "error")               ? "failed"
                                                   : "closed";
}

/* Names come from outside. */
static void put(const char *text, FILE *out)
{
    _cleanup_free_ char *copy = strdup(text);

    if (copy)
        text_clean(copy);
    fputs(copy ? copy : "?", out);
}

static void put_end(const cJSON *line, const char *end, FILE *out)
{
    const char *workload = of_end(line, end, "workload"), *hbone = of_end(line, end, "hbone_addr");

    if (*workload) {
        put(of_end(line, end, "namespace"), out);
        fputc('/', out);
        put(workload, out);
        fputc(' ', out);
    }
    put(*hbone ? hbone : of_end(line, end, "addr"), out);
}

static void put_outcome(const cJSON *line, const char *event, bool colours, FILE *out)
{
    if (strcmp(event, "opened") != 0 && strcmp(event, "refused") != 0)
        fprintf(out, "  sent %.0f, received %.0f in %s", number_of(line, "bytes_sent"),
                number_of(line, "bytes_recv"), text_of(line, "duration"));
    if (!*text_of(line, "error"))
        return;
    fprintf(out, "  %s", colours ? RED : "");
    put(text_of(line, "error"), out);
    fputs(colours ? PLAIN : "", out);
}

void flow_line_print(const cJSON *line, bool json, FILE *out)
{
    bool colours = isatty(fileno(out)) && !getenv("NO_COLOR");
    const char *event = event_of(line), *time = text_of(line, "time");

    if (json) {
        _cleanup_free_ char *text = json_to_text(line, true);

        fprintf(out, "%s\n", text ? text : "null");
        return;
    }
    fprintf(out, "%.12s", strlen(time) > 23 ? time + 11 : time);
    if (*text_of(line, "node")) {
        fputs("  ", out);
        put(text_of(line, "node"), out);
    }
    fprintf(out, "  %-7s %-8s  ", event, text_of(line, "direction"));
    put_end(line, "src", out);
    fputs(" -> ", out);
    put_end(line, "dst", out);
    put_outcome(line, event, colours, out);
    fputc('\n', out);
}
