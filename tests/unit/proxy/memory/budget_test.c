/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdint.h>

#include "proxy/memory/budget.h"

struct world {
    struct budget process, pods[2];
    struct budget_share shares[2];
    struct budget_account accounts[2];
    struct list news;
};

static void begin(struct world *w)
{
    *w = (struct world){.process.limit = 800, .pods[0].limit = 400, .pods[1].limit = 600};
    list_init(&w->news);
    for (int i = 0; i < 2; i++) {
        w->shares[i] = (struct budget_share){.process = &w->process, .pod = &w->pods[i], .news = &w->news};
        list_init(&w->shares[i].node);
        w->accounts[i].share = &w->shares[i];
    }
}

Test(budget, an_account_without_a_share_counts_nothing)
{
    struct budget_account a = {};

    cr_expect(budget_take(&a, 1u << 30) == 0 && a.held == 0);
    budget_give(&a, 1u << 30);
    budget_give_all(&a);
}

Test(budget, each_budget_refuses_what_is_beyond_it_and_counts_nothing_of_it)
{
    struct world w;

    begin(&w);
    cr_expect(budget_take(&w.accounts[0], 400) == 0);
    cr_expect(budget_take(&w.accounts[0], 1) == -ENOBUFS, "the pod's");
    cr_expect(w.process.used == 400 && w.pods[0].used == 400 && w.shares[0].held == 400);
    cr_expect(budget_take(&w.accounts[1], 401) == -ENOBUFS, "the process's");
    cr_expect(w.process.used == 400 && w.pods[1].used == 0 && w.accounts[1].held == 0);
    cr_expect(budget_take(&w.accounts[1], 400) == 0);
    budget_give(&w.accounts[0], 100);
    cr_expect(budget_take(&w.accounts[1], 100) == 0);
    budget_give_all(&w.accounts[0]);
    budget_give_all(&w.accounts[1]);
    cr_expect(w.process.used == 0 && w.pods[0].used == 0 && w.pods[1].used == 0);
    cr_expect(w.shares[0].held == 0 && w.shares[1].held == 0);
}

Test(budget, changes_are_told_once)
{
    struct world w;

    begin(&w);
    budget_take(&w.accounts[0], 10);
    budget_take(&w.accounts[0], 10);
    budget_take(&w.accounts[1], 10);
    cr_expect(w.news.next == &w.shares[0].node && w.news.prev == &w.shares[1].node);
    cr_expect(w.shares[0].node.next == &w.shares[1].node);
    list_del(&w.shares[0].node);
    budget_give(&w.accounts[0], 5);
    cr_expect(w.news.prev == &w.shares[0].node, "and again");
}

static enum budget_level at(size_t used, enum budget_level before)
{
    struct budget b = {.limit = 800};

    b.used = used;
    return budget_level(&b, before);
}

Test(budget, levels_rise_at_once_and_fall_late)
{
    cr_expect(at(0, BUDGET_CALM) == BUDGET_CALM);
    cr_expect(at(199, BUDGET_CALM) == BUDGET_CALM);
    cr_expect(at(200, BUDGET_CALM) == BUDGET_NO_CREDIT);
    cr_expect(at(400, BUDGET_CALM) == BUDGET_SMALL_WINDOWS);
    cr_expect(at(700, BUDGET_CALM) == BUDGET_FULL);
    cr_expect(at(699, BUDGET_FULL) == BUDGET_FULL);
    cr_expect(at(600, BUDGET_FULL) == BUDGET_FULL);
    cr_expect(at(599, BUDGET_FULL) == BUDGET_SMALL_WINDOWS);
    cr_expect(at(300, BUDGET_SMALL_WINDOWS) == BUDGET_SMALL_WINDOWS);
    cr_expect(at(299, BUDGET_SMALL_WINDOWS) == BUDGET_NO_CREDIT);
    cr_expect(at(100, BUDGET_NO_CREDIT) == BUDGET_NO_CREDIT);
    cr_expect(at(99, BUDGET_NO_CREDIT) == BUDGET_CALM);
    cr_expect(at(0, BUDGET_FULL) == BUDGET_CALM);
}

Test(budget, without_a_limit_it_is_always_calm)
{
    struct budget b = {.limit = 0};

    b.used = SIZE_MAX / 2;
    cr_expect(budget_level(&b, BUDGET_FULL) == BUDGET_CALM);
}
