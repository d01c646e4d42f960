/* Dirty tracking of one disk. Invalid after an unclean stop until intents land. */
#include "storage/disk_private.h"

struct DiskTrack {
    Disk *disk;
    RecordSet *set;
    GPtrArray *discarded; /* of Bits */
};

DiskTrack *track_new(Disk *disk)
{
    DiskTrack *track = g_new0(DiskTrack, 1);
    track->disk = disk;
    track->discarded = g_ptr_array_new_with_free_func((GDestroyNotify)bits_free);
    track->set = g_malloc0(sizeof(RecordSet));
    return track;
}

void track_free(DiskTrack *track)
{
    if (track == NULL)
        return;
    g_ptr_array_unref(track->discarded);
    g_free(track->set);
    g_free(track);
}

void track_set_recorders(DiskTrack *track, const Recorder *extra, unsigned count)
{
    GPtrArray *bitmaps = track->disk->bitmaps;
    RecordSet *set = g_malloc0(sizeof *set + (bitmaps->len + count) * sizeof(Recorder));
    for (guint i = 0; i < bitmaps->len; i++) {
        Bitmap *bitmap = bitmaps->pdata[i];
        if (bitmap->meta.recording && bitmap->bits)
            set->recorders[set->count++] = (Recorder){
                .bits = bitmap->bits,
                .stored = bitmap->meta.durability == DURABILITY_POWER ? bitmap->stored : NULL,
                .shift = bitmap->shift,
            };
    }
    for (unsigned i = 0; i < count; i++)
        set->recorders[set->count++] = extra[i];
    for (unsigned i = 0; i < set->count; i++)
        set->durable = set->durable || set->recorders[i].stored;
    g_free(track->set);
    track->set = set;
    g_ptr_array_set_size(track->discarded, 0);
}

void track_discard(DiskTrack *track, Bits *bits)
{
    g_ptr_array_add(track->discarded, bits);
}

bool track_admit(DiskTrack *track, uint64_t offset, uint64_t end)
{
    const RecordSet *set = track->set;
    for (unsigned i = 0; i < set->count; i++) {
        const Recorder *recorder = &set->recorders[i];
        uint64_t first = offset >> recorder->shift, last = (end - 1) >> recorder->shift;
        if (first == last)
            bits_set_one(recorder->bits, first);
        else
            bits_set(recorder->bits, first, last + 1);
    }
    return true;
}
