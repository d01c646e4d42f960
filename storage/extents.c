#include "storage/extents.h"
#include <stdlib.h>
#include <string.h>

void extent_list_init(ExtentList *list, uint64_t offset, size_t max)
{
    *list = (ExtentList){.offset = offset, .max = max > 0 ? max : 1};
}

void extent_list_clear(ExtentList *list)
{
    free(list->items);
    list->items = NULL;
    list->count = 0;
    list->allocated = 0;
    list->total = 0;
}

/* Doubles the room, never past the bound. The bound may have been chosen by a client, so this is
 * malloc, which may refuse, and not GLib's, which would abort. */
static bool grow(ExtentList *list)
{
    size_t wanted = list->allocated > 0 ? list->allocated * 2 : 8;
    Extent *items;

    if (wanted > list->max) {
        wanted = list->max;
    }
    items = realloc(list->items, wanted * sizeof(Extent));
    if (items == NULL) {
        return false;
    }
    list->items = items;
    list->allocated = wanted;
    return true;
}

bool extent_list_add(ExtentList *list, uint64_t length, uint32_t flags)
{
    if (length == 0) {
        return true;
    }
    if (list->count > 0 && list->items[list->count - 1].flags == flags) {
        list->items[list->count - 1].length += length;
        list->total += length;
        return true;
    }
    if (list->count == list->max) {
        return false;
    }
    if (list->count == list->allocated && !grow(list)) {
        return false;
    }
    list->items[list->count++] = (Extent){.length = length, .flags = flags};
    list->total += length;
    return true;
}

void extent_list_truncate(ExtentList *list, uint64_t total)
{
    while (list->total > total) {
        Extent *last = &list->items[list->count - 1];
        uint64_t excess = list->total - total;

        if (last->length > excess) {
            last->length -= excess;
            list->total -= excess;
        } else {
            list->total -= last->length;
            list->count--;
        }
    }
}
