#include "ctl/table.h"
#include "ctl/errors.h"
#include <string.h>

/* Elastic columns are cut down to ROOMY; then optional ones go; then it is TIGHT. */
enum { GAP = 2, ROOMY = 24, TIGHT = 12 };

typedef struct Cell {
    Style style;
    unsigned width;
    char *text;
} Cell;

struct Table {
    TableColumn *columns;
    unsigned count;
    GArray *cells;
};

/* How the table is shown at one width. */
typedef struct Layout {
    unsigned *widths;
    bool *hidden;
} Layout;

static void clear_cell(gpointer data)
{
    g_free(((Cell *)data)->text);
}

Table *table_new(const TableColumn *columns, unsigned count)
{
    Table *table = g_new0(Table, 1);
    table->columns = g_memdup2(columns, sizeof *columns * count);
    table->count = count;
    table->cells = g_array_new(FALSE, FALSE, sizeof(Cell));
    g_array_set_clear_func(table->cells, clear_cell);
    return table;
}

void table_free(Table *table)
{
    if (table == NULL)
        return;
    g_free(table->columns);
    g_array_unref(table->cells);
    g_free(table);
}

void table_add(Table *table, Style style, const char *text)
{
    Cell cell = {.style = style, .text = ctl_printable(text)};
    cell.width = text_width(cell.text);
    g_array_append_val(table->cells, cell);
}

unsigned table_rows(const Table *table)
{
    return table->cells->len / table->count;
}

static const Cell *cell_at(const Table *table, unsigned row, unsigned column)
{
    return &g_array_index(table->cells, Cell, row * table->count + column);
}

static unsigned total_width(const Table *table, const Layout *layout)
{
    unsigned total = 0;
    for (unsigned c = 0; c < table->count; c++)
        if (!layout->hidden[c])
            total += layout->widths[c] + (total > 0 ? GAP : 0);
    return total;
}

/* Cuts the widest elastic column, again and again, down to a floor. */
static void shrink(const Table *table, Layout *layout, unsigned available, unsigned least)
{
    unsigned total = total_width(table, layout);
    while (total > available) {
        unsigned widest = table->count;
        for (unsigned c = 0; c < table->count; c++) {
            unsigned floor = MAX(least, text_width(table->columns[c].header));
            if (table->columns[c].elastic && !layout->hidden[c] && layout->widths[c] > floor &&
                (widest == table->count || layout->widths[c] > layout->widths[widest]))
                widest = c;
        }
        if (widest == table->count)
            return;
        layout->widths[widest]--;
        total--;
    }
}

static void fit(const Table *table, Layout *layout, unsigned available)
{
    g_autofree unsigned *full = g_memdup2(layout->widths, sizeof *full * table->count);
    unsigned left = table->count; /* columns from here on were looked at */
    shrink(table, layout, available, ROOMY);
    while (total_width(table, layout) > available && left > 0) {
        left--;
        if (!table->columns[left].optional)
            continue;
        layout->hidden[left] = true;
        memcpy(layout->widths, full, sizeof *full * table->count);
        shrink(table, layout, available, ROOMY);
    }
    /* What is wider even so wraps: nothing is lost. */
    shrink(table, layout, available, TIGHT);
}

/* "/var/lib/images/vm1.img" -> "/var/li…/vm1.img": the ends tell more than the middle. */
static char *cut(const char *text, unsigned width, bool utf8)
{
    const char *dots = utf8 ? "…" : "..";
    unsigned room = width - text_width(dots), tail = room / 2 + room % 2, head = room - tail;
    const char *end = text, *start = text + strlen(text);
    for (unsigned used = 0; (used += char_width(g_utf8_get_char(end))) <= head;)
        end = g_utf8_next_char(end);
    for (unsigned used = 0;; start = g_utf8_prev_char(start))
        if ((used += char_width(g_utf8_get_char(g_utf8_prev_char(start)))) > tail)
            break;
    g_autofree char *begin = g_strndup(text, (size_t)(end - text));
    return g_strconcat(begin, dots, start, NULL);
}

static void append_cell(GString *out, const Terminal *terminal, const TableColumn *column,
                        const Cell *cell, unsigned width, bool last)
{
    g_autofree char *shorter = cell->width > width ? cut(cell->text, width, terminal->utf8) : NULL;
    const char *text = shorter != NULL ? shorter : cell->text;
    unsigned used = text_width(text), padding = used < width ? width - used : 0;
    if (column->right)
        g_string_append_printf(out, "%*s", (int)padding, "");
    style_append(out, terminal, cell->style, text);
    if (!column->right && !last)
        g_string_append_printf(out, "%*s", (int)padding, "");
}

static void append_row(GString *out, const Table *table, const Layout *layout,
                       const Terminal *terminal, unsigned indent, unsigned row, bool header)
{
    unsigned last = 0;
    for (unsigned c = 0; c < table->count; c++)
        if (!layout->hidden[c])
            last = c;
    g_string_append_printf(out, "%*s", (int)indent, "");
    bool first = true;
    for (unsigned c = 0; c < table->count; c++) {
        if (layout->hidden[c])
            continue;
        if (!first)
            g_string_append_printf(out, "%*s", GAP, "");
        first = false;
        const TableColumn *column = &table->columns[c];
        Cell title = {.style = STYLE_HEADER,
                      .text = (char *)column->header,
                      .width = text_width(column->header)};
        append_cell(out, terminal, column, header ? &title : cell_at(table, row, c),
                    layout->widths[c], c == last);
    }
    while (out->str[out->len - 1] == ' ')
        g_string_truncate(out, out->len - 1);
    g_string_append_c(out, '\n');
}

void table_append(GString *out, const Table *table, const Terminal *terminal, unsigned indent)
{
    g_autofree unsigned *widths = g_new0(unsigned, table->count);
    g_autofree bool *hidden = g_new0(bool, table->count);
    Layout layout = {.widths = widths, .hidden = hidden};
    for (unsigned c = 0; c < table->count; c++) {
        widths[c] = text_width(table->columns[c].header);
        for (unsigned row = 0; row < table_rows(table); row++)
            widths[c] = MAX(widths[c], cell_at(table, row, c)->width);
    }
    if (terminal->is_terminal)
        fit(table, &layout, terminal->width > indent ? terminal->width - indent : 1);
    append_row(out, table, &layout, terminal, indent, 0, true);
    for (unsigned row = 0; row < table_rows(table); row++)
        append_row(out, table, &layout, terminal, indent, row, false);
}
