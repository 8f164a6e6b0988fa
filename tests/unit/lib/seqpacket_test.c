/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/seqpacket.h"
#include "lib/seqpacket_listener.h"

static void pair(int sv[2])
{
    cr_assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, sv) == 0);
}

static int next_descriptor(void)
{
    int fd = dup(0);

    close(fd);
    return fd;
}

Test(seqpacket, carries_a_message_and_its_descriptors)
{
    int sv[2], out[2], in[4];
    char buf[64];
    size_t n;

    pair(sv);
    cr_assert(pipe(out) == 0);
    cr_assert(seqpacket_send(sv[0], "hello", 5, out, 2) == 0);
    cr_assert(seqpacket_receive(sv[1], buf, sizeof(buf), in, 4, &n) == 5);
    cr_expect(strcmp(buf, "hello") == 0);
    cr_assert(n == 2);
    cr_expect((fcntl(in[0], F_GETFD) & FD_CLOEXEC) != 0);
    cr_assert(write(in[1], "x", 1) == 1);
    cr_assert(read(out[0], buf, 1) == 1);
}

Test(seqpacket, refuses_what_does_not_fit_and_leaks_nothing)
{
    int sv[2], out[4], in[2], before;
    char buf[8];
    size_t n;

    pair(sv);
    cr_assert(pipe(out) == 0 && pipe(out + 2) == 0);
    before = next_descriptor();
    cr_assert(seqpacket_send(sv[0], "hi", 2, out, 4) == 0);
    cr_expect(seqpacket_receive(sv[1], buf, sizeof(buf), in, 2, &n) == -EMSGSIZE, "too many descriptors");
    cr_assert(seqpacket_send(sv[0], "longer than eight", 17, out, 1) == 0);
    cr_expect(seqpacket_receive(sv[1], buf, sizeof(buf), in, 2, &n) == -EMSGSIZE, "too long");
    cr_expect(n == 0);
    cr_expect(next_descriptor() == before, "every descriptor was closed again");
}

Test(seqpacket, end_and_emptiness_are_told_apart)
{
    int sv[2], in[1];
    char buf[8];
    size_t n;

    pair(sv);
    cr_expect(seqpacket_receive(sv[1], buf, sizeof(buf), in, 1, &n) == -EAGAIN);
    cr_expect(seqpacket_receive_timeout(sv[1], buf, sizeof(buf), in, 1, &n, 10) == -ETIMEDOUT);
    close(sv[0]);
    cr_expect(seqpacket_receive(sv[1], buf, sizeof(buf), in, 1, &n) == 0);
    cr_expect(seqpacket_send(sv[1], "x", 1, NULL, 0) == -EPIPE, "no signal, an error");
}

Test(seqpacket, listens_at_a_path_over_a_stale_socket)
{
    char path[64], buf[8];
    int a, b, c, s, in[1];
    size_t n;
    pid_t pid;

    snprintf(path, sizeof(path), "/tmp/seqpacket-test-%d", getpid());
    a = seqpacket_listen(path, 0600);
    cr_assert(a >= 0);
    b = seqpacket_listen(path, 0600);
    cr_assert(b >= 0, "the stale socket is replaced");
    c = seqpacket_connect(path, 1000, false);
    cr_assert(c >= 0);
    s = seqpacket_accept(b, &pid);
    cr_assert(s >= 0);
    cr_expect(pid == getpid());
    cr_assert(seqpacket_send(c, "x", 1, NULL, 0) == 0);
    cr_expect(seqpacket_receive_timeout(s, buf, sizeof(buf), in, 1, &n, 1000) == 1);
    cr_expect(seqpacket_connect("/nonexistent/socket", 100, false) == -ENOENT);
    unlink(path);
}

/* ---- listeners in a loop ---- */

struct host {
    struct loop *loop;
    struct seqpacket_listener listener;
    int accepted;
};

static void on_listener(struct loop_watch *watch, uint32_t events)
{
    struct host *h = container_of(watch, struct host, listener.watch);
    int fd = seqpacket_accept(watch->fd, NULL);

    (void)events;
    cr_assert(fd >= 0);
    close(fd);
    h->accepted++;
    loop_stop(h->loop);
}

static bool exists(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

static void expect_accepts(struct host *h, const char *path)
{
    int fd = seqpacket_connect(path, 1000, false), before = h->accepted;

    cr_assert(fd >= 0);
    loop_run(h->loop);
    cr_expect(h->accepted == before + 1);
    close(fd);
}

Test(seqpacket_listener, listens_until_it_is_closed, .timeout = 20)
{
    struct host h = {};
    struct stat st;
    char path[64];
    int before;

    snprintf(path, sizeof(path), "/tmp/seqpacket-test-%d", getpid());
    cr_assert(loop_new(&h.loop) == 0);
    before = next_descriptor();
    for (int i = 0; i < 2; i++) {
        cr_assert(seqpacket_listener_open(&h.listener, h.loop, path, 0600, on_listener) == 0);
        cr_expect(stat(path, &st) == 0 && (st.st_mode & 0777) == 0600);
        expect_accepts(&h, path);
        seqpacket_listener_close(&h.listener);
        cr_expect(!exists(path));
        cr_expect(next_descriptor() == before);
    }
    loop_free(&h.loop);
}

Test(seqpacket_listener, leaves_what_a_successor_has_put_there, .timeout = 20)
{
    struct host old = {}, new = {};
    char path[64];

    snprintf(path, sizeof(path), "/tmp/seqpacket-test-%d", getpid());
    cr_assert(loop_new(&old.loop) == 0);
    new.loop = old.loop;
    cr_assert(seqpacket_listener_open(&old.listener, old.loop, path, 0600, on_listener) == 0);
    cr_assert(seqpacket_listener_open(&new.listener, new.loop, path, 0600, on_listener) == 0);
    seqpacket_listener_close(&old.listener);
    expect_accepts(&new, path);
    seqpacket_listener_close(&new.listener);
    cr_expect(!exists(path));
    loop_free(&old.loop);
}

Test(seqpacket_listener, leaves_nothing_when_it_fails)
{
    char directory[] = "/tmp/seqpacket-test-XXXXXX", path[64], aside[70];
    int epoll_fd = next_descriptor(), before;
    struct host h = {};

    cr_assert(mkdtemp(directory) != NULL);
    cr_assert(loop_new(&h.loop) == 0);
    before = next_descriptor();
    cr_expect(seqpacket_listener_open(&h.listener, h.loop, "/nonexistent/socket", 0600, on_listener) ==
              -ENOENT);
    /* It is bound beside the directory and cannot take its place. */
    snprintf(aside, sizeof(aside), "%s.new", directory);
    cr_expect(seqpacket_listener_open(&h.listener, h.loop, directory, 0600, on_listener) == -EISDIR);
    cr_expect(!exists(aside));
    /* It listens, and cannot be watched: what the loop waits on has become something else. */
    snprintf(path, sizeof(path), "%s/socket", directory);
    cr_assert(dup2(0, epoll_fd) == epoll_fd);
    cr_expect(seqpacket_listener_open(&h.listener, h.loop, path, 0600, on_listener) == -EINVAL);
    cr_expect(!exists(path));
    cr_expect(next_descriptor() == before);
    loop_free(&h.loop);
    cr_expect(rmdir(directory) == 0);
}
