/* BLOCK_STATUS: from the disk's extents to encoded chunks, one a context. */
#include "daemon/nbd/request.h"
#include <errno.h>

/* In one reply, all contexts together. */
#define MAX_EXTENTS 131072u
/* Asked of the disk at least where extents are to be rounded: several may make up one block. */
#define ROUNDING_EXTENTS 64u

/* What a stretch of the disk means in a context. */
static uint32_t meaning(MetaKind kind, uint32_t flags)
{
    switch (kind) {
    case META_ALLOCATION_DEPTH:
        return flags & EXTENT_HOLE ? 0 : 1;
    case META_ALLOCATION:
    case META_DIRTY_BITMAP:
        break;
    }
    return flags;
}

/* What a block is that has stretches of both kinds: dirty if any is, a hole or zero if all are. */
static uint32_t mixture(MetaKind kind, uint32_t a, uint32_t b)
{
    return kind == META_ALLOCATION ? a & b : a | b;
}

/* Rewrites from into to: in the words of the context, neighbours merged, every extent a multiple of
 * block bytes ("NBD_CMD_BLOCK_STATUS": of the advertised minimum) but for one that ends the
 * request. At least one. */
static bool rewrite(MetaKind kind, uint32_t block, uint64_t length, const ExtentList *from,
                    ExtentList *to)
{
    uint32_t partial = 0, mixed = 0; /* of a block that several extents make up */
    for (size_t i = 0; i < from->count; i++) {
        uint64_t left = from->items[i].length;
        uint32_t flags = meaning(kind, from->items[i].flags);
        while (left > 0) {
            if (partial == 0 && left >= block) {
                uint64_t whole = left - left % block;
                if (!extent_list_add(to, whole, flags))
                    return to->count > 0;
                left -= whole;
                continue;
            }
            uint32_t n = (uint32_t)MIN(left, block - partial);
            mixed = partial == 0 ? flags : mixture(kind, mixed, flags);
            partial += n;
            left -= n;
            if (partial == block) {
                if (!extent_list_add(to, block, mixed))
                    return to->count > 0;
                partial = 0;
            }
        }
    }
    /* A partial block at the end of the request is the end of the export. */
    if (partial > 0 && (from->total == length || to->count == 0))
        return extent_list_add(to, partial, mixed) || to->count > 0;
    return to->count > 0;
}

static int look(Request *request, const MetaContext *context, ExtentList *list)
{
    uint64_t offset = request->wire.offset, length = request->status_length;
    switch (context->kind) {
    case META_ALLOCATION:
    case META_ALLOCATION_DEPTH:
        return disk_extents(request->session->view.disk, offset, length, list);
    case META_DIRTY_BITMAP:
        return context->bitmap ? bitmap_extents(context->bitmap, offset, length, list) : -EIO;
    }
    return -EIO;
}

static int look_in_words(Request *request, const MetaContext *context, size_t max, ExtentList *list)
{
    uint64_t offset = request->wire.offset, length = request->status_length;
    uint32_t block = request->session->minimum_block;
    int result;

    if (block == 1 && context->kind != META_ALLOCATION_DEPTH) {
        extent_list_init(list, offset, max);
        result = look(request, context, list);
        extent_list_truncate(list, length);
        return result;
    }
    ExtentList raw;
    extent_list_init(&raw, offset, block > 1 ? MAX(max, ROUNDING_EXTENTS) : max);
    extent_list_init(list, offset, max);
    result = look(request, context, &raw);
    extent_list_truncate(&raw, length);
    if (result == 0 && !rewrite(context->kind, block, length, &raw, list))
        result = -ENOMEM;
    extent_list_clear(&raw);
    return result;
}

StatusChunk *status_chunk(Request *request, size_t place, size_t bytes, size_t *ret_room)
{
    StatusChunk *chunk = NULL;
    size_t size = 0;
    if (sizeof *chunk + bytes > STATUS_LEAST)
        chunk = pool_take(request->account, sizeof *chunk + bytes, false, &size);
    if (chunk == NULL)
        chunk = (StatusChunk *)(gpointer)((uint8_t *)request->block + place * STATUS_LEAST);
    *chunk = (StatusChunk){.size = size};
    *ret_room = (size > 0 ? size : STATUS_LEAST) - sizeof *chunk;
    return chunk;
}

/* place: among the contexts that are wanted. */
static StatusChunk *encode(Request *request, uint32_t id, size_t place, const ExtentList *list,
                           bool done)
{
    NbdMode mode = request->session->mode;
    size_t extent_size = nbd_extent_size(mode), room;
    StatusChunk *chunk =
        status_chunk(request, place, NBD_MAX_STATUS_HEADER + list->count * extent_size, &room);
    /* Where it does not fit, the client asks again for what is missing. */
    size_t count = MIN(list->count, (room - NBD_MAX_STATUS_HEADER) / extent_size);
    chunk->length =
        nbd_encode_status(mode, chunk->bytes, &request->wire, id, (uint32_t)count, done);
    for (size_t i = 0; i < count; i++) {
        const Extent *extent = &list->items[i];
        nbd_encode_extent(mode, chunk->bytes + chunk->length, extent->length, extent->flags);
        chunk->length += extent_size;
    }
    return chunk;
}

static StatusChunk *status_of_list(Request *request, uint32_t id, size_t place,
                                   const MetaContext *context, size_t max, bool done)
{
    StatusChunk *chunk = NULL;
    ExtentList list;
    request->result = look_in_words(request, context, max, &list);
    if (request->result == 0)
        chunk = encode(request, id, place, &list, done);
    extent_list_clear(&list);
    return chunk;
}

void request_run_status(Request *request)
{
    const MetaSelection *contexts = &request->session->contexts;
    size_t wanted = request->status_ids ? request->status_id_count : contexts->count;
    size_t max = MAX(MAX_EXTENTS / wanted, 1);
    StatusChunk **end = &request->chunks;

    if (request->wire.flags & NBD_CMD_FLAG_REQ_ONE)
        max = 1;
    request->result = 0;
    for (size_t i = 0; i < wanted && request->result == 0; i++) {
        uint32_t id = request->status_ids ? request->status_ids[i] : (uint32_t)i;
        const MetaContext *context = contexts->items[id];
        bool done = i + 1 == wanted;
        bool bits = context->bitmap != NULL && request->session->minimum_block == 1;
        *end = bits ? status_of_bitmap(request, id, i, context->bitmap, max, done)
                    : status_of_list(request, id, i, context, max, done);
        if (*end != NULL)
            end = &(*end)->next;
    }
}
