/* A table of texts: columns as wide as their contents, and where the terminal is narrower, the
 * elastic ones cut first, then the least important ones left out. What is no terminal gets all of
 * it: nothing is ever cut for a pipe. */
#ifndef CTL_TABLE_H
#define CTL_TABLE_H

#include "ctl/terminal.h"

typedef struct TableColumn {
    const char *header;
    bool right;    /* numbers stand right */
    bool elastic;  /* may be cut, in the middle of the text, as paths are */
    bool optional; /* left out where it does not fit; the last optional column goes first */
} TableColumn;

typedef struct Table Table;

/* columns are copied; their headers are not. */
Table *table_new(const TableColumn *columns, unsigned count);
void table_free(Table *table);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Table, table_free)

/* Adds the next cell, row by row. Control characters in text are made visible. */
void table_add(Table *table, Style style, const char *text);

unsigned table_rows(const Table *table);

/* Appends header and rows, each line indented. */
void table_append(GString *out, const Table *table, const Terminal *terminal, unsigned indent);

#endif
