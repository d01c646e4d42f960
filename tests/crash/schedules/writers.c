/* Writers against the store thread: what is on record before the data is. */
#include "storage/track_private.h"
#include "tests/crash/schedules/schedules.h"
#include "tests/crash/schedules/stage.h"
#include <sys/wait.h>
#include <unistd.h>

static void write_block(World *world, void *data)
{
    const uint64_t *offset = data;
    world_write(world, *offset, 4096);
}

static bool is_written(World *world, uint64_t offset)
{
    char byte = 0;
    assert_int_equal(disk_pread(world->disk, &byte, 1, offset, 0), 0);
    return byte != 0;
}

/* Dies while the store thread has not committed what a writer asked for. */
static void die_before_the_commit(World *world)
{
    uint64_t offset = 5 * MiB;
    Actor writer;
    world_open(world);
    world_write(world, 0, 4096);
    stage_stop("retire-without-bits", 1);
    actor_start(&writer, world, write_block, &offset);
    bool reached = stage_reached("retire-without-bits");
    actor_is_done(&writer, 100);
    _exit(reached ? 0 : 1);
}

void a_write_waits_for_its_intent(void **state)
{
    World *world = stage_open();
    int status;
    world_add(world, "a", 4096);
    world_close(world);
    pid_t child = fork();
    if (child == 0)
        die_before_the_commit(world);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    world_open(world);
    if (is_written(world, 5 * MiB))
        must_be_dirty(world, "a", 5 * MiB);
    must_be_dirty(world, "a", 0);
    stage_close(world);
}

/* A writer has looked, and found an intent; then the region is retired; then it writes. */
void a_retirement_sees_the_writers_bits(void **state)
{
    World *world = stage_open();
    uint64_t offset = 8192;
    Actor writer;
    world_add(world, "a", 4096);
    world_write(world, 0, 4096);
    stage_stop("bits-after-look", 2);
    actor_start(&writer, world, write_block, &offset);
    assert_true(stage_reached("bits-after-look"));
    assert_true(disk_checkpoint(world->disk, NULL));
    stage_go("bits-after-look");
    actor_end(&writer);
    stage_crash(world);
    assert_true(is_written(world, offset));
    must_be_dirty(world, "a", offset);
    stage_close(world);
}

void a_retired_region_needs_a_new_intent(void **state)
{
    World *world = stage_open();
    world_add(world, "a", 4096);
    world_write(world, 0, 4096);
    assert_true(disk_checkpoint(world->disk, NULL));
    world_write(world, 8192, 4096);
    stage_crash(world);
    must_be_dirty(world, "a", 8192);
    stage_close(world);
}

void retired_bits_are_stored(void **state)
{
    World *world = stage_open();
    world_add(world, "a", 4096);
    world_write(world, 0, 4096);
    assert_true(disk_checkpoint(world->disk, NULL));
    stage_crash(world);
    must_be_dirty(world, "a", 0);
    stage_close(world);
}

/* The block is stored as dirty in one bitmap, which is no reason to do without an intent for the
 * other. */
void every_bitmap_has_the_block(void **state)
{
    World *world = stage_open();
    world_add(world, "a", 4096);
    world_write(world, 0, 4096);
    assert_true(disk_checkpoint(world->disk, NULL));
    world_add(world, "b", 4096);
    world_write(world, 0, 4096);
    stage_crash(world);
    must_be_dirty(world, "b", 0);
    stage_close(world);
}

void every_block_of_a_write(void **state)
{
    World *world = stage_open();
    world_add(world, "a", 4096);
    world_write(world, 4096, 4096 + 512);
    world_write(world, 2 * MiB - 512, 1024);
    must_be_dirty(world, "a", 4096);
    must_be_dirty(world, "a", 8192);
    must_be_dirty(world, "a", 2 * MiB - 512);
    must_be_dirty(world, "a", 2 * MiB);
    stage_close(world);
}

void a_trim_is_a_write(void **state)
{
    World *world = stage_open();
    world_write(world, MiB, 65536);
    world_add(world, "a", 4096);
    assert_int_equal(disk_trim(world->disk, MiB, 65536, 0), 0);
    must_be_dirty(world, "a", MiB);
    stage_crash(world);
    assert_false(is_written(world, MiB));
    must_be_dirty(world, "a", MiB + 65535);
    stage_close(world);
}

void zeroes_are_a_write(void **state)
{
    World *world = stage_open();
    world_write(world, MiB, 65536);
    world_add(world, "a", 4096);
    assert_int_equal(disk_zero(world->disk, MiB, 65536, IO_MAY_HOLE), 0);
    must_be_dirty(world, "a", MiB);
    stage_crash(world);
    assert_false(is_written(world, MiB));
    must_be_dirty(world, "a", MiB + 65535);
    stage_close(world);
}

/* The store never hears of its writes one by one: a mapped page does. */
void a_process_bitmap_survives_a_kill(void **state)
{
    World *world = stage_open();
    StoreStats before, after;
    world_add_durable(world, "p", 4096, DURABILITY_PROCESS);
    world_write(world, 0, 4096);
    store_get_stats(world->store, &before);
    world_write(world, 9 * MiB, 4096);
    store_get_stats(world->store, &after);
    assert_int_equal(after.intents_added, before.intents_added);
    stage_crash(world);
    must_be_dirty(world, "p", 0);
    must_be_dirty(world, "p", 9 * MiB);
    assert_false(world_is_dirty(world, "p", 5 * MiB));
    stage_close(world);
}

void durability_none_does_not(void **state)
{
    World *world = stage_open();
    world_add_durable(world, "n", 4096, DURABILITY_NONE);
    world_write(world, 0, 4096);
    world_close(world);
    world_open(world);
    must_be_dirty(world, "n", 0);
    world_write(world, MiB, 4096);
    world_drop(world);
    world_open(world);
    BitmapInfo info = world_info(world, "n");
    assert_int_equal(info.state, BITMAP_INVALID);
    assert_non_null(info.reason);
    bitmap_info_clear(&info);
    stage_close(world);
}

static void look_at_all(Store *store, gpointer data)
{
    track_tick(store);
}

static void tick(World *world, void *data)
{
    store_call(world->store, look_at_all, NULL);
}

static void drop(World *world, void *data)
{
    world_drop(world);
}

static void await_references(World *world, unsigned count)
{
    for (unsigned i = 0; atomic_load(&world->disk->references) != count; i++) {
        assert_true(i < 60000);
        g_usleep(1000);
    }
}

/* The store thread finds that the keeper has the disk at hand already, and lets go of it: were all
 * others to do so first, it would close the disk, and wait for itself. */
void the_store_closes_no_disk(void **state)
{
    World *world = stage_open();
    Actor store, owner;
    world_add(world, "a", 4096);
    stage_watch_image(world);
    stage_stop("looked at", 1);
    tick(world, NULL);
    assert_true(stage_reached("looked at"));
    world_write(world, 0, 4096);
    stage_stop("store-closes-a-disk", 2);
    actor_start(&store, world, tick, NULL);
    assert_true(stage_reached("store-closes-a-disk"));
    unsigned references = atomic_load(&world->disk->references);
    stage_go("looked at"); /* the keeper's goes, then the owner's */
    await_references(world, references - 1);
    actor_start(&owner, world, drop, NULL);
    await_references(world, references - 2);
    stage_go("store-closes-a-disk");
    if (!actor_is_done(&owner, 20000))
        fail_msg("the store thread waits for itself");
    actor_end(&owner);
    actor_end(&store);
    stage_close(world);
}
