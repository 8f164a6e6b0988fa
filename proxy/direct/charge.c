/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/direct/charge.h"

#define load(field)         __atomic_load_n(&(field), __ATOMIC_SEQ_CST)
#define store(field, value) __atomic_store_n(&(field), value, __ATOMIC_SEQ_CST)

static bool exchange(__u64 *field, __u64 from, __u64 to)
{
    return __atomic_compare_exchange_n(field, &from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

bool charge_is_mine(const struct bruma_direct_control *control, uint64_t number)
{
    return load(control->proxy) == number;
}

uint64_t charge_holder(const struct bruma_direct_control *control)
{
    return load(control->proxy);
}

/* Never to 0: a program that has seen the number of before may be about to read it. */
static void set_prefixes(struct bruma_direct_control *control, size_t prefixes)
{
    if (prefixes)
        store(control->prefixes, prefixes > UINT32_MAX ? UINT32_MAX : (uint32_t)prefixes);
}

bool charge_take(struct bruma_direct_control *control, uint64_t number, uint32_t ways, size_t prefixes,
                 uint64_t until, enum bruma_long_way why)
{
    charge_clear(control, why);
    set_prefixes(control, prefixes);
    store(control->ways, ways);
    store(control->valid_until_nanoseconds, until);
    return exchange(&control->proxy, 0, number);
}

bool charge_drop(struct bruma_direct_control *control, uint64_t number, enum bruma_long_way why)
{
    if (!exchange(&control->proxy, number, 0))
        return false;
    store(control->why, why);
    return true;
}

void charge_clear(struct bruma_direct_control *control, enum bruma_long_way why)
{
    uint64_t holder = load(control->proxy);

    while (holder && !exchange(&control->proxy, holder, 0))
        holder = load(control->proxy);
    store(control->why, why);
}

bool charge_renew(struct bruma_direct_control *control, uint64_t number, uint64_t until)
{
    uint64_t before = load(control->valid_until_nanoseconds);

    if (load(control->proxy) != number)
        return false;
    exchange(&control->valid_until_nanoseconds, before, until);
    return load(control->proxy) == number;
}

void charge_set_prefixes(struct bruma_direct_control *control, uint64_t number, size_t prefixes)
{
    if (load(control->proxy) == number)
        set_prefixes(control, prefixes);
}
