#include "daemon/nbd/meta_context.h"
#include "daemon/nbd/wire.h"
#include <string.h>

#define BITMAP_PREFIX "qemu:dirty-bitmap:"

static MetaContext *context_new(MetaKind kind, Bitmap *bitmap)
{
    MetaContext *context = g_new0(MetaContext, 1);
    context->kind = kind;
    switch (kind) {
    case META_ALLOCATION:
        context->name = g_strdup("base:allocation");
        break;
    case META_ALLOCATION_DEPTH:
        context->name = g_strdup("qemu:allocation-depth");
        break;
    case META_DIRTY_BITMAP:
        context->bitmap = bitmap_ref(bitmap);
        context->name = g_strconcat(BITMAP_PREFIX, bitmap_name(bitmap), NULL);
        break;
    }
    return context;
}

static void context_free(gpointer data)
{
    MetaContext *context = data;
    g_clear_pointer(&context->bitmap, bitmap_unref);
    g_free(context->name);
    g_free(context);
}

static void offer_add(MetaOffer *offer, MetaKind kind, Bitmap *bitmap)
{
    gboolean chosen = FALSE;
    g_ptr_array_add(offer->contexts, context_new(kind, bitmap));
    g_array_append_val(offer->chosen, chosen);
}

void meta_offer_init(MetaOffer *offer, const ExportView *view)
{
    offer->contexts = g_ptr_array_new_with_free_func(context_free);
    offer->chosen = g_array_new(FALSE, TRUE, sizeof(gboolean));
    offer_add(offer, META_ALLOCATION, NULL);
    offer_add(offer, META_ALLOCATION_DEPTH, NULL);
    for (guint i = 0; view->bitmaps != NULL && i < view->bitmaps->len; i++)
        offer_add(offer, META_DIRTY_BITMAP, g_ptr_array_index(view->bitmaps, i));
}

void meta_offer_clear(MetaOffer *offer)
{
    g_clear_pointer(&offer->contexts, g_ptr_array_unref);
    g_clear_pointer(&offer->chosen, g_array_unref);
}

void meta_offer_choose_all(MetaOffer *offer)
{
    for (guint i = 0; i < offer->chosen->len; i++)
        g_array_index(offer->chosen, gboolean, i) = TRUE;
}

/* "The `base:` metadata namespace"; QEMU's interop/nbd says the same of qemu: and its groups. */
static bool is_prefix(const uint8_t *query, size_t length)
{
    static const char *const prefixes[] = {"base:", "qemu:", BITMAP_PREFIX};
    for (size_t i = 0; i < G_N_ELEMENTS(prefixes); i++)
        if (length == strlen(prefixes[i]) && memcmp(query, prefixes[i], length) == 0)
            return true;
    return false;
}

void meta_offer_query(MetaOffer *offer, const uint8_t *query, size_t length, bool list)
{
    bool prefix = is_prefix(query, length);
    if (prefix && !list)
        return;
    for (guint i = 0; i < offer->contexts->len; i++) {
        const MetaContext *context = g_ptr_array_index(offer->contexts, i);
        size_t name_length = strlen(context->name);
        bool fits = prefix ? name_length > length : name_length == length;
        if (fits && memcmp(context->name, query, length) == 0)
            g_array_index(offer->chosen, gboolean, i) = TRUE;
    }
}

size_t meta_offer_count(const MetaOffer *offer)
{
    size_t count = 0;
    for (guint i = 0; i < offer->chosen->len; i++)
        count += g_array_index(offer->chosen, gboolean, i) ? 1 : 0;
    return count;
}

void meta_selection_clear(MetaSelection *selection)
{
    for (size_t i = 0; i < selection->count; i++)
        context_free(selection->items[i]);
    g_clear_pointer(&selection->items, g_free);
    g_clear_pointer(&selection->export_name, g_free);
    selection->count = 0;
}

void meta_selection_take(MetaSelection *selection, const char *export_name, MetaOffer *offer)
{
    meta_selection_clear(selection);
    selection->export_name = g_strdup(export_name);
    selection->items = g_new0(MetaContext *, meta_offer_count(offer));
    for (guint i = 0; i < offer->contexts->len; i++) {
        const MetaContext *context = g_ptr_array_index(offer->contexts, i);
        if (g_array_index(offer->chosen, gboolean, i))
            selection->items[selection->count++] = context_new(context->kind, context->bitmap);
    }
}

void meta_selection_bind(MetaSelection *selection, const ExportView *view)
{
    if (selection->export_name == NULL || strcmp(selection->export_name, view->name) != 0) {
        meta_selection_clear(selection);
        return;
    }
    for (size_t i = 0; i < selection->count; i++) {
        MetaContext *context = selection->items[i];
        /* The export may have been removed, and added again for another disk, since SET. */
        if (context->bitmap != NULL && !g_ptr_array_find(view->bitmaps, context->bitmap, NULL))
            g_clear_pointer(&context->bitmap, bitmap_unref);
    }
}
