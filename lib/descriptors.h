/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Room for file descriptors. The kernel doubles a process's table as it fills, and in a process of several
 * threads whoever needs the next descriptor waits meanwhile until all processors have let go of the former
 * table (an RCU grace period): 10 to 20 ms, in which a worker serves nobody. So room is made before it is
 * needed. The table never shrinks; a slot takes eight bytes of the kernel's memory.
 */
#ifndef LIB_DESCRIPTORS_H
#define LIB_DESCRIPTORS_H

/* As many as the hard limit allows. Where that fails, the limit stays. */
void descriptors_raise_limit(void);

/* Slots of the calling process's table, of descriptors that are open and of others; 0: not known. */
unsigned descriptors_slots(void);

/* The table has at least so many slots from now on, or as many as the limit allows. May wait, as above. Where
 * it fails, the table grows as it fills. */
void descriptors_make_room(unsigned slots);

#endif
