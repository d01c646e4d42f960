/* A disk image, a state directory and bitmaps in a temporary place: what tests of tracking play
 * in. Every function fails the test when it fails. */
#ifndef UNIT_WORLD_H
#define UNIT_WORLD_H

#include "storage/disk.h"
#include "tests/unit/check.h"

#define KiB UINT64_C(1024)
#define MiB (KiB * 1024)
#define GiB (MiB * 1024)

typedef struct {
    char *dir, *image, *state;
    uint64_t size;
    CacheMode cache;      /* of the next open */
    StoreOptions options; /* runtime_dir is the state directory */
    Store *store;
    Disk *disk;
} World;

World *world_new(uint64_t size); /* open, with a row for the disk "d" and no bitmap */
void world_free(World *world);   /* closes what is open, deletes everything */

void world_put_row(World *world);
void world_open(World *world);
void world_close(World *world); /* cleanly */
void world_drop(World *world);  /* as if it had died: nothing is stored */
Disk *world_try_open(World *world, GError **error);

DiskChange *world_begin(World *world);
void world_commit(World *world, DiskChange *change);
bool world_try_commit(World *world, DiskChange *change, GError **error);
void world_add(World *world, const char *name, uint32_t granularity);
void world_add_durable(World *world, const char *name, uint32_t granularity,
                       BitmapDurability durability);
typedef bool (*WorldOperation)(DiskChange *change, const char *name, const char *if_generation,
                               GError **error);
void world_do(World *world, WorldOperation operation, const char *name);

void world_write(World *world, uint64_t offset, uint64_t length);
void world_write_behind(World *world, off_t offset); /* somebody else writes a byte */
void world_lose_pages(World *world);                 /* what the runtime directory knew */
/* Until a file that is changed gets a later time than any clock has shown so far: file times are as
 * coarse as a tick, and ticks come late on a busy machine. */
void world_let_time_pass(World *world);
BitmapInfo world_info(World *world, const char *name); /* bitmap_info_clear() it */
uint64_t world_dirty(World *world, const char *name);  /* bytes */
bool world_is_dirty(World *world, const char *name, uint64_t offset);
/* Fails the test, where it stands, with the error's message. */
#define must(ok, error)                                                                            \
    do {                                                                                           \
        bool must_ok = (ok); /* before the error is looked at */                                   \
        must_at(must_ok, (error), __FILE__, __LINE__);                                             \
    } while (0)
void must_at(bool ok, const GError *error, const char *file, int line);

#endif
