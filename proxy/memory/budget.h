/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much may be buffered: bytes that one side sent and the other has not taken yet. The process has a
 * budget, and each pod one within it. What holds such bytes (a connection, a tunnel) has an account; each
 * worker's view of a pod has a share, by which its accounts reach both budgets. The levels, and what is done
 * at them, are in pressure.h.
 */
#ifndef PROXY_MEMORY_BUDGET_H
#define PROXY_MEMORY_BUDGET_H

#include <stdatomic.h>
#include <stddef.h>

#include "lib/list.h"

/* Any thread takes and gives. */
struct budget {
    atomic_size_t used;
    size_t limit; /* bytes; 0: none */
};

enum budget_level {
    BUDGET_CALM,
    BUDGET_NO_CREDIT,     /* from a quarter on: a tunnel's credit comes back as its applications read */
    BUDGET_SMALL_WINDOWS, /* from a half on: streams may send less ahead */
    BUDGET_FULL,          /* from seven eighths on: who holds most is cut, down to three quarters */
};

/* What the level is now. before: what it was; it falls only once an eighth of the budget is between. */
enum budget_level budget_level(const struct budget *budget, enum budget_level before);

struct budget_share {
    struct budget *process, *pod;
    size_t held;       /* bytes of all its accounts */
    struct list node;  /* in news, since something has changed */
    struct list *news; /* of the worker */
};

struct budget_account {
    struct budget_share *share; /* NULL: nobody counts */
    size_t held;
};

/* 0, or -ENOBUFS: a budget does not hold so much more, and nothing is taken. */
int budget_take(struct budget_account *account, size_t bytes);
/* bytes of what the account holds are held no more. */
void budget_give(struct budget_account *account, size_t bytes);
/* bytes that were held by the one are held by the other, of the same share. */
static inline void budget_move(struct budget_account *from, struct budget_account *to, size_t bytes)
{
    to->share = from->share;
    from->held -= from->share ? bytes : 0;
    to->held += from->share ? bytes : 0;
}

/* The account holds nothing any more. */
static inline void budget_give_all(struct budget_account *account)
{
    if (account->held)
        budget_give(account, account->held);
}

#endif
