/* SPDX-License-Identifier: Apache-2.0 */
/* Options of sockets that would lead connections past the mesh; see bpf/options.bpf.c. */
#define LOG_SCOPE "steer"
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "agent/steer/internal.h"
#include "bpf/options.skel.h"
#include "lib/cleanup.h"
#include "lib/log.h"

static int duplicate(const struct bpf_program *program)
{
    return fcntl(bpf_program__fd(program), F_DUPFD_CLOEXEC, 3);
}

static int load(struct steer *s, bool sockets, struct steer_error *error)
{
    struct options_bpf *skeleton = options_bpf__open();
    int r;

    if (!skeleton)
        return steer_fail(error, BRUMA_REASON_INTERNAL, errno, "cannot open the programs of options");
    r = steer_pin_paths(s, skeleton->obj, error);
    if (r == 0 && !sockets) {
        bpf_program__set_autoload(skeleton->progs.option4, false);
        bpf_program__set_autoload(skeleton->progs.option6, false);
    }
    if (r == 0) {
        r = options_bpf__load(skeleton);
        if (r < 0)
            r = steer_fail(error, BRUMA_REASON_INTERNAL, r, "cannot load the programs of options");
    }
    if (r == 0) {
        s->option_fds[0] = duplicate(skeleton->progs.refuse_option);
        s->option_fds[1] = sockets ? duplicate(skeleton->progs.option4) : -1;
        s->option_fds[2] = sockets ? duplicate(skeleton->progs.option6) : -1;
        if (s->option_fds[0] < 0 || (sockets && (s->option_fds[1] < 0 || s->option_fds[2] < 0)))
            r = steer_fail(error, BRUMA_REASON_OUT_OF_RESOURCES, EMFILE, "descriptors");
    }
    options_bpf__destroy(skeleton);
    return r;
}

int steer_options_load(struct steer *s, struct steer_error *error)
{
    struct steer_error why;

    if (load(s, true, &why) == 0)
        return 0;
    log_warn("this kernel does not allow checking a socket's options when it connects: one that has had a "
             "routing header since before its pod was enrolled is not refused\terror=\"%s\"",
             why.text);
    steer_options_unload(s);
    return load(s, false, error);
}

void steer_options_unload(struct steer *s)
{
    for (size_t i = 0; i < array_size(s->option_fds); i++) {
        if (s->option_fds[i] >= 0)
            close(s->option_fds[i]);
        s->option_fds[i] = -1;
    }
}
