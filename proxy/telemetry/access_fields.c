/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/telemetry/access_fields.h"

#include "lib/reasons.h"
#include "proxy/telemetry/baggage.h"

struct fields {
    access_put put;
    void *data;
};

const char *access_message(enum access_event event)
{
    static const char *const messages[] = {
        [ACCESS_OPENED] = "connection opened",
        [ACCESS_COMPLETE] = "connection complete",
        [ACCESS_FAILED] = "connection failed",
    };

    return messages[event];
}

static void put(const struct fields *f, const char *key, struct access_value value)
{
    f->put(f->data, key, &value);
}

static void put_text(const struct fields *f, const char *key, const char *text)
{
    if (text && *text)
        put(f, key, (struct access_value){.kind = ACCESS_TEXT, .text = text});
}

static void put_word(const struct fields *f, const char *key, const char *text)
{
    put(f, key, (struct access_value){.kind = ACCESS_WORD, .text = text});
}

static void put_address(const struct fields *f, const char *key, const struct endpoint *address)
{
    put(f, key, (struct access_value){.kind = ACCESS_ADDRESS, .address = address});
}

static void put_number(const struct fields *f, const char *key, uint64_t number)
{
    put(f, key, (struct access_value){.kind = ACCESS_NUMBER, .number = number});
}

/* What is known of a side by its baggage alone. */
struct described {
    const char *workload, *namespace, *cluster;
};

static void describe(struct described *d, const struct workload *w, const struct baggage *b)
{
    if (w) {
        d->workload = *w->name ? w->name : w->canonical_name;
        d->namespace = w->namespace;
        d->cluster = w->cluster_id;
    } else if (b) {
        d->workload = b->values[BAGGAGE_SERVICE];
        d->namespace = b->values[BAGGAGE_NAMESPACE];
        d->cluster = b->values[BAGGAGE_CLUSTER];
    }
}

static void both_sides(const struct fields *out, const struct flow *f)
{
    struct described source = {}, destination = {};
    struct baggage baggage;
    bool vouched = (!f->source || !f->destination) && baggage_vouched(f, &baggage);

    describe(&source, f->source, vouched && f->reporter == REPORTER_DESTINATION ? &baggage : NULL);
    describe(&destination, f->destination, vouched && f->reporter == REPORTER_SOURCE ? &baggage : NULL);

    put_address(out, "src.addr", &f->source_address);
    put_text(out, "src.workload", source.workload);
    put_text(out, "src.namespace", source.namespace);
    put_text(out, "src.identity", flow_authenticated(f) ? f->source_identity : NULL);
    put_text(out, "src.cluster", source.cluster);
    put_address(out, "dst.addr", &f->destination_address);
    if (f->hbone_authority && *f->hbone_authority)
        put(out, "dst.hbone_addr",
            (struct access_value){.kind = ACCESS_AUTHORITY, .text = f->hbone_authority});
    put_text(out, "dst.service", f->service ? f->service->hostname : NULL);
    put_text(out, "dst.workload", destination.workload);
    put_text(out, "dst.namespace", destination.namespace);
    put_text(out, "dst.identity", flow_authenticated(f) ? f->destination_identity : NULL);
    put_text(out, "dst.cluster", destination.cluster);
}

/* Seen from the local workload: outbound, what the initiator sent is sent; inbound, what the application
 * answered. */
static void volume(const struct fields *out, const struct access_line *line)
{
    const struct flow *f = line->flow;
    bool outbound = f->reporter == REPORTER_SOURCE;

    put_number(out, "bytes_sent", outbound ? f->received : f->sent);
    put_number(out, "bytes_recv", outbound ? f->sent : f->received);
    put(out, "duration", (struct access_value){.kind = ACCESS_MILLISECONDS, .number = line->lived / 1000000});
}

/* The name of the reason first: it is what the metrics, the docs and `brumactl` know it by. */
static void error(const struct fields *out, const struct access_line *line)
{
    put(out, "error",
        (struct access_value){.kind = ACCESS_ERROR,
                              .reason = reason_name(line->reason),
                              .text =
                                  line->detail && *line->detail ? line->detail : reason_what(line->reason)});
}

void access_fields(const struct access_line *line, access_put put_one, void *data)
{
    const struct fields out = {put_one, data};
    const struct flow *f = line->flow;

    if (line->event == ACCESS_FAILED) {
        put_address(&out, "src.addr", &f->source_address);
        put_address(&out, "dst.addr", &f->destination_address);
    } else {
        both_sides(&out, f);
    }
    put_word(&out, "direction", f->reporter == REPORTER_SOURCE ? "outbound" : "inbound");
    if (line->event == ACCESS_COMPLETE)
        volume(&out, line);
    if (f->retries) {
        /* Endpoints that failed before this one, and why the last of them did. */
        put_number(&out, "retries", f->retries);
        put_word(&out, "retry_reason", reason_name(f->retry_reason));
    }
    if (f->direct)
        put_word(&out, "way", "direct");
    if (line->reason != BRUMA_REASON_NONE)
        error(&out, line);
}
