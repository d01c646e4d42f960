#include "storage/inline_gate.h"
#include "tests/unit/check.h"

#define MS ((int64_t)1000000)

static void quick_io_keeps_it_open(void **state)
{
    InlineGate gate = {0};

    for (int64_t now = 0; now < 1000 * MS; now += MS) {
        assert_true(inline_gate_is_open(&gate, now));
        inline_gate_report(&gate, now, now + MS / 2, 4096);
    }
}

static void a_slow_one_closes_it_for_a_while(void **state)
{
    InlineGate gate = {0};

    inline_gate_report(&gate, 0, 5 * MS, 4096);
    assert_false(inline_gate_is_open(&gate, 6 * MS));
    assert_false(inline_gate_is_open(&gate, 14 * MS));
    assert_true(inline_gate_is_open(&gate, 15 * MS));
}

static void much_copying_is_not_slow(void **state)
{
    InlineGate gate = {0};

    inline_gate_report(&gate, 0, 30 * MS, 32 * 1024 * 1024);
    assert_true(inline_gate_is_open(&gate, 30 * MS));
}

/* How long it stays closed after one more slow one. */
static int64_t closed_for(InlineGate *gate, int64_t now)
{
    int64_t length = 0;

    inline_gate_report(gate, now, now + 5 * MS, 0);
    while (!inline_gate_is_open(gate, now + 5 * MS + length)) {
        length += MS;
    }
    return length;
}

static void it_learns_and_forgives(void **state)
{
    InlineGate gate = {0};
    int64_t now = 0, last = 0;

    for (int i = 0; i < 8; i++) {
        int64_t length = closed_for(&gate, now);

        assert_true(length > last);
        last = length;
        now += 5 * MS + length;
    }
    /* As long as it gets. */
    assert_true(closed_for(&gate, now) == last);
    assert_true(last <= 5000 * MS);
    now += 5 * MS + last;
    for (int i = 0; i < 64; i++) {
        inline_gate_report(&gate, now, now, 4096);
    }
    assert_true(closed_for(&gate, now) == 0);
    assert_true(closed_for(&gate, now + 5 * MS) == 10 * MS);
}

/* Those that wait for one that was preempted are slow with it: that is one slow one, not many. */
static void what_is_slow_together_counts_once(void **state)
{
    InlineGate gate = {0};

    for (int i = 0; i < 64; i++) {
        inline_gate_report(&gate, 0, 0, 4096);
    }
    for (int i = 0; i < 8; i++) {
        inline_gate_report(&gate, MS + i, 7 * MS - i, 4096);
    }
    assert_true(inline_gate_is_open(&gate, 7 * MS));
    inline_gate_report(&gate, 8 * MS, 12 * MS, 4096);
    assert_false(inline_gate_is_open(&gate, 12 * MS));
}

static void one_that_hangs_is_enough(void **state)
{
    InlineGate gate = {0};

    for (int i = 0; i < 1000; i++) {
        inline_gate_report(&gate, 0, 0, 4096);
    }
    inline_gate_report(&gate, 0, 200 * MS, 4096);
    assert_false(inline_gate_is_open(&gate, 201 * MS));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quick_io_keeps_it_open),
        cmocka_unit_test(a_slow_one_closes_it_for_a_while),
        cmocka_unit_test(much_copying_is_not_slow),
        cmocka_unit_test(it_learns_and_forgives),
        cmocka_unit_test(what_is_slow_together_counts_once),
        cmocka_unit_test(one_that_hangs_is_enough),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
