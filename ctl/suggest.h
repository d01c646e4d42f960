/* "did you mean" for words that are almost right. */
#ifndef CTL_SUGGEST_H
#define CTL_SUGGEST_H

#include <glib.h>

/* The candidate nearest to word, or NULL if none is near. candidates: NULL-terminated. */
const char *suggest(const char *word, const char *const *candidates);

#endif
