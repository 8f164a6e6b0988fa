/* SPDX-License-Identifier: Apache-2.0 */
/* Whose socket the other end of a connection is. */
#include <criterion/criterion.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/rpc/peer_source.h"
#include "tests/unit/lib/rpc/http_client.h"

/* One end of a connection over loopback whose other end uid has made. */
static int accepted_from(uid_t uid, bool closes, const struct endpoint *to, int listener)
{
    int fd;
    pid_t pid = fork();

    if (!pid) {
        if (setuid(uid) < 0)
            _exit(1);
        fd = client_connect(to);
        if (!closes)
            usleep(500000);
        _exit(fd < 0);
    }
    if (closes)
        waitpid(pid, NULL, 0);
    fd = accept(listener, NULL, NULL);
    cr_assert(fd >= 0);
    return fd;
}

Test(peer_source, says_whose_socket_it_is, .timeout = 30)
{
    static const char *const addresses[] = {"127.0.0.1", "127.9.9.9", "::1"};
    struct peer_source root, nobody, gone;

    if (geteuid() != 0)
        cr_skip("needs root, to be somebody else too");
    for (size_t i = 0; i < array_size(addresses); i++) {
        struct endpoint to = {0};
        struct sockaddr_storage sa;
        socklen_t len;
        int listener, fd, r;

        cr_assert(addr_parse(addresses[i], &to.addr) == 0);
        r = endpoint_to_sockaddr(&to, AF_UNSPEC, &sa);
        listener = socket(sa.ss_family, SOCK_STREAM, 0);
        cr_assert(bind(listener, (struct sockaddr *)&sa, (socklen_t)r) == 0 && listen(listener, 8) == 0);
        len = sizeof(sa);
        cr_assert(getsockname(listener, (struct sockaddr *)&sa, &len) == 0);
        cr_assert(endpoint_from_sockaddr((struct sockaddr *)&sa, &to) == 0);

        fd = accepted_from(0, false, &to, listener);
        peer_source_get(fd, &root);
        cr_expect(root.is_user && root.uid == 0, "%s", addresses[i]);
        close(fd);
        fd = accepted_from(65534, false, &to, listener);
        peer_source_get(fd, &nobody);
        cr_expect(nobody.is_user && nobody.uid == 65534, "%s", addresses[i]);
        cr_expect_not(peer_source_equal(&root, &nobody));
        close(fd);
        /* The kernel says 0 of a socket that nobody has any more. */
        fd = accepted_from(65534, true, &to, listener);
        peer_source_get(fd, &gone);
        cr_expect_not(gone.is_user, "%s", addresses[i]);
        cr_expect_not(peer_source_equal(&gone, &root));
        close(fd);
        close(listener);
    }
}
