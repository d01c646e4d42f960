/* BLOCK_STATUS of a dirty bitmap, from its words to what is sent: four bytes a change until it
 * leaves, sixteen only in the piece that is being sent. */
#include "daemon/nbd/answer.h"
#include <errno.h>
#include <string.h>

/* Most answers have no more: they take no more memory than they need. */
#define FEW_CHANGES 1024u

static size_t head_size(void)
{
    size_t head = offsetof(StatusChunk, bytes) + NBD_MAX_STATUS_HEADER;
    return (head + 3) / 4 * 4 - offsetof(StatusChunk, bytes);
}

StatusChunk *status_of_bitmap(Request *request, uint32_t id, size_t place, Bitmap *bitmap,
                              size_t max, bool done)
{
    uint32_t few[FEW_CHANGES];
    size_t most_few = MIN(max, FEW_CHANGES), room;
    StatusRuns runs = {.changes = few};
    request->result =
        bitmap_walk_begin(&runs.walk, bitmap, request->wire.offset, request->status_length);
    if (request->result < 0)
        return NULL;
    size_t found = bitmap_walk(&runs.walk, few, most_few);
    bool more = found == most_few && found < max;
    StatusChunk *chunk =
        status_chunk(request, place, head_size() + (more ? max : found) * sizeof *few, &room);
    if (more && chunk->size == 0) {
        /* What has been found need not be lost. */
        more = false;
        max = found;
        chunk = status_chunk(request, place, head_size() + found * sizeof *few, &room);
    }
    uint32_t *changes = (uint32_t *)(gpointer)(chunk->bytes + head_size());
    room = (room - head_size()) / sizeof *changes;
    max = MIN(max, room);
    more = more && found < max;
    found = MIN(found, max);
    memcpy(changes, few, found * sizeof *few);
    if (more)
        found += bitmap_walk(&runs.walk, changes + found, max - found);
    bitmap_walk_end(&runs.walk);

    /* Where they do not all fit, the client asks again for what is missing. */
    runs.count = MIN(found + 1, max);
    runs.changes = changes;
    runs.change_count = found;
    chunk->runs = runs;
    chunk->length = nbd_encode_status(request->session->mode, chunk->bytes, &request->wire, id,
                                      (uint32_t)runs.count, done);
    return chunk;
}

/* Extents [from, end) of runs. */
static void encode_runs(const StatusRuns *runs, NbdMode mode, size_t from, size_t end, uint8_t *out)
{
    const BitmapWalk *walk = &runs->walk;
    size_t extent_size = nbd_extent_size(mode);
    uint64_t at = from > 0 ? bitmap_walk_place(walk, runs->changes[from - 1]) : walk->offset;
    uint32_t flags = walk->dirty ^ (from % 2) ? EXTENT_DIRTY : 0;
    for (size_t i = from; i < end; i++) {
        uint64_t until =
            i < runs->change_count ? bitmap_walk_place(walk, runs->changes[i]) : walk->stop;
        nbd_encode_extent(mode, out, until - at, flags);
        out += extent_size;
        flags ^= EXTENT_DIRTY;
        at = until;
    }
}

void answer_bitmap(Output *output, NbdMode mode, const StatusChunk *chunk)
{
    size_t extent_size = nbd_extent_size(mode);
    uint8_t *room = output_room(output, chunk->length);
    if (room == NULL)
        return;
    memcpy(room, chunk->bytes, chunk->length);
    output_add(output, chunk->length);
    for (size_t i = 0, end; i < chunk->runs.count && !output->broken; i = end) {
        /* As much as fits: a larger buffer would only be more memory to go through. */
        size_t fits = output_left(output) / extent_size;
        end = MIN(i + fits, chunk->runs.count);
        if (fits == 0) {
            output_flush(output, true);
        } else if ((room = output_room(output, (end - i) * extent_size)) != NULL) {
            encode_runs(&chunk->runs, mode, i, end, room);
            output_add(output, (end - i) * extent_size);
        }
    }
}
