#include "ctl/units.h"
#include "tests/unit/check.h"

static void sizes_with_suffixes(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {
        {"0", 0},
        {"65536", 65536},
        {"64k", 65536},
        {"64K", 65536},
        {"64KiB", 65536},
        {"1m", 1 << 20},
        {"3G", 3ULL << 30},
        {"2T", 2ULL << 40},
        {"8191P", 8191ULL << 50},
        {"15E", 15ULL << 60},
        {"18446744073709551615", UINT64_MAX},
    };
    static const char *const bad[] = {
        "",    "k",    "-1",   "+1",    " 1",   "1 k", "1.5M",
        "1kk", "1x",   "64KB", "1KiBs", "0x10", "16E", "18446744073709551616",
        "1Ki", "64ib",
    };
    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        uint64_t bytes = 0;
        if (!size_parse(good[i].text, &bytes) || bytes != good[i].bytes)
            fail_msg("%s is %" G_GUINT64_FORMAT, good[i].text, bytes);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        uint64_t bytes = 42;
        if (size_parse(bad[i], &bytes) || bytes != 42)
            fail_msg("taken: %s", bad[i]);
    }
}

typedef void (*Append)(GString *out, uint64_t number);

static void check(Append append, uint64_t number, const char *expected)
{
    g_autoptr(GString) out = g_string_new(NULL);
    append(out, number);
    assert_string_equal(out->str, expected);
}

static void sizes_for_people(void **state)
{
    check(size_append, 0, "0");
    check(size_append, 1, "1 B");
    check(size_append, 1023, "1023 B");
    check(size_append, 1024, "1 KiB");
    check(size_append, 1025, "1.0 KiB"); /* the fraction says: not exactly */
    check(size_append, 1536, "1.5 KiB");
    check(size_append, (1 << 20) - 1, "1023 KiB"); /* cut, not rounded */
    check(size_append, 12 * 1024 * 1024 + 512 * 1024, "12.5 MiB");
    check(size_append, (1ULL << 30) + (1ULL << 30) * 46 / 100, "1.45 GiB");
    check(size_append, 64ULL << 40, "64 TiB");
    check(size_append, UINT64_MAX, "15.9 EiB");
    check(size_append_exact, 512, "512 B");
    check(size_append_exact, 65536, "64 KiB (65536 bytes)");
}

static void durations(void **state)
{
    check(duration_append, 0, "0 s");
    check(duration_append, 59, "59 s");
    check(duration_append, 185, "3 min 5 s");
    check(duration_append, 7800, "2 h 10 min");
    check(duration_append, 5 * 86400 + 3 * 3600 + 59, "5 d 3 h");
}

static void latencies(void **state)
{
    g_autoptr(GString) out = g_string_new(NULL);
    latency_append(out, 999, true);
    g_string_append_c(out, ' ');
    latency_append(out, 999, false);
    g_string_append_c(out, ' ');
    latency_append(out, 131072, true);
    g_string_append_c(out, ' ');
    latency_append(out, 2097152, true);
    assert_string_equal(out->str, "999 µs 999 us 131 ms 2.0 s");
}

static void percentages_do_not_flatter(void **state)
{
    static const struct {
        uint64_t part, whole;
        const char *text;
    } rows[] = {
        {0, 100, "0 %"},  {1, 1000000, "below 0.1 %"},       {195, 1000, "19.5 %"},
        {1, 2, "50.0 %"}, {999999, 1000000, "above 99.9 %"}, {7, 7, "100 %"},
        {0, 0, "0 %"},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GString) out = g_string_new(NULL);
        percentage_append(out, rows[i].part, rows[i].whole);
        assert_string_equal(out->str, rows[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_with_suffixes),
        cmocka_unit_test(sizes_for_people),
        cmocka_unit_test(durations),
        cmocka_unit_test(latencies),
        cmocka_unit_test(percentages_do_not_flatter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
