#include "ctl/map_picture.h"
#include "ctl/table.h"
#include "tests/unit/check.h"

static const TableColumn columns[] = {
    {"NAME"},
    {"SIZE", .right = true},
    {"CACHE", .optional = true},
    {"PATH", .elastic = true},
};

static Table *example(void)
{
    Table *table = table_new(columns, G_N_ELEMENTS(columns));
    static const char *const cells[] = {
        "vm1",   "64 MiB", "writeback", "/var/lib/images/vm1.img",
        "other", "1 TiB",  "-",         "/srv/some/longer/path/of/images/other-2026.img",
    };
    for (size_t i = 0; i < G_N_ELEMENTS(cells); i++)
        table_add(table, STYLE_PLAIN, cells[i]);
    return table;
}

static void check(const Table *table, const Terminal *terminal, const char *expected)
{
    g_autoptr(GString) out = g_string_new(NULL);
    table_append(out, table, terminal, 0);
    assert_string_equal(out->str, expected);
}

static void a_pipe_gets_all_of_it(void **state)
{
    g_autoptr(Table) table = example();
    const Terminal pipe = {.width = 20, .utf8 = true};
    check(table, &pipe,
          "NAME     SIZE  CACHE      PATH\n"
          "vm1    64 MiB  writeback  /var/lib/images/vm1.img\n"
          "other   1 TiB  -          /srv/some/longer/path/of/images/other-2026.img\n");
}

static void elastic_columns_are_cut_in_the_middle(void **state)
{
    g_autoptr(Table) table = example();
    const Terminal wide = {.is_terminal = true, .width = 60, .utf8 = true};
    check(table, &wide,
          "NAME     SIZE  CACHE      PATH\n"
          "vm1    64 MiB  writeback  /var/lib/images/vm1.img\n"
          "other   1 TiB  -          /srv/some/longer…es/other-2026.img\n");
    const Terminal ascii = {.is_terminal = true, .width = 60};
    check(table, &ascii,
          "NAME     SIZE  CACHE      PATH\n"
          "vm1    64 MiB  writeback  /var/lib/images/vm1.img\n"
          "other   1 TiB  -          /srv/some/longer..s/other-2026.img\n");
}

static void optional_columns_go_before_it_gets_tight(void **state)
{
    g_autoptr(Table) table = example();
    const Terminal narrow = {.is_terminal = true, .width = 42, .utf8 = true};
    check(table, &narrow,
          "NAME     SIZE  PATH\n"
          "vm1    64 MiB  /var/lib/images/vm1.img\n"
          "other   1 TiB  /srv/some/lon…ther-2026.img\n");
    const Terminal tiny = {.is_terminal = true, .width = 20, .utf8 = true};
    check(table, &tiny,
          "NAME     SIZE  PATH\n"
          "vm1    64 MiB  /var/…m1.img\n"
          "other   1 TiB  /srv/…26.img\n");
}

static void wide_and_odd_characters(void **state)
{
    const TableColumn two[] = {{"A"}, {"B"}};
    g_autoptr(Table) table = table_new(two, 2);
    table_add(table, STYLE_PLAIN, "日本");
    table_add(table, STYLE_PLAIN, "x");
    table_add(table, STYLE_PLAIN, "e\xcc\x81"); /* combining: one column */
    table_add(table, STYLE_PLAIN, "\033[31mred\n");
    const Terminal pipe = {.utf8 = true};
    check(table, &pipe, "A     B\n日本  x\ne\xcc\x81     \\x1b[31mred\\x0a\n");
}

static void colours_do_not_count(void **state)
{
    const TableColumn two[] = {{"A"}, {"B"}};
    g_autoptr(Table) table = table_new(two, 2);
    table_add(table, STYLE_GOOD, "ok");
    table_add(table, STYLE_BAD, "no");
    const Terminal colour = {.is_terminal = true, .colour = true, .width = 80};
    check(table, &colour,
          "\033[1mA\033[0m   \033[1mB\033[0m\n\033[32mok\033[0m  \033[1;31mno\033[0m\n");
}

/* --- the dirty map --- */

static const Terminal ascii = {.width = 80};

static void cells_are_whole_granules(void **state)
{
    static const struct {
        uint64_t size, granularity, cell;
        unsigned width, columns, cells;
    } rows[] = {
        {64 << 20, 65536, 65536, 80, 64, 1024},
        {(64 << 20) + 1, 65536, 131072, 80, 64, 513},
        {1ULL << 40, 65536, 1ULL << 30, 80, 64, 1024},
        {1ULL << 40, 65536, 1ULL << 30, 120, 96, 1024},
        {100 << 10, 65536, 65536, 80, 64, 2},
        {1, 512, 512, 20, 7, 1},
        {0, 65536, 65536, 80, 64, 0},
        {INT64_MAX, 512, 1ULL << 53, 80, 64, 1024},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        MapPicture picture;
        const Terminal terminal = {.width = rows[i].width};
        map_picture_init(&picture, &terminal, rows[i].size, rows[i].granularity);
        assert_int_equal(picture.cell, rows[i].cell);
        assert_int_equal(picture.columns, rows[i].columns);
        assert_int_equal(picture.cells, rows[i].cells);
        map_picture_clear(&picture);
    }
}

static void shades_say_how_much(void **state)
{
    MapPicture picture;
    enum { MIB = 1 << 20 };
    /* 2048 granules of 512 bytes would be two pictures: a cell is 1 KiB. The last one is half. */
    map_picture_init(&picture, &ascii, MIB - 512, 512);
    assert_int_equal(picture.cell, 1024);
    map_picture_add(&picture, 0, 1024);             /* all of cell 0 */
    map_picture_add(&picture, 2048, 256);           /* a quarter of cell 2 */
    map_picture_add(&picture, 3072, 512);           /* half of cell 3 */
    map_picture_add(&picture, 4096, 1023);          /* all but one byte of cell 4 */
    map_picture_add(&picture, 5120 + 1023, 2);      /* a byte each of cells 5 and 6 */
    map_picture_add(&picture, MIB - 1024, 1 << 30); /* the last, and what is not there */
    g_autoptr(GString) out = g_string_new(NULL);
    map_picture_append(out, &picture, &ascii);
    g_auto(GStrv) lines = g_strsplit(out->str, "\n", -1);
    assert_string_equal(
        lines[0], "          0  #.-+*--.........................................................");
    assert_string_equal(
        lines[15], "    960 KiB  ...............................................................#");
    assert_string_equal(lines[16], "");
    assert_string_equal(lines[17], ". clean   - to 25 %   + to 50 %   * below 100 %   # all dirty");
    assert_string_equal(lines[18], "one cell: 1 KiB, one row: 64 KiB");
    assert_int_equal(picture.total, 1024 + 256 + 512 + 1023 + 2 + 512);
    assert_int_equal(picture.ranges, 6);
    map_picture_clear(&picture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pipe_gets_all_of_it),
        cmocka_unit_test(elastic_columns_are_cut_in_the_middle),
        cmocka_unit_test(optional_columns_go_before_it_gets_tight),
        cmocka_unit_test(wide_and_odd_characters),
        cmocka_unit_test(colours_do_not_count),
        cmocka_unit_test(cells_are_whole_granules),
        cmocka_unit_test(shades_say_how_much),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
