/* The allocators of sick_memory.h. */
#include "tests/unit/sick_memory.h"
#include <errno.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdlib.h>

_Atomic long sick_sqlite_allocations, sick_sqlite_allocation = -1;
_Atomic long sick_allocations, sick_allocation = -1;

static sqlite3_mem_methods sound;

static bool is_sick(_Atomic long *count, _Atomic long *failing)
{
    return atomic_fetch_add(count, 1) == atomic_load(failing);
}

static void *sqlite_malloc(int size)
{
    return is_sick(&sick_sqlite_allocations, &sick_sqlite_allocation) ? NULL : sound.xMalloc(size);
}

static void *sqlite_realloc(void *old, int size)
{
    return is_sick(&sick_sqlite_allocations, &sick_sqlite_allocation) ? NULL
                                                                      : sound.xRealloc(old, size);
}

void sick_memory_register(void)
{
    sqlite3_config(SQLITE_CONFIG_GETMALLOC, &sound);
    sqlite3_mem_methods sick = sound;
    sick.xMalloc = sqlite_malloc;
    sick.xRealloc = sqlite_realloc;
    sqlite3_config(SQLITE_CONFIG_MALLOC, &sick);
}

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);
int __real_posix_memalign(void **pointer, size_t alignment, size_t size);
int __wrap_posix_memalign(void **pointer, size_t alignment, size_t size);

void *__wrap_malloc(size_t size)
{
    return is_sick(&sick_allocations, &sick_allocation) ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return is_sick(&sick_allocations, &sick_allocation) ? NULL : __real_calloc(count, size);
}

int __wrap_posix_memalign(void **pointer, size_t alignment, size_t size)
{
    if (is_sick(&sick_allocations, &sick_allocation))
        return ENOMEM;
    return __real_posix_memalign(pointer, alignment, size);
}
