/* Where the schedules play: threads that stop at the sites of storage/fault.h until they are told
 * to go on, a backing file that remembers what was synced, and disks that refuse. */
#ifndef SCHEDULES_STAGE_H
#define SCHEDULES_STAGE_H

#include "tests/unit/world.h"
#include <pthread.h>

/* A world with regions of 256 KiB, whose store thread retires nothing by itself. */
World *stage_open(void);
void stage_close(World *world);

/* --- sites --- */

/* The pass-th thread that comes by the site from now on stops there. */
void stage_stop(const char *site, unsigned pass);
/* Whether somebody stands there, which is waited for. */
bool stage_reached(const char *site);
void stage_go(const char *site);
/* Other sites, of the stage itself: "synced", when the image has been, and "looked at", when the
 * times of the image have been. */
bool stage_pass(const char *site);

/* --- threads --- */

typedef struct {
    World *world;
    void (*play)(World *world, void *data);
    void *data;
    pthread_t thread;
    bool done; /* the stage's lock */
} Actor;

void actor_start(Actor *actor, World *world, void (*play)(World *world, void *data), void *data);
bool actor_is_done(Actor *actor, unsigned milliseconds); /* waits for it that long */
void actor_end(Actor *actor);

/* --- files --- */

/* From now on what syncs of the image have covered is kept. */
void stage_watch_image(World *world);
/* Whether a power cut now would leave the block as it is. */
bool stage_is_durable(World *world, uint64_t offset, uint64_t length);
extern _Atomic int stage_failing_syncs; /* of the image: so many fail */
/* Writes to the file of invalidations fail. */
extern _Atomic bool stage_invalid_file_fails;
/* A page's map can be made no larger: its file system is full. */
extern _Atomic bool stage_map_fails;
/* The image's times are those it had when this was set: a power cut took back what came after. */
extern _Atomic bool stage_times_stand_still;
/* ... or lie before the machine was started. */
extern _Atomic bool stage_times_before_boot;

/* --- what must hold --- */

/* Died and came back; every bitmap of it is valid. */
void stage_crash(World *world);
void must_be_dirty_at(World *world, const char *bitmap, uint64_t offset, const char *file,
                      int line);
#define must_be_dirty(world, bitmap, offset)                                                       \
    must_be_dirty_at((world), (bitmap), (offset), __FILE__, __LINE__)

#endif
