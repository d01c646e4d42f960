/* Memory that runs out, once: SQLite's, and what storage/ takes from malloc, calloc and
 * posix_memalign itself (the linker puts ours in their place). GLib's allocations end the process
 * by design when memory is short; they are small and no client chooses their size. */
#ifndef UNIT_SICK_MEMORY_H
#define UNIT_SICK_MEMORY_H

#include <stdatomic.h>

/* All allocations so far; the one whose number the second is fails, -1: none. */
extern _Atomic long sick_sqlite_allocations, sick_sqlite_allocation;
extern _Atomic long sick_allocations, sick_allocation;

/* Before SQLite is used at all. */
void sick_memory_register(void);

#endif
