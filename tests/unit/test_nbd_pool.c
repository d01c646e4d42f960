#include "daemon/nbd/pool.h"
#include "tests/unit/check.h"
#include <glib.h>
#include <stdlib.h>
#include <string.h>

#define MIB ((size_t)1 << 20)

static void test_sizes(void **state)
{
    BufferPool *pool = pool_new(1024 * MIB, 512 * MIB);
    PoolAccount account;
    pool_account_init(&account, pool);
    const size_t sizes[] = {
        1,   4096,     4097,        32768, 32769, 256 << 10, (256 << 10) + POOL_ROOM,
        MIB, 32 * MIB, POOL_MAXIMUM};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t size = 0;
        char *block = pool_take(&account, sizes[i], false, &size);
        assert_non_null(block);
        assert_true(size >= sizes[i]);
        assert_int_equal((uintptr_t)block % 4096, 0);
        assert_int_equal(pool_held(pool), size);
        assert_int_equal(account.held, size);
        block[0] = block[size - 1] = 1;
        pool_give(&account, block, i % 2 ? size : sizes[i]);
        assert_int_equal(pool_held(pool), 0);
    }
    pool_give(&account, NULL, 4096);
    pool_free(pool);
}

/* What is given back is used again, by whom it may be; and when nothing is in use for a moment,
 * nothing is kept. */
static void test_cache(void **state)
{
    BufferPool *pool = pool_new(64 * MIB, 64 * MIB);
    PoolAccount account;
    pool_account_init(&account, pool);
    void *held = pool_take(&account, 4096, false, NULL);
    size_t size;
    void *block = pool_take(&account, 100000, false, &size);
    pool_give(&account, block, size);
    assert_int_equal(pool_cached(pool), size);
    assert_ptr_equal(pool_take(&account, 100000, false, NULL), block);
    assert_int_equal(pool_cached(pool), 0);
    pool_give(&account, block, size);
    pool_give(&account, held, 4096);
    assert_int_equal(pool_held(pool), 0);
    assert_int_equal(pool_cached(pool), size + 4096);
    PoolAccount next;
    pool_account_init(&next, pool);
    assert_ptr_equal(pool_take(&next, 100000, false, NULL), block);
    gint64 end = g_get_monotonic_time() + 3 * G_USEC_PER_SEC / 2;
    while (g_get_monotonic_time() < end)
        g_main_context_iteration(NULL, false);
    assert_int_equal(pool_cached(pool), 4096); /* something is in use */
    pool_give(&next, block, size);
    end = g_get_monotonic_time() + 20 * G_USEC_PER_SEC;
    while (pool_cached(pool) > 0 && g_get_monotonic_time() < end)
        g_main_context_iteration(NULL, false);
    assert_int_equal(pool_cached(pool), 0);
    pool_free(pool);
}

static void test_account_bound(void **state)
{
    BufferPool *pool = pool_new(64 * MIB, 2 * MIB);
    PoolAccount account, other;
    pool_account_init(&account, pool);
    pool_account_init(&other, pool);
    void *first = pool_take(&account, MIB, false, NULL);
    assert_non_null(first);
    assert_null(pool_take(&account, MIB, false, NULL)); /* with its room it is more than 1 MiB */
    void *base = pool_take(&account, MIB, true, NULL);
    assert_non_null(base);
    void *others = pool_take(&other, MIB, false, NULL);
    assert_non_null(others);
    pool_give(&account, first, MIB);
    pool_give(&account, base, MIB);
    pool_give(&other, others, MIB);
    pool_free(pool);
}

/* Some who take all they get still leave something for the next one. */
static void test_newcomers_find_room(void **state)
{
    enum { HOGS = 20, EACH = 64 };
    BufferPool *pool = pool_new(64 * MIB, 64 * MIB);
    PoolAccount hogs[HOGS], newcomer;
    void *blocks[HOGS][EACH] = {{NULL}};
    for (int i = 0; i < HOGS; i++)
        pool_account_init(&hogs[i], pool);
    for (int k = 0; k < EACH; k++)
        for (int i = 0; i < HOGS; i++)
            blocks[i][k] = pool_take(&hogs[i], 512 << 10, false, NULL);
    assert_true(pool_held(pool) <= 64 * MIB);
    pool_account_init(&newcomer, pool);
    void *block = pool_take(&newcomer, 512 << 10, false, NULL);
    assert_non_null(block);
    pool_give(&newcomer, block, 512 << 10);
    for (int k = 0; k < EACH; k++)
        for (int i = 0; i < HOGS; i++)
            pool_give(&hogs[i], blocks[i][k], 512 << 10);
    assert_int_equal(pool_held(pool), 0);
    pool_free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_cache),
        cmocka_unit_test(test_account_bound),
        cmocka_unit_test(test_newcomers_find_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
