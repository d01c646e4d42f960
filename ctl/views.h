/* How the kinds of objects are shown: which columns a list has, which words stand for null. Objects
 * without a row here are shown with all they have; a row makes them nicer. */
#ifndef CTL_VIEWS_H
#define CTL_VIEWS_H

#include "ctl/terminal.h"
#include <stdbool.h>

/* One column of a list. */
typedef struct ViewColumn { /* ends with member NULL */
    const char *header;
    const char
        *member; /* "counters/read/bytes" reaches into objects, "certificates/0/x" into lists */
    Style style; /* unless the value has its own, or is nothing */
    const char *yes, *no; /* of a boolean; NULL: the usual words */
    bool right, elastic, optional;
    bool if_any; /* left out when it is null, false, 0 or empty in every row */
    bool note;   /* no column: a line below the table for every row that has it */
    bool date;   /* of a time: the day, not how long ago */
} ViewColumn;

/* Words for one member's null and empty list, and, in lists and sentences, for true and false;
 * NULL: the usual ones. */
typedef struct ViewWords {
    const char *object, *member;
    const char *null, *empty, *yes, *no;
    bool hide_null; /* the line is left out of an object's view when null */
    /* "state=invalid": then the number means nothing, and this word stands for it. */
    const char *unless, *instead;
} ViewWords;

/* What a sentence says behind "Disk vm1 added: ": values, with a word in front of those that do not
 * tell by themselves what they are. */
enum { VIEW_SENTENCE_MAX = 6 };
typedef struct ViewPart { /* ends with member NULL */
    const char *member, *word;
} ViewPart;
typedef struct View {
    const char *object;        /* the schema's type */
    const char *title;         /* "Disk": what sentences call it */
    const ViewColumn *columns; /* of a list; NULL: inside another object each is a block of lines */
    ViewPart sentence[VIEW_SENTENCE_MAX + 1];
} View;

/* NULL when there is no row. */
const View *view_find(const char *object);
/* "disk" -> "disk", "tls" -> "credential" */
const char *view_object_of(const char *noun);
const ViewWords *view_words(const char *object, const char *member);

/* What a value means that does not tell it by itself, for an object's own view; or NULL. */
const char *view_meaning(const char *object, const char *member, const char *value);

#endif
