/* The options that choose an export or ask about one: EXPORT_NAME, INFO, GO. */
#include "daemon/nbd/haggle.h"
#include <string.h>

/* "Transmission flags". go: the client is about to transmit, and will have what it selected;
 * otherwise BLOCK_STATUS_PAYLOAD says what it could have. */
static uint16_t transmission_flags(const NbdSession *session, const ExportView *view, bool go)
{
    uint32_t flags =
        NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;
    if (view->read_only)
        flags |= NBD_FLAG_READ_ONLY;
    else
        flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
    if (view->rotational)
        flags |= NBD_FLAG_ROTATIONAL;
    if (view->multi_conn)
        flags |= NBD_FLAG_CAN_MULTI_CONN;
    if (session->mode != NBD_MODE_SIMPLE)
        flags |= NBD_FLAG_SEND_DF;
    if (session->mode == NBD_MODE_EXTENDED && (!go || session->contexts.count > 0))
        flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD;
    return (uint16_t)flags;
}

/* The export is the client's: keeps what the transmission needs to know. */
static void settle(Haggle *haggle, ExportView *view, bool asked_block_size)
{
    NbdSession *session = &haggle->session;
    meta_selection_bind(&session->contexts, view);
    session->minimum_block = asked_block_size ? view->minimum_block : 1;
    session->flags = transmission_flags(session, view, true);
    session->view = *view;
}

Step haggle_export_name(Haggle *haggle)
{
    ExportView view = {0};
    g_autofree char *text = NULL;
    /* Whoever has extended headers must not use it. */
    if (haggle->session.mode == NBD_MODE_EXTENDED ||
        haggle_read_string(haggle, haggle->left) != STRING_GOOD ||
        haggle_attach(haggle, (const char *)haggle->string, &view, &text) != ADMIT_OK)
        return STEP_CLOSE;
    settle(haggle, &view, false);

    uint8_t reply[10 + NBD_EXPORT_NAME_ZEROES] = {0};
    nbd_put64(reply, view.size);
    nbd_put16(reply + 8, haggle->session.flags);
    size_t length = haggle->no_zeroes ? 10 : sizeof reply;
    return haggle_put(haggle, reply, length) ? STEP_TRANSMIT : STEP_CLOSE;
}

static bool send_info(Haggle *haggle, const ExportView *view, uint16_t flags, bool asked_name,
                      bool asked_block_size)
{
    uint8_t head[14];
    if (asked_name) {
        nbd_put16(head, NBD_INFO_NAME);
        if (!haggle_reply(haggle, NBD_REP_INFO, head, 2, view->name))
            return false;
    }
    if (view->description != NULL && *view->description != '\0') {
        nbd_put16(head, NBD_INFO_DESCRIPTION);
        if (!haggle_reply(haggle, NBD_REP_INFO, head, 2, view->description))
            return false;
    }
    nbd_put16(head, NBD_INFO_BLOCK_SIZE);
    nbd_put32(head + 2, asked_block_size ? view->minimum_block : 1);
    nbd_put32(head + 6, view->preferred_block);
    nbd_put32(head + 10, view->maximum_block);
    if (!haggle_reply(haggle, NBD_REP_INFO, head, 14, NULL))
        return false;
    nbd_put16(head, NBD_INFO_EXPORT);
    nbd_put64(head + 2, view->size);
    nbd_put16(head + 10, flags);
    return haggle_reply(haggle, NBD_REP_INFO, head, 12, NULL);
}

/* The list of information requests: what is left of the payload. */
static bool read_requests(Haggle *haggle, bool *ret_name, bool *ret_block_size)
{
    *ret_name = *ret_block_size = false;
    while (haggle->left > 0) {
        uint8_t some[256];
        uint32_t n = MIN(haggle->left, (uint32_t)sizeof some);
        if (!haggle_read(haggle, some, n))
            return false;
        for (uint32_t i = 0; i < n; i += 2) {
            uint16_t type = nbd_get16(some + i);
            *ret_name |= type == NBD_INFO_NAME;
            *ret_block_size |= type == NBD_INFO_BLOCK_SIZE;
        }
    }
    return true;
}

Step haggle_info(Haggle *haggle)
{
    const char *name = (const char *)haggle->string;
    bool go = haggle->option == NBD_OPT_GO;
    uint8_t number[2];
    Step step;

    if (!haggle_read_name(haggle, 2, &step))
        return step;
    if (!haggle_read(haggle, number, 2))
        return STEP_CLOSE;
    if (haggle->left != 2u * nbd_get16(number))
        return haggle_refuse(haggle, NBD_REP_ERR_INVALID,
                             "the number of information requests is not that of the option");
    bool asked_name, asked_block_size, asked_once = haggle->left == 2;
    if (!read_requests(haggle, &asked_name, &asked_block_size))
        return STEP_CLOSE;

    ExportView view = {0};
    char *text = NULL;
    Admission admission = go ? haggle_attach(haggle, name, &view, &text)
                             : client_peek(haggle->client, name, &view, &text);
    if (admission != ADMIT_OK)
        return haggle_refuse_export(haggle, admission, name, text);
    g_free(text);
    if (go)
        settle(haggle, &view, asked_block_size);
    haggle->session.bare_writes =
        go && haggle->qemu_steps == QEMU_STEPS_GO && asked_once && asked_block_size;
    uint16_t flags = go ? haggle->session.flags : transmission_flags(&haggle->session, &view, go);
    bool sent = send_info(haggle, &view, flags, asked_name, asked_block_size) &&
                haggle_reply(haggle, NBD_REP_ACK, NULL, 0, NULL);
    if (!go)
        export_view_clear(&view);
    if (!sent)
        return STEP_CLOSE;
    return go ? STEP_TRANSMIT : STEP_ON;
}
