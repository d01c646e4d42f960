/* The main of fuzz targets: runs a corpus, then seeded mutations of it. The same
 * seed makes the same inputs on every machine. */
#include "tests/fuzz/fuzz.h"

#include <glib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LONGEST 65536

static GPtrArray *corpus; /* of GBytes */

static void load_corpus(const char *path)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    if (!g_file_get_contents(path, &text, NULL, &error)) {
        fprintf(stderr, "fuzz: %s\n", error->message);
        exit(2);
    }
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++)
        g_ptr_array_add(corpus, g_bytes_new(*line, strlen(*line)));
}

static GByteArray *pick(GRand *random)
{
    GBytes *bytes = corpus->pdata[g_rand_int_range(random, 0, (gint32)corpus->len)];
    gsize length;
    const guint8 *data = g_bytes_get_data(bytes, &length);
    GByteArray *input = g_byte_array_new();
    g_byte_array_append(input, data, (guint)length);
    return input;
}

static guint place(GRand *random, const GByteArray *input)
{
    return (guint)g_rand_int_range(random, 0, (gint32)input->len + 1);
}

static void insert(GByteArray *input, guint at, const void *bytes, guint length)
{
    if (length == 0 || input->len + length > LONGEST)
        return;
    guint before = input->len;
    g_byte_array_set_size(input, before + length);
    memmove(input->data + at + length, input->data + at, before - at);
    memcpy(input->data + at, bytes, length);
}

static void cut(GByteArray *input, GRand *random)
{
    guint at = place(random, input);
    guint length = (guint)g_rand_int_range(random, 0, 16);
    if (at < input->len)
        g_byte_array_remove_range(input, at, MIN(length, input->len - at));
}

static void mutate(GByteArray *input, GRand *random)
{
    const char *const *words = fuzz_words();
    guint at = place(random, input);
    switch (g_rand_int_range(random, 0, 6)) {
    case 0: /* flip a bit */
        if (at < input->len)
            input->data[at] ^= (guint8)(1u << g_rand_int_range(random, 0, 8));
        break;
    case 1: /* any byte */
        if (at < input->len)
            input->data[at] = (guint8)g_rand_int_range(random, 0, 256);
        break;
    case 2:
        cut(input, random);
        break;
    case 3: { /* a word of the format */
        const char *word =
            words[g_rand_int_range(random, 0, (gint32)g_strv_length((char **)words))];
        insert(input, at, word, (guint)strlen(word));
        break;
    }
    case 4: { /* a piece of another input */
        g_autoptr(GByteArray) other = pick(random);
        guint from = place(random, other);
        insert(input, at, other->data + from, other->len - from);
        break;
    }
    case 5: { /* a piece of itself */
        guint from = place(random, input);
        guint length = MIN(input->len - from, 64);
        g_autofree void *piece = g_memdup2(input->data + from, length);
        if (piece)
            insert(input, at, piece, length);
        break;
    }
    }
}

static void run(const void *data, size_t length)
{
    /* In memory of exactly that size, for sanitizers. */
    g_autofree uint8_t *copy = g_malloc(length ? length : 1);
    if (length)
        memcpy(copy, data, length);
    fuzz_one(copy, length);
}

static gint64 current_run = -1;

void fuzz_fail(const char *what)
{
    fprintf(stderr, "fuzz: %s, in run %" G_GINT64_FORMAT " (-1: of the corpus)\n", what,
            current_run);
    abort();
}

int main(int argc, char **argv)
{
    gint64 runs = 10000, only = -1;
    gint seed = 1;
    GOptionEntry entries[] = {
        {"runs", 0, 0, G_OPTION_ARG_INT64, &runs, "Mutations to run", "N"},
        {"seed", 0, 0, G_OPTION_ARG_INT, &seed, "Where they begin", "N"},
        {"only", 0, 0, G_OPTION_ARG_INT64, &only, "Run this one alone", "RUN"},
        G_OPTION_ENTRY_NULL};
    g_autoptr(GOptionContext) context = g_option_context_new("CORPUS");
    g_option_context_add_main_entries(context, entries, NULL);
    g_autoptr(GError) error = NULL;
    if (!g_option_context_parse(context, &argc, &argv, &error) || argc != 2) {
        fprintf(stderr, "fuzz: %s\n", error ? error->message : "which corpus?");
        return 2;
    }
    corpus = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
    load_corpus(argv[1]);
    for (guint i = 0; i < corpus->len; i++) {
        gsize length;
        const void *data = g_bytes_get_data(corpus->pdata[i], &length);
        run(data, length);
    }
    for (current_run = MAX(only, 0); current_run < runs; current_run++) {
        g_autoptr(GRand) random =
            g_rand_new_with_seed_array((guint32[]){(guint32)seed, (guint32)current_run}, 2);
        g_autoptr(GByteArray) input = pick(random);
        for (int i = g_rand_int_range(random, 1, 6); i > 0; i--)
            mutate(input, random);
        run(input->data, input->len);
        if (only >= 0)
            break;
    }
    current_run = -1;
    g_ptr_array_unref(corpus);
    return 0;
}
