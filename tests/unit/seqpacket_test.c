/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "seqpacket.h"

static void pair(int sv[2])
{
    cr_assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, sv) == 0);
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
    int sv[2], out[4], in[2], before, after;
    char buf[8];
    size_t n;

    pair(sv);
    cr_assert(pipe(out) == 0 && pipe(out + 2) == 0);
    before = dup(0);
    close(before);
    cr_assert(seqpacket_send(sv[0], "hi", 2, out, 4) == 0);
    cr_expect(seqpacket_receive(sv[1], buf, sizeof(buf), in, 2, &n) == -EMSGSIZE, "too many descriptors");
    cr_assert(seqpacket_send(sv[0], "longer than eight", 17, out, 1) == 0);
    cr_expect(seqpacket_receive(sv[1], buf, sizeof(buf), in, 2, &n) == -EMSGSIZE, "too long");
    cr_expect(n == 0);
    after = dup(0);
    cr_expect(before == after, "every descriptor was closed again");
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
