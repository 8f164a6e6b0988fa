/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/worker_count.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DIGITS_MAX 6

static unsigned long automatic(unsigned long cpus, const struct worker_share *share)
{
    unsigned long quarter = (cpus + 3) / 4, n = share->limit ? share->limit : quarter;

    return n > share->request ? n : share->request;
}

int worker_count(const char *text, unsigned long cpus, const struct worker_share *share, unsigned *ret)
{
    size_t digits = strspn(text, "0123456789");
    unsigned long n;

    if (!strcmp(text, "auto")) {
        n = automatic(cpus, share);
    } else {
        if (!digits || digits > DIGITS_MAX || (text[digits] && strcmp(text + digits, "%") != 0))
            return -EINVAL;
        n = strtoul(text, NULL, 10);
        if (text[digits])
            n = (cpus * n + 99) / 100;
        else if (n == 0)
            n = cpus;
    }
    *ret = n < 1 ? 1 : n > WORKERS_MAX ? WORKERS_MAX : (unsigned)n;
    return 0;
}
