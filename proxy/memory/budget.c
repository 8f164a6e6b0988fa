/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/memory/budget.h"

#include <errno.h>
#include <stdbool.h>

static size_t threshold(size_t limit, enum budget_level level)
{
    switch (level) {
    case BUDGET_NO_CREDIT:
        return limit / 4;
    case BUDGET_SMALL_WINDOWS:
        return limit / 2;
    case BUDGET_FULL:
        return limit / 8 * 7;
    case BUDGET_CALM:
        break;
    }
    return 0;
}

enum budget_level budget_level(const struct budget *budget, enum budget_level before)
{
    size_t used = atomic_load_explicit(&budget->used, memory_order_relaxed);
    enum budget_level level = BUDGET_FULL;

    if (!budget->limit)
        return BUDGET_CALM;
    while (level > BUDGET_CALM) {
        size_t from = threshold(budget->limit, level);

        if (used >= (level <= before ? from - budget->limit / 8 : from))
            break;
        level--;
    }
    return level;
}

static void notify(struct budget_share *share)
{
    if (list_empty(&share->node))
        list_add_tail(share->news, &share->node);
}

static bool add(struct budget *budget, size_t bytes)
{
    size_t used = atomic_fetch_add_explicit(&budget->used, bytes, memory_order_relaxed) + bytes;

    if (!budget->limit || used <= budget->limit)
        return true;
    atomic_fetch_sub_explicit(&budget->used, bytes, memory_order_relaxed);
    return false;
}

static void subtract(struct budget *budget, size_t bytes)
{
    atomic_fetch_sub_explicit(&budget->used, bytes, memory_order_relaxed);
}

int budget_take(struct budget_account *account, size_t bytes)
{
    struct budget_share *share = account->share;

    if (!share)
        return 0;
    notify(share);
    if (!add(share->process, bytes))
        return -ENOBUFS;
    if (!add(share->pod, bytes)) {
        subtract(share->process, bytes);
        return -ENOBUFS;
    }
    account->held += bytes;
    share->held += bytes;
    return 0;
}

void budget_give(struct budget_account *account, size_t bytes)
{
    struct budget_share *share = account->share;

    if (!share)
        return;
    notify(share);
    subtract(share->process, bytes);
    subtract(share->pod, bytes);
    account->held -= bytes;
    share->held -= bytes;
}
