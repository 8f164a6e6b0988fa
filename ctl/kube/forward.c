/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/kube/forward.h"

#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "ctl/kube/port_channel.h"
#include "ctl/kube/upgrade_answer.h"
#include "ctl/safe_text.h"
#include "lib/cleanup.h"

#define PROTOCOL      "v4.channel.k8s.io"
#define CHUNK         (32u * 1024)
#define BEGIN_TIMEOUT 10000 /* milliseconds until the server has switched */

struct forward {
    const struct kube_access *access;
    struct api_request request;
    curl_socket_t server;
    int listener, caller;           /* the thread's, once it runs */
    int wake;                       /* an eventfd: the caller wants no more */
    char directory[100], name[104]; /* of the listener's socket; "": removed */
    struct port_channel channel;
    pthread_t thread;
    bool running;
    bool stop; /* atomic: the same */
    char complaint[API_ERROR_MAX];
};

/* ---- bytes ---- */

static bool is_stopped(const struct forward *f)
{
    return __atomic_load_n(&f->stop, __ATOMIC_RELAXED) || kube_access_is_stopped(f->access);
}

static uint64_t milliseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* All of it; deadline 0: none. 0 or -errno. */
static int send_all(struct forward *f, const void *bytes, size_t len, uint64_t deadline)
{
    for (size_t done = 0, n; done < len; done += n) {
        CURLcode code = curl_easy_send(f->request.curl, (const char *)bytes + done, len - done, &n);
        struct pollfd p = {.fd = f->server, .events = POLLOUT};

        if (code == CURLE_OK)
            continue;
        n = 0;
        if (code != CURLE_AGAIN || (deadline && milliseconds() >= deadline) || is_stopped(f))
            return -EIO;
        (void)poll(&p, 1, 1000);
    }
    return 0;
}

/* 1: some; 0: none yet; -ENOTCONN: the end. */
static int receive(struct forward *f, unsigned char *buf, size_t size, size_t *ret_len)
{
    CURLcode code = curl_easy_recv(f->request.curl, buf, size, ret_len);

    if (code == CURLE_AGAIN)
        return 0;
    return code == CURLE_OK && *ret_len ? 1 : -ENOTCONN;
}

/* ---- the beginning ---- */

static int send_request(struct forward *f, const char *key, uint64_t deadline)
{
    _cleanup_free_ char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);

    if (!out)
        return -ENOMEM;
    fprintf(out,
            "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Protocol: " PROTOCOL "\r\n",
            f->request.path, f->request.host, key);
    for (const struct curl_slist *h = f->request.headers; h; h = h->next)
        fprintf(out, "%s\r\n", h->data);
    fputs("\r\n", out);
    return fclose(out) == 0 ? send_all(f, text, len, deadline) : -ENOMEM;
}

/* Reads until the answer is whole; what is behind it goes to the channel. */
static int read_answer(struct forward *f, const char *key, uint64_t deadline, char *error)
{
    struct upgrade_answer answer = {};
    unsigned char buf[4096];
    size_t len = 0;
    int r = 0;

    for (bool end = false;;) {
        struct pollfd p = {.fd = f->server, .events = POLLIN};
        size_t n = 0;

        r = upgrade_answer_read(buf, len, end || len == sizeof(buf), &answer);
        if (r != 0)
            break;
        r = receive(f, buf + len, sizeof(buf) - len, &n);
        end = r < 0;
        len += r > 0 ? n : 0;
        if (r == 0 && (milliseconds() >= deadline || is_stopped(f))) {
            snprintf(error, API_ERROR_MAX, "the API server does not answer the request to forward a port");
            return -EIO;
        }
        if (r == 0)
            (void)poll(&p, 1, 100);
    }
    if (r < 0 || (answer.status == 101 && !upgrade_answer_accepts(&answer, key))) {
        snprintf(error, API_ERROR_MAX, "the API server's answer to the request to forward a port is none");
        return -EPROTO;
    }
    if (answer.status == 101)
        return port_channel_feed(&f->channel, buf + answer.len, len - answer.len);
    snprintf(error, API_ERROR_MAX, "the API server answers the request to forward a port with status %ld",
             answer.status);
    r = api_status(answer.status, (const char *)buf + answer.len, len - answer.len, error);
    return r ? r : -EPROTO;
}

static int begin(struct forward *f, const struct kube_access *access, char *error)
{
    char detail[CURL_ERROR_SIZE] = "", key[WEBSOCKET_KEY_LEN];
    uint64_t deadline = milliseconds() + BEGIN_TIMEOUT;
    CURLcode code;
    int r;

    curl_easy_setopt(f->request.curl, CURLOPT_CONNECT_ONLY, 1L);
    curl_easy_setopt(f->request.curl, CURLOPT_ERRORBUFFER, detail);
    code = curl_easy_perform(f->request.curl);
    if (code == CURLE_OK)
        code = curl_easy_getinfo(f->request.curl, CURLINFO_ACTIVESOCKET, &f->server);
    curl_easy_setopt(f->request.curl, CURLOPT_ERRORBUFFER, NULL);
    if (code != CURLE_OK)
        return api_failed(access, code, detail, error);
    websocket_key(key);
    r = send_request(f, key, deadline);
    if (r < 0)
        return api_failed(access, CURLE_SEND_ERROR, "", error);
    return read_answer(f, key, deadline, error);
}

/* ---- the thread, which copies ---- */

/* What the caller has written goes to the pod. -errno: it has ended. */
static int copy_out(struct forward *f)
{
    unsigned char buf[PORT_CHANNEL_OVERHEAD + CHUNK];
    ssize_t n = recv(f->caller, buf + PORT_CHANNEL_OVERHEAD, CHUNK, MSG_DONTWAIT);
    size_t len;
    unsigned char *from;

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n <= 0)
        return -ENOTCONN;
    from = port_channel_wrap(buf, (size_t)n, &len);
    return send_all(f, from, len, 0);
}

/* What came for the caller; waits for it to take all, or to want no more. */
static int hand_over(struct forward *f, const unsigned char *bytes, size_t len)
{
    for (size_t done = 0; done < len;) {
        struct pollfd p[] = {{.fd = f->caller, .events = POLLOUT}, {.fd = f->wake, .events = POLLIN}};
        ssize_t n = send(f->caller, bytes + done, len - done, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return -errno;
        done += n > 0 ? (size_t)n : 0;
        if (n < 0)
            (void)poll(p, array_size(p), -1);
        if (is_stopped(f))
            return -ECANCELED;
    }
    return 0;
}

/* Nothing of use comes behind it. */
static int take_complaint(struct forward *f, const struct port_event *event)
{
    snprintf(f->complaint, sizeof(f->complaint), "%.*s", (int)event->len, (const char *)event->bytes);
    text_clean(f->complaint);
    return -ECONNABORTED;
}

/* All frames that are whole. */
static int deliver(struct forward *f)
{
    struct port_event event;
    int r;

    while ((r = port_channel_next(&f->channel, &event)) > 0) {
        unsigned char pong[PORT_CHANNEL_OVERHEAD + 125];

        if (event.type == PORT_DATA)
            r = hand_over(f, event.bytes, event.len);
        else if (event.type == PORT_PING)
            r = send_all(f, pong, port_channel_pong(&event, pong), 0);
        else if (event.type == PORT_ERROR)
            r = take_complaint(f, &event);
        else if (event.type == PORT_CLOSED)
            return -ENOTCONN;
        if (r >= 0 && is_stopped(f))
            r = -ECANCELED;
        if (r < 0)
            return r;
    }
    return r;
}

static int copy_in(struct forward *f)
{
    unsigned char buf[CHUNK];
    size_t n;
    int r = -ECANCELED;

    /* One that sends without a pause is left between two pieces. */
    while (!is_stopped(f) && (r = receive(f, buf, sizeof(buf), &n)) > 0) {
        r = port_channel_feed(&f->channel, buf, n);
        if (r == 0)
            r = deliver(f);
        if (r < 0)
            return r;
    }
    return r;
}

/* Only this process is let in. */
static bool is_own(int fd)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.pid == getpid();
}

static void remove_socket(struct forward *f)
{
    if (!f->directory[0])
        return;
    (void)unlink(f->name);
    (void)rmdir(f->directory);
    f->directory[0] = '\0';
}

/* Waits for the caller's connection. False: it wants none any more. */
static bool let_in(struct forward *f)
{
    while (f->caller < 0) {
        struct pollfd p[] = {{.fd = f->listener, .events = POLLIN}, {.fd = f->wake, .events = POLLIN}};
        int fd = -1;

        if ((poll(p, 2, -1) < 0 && errno != EINTR) || p[1].revents)
            return false;
        if (p[0].revents)
            fd = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0 && is_own(fd))
            f->caller = fd;
        else if (fd >= 0)
            close(fd);
    }
    close(take_fd(&f->listener));
    remove_socket(f);
    return true;
}

static void *copy(void *data)
{
    struct forward *f = data;
    int r = let_in(f) ? deliver(f) : -ENOTCONN;

    while (r >= 0) {
        struct pollfd p[] = {{.fd = f->server, .events = POLLIN},
                             {.fd = f->caller, .events = POLLIN},
                             {.fd = f->wake, .events = POLLIN}};

        r = copy_in(f); /* first: TLS may hold bytes that the socket does not show */
        if (r >= 0 && ((poll(p, array_size(p), -1) < 0 && errno != EINTR) || p[2].revents))
            break;
        if (r >= 0 && p[1].revents)
            r = copy_out(f);
    }
    if (f->caller >= 0)
        close(take_fd(&f->caller));
    return NULL;
}

/* ---- the whole ---- */

/* In a folder that is the user's alone, until the caller has connected. (An abstract socket would leave
 * nothing on the disk, but libcurl 7.88 does not use a connection to one again.) */
static int listen_for_caller(struct forward *f)
{
    const char *base = getenv("TMPDIR");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int n = snprintf(f->directory, sizeof(f->directory), "%s/brumactl-XXXXXX", base && *base ? base : "/tmp");

    if (n >= (int)sizeof(f->directory) || !mkdtemp(f->directory)) {
        f->directory[0] = '\0';
        return n >= (int)sizeof(f->directory) ? -ENAMETOOLONG : -errno;
    }
    snprintf(f->name, sizeof(f->name), "%s/s", f->directory);
    memcpy(address.sun_path, f->name, strlen(f->name) + 1);
    f->wake = eventfd(0, EFD_CLOEXEC);
    f->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (f->wake < 0 || f->listener < 0 ||
        bind(f->listener, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(f->listener, 4) < 0)
        return -errno;
    return 0;
}

static int start(struct forward *f)
{
    int r = listen_for_caller(f);

    if (r == 0)
        r = -pthread_create(&f->thread, NULL, copy, f);
    f->running = r == 0;
    return r;
}

int forward_open(const struct kube_access *access, const char *namespace, const char *pod, unsigned port,
                 struct forward **ret, char error[API_ERROR_MAX])
{
    struct forward *f = calloc(1, sizeof(*f));
    char path[1024];
    int r = f ? 0 : -ENOMEM;

    snprintf(path, sizeof(path), "/api/v1/namespaces/%.260s/pods/%.260s/portforward?ports=%u", namespace, pod,
             port);
    if (f) {
        f->access = access;
        f->listener = f->caller = f->wake = -1;
        r = api_open(access, path, &f->request, error);
    } else {
        snprintf(error, API_ERROR_MAX, "out of memory");
    }
    if (r == 0)
        r = begin(f, access, error);
    if (r == 0) {
        r = start(f);
        if (r < 0)
            snprintf(error, API_ERROR_MAX, "cannot forward a port: %s", strerror(-r));
    }
    if (r < 0)
        forward_close(&f);
    else
        *ret = f;
    return r;
}

const char *forward_socket(const struct forward *forward)
{
    return forward->name;
}

static void stop(struct forward *f)
{
    __atomic_store_n(&f->stop, true, __ATOMIC_RELAXED);
    if (f->running) {
        (void)eventfd_write(f->wake, 1);
        pthread_join(f->thread, NULL);
    }
    f->running = false;
}

const char *forward_complaint(struct forward *forward)
{
    stop(forward);
    return forward->complaint;
}

void forward_close(struct forward **forward)
{
    struct forward *f = *forward;

    if (!f)
        return;
    stop(f);
    if (f->listener >= 0)
        close(f->listener);
    if (f->wake >= 0)
        close(f->wake);
    remove_socket(f);
    api_close(&f->request);
    port_channel_free(&f->channel);
    free(f);
    *forward = NULL;
}
