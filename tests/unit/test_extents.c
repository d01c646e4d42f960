#include "storage/extents.h"
#include "tests/unit/check.h"

static void equal_neighbours_merge(void **state)
{
    ExtentList list;

    extent_list_init(&list, 4096, 4);
    assert_true(extent_list_add(&list, 100, 0));
    assert_true(extent_list_add(&list, 28, 0));
    assert_true(extent_list_add(&list, 0, EXTENT_HOLE));
    assert_true(extent_list_add(&list, 1, EXTENT_HOLE | EXTENT_ZERO));
    assert_int_equal(list.count, 2);
    assert_int_equal(list.offset, 4096);
    assert_int_equal(list.total, 129);
    assert_int_equal(list.items[0].length, 128);
    assert_int_equal(list.items[1].length, 1);
    assert_int_equal(list.items[1].flags, EXTENT_HOLE | EXTENT_ZERO);
    extent_list_clear(&list);
}

static void the_bound_holds(void **state)
{
    ExtentList list;

    extent_list_init(&list, 0, 2);
    assert_true(extent_list_add(&list, 10, 0));
    assert_true(extent_list_add(&list, 10, 1));
    assert_false(extent_list_add(&list, 10, 0));
    assert_int_equal(list.count, 2);
    assert_int_equal(list.total, 20);
    /* The last one may still grow. */
    assert_true(extent_list_add(&list, 5, 1));
    assert_int_equal(list.total, 25);
    extent_list_clear(&list);
}

static void lengths_are_64_bit(void **state)
{
    ExtentList list;

    extent_list_init(&list, 0, 1);
    assert_true(extent_list_add(&list, UINT64_C(1) << 40, 0));
    assert_true(extent_list_add(&list, UINT64_C(1) << 62, 0));
    assert_true(list.items[0].length == (UINT64_C(1) << 40) + (UINT64_C(1) << 62));
    extent_list_clear(&list);
}

static void many_extents_grow_the_list(void **state)
{
    ExtentList list;

    extent_list_init(&list, 0, 1000);
    for (uint32_t i = 0; i < 1000; i++) {
        assert_true(extent_list_add(&list, 512, i & 1));
    }
    assert_false(extent_list_add(&list, 512, 0));
    assert_int_equal(list.count, 1000);
    assert_int_equal(list.total, 512000);
    extent_list_clear(&list);
}

static void truncate_cuts_and_drops(void **state)
{
    ExtentList list;

    extent_list_init(&list, 0, 8);
    extent_list_add(&list, 10, 0);
    extent_list_add(&list, 10, 1);
    extent_list_add(&list, 10, 0);
    extent_list_truncate(&list, 100);
    assert_int_equal(list.total, 30);
    extent_list_truncate(&list, 15);
    assert_int_equal(list.count, 2);
    assert_int_equal(list.items[1].length, 5);
    extent_list_truncate(&list, 10);
    assert_int_equal(list.count, 1);
    extent_list_truncate(&list, 0);
    assert_int_equal(list.count, 0);
    assert_true(extent_list_add(&list, 3, 1));
    assert_int_equal(list.items[0].flags, 1);
    extent_list_clear(&list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_neighbours_merge),  cmocka_unit_test(the_bound_holds),
        cmocka_unit_test(lengths_are_64_bit),      cmocka_unit_test(many_extents_grow_the_list),
        cmocka_unit_test(truncate_cuts_and_drops),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
