#include "ctl/suggest.h"
#include <string.h>

enum { LENGTH_MAX = 64 };

/* Restricted Damerau-Levenshtein: inserted, lost, wrong and swapped neighbouring letters. */
static unsigned distance(const char *a, const char *b)
{
    unsigned before[LENGTH_MAX + 1], last[LENGTH_MAX + 1], row[LENGTH_MAX + 1];
    size_t a_length = strlen(a), b_length = strlen(b);
    for (size_t j = 0; j <= b_length; j++)
        last[j] = (unsigned)j;
    for (size_t i = 1; i <= a_length; i++) {
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= b_length; j++) {
            row[j] = last[j - 1] + (a[i - 1] != b[j - 1]);
            row[j] = MIN(row[j], MIN(last[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = MIN(row[j], before[j - 2] + 1);
        }
        memcpy(before, last, sizeof before);
        memcpy(last, row, sizeof last);
    }
    return last[b_length];
}

const char *suggest(const char *word, const char *const *candidates)
{
    const char *best = NULL;
    size_t length = strlen(word);
    if (length == 0 || length > LENGTH_MAX)
        return NULL;
    unsigned best_distance = 1 + (unsigned)MIN(length / 3, 2) + 1;
    for (; *candidates != NULL; candidates++) {
        if (strlen(*candidates) > LENGTH_MAX)
            continue;
        unsigned d = distance(word, *candidates);
        /* Half a word, or its plural, is as good as one wrong letter. */
        if (length >= 2 &&
            (g_str_has_prefix(*candidates, word) || g_str_has_prefix(word, *candidates)))
            d = MIN(d, 1);
        if (d < best_distance) {
            best_distance = d;
            best = *candidates;
        }
    }
    return best;
}
