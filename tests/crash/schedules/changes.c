/* Changes of the set of bitmaps against writes: their starting points. And what a sync means. */
#include "tests/crash/schedules/schedules.h"
#include "tests/crash/schedules/stage.h"
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

static const char block[4096] = {0x77};

static void clear_a(World *world, void *data)
{
    world_do(world, disk_change_clear, "a");
}

static void add_b(World *world, void *data)
{
    world_add(world, "b", 4096);
}

/* FUA, since a site lies between its record and its data. */
static void write_late(World *world, void *data)
{
    if (disk_pwrite(world->disk, block, sizeof block, MiB, IO_FUA) != 0)
        g_error("the late write failed");
}

/* A write has its bit and is on its way; the change wipes the bit, or begins a bitmap that never
 * had it; the data lands behind the starting point. */
static void change_under_a_write(void (*change)(World *world, void *data), const char *bitmap)
{
    World *world = stage_open();
    Actor writer, changer;
    world_add(world, "a", 4096);
    /* Stored as dirty in "a": the late write asks for nothing. */
    world_write(world, MiB, 4096);
    assert_true(disk_checkpoint(world->disk, NULL));
    stage_stop("fua-without-sync", 1);
    actor_start(&writer, world, write_late, NULL);
    assert_true(stage_reached("fua-without-sync"));
    actor_start(&changer, world, change, NULL);
    bool overtaken = actor_is_done(&changer, 200);
    stage_go("fua-without-sync");
    actor_end(&writer);
    actor_end(&changer);
    if (overtaken)
        must_be_dirty(world, bitmap, MiB);
    stage_close(world);
}

void a_clear_waits_for_writes_in_flight(void **state)
{
    change_under_a_write(clear_a, "a");
}

void an_add_waits_for_writes_in_flight(void **state)
{
    change_under_a_write(add_b, "b");
}

/* Answered between the sync and the instant: the backup copies it, a power cut takes it back. */
void writes_during_the_sync_are_dirty(void **state)
{
    World *world = stage_open();
    Actor changer;
    world_add(world, "a", 4096);
    world_write(world, 0, 4096);
    stage_watch_image(world);
    stage_stop("synced", 1);
    actor_start(&changer, world, clear_a, NULL);
    assert_true(stage_reached("synced"));
    world_write(world, MiB, 4096);
    stage_go("synced");
    actor_end(&changer);
    assert_false(stage_is_durable(world, MiB, 4096));
    must_be_dirty(world, "a", MiB);
    assert_false(world_is_dirty(world, "a", 0));
    stage_close(world);
}

void a_starting_point_is_durable(void **state)
{
    World *world = stage_open();
    stage_watch_image(world);
    world_add(world, "a", 4096);
    world_write(world, 0, 4096);
    clear_a(world, NULL);
    if (!stage_is_durable(world, 0, 4096))
        must_be_dirty(world, "a", 0);
    world_write(world, MiB, 4096);
    add_b(world, NULL);
    if (!stage_is_durable(world, MiB, 4096))
        must_be_dirty(world, "b", MiB);
    stage_close(world);
}

/* Its bits are stored as it stops: later nobody would. */
void a_disabled_bitmap_keeps_its_bits(void **state)
{
    World *world = stage_open();
    world_add(world, "a", 4096);
    world_write(world, 0, 4096);
    world_do(world, disk_change_disable, "a");
    stage_crash(world);
    must_be_dirty(world, "a", 0);
    stage_close(world);
}

static bool misses(World *world, const char *name)
{
    BitmapInfo info = world_info(world, name);
    bool missed = info.missed_writes;
    bitmap_info_clear(&info);
    return missed;
}

void missed_writes_survive(void **state)
{
    World *world = stage_open();
    world_add(world, "a", 4096);
    world_do(world, disk_change_disable, "a");
    assert_false(misses(world, "a"));
    world_write(world, 0, 4096);
    stage_crash(world);
    assert_true(misses(world, "a"));
    clear_a(world, NULL);
    assert_false(misses(world, "a"));
    stage_close(world);
}

void a_merge_inherits_missed_writes(void **state)
{
    World *world = stage_open();
    GError *error = NULL;
    const char *sources[] = {"a", NULL};
    world_add(world, "a", 4096);
    world_add(world, "b", 4096);
    world_do(world, disk_change_disable, "a");
    world_write(world, 0, 4096);
    DiskChange *change = world_begin(world);
    must(disk_change_merge(change, "b", sources, NULL, &error), error);
    world_commit(world, change);
    assert_true(misses(world, "b"));
    stage_close(world);
}

void growth_is_dirty(void **state)
{
    World *world = stage_open();
    GError *error = NULL;
    world_add(world, "a", 4096);
    assert_int_equal(truncate(world->image, (off_t)(world->size + MiB)), 0);
    must(disk_refresh(world->disk, &error), error);
    must_be_dirty(world, "a", world->size);
    stage_crash(world);
    must_be_dirty(world, "a", world->size + MiB - 1);
    stage_close(world);
}

/* The disk grows, and its page's map cannot: what is written there is kept by intents. */
void a_map_that_is_too_short_is_not_relied_on(void **state)
{
    World *world = stage_open();
    GError *error = NULL;
    uint64_t grown = 2 * world->size;
    world_add_durable(world, "p", 4096, DURABILITY_PROCESS);
    world_write(world, 0, 4096);
    atomic_store(&stage_map_fails, true);
    assert_int_equal(truncate(world->image, (off_t)grown), 0);
    must(disk_refresh(world->disk, &error), error);
    must_be_dirty(world, "p", grown - 1);
    world_do(world, disk_change_clear, "p");
    world_write(world, 3 * MiB, 4096);
    world_write(world, grown - MiB, 4096);
    stage_crash(world);
    must_be_dirty(world, "p", 3 * MiB);
    must_be_dirty(world, "p", grown - MiB);
    /* Once there is room, a map is made for the next bitmap's sake, if not before. */
    atomic_store(&stage_map_fails, false);
    world_add_durable(world, "q", 4096, DURABILITY_PROCESS);
    world_write(world, grown - 3 * MiB, 4096);
    stage_crash(world);
    must_be_dirty(world, "p", grown - MiB);
    must_be_dirty(world, "p", grown - 3 * MiB);
    must_be_dirty(world, "q", grown - 3 * MiB);
    stage_close(world);
}

/* The kernel tells once; what it dropped is lost, and is not to be called durable, nor a starting
 * point. */
void a_failed_sync_is_remembered(void **state)
{
    World *world = stage_open();
    GError *error = NULL;
    world_add(world, "a", 4096);
    world_write(world, 0, 4096);
    stage_watch_image(world);
    atomic_store(&stage_failing_syncs, 1);
    assert_int_equal(disk_flush(world->disk), -EIO);
    assert_int_equal(disk_flush(world->disk), -EIO);
    assert_int_equal(disk_pwrite(world->disk, block, sizeof block, 0, IO_FUA), -EIO);
    DiskChange *change = world_begin(world);
    must(disk_change_clear(change, "a", NULL, &error), error);
    assert_false(world_try_commit(world, change, &error));
    g_clear_error(&error);
    must_be_dirty(world, "a", 0);
    stage_crash(world);
    assert_int_equal(disk_flush(world->disk), 0); /* it was opened again */
    stage_close(world);
}

void flushed_data_is_durable(void **state)
{
    World *world = stage_open();
    stage_watch_image(world);
    world_write(world, MiB, 4096);
    assert_false(stage_is_durable(world, MiB, 4096));
    assert_int_equal(disk_flush(world->disk), 0);
    assert_true(stage_is_durable(world, MiB, 4096));
    stage_close(world);
}

void fua_data_is_durable(void **state)
{
    World *world = stage_open();
    stage_watch_image(world);
    write_late(world, NULL);
    assert_true(stage_is_durable(world, MiB, 4096));
    stage_close(world);
}
