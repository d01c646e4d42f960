/* What standard output can show: how wide, in which colours, with which characters. */
#ifndef CTL_TERMINAL_H
#define CTL_TERMINAL_H

#include <glib.h>
#include <stdbool.h>

typedef struct Terminal {
    bool is_terminal;
    bool colour; /* only on a terminal, and never with NO_COLOR */
    bool utf8;
    unsigned width;  /* columns; of what is no terminal: COLUMNS, else 80 */
    unsigned height; /* lines; 0: not known */
} Terminal;

typedef enum Style {
    STYLE_PLAIN,
    STYLE_HEADER,
    STYLE_NAME,
    STYLE_DIM,
    STYLE_GOOD,
    STYLE_WARNING,
    STYLE_BAD,
} Style;

/* Looks at standard output and the environment. */
void terminal_look(Terminal *terminal);

/* Appends text in a style; plain where there are no colours. */
void style_append(GString *out, const Terminal *terminal, Style style, const char *text);

/* Columns that a character or text takes. */
unsigned char_width(gunichar c);
unsigned text_width(const char *text);

/* Writes to standard output. A reader that has gone away is no error of ours, a full disk is. */
bool terminal_write(const GString *text, GError **error);

#endif
