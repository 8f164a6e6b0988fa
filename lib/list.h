/* SPDX-License-Identifier: Apache-2.0 */
/* Circular doubly linked list with the links inside the element. A removed node is linked to itself.
 * The list owns nothing: elements are their owner's. Not thread-safe. */
#ifndef LIB_LIST_H
#define LIB_LIST_H

#include <stdbool.h>
#include <stddef.h>

#include "lib/cleanup.h"

struct list {
    struct list *next, *prev;
};

/* Makes a head of an empty list, or a node that is in none. */
static inline void list_init(struct list *l)
{
    l->next = l->prev = l;
}

/* Also true for a node that is in no list. */
static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}

/* The node must be in no list. It becomes the last. */
static inline void list_add_tail(struct list *head, struct list *node)
{
    node->prev = head->prev;
    node->next = head;
    head->prev->next = node;
    head->prev = node;
}

/* The node must be in no list. It becomes the first. */
static inline void list_add_head(struct list *head, struct list *node)
{
    list_add_tail(head->next, node);
}

/* Removing a node that is not in a list is harmless once it was initialised. */
static inline void list_del(struct list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    list_init(node);
}

/* Moves every node of from to the end of to. */
static inline void list_splice(struct list *to, struct list *from)
{
    if (list_empty(from))
        return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    list_init(from);
}

#define list_entry(node, type, member) container_of(node, type, member)

#define list_first(head, type, member) list_entry((head)->next, type, member)

/* The current element may be removed and freed inside the loop; no other may. `it` is declared by the
 * caller. */
#define list_for_each(it, head, member)                                                      \
    for (struct list *it##_node = (head)->next, *it##_next = it##_node->next;                \
         it##_node != (head) && (it = list_entry(it##_node, __typeof__(*it), member), true); \
         it##_node = it##_next, it##_next = it##_node->next)

#endif
