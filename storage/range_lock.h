/* Exclusion of byte ranges among the writers of one file.
 *
 * Any number of shared holders may overlap; an exclusive one overlaps nobody. Granted in the order
 * of arrival, so none starves. Bytes; length > 0. Any thread; the holder owns the RangeHold, which
 * stays where it is from acquire to release. */
#ifndef STORAGE_RANGE_LOCK_H
#define STORAGE_RANGE_LOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct RangeHold RangeHold;
struct RangeHold {
    uint64_t offset, end;
    bool exclusive;
    RangeHold *previous, *next; /* the lock's */
};

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t released;
    RangeHold *first, *last; /* held or waiting, in order of arrival */
    unsigned exclusives;     /* of them; while there is none, nobody has to look further */
    unsigned waiting;
} RangeLock;

void range_lock_init(RangeLock *ranges);
void range_lock_destroy(RangeLock *ranges);
void range_lock_acquire(RangeLock *ranges, RangeHold *hold, uint64_t offset, uint64_t length,
                        bool exclusive);
/* False, and nothing held, when it would have to wait. */
bool range_lock_try(RangeLock *ranges, RangeHold *hold, uint64_t offset, uint64_t length,
                    bool exclusive);
void range_lock_release(RangeLock *ranges, RangeHold *hold);

#endif
