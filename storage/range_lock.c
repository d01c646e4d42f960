#include "storage/range_lock.h"
#include <stddef.h>

void range_lock_init(RangeLock *ranges)
{
    *ranges = (RangeLock){.first = NULL};
    pthread_mutex_init(&ranges->lock, NULL);
    pthread_cond_init(&ranges->released, NULL);
}

void range_lock_destroy(RangeLock *ranges)
{
    pthread_cond_destroy(&ranges->released);
    pthread_mutex_destroy(&ranges->lock);
}

static bool must_wait(const RangeLock *ranges, const RangeHold *hold)
{
    if (ranges->exclusives == 0) {
        return false;
    }
    for (const RangeHold *other = hold->previous; other != NULL; other = other->previous) {
        if ((other->exclusive || hold->exclusive) && other->offset < hold->end &&
            hold->offset < other->end) {
            return true;
        }
    }
    return false;
}

static void enter(RangeLock *ranges, RangeHold *hold)
{
    hold->previous = ranges->last;
    hold->next = NULL;
    if (ranges->last != NULL) {
        ranges->last->next = hold;
    } else {
        ranges->first = hold;
    }
    ranges->last = hold;
    ranges->exclusives += hold->exclusive;
}

static void leave(RangeLock *ranges, RangeHold *hold)
{
    if (hold->previous != NULL) {
        hold->previous->next = hold->next;
    } else {
        ranges->first = hold->next;
    }
    if (hold->next != NULL) {
        hold->next->previous = hold->previous;
    } else {
        ranges->last = hold->previous;
    }
    ranges->exclusives -= hold->exclusive;
}

void range_lock_acquire(RangeLock *ranges, RangeHold *hold, uint64_t offset, uint64_t length,
                        bool exclusive)
{
    *hold = (RangeHold){.offset = offset, .end = offset + length, .exclusive = exclusive};
    pthread_mutex_lock(&ranges->lock);
    enter(ranges, hold);
    ranges->waiting++;
    while (must_wait(ranges, hold)) {
        pthread_cond_wait(&ranges->released, &ranges->lock);
    }
    ranges->waiting--;
    pthread_mutex_unlock(&ranges->lock);
}

bool range_lock_try(RangeLock *ranges, RangeHold *hold, uint64_t offset, uint64_t length,
                    bool exclusive)
{
    bool held;

    *hold = (RangeHold){.offset = offset, .end = offset + length, .exclusive = exclusive};
    pthread_mutex_lock(&ranges->lock);
    enter(ranges, hold);
    held = !must_wait(ranges, hold);
    if (!held) {
        leave(ranges, hold);
    }
    pthread_mutex_unlock(&ranges->lock);
    return held;
}

void range_lock_release(RangeLock *ranges, RangeHold *hold)
{
    pthread_mutex_lock(&ranges->lock);
    leave(ranges, hold);
    if (ranges->waiting > 0) {
        pthread_cond_broadcast(&ranges->released);
    }
    pthread_mutex_unlock(&ranges->lock);
}
