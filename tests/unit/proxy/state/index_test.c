/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/state/index.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "proxy/state/hash.h"
#include "proxy/state/intern.h"

struct entry {
    uint64_t key;
    int value;
};

static uint64_t entry_hash(const void *entry)
{
    return hash_bytes(&((const struct entry *)entry)->key, sizeof(uint64_t));
}

/* How many entries have the key; the value of the last one. */
static int find(const struct index *index, uint64_t key, int *value)
{
    struct index_cursor cursor = index_cursor(index, hash_bytes(&key, sizeof(key)));
    struct entry *e;
    int n = 0;

    while ((e = index_next(&cursor))) {
        if (e->key != key)
            continue;
        *value = e->value;
        n++;
    }
    return n;
}

Test(index, insert_find_remove)
{
    static struct entry entries[5000];
    struct index index = {.hash = entry_hash};
    struct reclaim reclaim = {};
    int value;

    cr_expect(find(&index, 1, &value) == 0, "an index without table is empty");
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 5000; i++) {
            entries[i] = (struct entry){(uint64_t)i, i};
            cr_assert(index_reserve(&index, 1, &reclaim) == 0);
            index_insert(&index, &entries[i]);
        }
        cr_expect(index.count == 5000);
        for (int i = 0; i < 5000; i++)
            cr_assert(find(&index, (uint64_t)i, &value) == 1 && value == i);
        cr_expect(find(&index, 5000, &value) == 0);
        for (int i = 0; i < 5000; i++) {
            index_remove(&index, &entries[i]);
            cr_assert(find(&index, (uint64_t)i, &value) == 0);
        }
        cr_expect(index.count == 0);
    }
    index_free(&index);
    reclaim_flush(&reclaim);
    reclaim_wait();
}

Test(index, equal_keys_and_replacement)
{
    struct entry a = {7, 1}, b = {7, 2}, c = {7, 3};
    struct index index = {.hash = entry_hash};
    struct reclaim reclaim = {};
    size_t at = 0;
    int value;

    cr_assert(index_reserve(&index, 3, &reclaim) == 0);
    index_insert(&index, &a);
    index_insert(&index, &b);
    cr_expect(find(&index, 7, &value) == 2);
    index_replace(&index, &a, &c);
    cr_expect(find(&index, 7, &value) == 2);
    index_remove(&index, &b);
    cr_expect(find(&index, 7, &value) == 1 && value == 3);
    cr_expect(index_each(&index, &at) == &c && index_each(&index, &at) == NULL);
    index_free(&index);
}

Test(index, reserved_inserts_need_no_memory)
{
    static struct entry entries[1000];
    struct index index = {.hash = entry_hash};
    struct reclaim reclaim = {};
    struct index_table *table;

    cr_assert(index_reserve(&index, 1000, &reclaim) == 0);
    table = index.table;
    for (int i = 0; i < 1000; i++) {
        entries[i].key = (uint64_t)i;
        index_insert(&index, &entries[i]);
    }
    cr_expect(index.table == table);
    index_free(&index);
}

Test(intern, one_copy_of_each)
{
    const char *a = intern_get("abc"), *b = intern_get("abc"), *c = intern_get_len("abcd", 3),
               *d = intern_get("");

    cr_expect(a == b && a == c && a != d && !strcmp(a, "abc") && !*d);
    cr_expect(intern_count() == 2 && intern_hash(a) == hash_text("abc"));
    intern_put(a);
    intern_put(b);
    cr_expect(intern_count() == 2 && intern_ref(c) == c);
    intern_put(c);
    intern_put(c);
    cr_expect(intern_count() == 1);
    intern_put(d);
    intern_put(NULL);
    cr_expect(intern_count() == 0);
}

Test(intern, many)
{
    const char *all[3000];
    char text[20];

    for (int i = 0; i < 3000; i++) {
        snprintf(text, sizeof(text), "text-%d", i);
        all[i] = intern_get(text);
    }
    cr_expect(intern_count() == 3000);
    for (int i = 0; i < 3000; i++) {
        snprintf(text, sizeof(text), "text-%d", i);
        cr_assert(!strcmp(all[i], text) && intern_get(text) == all[i]);
        intern_put(all[i]);
        intern_put(all[i]);
    }
    cr_expect(intern_count() == 0);
}
