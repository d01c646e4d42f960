#include "storage/data_runs.h"
#include "tests/unit/check.h"
#include <glib.h>
#include <string.h>

static uint64_t find(DataRuns *runs, uint64_t offset)
{
    uint64_t ticket;

    return data_runs_find(runs, offset, &ticket);
}

static uint64_t ticket_of(DataRuns *runs)
{
    uint64_t ticket;

    data_runs_find(runs, 0, &ticket);
    return ticket;
}

static void what_was_found_is_known(void **state)
{
    DataRuns runs;

    data_runs_init(&runs);
    assert_int_equal(find(&runs, 0), 0);
    data_runs_add(&runs, 100, 200, ticket_of(&runs));
    assert_int_equal(find(&runs, 99), 0);
    assert_int_equal(find(&runs, 100), 200);
    assert_int_equal(find(&runs, 199), 200);
    assert_int_equal(find(&runs, 200), 0);
    data_runs_destroy(&runs);
}

static void neighbours_become_one(void **state)
{
    DataRuns runs;

    data_runs_init(&runs);
    data_runs_add(&runs, 100, 200, ticket_of(&runs));
    data_runs_add(&runs, 300, 400, ticket_of(&runs));
    data_runs_add(&runs, 200, 300, ticket_of(&runs));
    assert_int_equal(runs.count, 1);
    assert_int_equal(find(&runs, 100), 400);
    data_runs_destroy(&runs);
}

static void holes_are_cut_out(void **state)
{
    DataRuns runs;

    data_runs_init(&runs);
    data_runs_add(&runs, 100, 200, ticket_of(&runs));
    data_runs_forget(&runs, 120, 130);
    assert_int_equal(find(&runs, 100), 120);
    assert_int_equal(find(&runs, 120), 0);
    assert_int_equal(find(&runs, 130), 200);
    data_runs_forget(&runs, 0, 110);
    assert_int_equal(find(&runs, 109), 0);
    assert_int_equal(find(&runs, 110), 120);
    data_runs_forget(&runs, 150, 1000);
    assert_int_equal(find(&runs, 140), 150);
    data_runs_forget(&runs, 0, UINT64_MAX);
    assert_int_equal(runs.count, 0);
    data_runs_destroy(&runs);
}

/* One looks at the file, another punches a hole, the first one would remember what it saw. */
static void what_was_seen_before_a_hole_is_not_kept(void **state)
{
    DataRuns runs;
    uint64_t ticket;

    data_runs_init(&runs);
    data_runs_find(&runs, 0, &ticket);
    data_runs_forget(&runs, 0, 10);
    data_runs_add(&runs, 0, 100, ticket);
    assert_int_equal(find(&runs, 0), 0);
    data_runs_destroy(&runs);
}

/* Against a byte for each offset: it never knows data where a hole may be. */
static void it_never_knows_too_much(void **state)
{
    bool data[2000];
    GRand *random = g_rand_new_with_seed(7);
    DataRuns runs;

    data_runs_init(&runs);
    memset(data, 0, sizeof data);
    for (int i = 0; i < 20000; i++) {
        uint64_t start = g_rand_int(random) % 2000, end = start + g_rand_int(random) % 50 + 1,
                 known;

        end = end > 2000 ? 2000 : end;
        if (g_rand_int(random) % 3 == 0) {
            memset(data + start, 0, end - start);
            data_runs_forget(&runs, start, end);
        } else {
            memset(data + start, 1, end - start);
            data_runs_add(&runs, start, end, ticket_of(&runs));
        }
        assert_true(runs.count <= DATA_RUNS);
        start = g_rand_int(random) % 2000;
        known = find(&runs, start);
        for (uint64_t offset = start; offset < known; offset++) {
            assert_true(data[offset]);
        }
    }
    g_rand_free(random);
    data_runs_destroy(&runs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_found_is_known),
        cmocka_unit_test(neighbours_become_one),
        cmocka_unit_test(holes_are_cut_out),
        cmocka_unit_test(what_was_seen_before_a_hole_is_not_kept),
        cmocka_unit_test(it_never_knows_too_much),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
