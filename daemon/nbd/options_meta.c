/* The options about metadata contexts: LIST_META_CONTEXT and SET_META_CONTEXT. */
#include "daemon/nbd/haggle.h"
#include <string.h>

/* What reading the queries came to. */
typedef enum { QUERIES_READ, QUERIES_WRONG, QUERIES_GONE } Queries;

static Queries read_queries(Haggle *haggle, uint32_t count, bool list, MetaOffer *offer)
{
    for (uint32_t i = 0; i < count; i++) {
        uint8_t number[4];
        if (haggle->left < 4)
            return QUERIES_WRONG;
        if (!haggle_read(haggle, number, 4))
            return QUERIES_GONE;
        uint32_t length = nbd_get32(number);
        if (length > haggle->left)
            return QUERIES_WRONG;
        /* No context has such a name; the others are answered. */
        if (length > NBD_MAX_STRING) {
            if (!haggle_skip(haggle, length))
                return QUERIES_GONE;
            continue;
        }
        if (!haggle_read(haggle, haggle->string, length))
            return QUERIES_GONE;
        meta_offer_query(offer, haggle->string, length, list);
    }
    return haggle->left == 0 ? QUERIES_READ : QUERIES_WRONG;
}

/* ids: they count from 0 in the order of the offer, which is that of the selection; in answers to
 * LIST they are reserved. */
static bool send_chosen(Haggle *haggle, const MetaOffer *offer, bool ids)
{
    uint32_t id = 0;
    for (guint i = 0; i < offer->contexts->len; i++) {
        const MetaContext *context = g_ptr_array_index(offer->contexts, i);
        uint8_t head[4];
        if (!g_array_index(offer->chosen, gboolean, i))
            continue;
        nbd_put32(head, ids ? id++ : 0);
        if (!haggle_reply(haggle, NBD_REP_META_CONTEXT, head, sizeof head, context->name))
            return false;
    }
    return true;
}

static Step answer_queries(Haggle *haggle, const ExportView *view, bool list)
{
    uint8_t number[4];
    MetaOffer offer;
    if (!haggle_read(haggle, number, sizeof number))
        return STEP_CLOSE;
    uint32_t count = nbd_get32(number);
    if (count != 1)
        haggle->qemu_steps = QEMU_STEPS_NOT;

    Step step;
    meta_offer_init(&offer, view);
    switch (read_queries(haggle, count, list, &offer)) {
    case QUERIES_GONE:
        step = STEP_CLOSE;
        break;
    case QUERIES_WRONG:
        step = haggle_refuse(haggle, NBD_REP_ERR_INVALID, "the queries do not fit the option");
        break;
    case QUERIES_READ:
        if (list && count == 0)
            meta_offer_choose_all(&offer);
        if (!list && meta_offer_count(&offer) > client_limits(haggle->client)->contexts) {
            step = haggle_refuse(haggle, NBD_REP_ERR_TOO_BIG, "too many contexts: %u are allowed",
                                 (unsigned)client_limits(haggle->client)->contexts);
            break;
        }
        if (!list)
            meta_selection_take(&haggle->session.contexts, view->name, &offer);
        step = send_chosen(haggle, &offer, !list) ? haggle_ack(haggle) : STEP_CLOSE;
        break;
    }
    meta_offer_clear(&offer);
    return step;
}

Step haggle_meta_context(Haggle *haggle)
{
    bool list = haggle->option == NBD_OPT_LIST_META_CONTEXT;
    const char *name = (const char *)haggle->string;
    Step step;

    /* A SET that fails leaves nothing selected either. */
    if (!list)
        meta_selection_clear(&haggle->session.contexts);
    if (!list && haggle->session.mode == NBD_MODE_SIMPLE)
        return haggle_refuse(haggle, NBD_REP_ERR_INVALID,
                             "structured replies or extended headers come first");
    if (!haggle_read_name(haggle, 4, &step))
        return step;

    ExportView view = {0};
    char *text = NULL;
    Admission admission = client_peek(haggle->client, name, &view, &text);
    /* TLS_REQD is for INFO and GO ("SELECTIVETLS mode"). */
    if (admission == ADMIT_TLS_REQUIRED)
        admission = ADMIT_UNKNOWN;
    if (admission != ADMIT_OK)
        return haggle_refuse_export(haggle, admission, name, text);
    g_free(text);
    step = answer_queries(haggle, &view, list);
    export_view_clear(&view);
    return step;
}
