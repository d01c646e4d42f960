/* Metadata contexts ("Metadata querying"): which there are on an export, which of them a client's
 * queries mean, and which it has selected. */
#ifndef NBD_META_CONTEXT_H
#define NBD_META_CONTEXT_H

#include "daemon/core/client.h"
#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    META_ALLOCATION,       /* base:allocation */
    META_ALLOCATION_DEPTH, /* qemu:allocation-depth: 0 unallocated, 1 allocated */
    META_DIRTY_BITMAP,     /* qemu:dirty-bitmap:NAME */
} MetaKind;

typedef struct {
    MetaKind kind;
    Bitmap *bitmap; /* of META_DIRTY_BITMAP; NULL: it is gone for this export, answers errors */
    char *name;     /* "qemu:dirty-bitmap:b0" */
} MetaContext;

/* --- one LIST or SET: the contexts of an export and which of them the queries mean --- */

typedef struct {
    GPtrArray *contexts; /* of MetaContext */
    GArray *chosen;      /* of gboolean, in step */
} MetaOffer;

void meta_offer_init(MetaOffer *offer, const ExportView *view);
void meta_offer_clear(MetaOffer *offer);
void meta_offer_choose_all(MetaOffer *offer);
/* query: length bytes of anything. list: prefixes ("base:", "qemu:", "qemu:dirty-bitmap:") mean
 * all that begins so; without it they mean nothing. Unknown ones mean nothing. */
void meta_offer_query(MetaOffer *offer, const uint8_t *query, size_t length, bool list);
size_t meta_offer_count(const MetaOffer *offer); /* chosen ones, without duplicates */

/* --- what a client has selected --- */

typedef struct {
    char *export_name;   /* NULL: nothing was selected */
    MetaContext **items; /* a context's id is its place here */
    size_t count;
} MetaSelection;

void meta_selection_clear(MetaSelection *selection);
/* Replaces the selection by what the offer has chosen. */
void meta_selection_take(MetaSelection *selection, const char *export_name, MetaOffer *offer);
/* The client enters the transmission with this export: another one than was named clears the
 * selection; a bitmap that the export no longer offers answers errors from now on. */
void meta_selection_bind(MetaSelection *selection, const ExportView *view);

#endif
