/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/state/index.h"

#include <errno.h>
#include <stdlib.h>

#include "proxy/state/rcu.h"

#define SLOTS_MIN 16

struct index_table {
    size_t mask;
    size_t worn; /* slots that are not empty: entries and graves; writer's */
    void *slots[];
};

/* A slot whose entry is gone. The search goes on behind it, an insert may take it. */
static char grave;

static size_t first(const struct index_table *table, uint64_t hash)
{
    return (size_t)hash & table->mask;
}

static struct index_table *table_new(size_t slots)
{
    struct index_table *table = calloc(1, sizeof(*table) + slots * sizeof(void *));

    if (table)
        table->mask = slots - 1;
    return table;
}

/* Steps of 1, 2, 3 ... reach every slot of a table whose size is a power of two. At least a quarter is empty.
 */
static void put(struct index_table *table, uint64_t hash, void *entry)
{
    size_t at = first(table, hash), step = 0;

    while (table->slots[at] && table->slots[at] != &grave)
        at = (at + ++step) & table->mask;
    table->worn += !table->slots[at];
    rcu_publish(table->slots[at], entry);
}

int index_reserve(struct index *index, size_t n, struct reclaim *reclaim)
{
    struct index_table *old = index->table, *table;
    size_t slots = SLOTS_MIN;

    if (old && old->worn + n <= (old->mask + 1) / 4 * 3)
        return 0;
    while (slots / 4 * 3 < (index->count + n) + (index->count + n) / 4)
        slots *= 2;
    table = table_new(slots);
    if (!table)
        return -ENOMEM;
    for (size_t i = 0; old && i <= old->mask; i++) {
        if (old->slots[i] && old->slots[i] != &grave)
            put(table, index->hash(old->slots[i]), old->slots[i]);
    }
    rcu_publish(index->table, table);
    reclaim_add(reclaim, free, old);
    return 0;
}

void index_insert(struct index *index, void *entry)
{
    put(index->table, index->hash(entry), entry);
    index->count++;
}

static void **slot_of(struct index *index, const void *entry)
{
    struct index_table *table = index->table;
    size_t at = first(table, index->hash(entry)), step = 0;

    while (table->slots[at] != entry)
        at = (at + ++step) & table->mask;
    return &table->slots[at];
}

void index_replace(struct index *index, const void *entry, void *new_entry)
{
    rcu_publish(*slot_of(index, entry), new_entry);
}

void index_remove(struct index *index, const void *entry)
{
    /* counted first: who sees the grave sees the count */
    __atomic_add_fetch(&index->removals, 1, __ATOMIC_RELEASE);
    rcu_publish(*slot_of(index, entry), (void *)&grave);
    index->count--;
}

size_t index_removals(const struct index *index)
{
    return __atomic_load_n(&index->removals, __ATOMIC_ACQUIRE);
}

void index_free(struct index *index)
{
    free(index->table);
    index->table = NULL;
    index->count = 0;
}

struct index_cursor index_cursor(const struct index *index, uint64_t hash)
{
    const struct index_table *table = rcu_read(index->table);

    return (struct index_cursor){.table = table, .at = table ? first(table, hash) : 0};
}

void *index_next(struct index_cursor *cursor)
{
    while (cursor->table) {
        void *entry = rcu_read(cursor->table->slots[cursor->at]);

        /* the table is never full, but a reader may watch the writer fill one grave after another */
        if (!entry || cursor->step > cursor->table->mask)
            break;
        cursor->at = (cursor->at + ++cursor->step) & cursor->table->mask;
        if (entry != &grave)
            return entry;
    }
    return NULL;
}

void *index_each(const struct index *index, size_t *at)
{
    const struct index_table *table = index->table;

    while (table && *at <= table->mask) {
        void *entry = table->slots[(*at)++];

        if (entry && entry != &grave)
            return entry;
    }
    return NULL;
}
