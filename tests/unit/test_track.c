/* The promise of storage/track.c: writers and changes in a child process that is killed at a
 * random moment, again and again; whatever may have changed is dirty afterwards.
 *
 * The child notes in shared memory when each writer's last write of a block began and ended, and
 * when changes had returned. A write that began after the last clear had returned, and ended before
 * a disable began, must be in the bitmap; so must one that never ended, if its data is there. */
#include "tests/unit/world.h"
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCK   UINT64_C(4096)
#define SIZE    (16 * MiB)
#define BLOCKS  (SIZE / BLOCK)
#define WRITERS 3
#define BITMAPS 3

static const char *const names[BITMAPS] = {"fine", "coarse", "toggled"};
static const uint32_t granularities[BITMAPS] = {512, 65536, 4096};

typedef struct {
    _Atomic uint64_t clock;
    struct {
        _Atomic uint64_t began[BLOCKS], ended[BLOCKS]; /* the last write of the block that ended */
    } writer[WRITERS];
    struct {
        _Atomic uint64_t since; /* when it was known to record from nothing */
        _Atomic uint64_t until; /* ... and to be disabled after that; 0: it records */
        _Atomic bool changing;  /* a change was under way */
        char generation[40];    /* after the last change that returned */
    } bitmap[BITMAPS];
} Notes;

typedef struct {
    World *world;
    Notes *notes;
    unsigned number, seed;
    _Atomic bool *stop;
} Writer;

/* Every block begins with the time its write began. */
static void write_once(Writer *writer, GRand *rand, uint64_t *payload)
{
    Notes *notes = writer->notes;
    Disk *disk = writer->world->disk;
    /* Now here, now there: regions come, go quiet, and are evicted. */
    uint64_t block = g_rand_int(rand) % BLOCKS;
    if (g_rand_boolean(rand))
        block = block % 64;
    uint64_t count = 1 + g_rand_int(rand) % 8;
    count = MIN(count, BLOCKS - block);
    uint64_t began = atomic_fetch_add(&notes->clock, 1) + 1;
    uint64_t offset = block * BLOCK, length = count * BLOCK;
    int rc;
    for (uint64_t i = 0; i < count; i++)
        payload[i * BLOCK / sizeof *payload] = began;
    switch (g_rand_int_range(rand, 0, 8)) {
    case 0:
        rc = disk_trim(disk, offset, length, 0);
        break;
    case 1:
        rc = disk_zero(disk, offset, length, IO_MAY_HOLE);
        break;
    default:
        rc = disk_pwrite(disk, payload, length, offset, 0);
    }
    if (rc != 0)
        abort();
    uint64_t ended = atomic_load(&notes->clock);
    for (uint64_t i = 0; i < count; i++) {
        atomic_store(&notes->writer[writer->number].ended[block + i], ended);
        atomic_store(&notes->writer[writer->number].began[block + i], began);
    }
}

static void *write_about(void *data)
{
    Writer *writer = data;
    GRand *rand = g_rand_new_with_seed(writer->seed);
    g_autofree uint64_t *payload = g_malloc0(8 * BLOCK);
    while (!atomic_load(writer->stop))
        write_once(writer, rand, payload);
    g_rand_free(rand);
    return NULL;
}

static void note_generation(World *world, Notes *notes, unsigned index)
{
    BitmapInfo info = world_info(world, names[index]);
    g_strlcpy(notes->bitmap[index].generation, info.generation,
              sizeof notes->bitmap[index].generation);
    bitmap_info_clear(&info);
}

static void change_one(World *world, Notes *notes, unsigned index, GRand *rand)
{
    bool recording = atomic_load(&notes->bitmap[index].until) == 0;
    bool clear = g_rand_boolean(rand) || (index != 2 && recording);
    atomic_store(&notes->bitmap[index].changing, true);
    uint64_t before = atomic_load(&notes->clock);
    if (clear)
        world_do(world, disk_change_clear, names[index]);
    else
        world_do(world, recording ? disk_change_disable : disk_change_enable, names[index]);
    uint64_t now = atomic_fetch_add(&notes->clock, 1) + 1;
    if (clear) {
        atomic_store(&notes->bitmap[index].since, now);
        note_generation(world, notes, index);
        if (!recording)
            atomic_store(&notes->bitmap[index].until, now);
    } else if (recording) {
        atomic_store(&notes->bitmap[index].until, before);
    } else {
        /* What it missed is missing: count from here. */
        atomic_store(&notes->bitmap[index].since, now);
        atomic_store(&notes->bitmap[index].until, 0);
    }
    atomic_store(&notes->bitmap[index].changing, false);
}

static void live_and_die(World *world, Notes *notes, unsigned seed, unsigned lifetime_usec)
{
    GRand *rand = g_rand_new_with_seed(seed);
    pthread_t threads[WRITERS];
    Writer writers[WRITERS];
    _Atomic bool stop = false;
    world_open(world);
    for (unsigned i = 0; i < BITMAPS; i++)
        atomic_store(&notes->bitmap[i].changing, false);
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (Writer){world, notes, i, seed * 31 + i, &stop};
        assert_int_equal(pthread_create(&threads[i], NULL, write_about, &writers[i]), 0);
    }
    if (lifetime_usec == 0) { /* under a thread sanitizer: to the end */
        for (unsigned i = 0; i < 30; i++)
            change_one(world, notes, (unsigned)g_rand_int_range(rand, 0, BITMAPS), rand);
        atomic_store(&stop, true);
        for (unsigned i = 0; i < WRITERS; i++)
            pthread_join(threads[i], NULL);
        world_drop(world);
        g_rand_free(rand);
        return;
    }
    for (;;) {
        g_usleep((gulong)g_rand_int_range(rand, 0, 20000));
        change_one(world, notes, (unsigned)g_rand_int_range(rand, 0, BITMAPS), rand);
    }
}

/* Whether the block must be dirty in a bitmap that recorded [since, until). */
static bool must_be_dirty(World *world, Notes *notes, uint64_t block, uint64_t since,
                          uint64_t until)
{
    uint64_t data;
    for (unsigned i = 0; i < WRITERS; i++) {
        if (atomic_load(&notes->writer[i].began[block]) > since &&
            (until == 0 || atomic_load(&notes->writer[i].ended[block]) < until))
            return true;
    }
    assert_int_equal(disk_pread(world->disk, &data, sizeof data, block * BLOCK, 0), 0);
    return until == 0 && data > since;
}

static void fail_block(World *world, Notes *notes, unsigned index, uint64_t block, uint64_t since)
{
    g_autoptr(GString) text = g_string_new(NULL);
    uint64_t data = 0;
    disk_pread(world->disk, &data, sizeof data, block * BLOCK, 0);
    for (unsigned i = 0; i < WRITERS; i++)
        g_string_append_printf(text, " writer %u %" PRIu64 "..%" PRIu64 ",", i,
                               atomic_load(&notes->writer[i].began[block]),
                               atomic_load(&notes->writer[i].ended[block]));
    fail_msg("%s: block %" PRIu64 " is clean, was written after %" PRIu64 ":%s data %" PRIu64
             ", last time %" PRIu64 ", changing %d",
             names[index], block, since, text->str, data, atomic_load(&notes->clock),
             atomic_load(&notes->bitmap[index].changing));
}

static void check_bitmap(World *world, Notes *notes, unsigned index)
{
    BitmapInfo info = world_info(world, names[index]);
    uint64_t since = atomic_load(&notes->bitmap[index].since);
    uint64_t until = atomic_load(&notes->bitmap[index].until);
    bool changing = atomic_load(&notes->bitmap[index].changing);
    if (info.state == BITMAP_INVALID)
        fail_msg("%s is invalid: %s", names[index], info.reason);
    /* A change that was killed may have happened: then it is another one's starting point. */
    bool other = changing && strcmp(info.generation, notes->bitmap[index].generation) != 0;
    if (!changing)
        assert_string_equal(info.generation, notes->bitmap[index].generation);
    if (changing && until == 0 && !info.recording)
        other = true;
    for (uint64_t block = 0; !other && block < BLOCKS; block++) {
        if (must_be_dirty(world, notes, block, since, until) &&
            !world_is_dirty(world, names[index], block * BLOCK))
            fail_block(world, notes, index, block, since);
    }
    /* From here on what it says is the truth, but for what it may have lost to an unknown change.
     */
    atomic_store(&notes->bitmap[index].changing, false);
    g_strlcpy(notes->bitmap[index].generation, info.generation,
              sizeof notes->bitmap[index].generation);
    if (changing) {
        uint64_t now = atomic_load(&notes->clock);
        atomic_store(&notes->bitmap[index].since, now);
        atomic_store(&notes->bitmap[index].until, info.recording ? 0 : now);
    }
    bitmap_info_clear(&info);
}

static int setup(void **state)
{
    World *world = world_new(SIZE);
    Notes *notes =
        mmap(NULL, sizeof *notes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(notes, MAP_FAILED);
    world->options.region_size = 256 * KiB;
    world->options.max_intents = 16;
    world->options.checkpoint_seconds = 0;
    world->options.quiet_seconds = 0;
    for (unsigned i = 0; i < BITMAPS; i++) {
        world_add(world, names[i], granularities[i]);
        note_generation(world, notes, i);
    }
    world_close(world);
    void **pair = g_new(void *, 2);
    pair[0] = world;
    pair[1] = notes;
    *state = pair;
    return 0;
}

static int teardown(void **state)
{
    void **pair = *state;
    world_free(pair[0]);
    munmap(pair[1], sizeof(Notes));
    g_free(pair);
    return 0;
}

static unsigned rounds(unsigned otherwise)
{
    const char *text = g_getenv("NBDD_TEST_ROUNDS");
    return text ? (unsigned)g_ascii_strtoull(text, NULL, 10) : otherwise;
}

static void test_kill_anywhere(void **state)
{
    World *world = ((void **)*state)[0];
    Notes *notes = ((void **)*state)[1];
    for (unsigned round = 0; round < rounds(15); round++) {
        GRand *rand = g_rand_new_with_seed(round);
        unsigned lifetime = (unsigned)g_rand_int_range(rand, 5000, 150000);
        g_rand_free(rand);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            live_and_die(world, notes, round, lifetime);
            _exit(1);
        }
        g_usleep(lifetime);
        kill(child, SIGKILL);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
            fail_msg("round %u: the child ended by itself: %x", round, status);
        world_open(world);
        for (unsigned i = 0; i < BITMAPS; i++)
            check_bitmap(world, notes, i);
        /* Now and then a clean life in between. */
        if (round % 4 == 3) {
            uint64_t dirty = world_dirty(world, "fine");
            world_close(world);
            world_open(world);
            assert_int_equal(world_dirty(world, "fine"), dirty);
        }
        world_drop(world);
    }
}

/* The same without a kill, in this process: what a thread sanitizer can follow. */
static void test_threads(void **state)
{
    World *world = ((void **)*state)[0];
    Notes *notes = ((void **)*state)[1];
    for (unsigned round = 0; round < 3; round++) {
        live_and_die(world, notes, 100 + round, 0);
        world_open(world);
        for (unsigned i = 0; i < BITMAPS; i++)
            check_bitmap(world, notes, i);
        world_drop(world);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_kill_anywhere, setup, teardown),
        cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
