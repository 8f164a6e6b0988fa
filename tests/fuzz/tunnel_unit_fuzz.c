/* SPDX-License-Identifier: Apache-2.0 */
/* A tunnel of another process, as a field of a unit; also where the other process is of another release, or
 * mad. */
#include <stdlib.h>
#include <string.h>

#include "bruma/handover.h"
#include "proxy/hbone/tunnel_move.h"
#include "proxy/pod/pod.h"
#include "proxy/state/rcu.h"
#include "proxy/state/state.h"
#include "proxy/tls/tls_library.h"

#define STREAMS_MAX 4096

static struct proxy proxy;
static struct proxy_settings settings;
static struct pod pod = {.references = 1, .uid = (char *)(uintptr_t) "1", .cookie = 1};
static struct workload local = {.references = 1000000};
static struct worker worker;
static struct worker_pod wp;

/* One worker with one pod, as far as they are asked for anything. */
static void make_worker(void)
{
    struct state *state;

    tls_library_init();
    reader_register();
    if (state_new("", "", NULL, NULL, &state) < 0 || loop_new(&worker.loop) < 0 ||
        tls_buffers_init(&worker.tls, 65536) < 0)
        abort();
    state_commit(state);
    worker.proxy = &proxy;
    worker.settings = &settings;
    worker.state = state;
    list_init(&worker.pods);
    wp.worker = &worker;
    wp.pod = &pod;
    wp.local = &local;
    list_init(&wp.waiting);
    list_add_tail(&worker.pods, &wp.node);
}

static size_t sockets_of(const uint8_t *data, size_t len, unsigned depth);

/* None of a request that is not answered; those of the tunnel inside, if there is one. */
static size_t sockets_of_stream(const struct wire_field *stream, unsigned depth)
{
    struct wire_reader reader = wire_reader(stream->bytes, stream->len), inside;
    struct wire_field f, g;
    size_t n = 1;

    while (wire_next(&reader, &f) > 0) {
        if (f.number == BRUMA_STREAM_REQUEST)
            return 0;
        if (f.number != BRUMA_STREAM_INSIDE || f.type != WIRE_BYTES)
            continue;
        n = 0;
        inside = wire_reader(f.bytes, f.len);
        while (wire_next(&inside, &g) > 0 && depth) {
            if (g.number == BRUMA_INSIDE_TUNNEL && g.type == WIRE_BYTES)
                n = sockets_of(g.bytes, g.len, depth - 1);
        }
    }
    return n;
}

/* Of the tunnel's streams. */
static size_t sockets_of(const uint8_t *data, size_t len, unsigned depth)
{
    struct wire_reader reader = wire_reader(data, len);
    struct wire_field f;
    size_t n = 0;

    while (wire_next(&reader, &f) > 0) {
        if (f.number == BRUMA_TUNNEL_STREAM && f.type == WIRE_BYTES)
            n += sockets_of_stream(&f, depth);
    }
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tunnel_arrival *arrival;
    static int fds[1 + STREAMS_MAX];
    char error[256] = "";
    size_t streams;

    if (!worker.loop)
        make_worker();
    streams = sockets_of(data, size, 1);
    if (streams > STREAMS_MAX)
        return 0;
    for (size_t i = 0; i <= streams; i++)
        fds[i] = -1; /* a building tunnel touches no socket */
    if (tunnel_arrival_read(&worker, data, size, fds, 1 + streams, NULL, &arrival, error, sizeof(error)) == 0)
        tunnel_arrival_free(arrival);
    else if (!error[0])
        abort();
    return 0;
}
