/* SPDX-License-Identifier: Apache-2.0 */
/* A unit of a hand-over but a tunnel, as another release of the proxy may write it, read by a worker that
 * serves one pod. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proxy/connection/relay_move.h"
#include "proxy/connection/undecided.h"
#include "proxy/pod/live_connections.h"
#include "proxy/state/rcu.h"
#include "proxy/worker/connection_unit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct proxy proxy;
static struct worker worker = {.proxy = &proxy, .settings = &proxy.settings};
static struct pod pod = {.references = 1, .uid = "1", .cookie = 1, .proxy = &proxy};
static struct worker_pod served = {.worker = &worker, .pod = &pod};
static struct state *state;

static void begin(void)
{
    const struct pod_words words = {.uid = "Kubernetes//Pod/shop/web",
                                    .name = "web",
                                    .namespace = "shop",
                                    .service_account = "",
                                    .trust_domain = ""};

    reader_register();
    if (state_new("", "", NULL, NULL, &state) < 0 || state_placeholder(state, &words, &served.local) < 0 ||
        live_connections_new(&pod.live_connections) < 0)
        abort();
    worker.state = state;
    list_init(&worker.pods);
    list_init(&proxy.pods);
    list_add_tail(&worker.pods, &served.node);
}

static void read_undecided(const uint8_t *data, size_t size)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    struct undecided *u;
    char error[200] = "";

    if (undecided_read(&worker, data, size, &fd, 1, &u, error, sizeof(error)) == 0) {
        if (fd >= 0)
            abort();
        undecided_forget(u);
    } else if (!*error || fd < 0) {
        abort();
    }
    if (fd >= 0)
        close(fd);
}

static void read_relay(const uint8_t *data, size_t size)
{
    int fds[RELAY_MOVE_FDS] = {open("/dev/null", O_RDWR | O_CLOEXEC), open("/dev/null", O_RDWR | O_CLOEXEC)};
    struct relay_arrival *arrival;
    char error[200] = "";

    if (relay_read(&worker, data, size, fds, RELAY_MOVE_FDS, &arrival, error, sizeof(error)) == 0) {
        if (fds[0] >= 0 || fds[1] >= 0)
            abort();
        relay_arrival_free(arrival);
    } else if (!*error || fds[0] < 0 || fds[1] < 0) {
        abort();
    }
    for (int i = 0; i < RELAY_MOVE_FDS; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!state)
        begin();
    read_relay(data, size);
    read_undecided(data, size);
    return 0;
}
