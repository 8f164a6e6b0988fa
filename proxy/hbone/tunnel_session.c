/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/hbone/tunnel_session.h"

#include <errno.h>
#include <string.h>

#include "proxy/hbone/request.h"
#include "proxy/hbone/tunnel_callbacks.h"
#include "proxy/hbone/tunnel_data.h"

#define CLIENT_HEADER_LIST_MAX 16384
#define STREAM_LIMIT_SLACK     1000
#define HEADER_TABLE_USUAL     4096

/* Stream resets of a peer: a burst, and so many a second on top; more ends the connection (rapid reset). */
#define RESET_BURST 1000
#define RESET_RATE  33

#define SMALL_STREAM_WINDOW     65535
#define SMALL_CONNECTION_WINDOW (1024 * 1024)

/* Shared by all sessions of the process; never freed. */
static nghttp2_session_callbacks *callbacks;
static nghttp2_option *options;

static void make_callbacks(void)
{
    if (nghttp2_session_callbacks_new(&callbacks) || nghttp2_option_new(&options)) {
        callbacks = NULL;
        return;
    }
    tunnel_callbacks_set(callbacks);
    tunnel_data_set(callbacks);
    nghttp2_option_set_no_auto_window_update(options, 1);
    nghttp2_option_set_no_closed_streams(options, 1);
    nghttp2_option_set_peer_max_concurrent_streams(options,
                                                   100); /* until the peer's SETTINGS say otherwise */
    /* Its own limit is the last resort: it says INTERNAL_ERROR, as if the fault were ours. */
    nghttp2_option_set_stream_reset_rate_limit(options, 2 * RESET_BURST, 2 * RESET_RATE);
}

static int32_t at_most(unsigned long window, unsigned long most)
{
    return (int32_t)(window < most ? window : most);
}

static int32_t stream_window(const struct tunnel *tunnel)
{
    return at_most(tunnel->wp->worker->settings->stream_window,
                   tunnel->small_windows ? SMALL_STREAM_WINDOW : INT32_MAX);
}

/* What was given cannot be taken back: a smaller one begins as the peer has used it up. */
static int set_connection_window(struct tunnel *tunnel, nghttp2_session *session)
{
    return nghttp2_session_set_local_window_size(
        session, NGHTTP2_FLAG_NONE, 0,
        at_most(tunnel->wp->worker->settings->connection_window,
                tunnel->small_windows ? SMALL_CONNECTION_WINDOW : INT32_MAX));
}

/* SETTINGS with that window have been queued. */
static void announced(struct tunnel *tunnel, uint32_t window)
{
    if (tunnel->unknown_settings < TUNNEL_SETTINGS_KEPT)
        tunnel->unknown_windows[tunnel->unknown_settings] = window;
    tunnel->unknown_settings++;
}

/* An acknowledgement of nothing is an error, of which nghttp2 does not tell us. */
void tunnel_session_acknowledged(struct tunnel *tunnel)
{
    tunnel->settings_known = true;
    if (tunnel->unknown_settings)
        tunnel->unknown_settings--;
    memmove(tunnel->unknown_windows, tunnel->unknown_windows + 1,
            sizeof(tunnel->unknown_windows) - sizeof(tunnel->unknown_windows[0]));
}

void tunnel_session_reset(struct tunnel *tunnel)
{
    uint64_t now = loop_now(tunnel->wp->worker->loop),
             forgiven = (now - tunnel->resets_since) * RESET_RATE / 1000;

    if (!tunnel->server)
        return;
    if (forgiven) {
        tunnel->resets -= forgiven < tunnel->resets ? (uint32_t)forgiven : tunnel->resets;
        tunnel->resets_since = now;
    }
    if (++tunnel->resets > RESET_BURST)
        nghttp2_session_terminate_session(tunnel->session, NGHTTP2_ENHANCE_YOUR_CALM);
}

void tunnel_session_windows(struct tunnel *tunnel)
{
    bool small = tunnel->wp->level >= BUDGET_SMALL_WINDOWS;
    nghttp2_settings_entry entry;

    if (small == tunnel->small_windows)
        return;
    tunnel->small_windows = small;
    entry = (nghttp2_settings_entry){NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, (uint32_t)stream_window(tunnel)};
    if (nghttp2_submit_settings(tunnel->session, NGHTTP2_FLAG_NONE, &entry, 1) == 0)
        announced(tunnel, entry.value);
    set_connection_window(tunnel, tunnel->session);
    tunnel_wants_flush(tunnel);
}

int tunnel_session_bare(struct tunnel *tunnel)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    int r;

    pthread_once(&once, make_callbacks);
    if (!callbacks)
        return -ENOMEM;
    r = tunnel->server ? nghttp2_session_server_new2(&tunnel->session, callbacks, tunnel, options)
                       : nghttp2_session_client_new2(&tunnel->session, callbacks, tunnel, options);
    return r ? -ENOMEM : 0;
}

/* tunnel_data.c changes some of it on its way out. */
int tunnel_session_new(struct tunnel *tunnel)
{
    const struct proxy_settings *set = tunnel->wp->worker->settings;
    nghttp2_settings_entry client[] = {
        {NGHTTP2_SETTINGS_HEADER_TABLE_SIZE, HEADER_TABLE_USUAL},
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, (uint32_t)stream_window(tunnel)},
        {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, (uint32_t)set->frame_size},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, CLIENT_HEADER_LIST_MAX},
    };
    nghttp2_settings_entry server[] = {
        {NGHTTP2_SETTINGS_HEADER_TABLE_SIZE, HEADER_TABLE_USUAL},
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, (uint32_t)set->max_streams + STREAM_LIMIT_SLACK},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, (uint32_t)stream_window(tunnel)},
        {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, (uint32_t)set->frame_size},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, REQUEST_HEADERS_MAX},
    };
    int r = tunnel_session_bare(tunnel);

    if (r < 0)
        return r;
    r = tunnel->server
            ? nghttp2_submit_settings(tunnel->session, NGHTTP2_FLAG_NONE, server, array_size(server))
            : nghttp2_submit_settings(tunnel->session, NGHTTP2_FLAG_NONE, client, array_size(client));
    if (!r)
        r = set_connection_window(tunnel, tunnel->session);
    if (r) {
        nghttp2_session_del(tunnel->session);
        tunnel->session = NULL;
        return -ENOMEM;
    }
    announced(tunnel, (uint32_t)stream_window(tunnel));
    return 0;
}
