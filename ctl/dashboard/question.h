/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Questions of the page: each is a command of brumactl, run with -o json in a process of its own (child.h),
 * so that the page shows what the terminal would. The answer is
 *
 *     {"code": exit code, -1 if it did not end by itself, "said": its stderr, "answer": its stdout or null}
 *
 * All on the loop's thread.
 */
#ifndef CTL_DASHBOARD_QUESTION_H
#define CTL_DASHBOARD_QUESTION_H

#include "ctl/dashboard/child.h"
#include "lib/loop.h"
#include "lib/rpc/http_server.h"

#define QUESTIONS_MAX         8                   /* at a time; more are refused with status 503 */
#define QUESTION_ANSWER_MAX   (64u * 1024 * 1024) /* bytes of a command's stdout */
#define QUESTION_SAID_MAX     (64u * 1024)        /* bytes of its stderr */
#define QUESTION_MILLISECONDS 50000               /* then the command is ended; the server waits for 60 s */
#define QUESTION_ARGUMENT_MAX 600                 /* bytes with the NUL */

struct page_questions;

/* options outlive it. NULL without memory; the caller frees it. */
struct page_questions *questions_new(struct loop *loop, const struct ctl_options *options);
/* Ends all that run; their requests are answered with status 503. NULL is none. */
void questions_free(struct page_questions **questions);

/* Takes the request, which is answered once the command has ended. argv: copied by the new process. answer:
 * how, copied; its headers live as long as the request. */
void questions_ask(struct page_questions *questions, struct http_request *request,
                   const struct http_answer *answer, child_fn fn, int argc, char **argv);

#endif
