/* storage/bitmap_bits.h against arrays of bool, with random operations. */
#include "storage/bitmap_bits.h"
#include "tests/unit/check.h"
#include <glib.h>
#include <string.h>

static void set_model(bool *model, uint64_t first, uint64_t end)
{
    for (uint64_t i = first; i < end; i++)
        model[i] = true;
}

static uint64_t next_in_model(const bool *model, uint64_t from, uint64_t end, bool value)
{
    while (from < end && model[from] != value)
        from++;
    return from;
}

static void compare(const Bits *bits, const bool *model, uint64_t count)
{
    uint64_t population = 0;
    assert_int_equal(bits->count, count);
    for (uint64_t i = 0; i < count; i++) {
        assert_int_equal(bits_test(bits, i), model[i]);
        population += model[i];
    }
    assert_int_equal(bits_population(bits), population);
}

/* A range, short or long, often at the edges of words and pages. */
static void choose_range(GRand *rand, uint64_t count, uint64_t *ret_first, uint64_t *ret_end)
{
    static const unsigned units[] = {1, 64, BITS_PAGE};
    unsigned unit = units[g_rand_int_range(rand, 0, 3)];
    uint64_t first = g_rand_int(rand) % count / unit * unit;
    uint64_t length = 1 + g_rand_int(rand) % (g_rand_boolean(rand) ? 5 : count);
    *ret_first = first;
    *ret_end = MIN(count, first + (length + unit - 1) / unit * unit);
}

/* In steps of any size, as readers go on. */
static void compare_changes(GRand *rand, const Bits *bits, const bool *model, uint64_t first,
                            uint64_t end)
{
    uint32_t at[7];
    uint64_t from = first, expected = first, origin = (uint64_t)g_rand_int(rand) % (first + 1);
    bool value = g_rand_boolean(rand), now = value;
    size_t max = (size_t)g_rand_int_range(rand, 1, 8), count;
    do {
        count = bits_changes(bits, from, end, value, origin, at, max);
        for (size_t i = 0; i < count; i++) {
            while (expected < end && model[expected] == now)
                expected++;
            assert_int_equal(origin + at[i], expected);
            now = !now;
        }
        if (count % 2 == 1)
            value = !value;
        from = count > 0 ? origin + at[count - 1] + 1 : from;
    } while (count == max);
    assert_int_equal(next_in_model(model, expected, end, !now), end);
}

static void test_against_model(void **state)
{
    static const uint64_t counts[] = {1, 63, 64, 65, 4095, 4096, 4097, 20000};
    for (unsigned seed = 0; seed < 40; seed++) {
        GRand *rand = g_rand_new_with_seed(seed);
        uint64_t count = counts[seed % G_N_ELEMENTS(counts)], first, end;
        g_autofree bool *model = g_new0(bool, count);
        Bits *bits = bits_new(count);
        assert_non_null(bits);
        for (unsigned step = 0; step < 60; step++) {
            choose_range(rand, count, &first, &end);
            if (g_rand_boolean(rand)) {
                bits_set(bits, first, end);
                set_model(model, first, end);
            } else {
                bits_set_one(bits, first);
                model[first] = true;
            }
            choose_range(rand, count, &first, &end);
            assert_int_equal(bits_next_set(bits, first, end),
                             next_in_model(model, first, end, true));
            assert_int_equal(bits_next_clear(bits, first, end),
                             next_in_model(model, first, end, false));
            assert_int_equal(bits_all_set(bits, first, end),
                             next_in_model(model, first, end, false) == end);
            compare_changes(rand, bits, model, first, end);
        }
        compare(bits, model, count);
        Bits *copy = bits_copy(bits);
        compare(copy, model, count);
        bits_free(copy);
        bits_free(bits);
        g_rand_free(rand);
    }
}

/* What a reader has seen of a run is not turned round by a write that comes before it goes on. */
static void test_changes_while_bits_are_set(void **state)
{
    Bits *bits = bits_new(200);
    uint32_t at[8];
    bits_set(bits, 0, 10);
    assert_int_equal(bits_changes(bits, 0, 200, true, 0, at, 1), 1);
    assert_int_equal(at[0], 10);
    bits_set(bits, 10, 20); /* clear, it was said, from 10 on */
    assert_int_equal(bits_changes(bits, 11, 200, false, 0, at, 8), 2);
    assert_int_equal(at[0], 11);
    assert_int_equal(at[1], 20);
    bits_free(bits);
}

static void test_merge_granularities(void **state)
{
    for (unsigned seed = 0; seed < 60; seed++) {
        GRand *rand = g_rand_new_with_seed(1000 + seed);
        unsigned from = 9 + (unsigned)g_rand_int_range(rand, 0, 6);
        unsigned to = 9 + (unsigned)g_rand_int_range(rand, 0, 6);
        uint64_t size = 1 + g_rand_int(rand) % (UINT64_C(4) << 20); /* no multiple of anything */
        uint64_t sources = (size + (1u << from) - 1) >> from;
        uint64_t targets = (size + (1u << to) - 1) >> to;
        g_autofree bool *model = g_new0(bool, targets);
        Bits *source = bits_new(sources), *target = bits_new(targets);
        for (unsigned i = 0; i < 20; i++) {
            uint64_t first, end;
            choose_range(rand, sources, &first, &end);
            end = MIN(end, first + 9);
            bits_set(source, first, end);
            for (uint64_t byte = first << from; byte < MIN(end << from, size); byte += 512)
                model[byte >> to] = true;
            uint64_t mine = g_rand_int(rand) % targets;
            bits_set_one(target, mine);
            model[mine] = true;
        }
        bits_merge(target, to, source, from);
        compare(target, model, targets);
        bits_free(source);
        bits_free(target);
        g_rand_free(rand);
    }
}

static void test_pages_and_growth(void **state)
{
    uint64_t words[BITS_WORDS];
    Bits *bits = bits_new(BITS_PAGE + 10);
    assert_int_equal(bits_page_get(bits, 0, words), BITS_PAGE_EMPTY);
    bits_set(bits, 0, BITS_PAGE);
    assert_int_equal(bits_page_get(bits, 0, words), BITS_PAGE_FULL);
    bits_set(bits, BITS_PAGE, BITS_PAGE + 9);
    assert_int_equal(bits_page_get(bits, 1, words), BITS_PAGE_MIXED);
    assert_int_equal(words[0], 0x1ff);
    bits_set_one(bits, BITS_PAGE + 9);
    assert_int_equal(bits_page_get(bits, 1, words), BITS_PAGE_FULL);
    assert_int_equal(words[0], 0x3ff);
    assert_int_equal(bits_population(bits), BITS_PAGE + 10);
    assert_true(bits_grow(bits, 3 * BITS_PAGE));
    assert_int_equal(bits_population(bits), BITS_PAGE + 10);
    assert_int_equal(bits_next_clear(bits, 0, bits->count), BITS_PAGE + 10);
    bits_free(bits);

    /* The last page full as one, and then the disk grows. */
    bits = bits_new(10);
    bits_set(bits, 0, 10);
    assert_true(bits_grow(bits, 20));
    assert_int_equal(bits_population(bits), 10);
    bits_free(bits);
    assert_null(bits_new(BITS_MAX + 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_model),
        cmocka_unit_test(test_changes_while_bits_are_set),
        cmocka_unit_test(test_merge_granularities),
        cmocka_unit_test(test_pages_and_growth),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
