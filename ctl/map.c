#include "ctl/map.h"
#include "ctl/errors.h"
#include "ctl/format.h"
#include "ctl/map_picture.h"
#include "ctl/rpc.h"
#include "ctl/units.h"
#include <string.h>

static const CliField map_params[] = {
    {.name = "disk",
     .flag = "disk",
     .placeholder = "NAME",
     .type = CLI_STRING,
     .description = "The disk.",
     .positional = true,
     .required = true,
     .names = "disk"},
    {.name = "name",
     .flag = "name",
     .placeholder = "NAME",
     .type = CLI_STRING,
     .description = "The bitmap.",
     .positional = true,
     .required = true,
     .names = "bitmap"},
    {.name = NULL},
};
static const CliExample map_examples[] = {
    {"What has changed on vm1 since b0 began", "nbdctl bitmap map vm1 b0"},
    {NULL},
};
const CliMethod map_method = {
    .name = "bitmap.map",
    .noun = "bitmap",
    .verb = "map",
    .summary = "Draw which parts of a disk are dirty in a bitmap.",
    .description = "The picture is as wide as the terminal. With --json: an object with the "
                   "bitmap, the disk's size, the bytes a cell stands for, and each cell's dirty "
                   "bytes.",
    .access = "read",
    .params = map_params,
    .examples = map_examples,
};

enum { EXTENTS_A_PAGE = 65536, ATTEMPTS = 3 };

typedef struct Map {
    Socket *socket;
    char *disk, *name; /* JSON strings */
    Answer bitmap;     /* bitmap.show's */
    MapPicture picture;
} Map;

static void map_clear(Map *map)
{
    g_clear_pointer(&map->socket, socket_close);
    g_free(map->disk);
    g_free(map->name);
    answer_clear(&map->bitmap);
    map_picture_clear(&map->picture);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Map, map_clear)

static bool fail_answer(const Map *map, const char *method, GError **error)
{
    g_autofree char *problem = g_strconcat("its answer to ", method, " makes no sense", NULL);
    return rpc_fail_garbage(map->socket, problem, error);
}

static bool call(const Map *map, const char *method, const char *params, Answer *ret_answer,
                 GError **error)
{
    return rpc_call(map->socket, method, NULL, params, ret_answer, error);
}

static bool call_show(const Map *map, Answer *ret_answer, GError **error)
{
    g_autofree char *params = g_strdup_printf("{\"disk\":%s,\"name\":%s}", map->disk, map->name);
    return call(map, "bitmap.show", params, ret_answer, error);
}

static bool ask_size(const Map *map, uint64_t *ret_size, GError **error)
{
    g_auto(Answer) answer = {NULL};
    g_autofree char *params = g_strdup_printf("{\"name\":%s}", map->disk);
    if (!call(map, "disk.show", params, &answer, error))
        return false;
    g_autofree char *state = json_string(json_member(answer.result, "state"));
    if (state != NULL && strcmp(state, "ready") != 0) {
        ctl_fail(error, CTL_STATE, "the disk is %s: its size is not known", state);
        return false;
    }
    return json_uint(json_member(answer.result, "size"), ret_size) ||
           fail_answer(map, "disk.show", error);
}

/* Adds one page; *offset is moved to the next one and *ret_end set at the last. */
static bool add_page(Map *map, uint64_t *offset, bool *ret_end, GError **error)
{
    g_auto(Answer) answer = {NULL};
    g_autofree char *params =
        g_strdup_printf("{\"disk\":%s,\"name\":%s,\"offset\":%" G_GUINT64_FORMAT ",\"limit\":%d}",
                        map->disk, map->name, *offset, EXTENTS_A_PAGE);
    if (!call(map, "bitmap.extents", params, &answer, error))
        return false;
    const Json *extents = json_member(answer.result, "extents");
    const Json *next = json_member(answer.result, "next_offset");
    if (!json_is(extents, JSON_ARRAY))
        return fail_answer(map, "bitmap.extents", error);
    for (const Json *one = extents->child; one != NULL; one = one->next) {
        uint64_t start, length;
        if (!json_uint(json_member(one, "offset"), &start) ||
            !json_uint(json_member(one, "length"), &length))
            return fail_answer(map, "bitmap.extents", error);
        map_picture_add(&map->picture, start, length);
    }
    uint64_t next_offset;
    *ret_end = !json_uint(next, &next_offset);
    if (*ret_end)
        return true;
    if (next_offset <= *offset)
        return fail_answer(map, "bitmap.extents", error);
    *offset = next_offset;
    return true;
}

/* Between the pages the bitmap may be cleared, or removed and added: then the picture would mix two
 * points in time. *ret_same tells whether the generation is still what it was. */
static bool fetch(Map *map, const Terminal *terminal, bool *ret_same, GError **error)
{
    uint64_t size, granularity, offset = 0;
    answer_clear(&map->bitmap);
    if (!ask_size(map, &size, error) || !call_show(map, &map->bitmap, error))
        return false;
    if (!json_uint(json_member(map->bitmap.result, "granularity"), &granularity) ||
        granularity == 0)
        return fail_answer(map, "bitmap.show", error);
    if (json_string_is(json_member(map->bitmap.result, "state"), "invalid")) {
        g_autofree char *reason = json_string(json_member(map->bitmap.result, "reason"));
        g_autofree char *text = ctl_printable(reason != NULL ? reason : "it does not say why");
        ctl_fail(error, CTL_STATE, "the bitmap is invalid, everything may have changed: %s", text);
        return false;
    }
    map_picture_clear(&map->picture);
    map_picture_init(&map->picture, terminal, size, granularity);
    for (bool end = false; !end;)
        if (!add_page(map, &offset, &end, error))
            return false;
    g_auto(Answer) after = {NULL};
    if (!call_show(map, &after, error))
        return false;
    g_autofree char *now = json_string(json_member(after.result, "generation"));
    *ret_same = now != NULL && json_string_is(json_member(map->bitmap.result, "generation"), now);
    return true;
}

static void append_json(GString *out, const Map *map)
{
    const MapPicture *picture = &map->picture;
    g_string_append_printf(out,
                           "{\"bitmap\":%.*s,\"size\":%" G_GUINT64_FORMAT
                           ",\"cell\":%" G_GUINT64_FORMAT ",\"dirty_bytes\":%" G_GUINT64_FORMAT
                           ",\"cells\":[",
                           (int)map->bitmap.result->length, map->bitmap.result->text, picture->size,
                           picture->cell, picture->total);
    for (unsigned i = 0; i < picture->cells; i++)
        g_string_append_printf(out, i > 0 ? ",%" G_GUINT64_FORMAT : "%" G_GUINT64_FORMAT,
                               picture->dirty[i]);
    g_string_append(out, "]}\n");
}

/* "Bitmap b0 of disk vm1, 64 MiB: recording, granularity 64 KiB" */
static void append_title(GString *out, const Map *map, const Terminal *terminal)
{
    const Json *bitmap = map->bitmap.result;
    g_autofree char *name = json_string(json_member(bitmap, "name"));
    g_autofree char *disk = json_string(json_member(bitmap, "disk"));
    g_autofree char *state = json_string(json_member(bitmap, "state"));
    uint64_t granularity = 0;
    json_uint(json_member(bitmap, "granularity"), &granularity);
    g_autoptr(GString) text = g_string_new(NULL);
    g_string_append_printf(text, "Bitmap %s of disk %s, ", name != NULL ? name : "?",
                           disk != NULL ? disk : "?");
    size_append(text, map->picture.size);
    g_string_append_printf(text, ": %s, granularity ", state != NULL ? state : "?");
    size_append(text, granularity);
    g_autofree char *printable = ctl_printable(text->str);
    style_append(out, terminal, STYLE_HEADER, printable);
    g_string_append(out, "\n\n");
}

static void append_sums(GString *out, const Map *map, const Terminal *terminal)
{
    const MapPicture *picture = &map->picture;
    uint64_t over = 0;
    g_string_append(out, "dirty: ");
    size_append_exact(out, picture->total);
    g_string_append(out, ", ");
    percentage_append(out, picture->total, picture->size);
    g_string_append_printf(out, " of the disk, in %" G_GUINT64_FORMAT " range%s\n", picture->ranges,
                           picture->ranges == 1 ? "" : "s");
    if (json_uint(json_member(map->bitmap.result, "over_reported_bytes"), &over) && over > 0) {
        g_string_append(out, "of that at most ");
        size_append_exact(out, over);
        g_string_append(out, " because of a recovery alone\n");
    }
    if (json_true(json_member(map->bitmap.result, "missed_writes")))
        style_append(out, terminal, STYLE_WARNING,
                     "writes were missed while it was disabled: more has changed than this\n");
}

bool map_run(const Context *context, const CliMethod *method, const Json *params, GError **error)
{
    g_auto(Map) map = {.socket = rpc_open(context->options, error)};
    if (map.socket == NULL)
        return false;
    const Json *disk = json_member(params, "disk"), *name = json_member(params, "name");
    map.disk = g_strndup(disk->text, disk->length);
    map.name = g_strndup(name->text, name->length);
    bool same = false;
    for (unsigned i = 0; i < ATTEMPTS && !same; i++)
        if (!fetch(&map, context->terminal, &same, error))
            return false;
    if (!same) {
        ctl_fail(error, CTL_REFUSED,
                 "the bitmap is being reset again and again; there is no one picture of it");
        return false;
    }
    g_autoptr(GString) out = g_string_new(NULL);
    if (context->options->json) {
        append_json(out, &map);
    } else {
        append_title(out, &map, context->terminal);
        map_picture_append(out, &map.picture, context->terminal);
        append_sums(out, &map, context->terminal);
    }
    return terminal_write(out, error);
}
