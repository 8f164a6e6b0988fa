/* SPDX-License-Identifier: Apache-2.0 */
/* SIGINT and SIGTERM of a command that goes on until then. */
#ifndef CTL_INTERRUPT_H
#define CTL_INTERRUPT_H

#include <stdbool.h>

/* From now on the first of them is noted, and the second one ends the program at once. */
void interrupt_catch(void);
/* Whether one has come. */
bool interrupted(void);

#endif
