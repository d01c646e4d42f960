/* The cache of extents on a disk in memory that counts how often it is asked. */
#include "storage/extent_cache.h"
#include "tests/unit/check.h"
#include <errno.h>
#include <pthread.h>

#define BLOCK  UINT64_C(65536)
#define CHUNK  (UINT64_C(1) << 20)
#define BLOCKS 8192u

typedef struct {
    Backend base;
    ExtentCache cache;
    _Atomic bool data[BLOCKS * 2];
    _Atomic unsigned asked;
    _Atomic uint64_t stamp; /* 0: none can be told */
    bool slow;              /* time passes between the look and its answer */
} Fixture;

static int fake_extents(Backend *base, uint64_t offset, uint64_t length, ExtentList *list)
{
    Fixture *fixture = (Fixture *)base;
    uint64_t end = offset + length, covered = list->total;
    atomic_fetch_add(&fixture->asked, 1);
    while (offset < end) {
        uint64_t until = MIN((offset / BLOCK + 1) * BLOCK, end);
        bool data = atomic_load(&fixture->data[offset / BLOCK]);
        if (!extent_list_add(list, until - offset, data ? 0 : EXTENT_HOLE | EXTENT_ZERO))
            return list->total > covered ? 0 : -ENOMEM;
        offset = until;
    }
    if (fixture->slow)
        g_usleep(1);
    return 0;
}

static bool fake_stamp(Backend *base, BackendStamp *ret_stamp)
{
    Fixture *fixture = (Fixture *)base;
    *ret_stamp = (BackendStamp){.ctime = (int64_t)atomic_load(&fixture->stamp)};
    return ret_stamp->ctime != 0;
}

static const BackendOps fake_ops = {.name = "fake", .extents = fake_extents, .stamp = fake_stamp};
static const BackendOps stampless_ops = {.name = "fake", .extents = fake_extents};

static int set_up(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);
    *state = fixture;
    fixture->base.ops = &fake_ops;
    fixture->base.size = BLOCKS * BLOCK;
    fixture->stamp = 1;
    extent_cache_init(&fixture->cache);
    return 0;
}

static int tear_down(void **state)
{
    Fixture *fixture = *state;
    extent_cache_destroy(&fixture->cache);
    g_free(fixture);
    return 0;
}

static void change(Fixture *fixture, uint64_t first, uint64_t count, bool data)
{
    for (uint64_t i = first; i < first + count; i++)
        atomic_store(&fixture->data[i], data);
    extent_cache_changed(&fixture->cache, first * BLOCK, count * BLOCK);
}

/* By somebody who tells us nothing. */
static void change_by_others(Fixture *fixture, uint64_t first, uint64_t count, bool data)
{
    atomic_fetch_add(&fixture->stamp, 1);
    for (uint64_t i = first; i < first + count; i++)
        atomic_store(&fixture->data[i], data);
}

static void ask(Fixture *fixture, uint64_t offset, uint64_t length, size_t max, ExtentList *ret)
{
    extent_list_init(ret, offset, max);
    assert_int_equal(extent_cache_extents(&fixture->cache, &fixture->base, offset, length, ret), 0);
    assert_true(ret->count > 0 && ret->count <= max);
}

/* How often the disk was asked for an answer that must be right, as far as it goes. */
static unsigned check_range(Fixture *fixture, uint64_t offset, uint64_t length, size_t max)
{
    unsigned before = atomic_load(&fixture->asked);
    ExtentList list, expected;
    ask(fixture, offset, length, max, &list);
    unsigned asked = atomic_load(&fixture->asked) - before;
    extent_list_init(&expected, offset, max);
    assert_int_equal(fake_extents(&fixture->base, offset, length, &expected), 0);
    assert_int_equal(list.count, expected.count);
    for (size_t i = 0; i < list.count; i++) {
        assert_int_equal(list.items[i].length, expected.items[i].length);
        assert_int_equal(list.items[i].flags, expected.items[i].flags);
    }
    extent_list_clear(&list);
    extent_list_clear(&expected);
    return asked;
}

static void what_was_asked_is_known(void **state)
{
    Fixture *fixture = *state;
    uint64_t size = fixture->base.size;
    for (uint64_t i = 0; i < BLOCKS; i += 3)
        change(fixture, i, 1, true);
    assert_true(check_range(fixture, 0, size, SIZE_MAX) > 0);
    assert_int_equal(check_range(fixture, 0, size, SIZE_MAX), 0);
    assert_int_equal(check_range(fixture, 12345, size / 2, SIZE_MAX), 0);
    assert_int_equal(check_range(fixture, 7 * CHUNK + 1, 3, 1), 0);
    assert_int_equal(check_range(fixture, 100, size - 100, 17), 0);
}

static void a_change_is_asked_for_and_nothing_else(void **state)
{
    Fixture *fixture = *state;
    uint64_t size = fixture->base.size, blocks = CHUNK / BLOCK;
    check_range(fixture, 0, size, SIZE_MAX);
    change(fixture, 5 * blocks, 1, true);
    assert_int_equal(check_range(fixture, 0, size, SIZE_MAX), 1);
    assert_int_equal(check_range(fixture, 0, size, SIZE_MAX), 0);
    change(fixture, 6 * blocks - 1, 2, true); /* in two chunks */
    assert_int_equal(check_range(fixture, 0, size, SIZE_MAX), 2);
}

/* Who asks for little is answered from what is known, or has only that looked up. */
static void little_is_not_made_much(void **state)
{
    Fixture *fixture = *state;
    assert_int_equal(check_range(fixture, 3 * BLOCK, BLOCK, 1), 1);
    assert_null(atomic_load(&fixture->cache.table));
    check_range(fixture, 0, CHUNK, SIZE_MAX);
    assert_int_equal(check_range(fixture, 3 * BLOCK, BLOCK, 1), 0);
    assert_int_equal(check_range(fixture, CHUNK, BLOCK, 1), 1);
    assert_int_equal(check_range(fixture, CHUNK, BLOCK, 1), 1);
}

static void what_others_change_is_asked_for(void **state)
{
    Fixture *fixture = *state;
    uint64_t size = fixture->base.size;
    check_range(fixture, 0, size, SIZE_MAX);
    change_by_others(fixture, 40, 2, true);
    assert_true(check_range(fixture, 0, size, SIZE_MAX) > 0);
    assert_int_equal(check_range(fixture, 0, size, SIZE_MAX), 0);
    change_by_others(fixture, 40, 1, false);
    /* Also by who asks for little. */
    check_range(fixture, 40 * BLOCK, BLOCK, 1);
    check_range(fixture, 0, size, SIZE_MAX);
    assert_int_equal(check_range(fixture, 0, size, SIZE_MAX), 0);
}

/* While the stamp does not tell, nothing is learned, and nothing that was learned is believed. */
static void without_a_stamp_the_file_is_asked(void **state)
{
    Fixture *fixture = *state;
    uint64_t size = fixture->base.size;
    check_range(fixture, 0, size, SIZE_MAX);
    fixture->stamp = 0;
    fixture->data[77] = true;
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(check_range(fixture, 0, size, SIZE_MAX), 1);
    fixture->base.ops = &stampless_ops;
    assert_int_equal(check_range(fixture, 0, size, SIZE_MAX), 1);
    fixture->base.ops = &fake_ops;
    fixture->stamp = 2;
    assert_true(check_range(fixture, 0, size, SIZE_MAX) > 1);
    assert_int_equal(check_range(fixture, 0, size, SIZE_MAX), 0);
}

static void check_run(Fixture *fixture, uint64_t first, uint64_t count, uint64_t expected,
                      bool expected_hole)
{
    uint64_t length = 0;
    bool hole = !expected_hole;
    assert_int_equal(extent_cache_run_to_read(&fixture->cache, &fixture->base, first * BLOCK,
                                              count * BLOCK, &length, &hole),
                     0);
    assert_int_equal(length, expected * BLOCK);
    assert_int_equal(hole, expected_hole);
}

/* Whatever the stamp says; known data costs no question. */
static void a_hole_that_is_read_is_one(void **state)
{
    Fixture *fixture = *state;
    change(fixture, 60, 40, true); /* in several chunks */
    for (int known = 0; known < 2; known++) {
        check_run(fixture, 0, 200, 60, true);
        check_run(fixture, 59, 1, 1, true);
        check_run(fixture, 60, 100, 40, false);
        check_run(fixture, 70, 20, 20, false);
        check_run(fixture, 100, 100, 100, true);
        check_range(fixture, 0, fixture->base.size, SIZE_MAX);
    }
    unsigned asked = fixture->asked;
    check_run(fixture, 60, 40, 40, false);
    assert_int_equal(fixture->asked, asked);
    for (unsigned i = 120; i < 130; i++)
        fixture->data[i] = true;
    check_run(fixture, 100, 100, 20, true);
    check_run(fixture, 120, 80, 10, false);
    check_run(fixture, 125, 5, 5, false);
    check_run(fixture, BLOCKS - 10, 10, 10, true);
}

static void growth_is_not_known(void **state)
{
    Fixture *fixture = *state;
    atomic_store(&fixture->base.size, BLOCKS * BLOCK - CHUNK / 2);
    check_range(fixture, 0, fixture->base.size, SIZE_MAX);
    for (uint64_t i = BLOCKS - 4; i < BLOCKS * 2; i++)
        atomic_store(&fixture->data[i], true);
    atomic_store(&fixture->base.size, BLOCKS * BLOCK * 2);
    extent_cache_changed(&fixture->cache, 0, UINT64_MAX);
    check_range(fixture, 0, fixture->base.size, SIZE_MAX);
    check_range(fixture, BLOCKS * BLOCK - CHUNK, CHUNK * 2, SIZE_MAX);
}

static void random_changes_and_questions(void **state)
{
    Fixture *fixture = *state;
    g_autoptr(GRand) random = g_rand_new_with_seed(11);
    for (int i = 0; i < 4000; i++) {
        uint64_t first = (uint64_t)g_rand_int_range(random, 0, BLOCKS);
        uint64_t most = (uint64_t)g_rand_int_range(random, 1, i % 7 ? 20 : 2000);
        uint64_t count = MIN(most, BLOCKS - first);
        if (i % 3 == 0)
            change(fixture, first, count, g_rand_boolean(random));
        else
            check_range(fixture, first * BLOCK + (i % 5 ? 0 : 777),
                        MAX(count * BLOCK - 999, BLOCK) - 777,
                        i % 2 ? SIZE_MAX : (size_t)g_rand_int_range(random, 1, 50));
    }
}

typedef struct {
    Fixture *fixture;
    unsigned index;
    _Atomic bool *done;
} Party;

#define WRITERS 3
#define ROUNDS  2000

/* A block that was written, and whose write was answered, is data for whoever asks then, and stays
 * so. */
static void *write_and_look(void *data)
{
    Party *party = data;
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t block = i % (BLOCKS / 4 / WRITERS) * WRITERS + party->index; /* its own */
        bool is_data = i / (BLOCKS / 4 / WRITERS) % 2 == 0;
        change(party->fixture, block, 1, is_data);
        for (int look = 0; look < 2; look++) {
            ExtentList list;
            ask(party->fixture, block * BLOCK, look ? BLOCK : CHUNK, 1, &list);
            assert_int_equal(list.items[0].flags, is_data ? 0 : EXTENT_HOLE | EXTENT_ZERO);
            extent_list_clear(&list);
            g_usleep(100);
        }
    }
    return NULL;
}

static void *keep_asking(void *data)
{
    Party *party = data;
    while (!atomic_load(party->done)) {
        ExtentList list;
        ask(party->fixture, 0, BLOCKS * BLOCK / 4, SIZE_MAX, &list);
        extent_list_clear(&list);
    }
    return NULL;
}

static void no_change_is_missed(void **state)
{
    Fixture *fixture = *state;
    _Atomic bool done = false;
    fixture->slow = true;
    Party parties[WRITERS + 1];
    pthread_t threads[WRITERS + 1];
    for (unsigned i = 0; i <= WRITERS; i++) {
        parties[i] = (Party){.fixture = fixture, .index = i, .done = &done};
        assert_int_equal(pthread_create(&threads[i], NULL,
                                        i < WRITERS ? write_and_look : keep_asking, &parties[i]),
                         0);
    }
    for (unsigned i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    atomic_store(&done, true);
    pthread_join(threads[WRITERS], NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_was_asked_is_known),         TEST(a_change_is_asked_for_and_nothing_else),
        TEST(little_is_not_made_much),         TEST(growth_is_not_known),
        TEST(random_changes_and_questions),    TEST(no_change_is_missed),
        TEST(what_others_change_is_asked_for), TEST(without_a_stamp_the_file_is_asked),
        TEST(a_hole_that_is_read_is_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
