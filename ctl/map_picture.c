#include "ctl/map_picture.h"
#include "ctl/units.h"
#include <string.h>

enum {
    LABEL_WIDTH = 11,  /* longer ones do not occur: rows begin at whole cells */
    COLUMNS_STEP = 16, /* so that rows begin at round offsets */
    ROWS_MAX = 16,
    ROWS_MIN = 4,
    OTHER_LINES = 7, /* title, legend, sums, and the prompt below */
};

/* From clean to all dirty. Anything dirty at all shows; only what is dirty throughout is full. */
enum { SHADES = 5 };
static const struct {
    const char *utf8, *ascii, *meaning;
    Style style;
} shades[SHADES] = {
    {"·", ".", "clean", STYLE_DIM},       {"░", "-", "to 25 %", STYLE_GOOD},
    {"▒", "+", "to 50 %", STYLE_WARNING}, {"▓", "*", "below 100 %", STYLE_WARNING},
    {"█", "#", "all dirty", STYLE_BAD},
};

void map_picture_init(MapPicture *picture, const Terminal *terminal, uint64_t size,
                      uint64_t granularity)
{
    memset(picture, 0, sizeof *picture);
    unsigned room = terminal->width > LABEL_WIDTH + 2 ? terminal->width - LABEL_WIDTH - 2 : 1;
    picture->columns = room > COLUMNS_STEP ? room - room % COLUMNS_STEP : room;
    unsigned rows = ROWS_MAX;
    if (terminal->height > 0)
        rows = CLAMP((int)terminal->height - OTHER_LINES, ROWS_MIN, ROWS_MAX);
    picture->size = size;
    picture->cell = granularity;
    while (size / picture->cell + (size % picture->cell != 0) > (uint64_t)picture->columns * rows)
        picture->cell *= 2;
    picture->cells = (unsigned)(size / picture->cell + (size % picture->cell != 0));
    picture->dirty = g_new0(uint64_t, picture->cells + 1);
}

void map_picture_clear(MapPicture *picture)
{
    g_clear_pointer(&picture->dirty, g_free);
}

void map_picture_add(MapPicture *picture, uint64_t offset, uint64_t length)
{
    if (offset >= picture->size || length == 0)
        return;
    length = MIN(length, picture->size - offset);
    picture->total += length;
    picture->ranges++;
    while (length > 0) {
        uint64_t here = MIN(length, picture->cell - offset % picture->cell);
        picture->dirty[offset / picture->cell] += here;
        offset += here;
        length -= here;
    }
}

static unsigned shade_of(const MapPicture *picture, unsigned cell)
{
    uint64_t start = cell * picture->cell, whole = MIN(picture->cell, picture->size - start);
    uint64_t dirty = picture->dirty[cell];
    if (dirty == 0)
        return 0;
    if (dirty >= whole)
        return SHADES - 1;
    return dirty <= whole / 4 ? 1 : dirty <= whole / 2 ? 2 : 3;
}

static void append_run(GString *out, const Terminal *terminal, unsigned shade, unsigned count)
{
    g_autoptr(GString) run = g_string_new(NULL);
    for (unsigned i = 0; i < count; i++)
        g_string_append(run, terminal->utf8 ? shades[shade].utf8 : shades[shade].ascii);
    style_append(out, terminal, shades[shade].style, run->str);
}

static void append_row(GString *out, const MapPicture *picture, const Terminal *terminal,
                       unsigned first)
{
    g_autoptr(GString) label = g_string_new(NULL);
    size_append(label, first * picture->cell);
    g_autofree char *padded = g_strdup_printf("%*s  ", LABEL_WIDTH, label->str);
    style_append(out, terminal, STYLE_DIM, padded);
    unsigned end = MIN(first + picture->columns, picture->cells), run = 0;
    for (unsigned cell = first; cell < end; cell += run) {
        unsigned shade = shade_of(picture, cell);
        for (run = 1; cell + run < end && shade_of(picture, cell + run) == shade; run++)
            ;
        append_run(out, terminal, shade, run);
    }
    g_string_append_c(out, '\n');
}

static void append_legend(GString *out, const MapPicture *picture, const Terminal *terminal)
{
    g_string_append_c(out, '\n');
    for (unsigned i = 0; i < SHADES; i++) {
        if (i > 0)
            g_string_append(out, "   ");
        append_run(out, terminal, i, 1);
        g_string_append_printf(out, " %s", shades[i].meaning);
    }
    g_string_append(out, "\none cell: ");
    size_append(out, picture->cell);
    g_string_append(out, ", one row: ");
    size_append(out, picture->cell * picture->columns);
    g_string_append_c(out, '\n');
}

void map_picture_append(GString *out, const MapPicture *picture, const Terminal *terminal)
{
    for (unsigned first = 0; first < picture->cells; first += picture->columns)
        append_row(out, picture, terminal, first);
    append_legend(out, picture, terminal);
}
