#include "daemon/nbd/handshake.h"
#include "daemon/nbd/haggle.h"
#include "daemon/nbd/tls_session.h"
#include <stdarg.h>
#include <string.h>

/* Names of exports are cut where they are echoed. */
#define ECHO_CHARACTERS 80
/* Of a list of exports that are held while they are sent. */
#define LIST_BYTES (16u << 10)

void nbd_session_clear(NbdSession *session)
{
    meta_selection_clear(&session->contexts);
    export_view_clear(&session->view);
}

/* --- reading and answering --- */

static bool flush(Haggle *haggle)
{
    size_t length = haggle->pending;
    haggle->pending = 0;
    return stream_write_all(haggle->stream, haggle->out, length, &haggle->patience) == 0;
}

static bool receive(Haggle *haggle, void *buffer, size_t length)
{
    if (haggle->pending > 0 && !flush(haggle))
        return false;
    return stream_read_all(haggle->stream, buffer, length, &haggle->patience) == 0;
}

bool haggle_read(Haggle *haggle, void *buffer, uint32_t length)
{
    g_assert(length <= haggle->left);
    haggle->left -= length;
    return receive(haggle, buffer, length);
}

bool haggle_skip(Haggle *haggle, uint32_t length)
{
    while (length > 0) {
        uint32_t n = MIN(length, NBD_MAX_STRING);
        if (!haggle_read(haggle, haggle->string, n))
            return false;
        length -= n;
    }
    return true;
}

StringRead haggle_read_string(Haggle *haggle, uint32_t length)
{
    if (length > NBD_MAX_STRING || length > haggle->left)
        return STRING_WRONG;
    if (!haggle_read(haggle, haggle->string, length))
        return STRING_GONE;
    haggle->string[length] = '\0';
    return memchr(haggle->string, '\0', length) == NULL ? STRING_GOOD : STRING_WRONG;
}

bool haggle_put(Haggle *haggle, const void *data, size_t length)
{
    const uint8_t *next = data;
    while (length > 0) {
        size_t n = MIN(length, sizeof haggle->out - haggle->pending);
        memcpy(haggle->out + haggle->pending, next, n);
        haggle->pending += n;
        next += n;
        length -= n;
        if (haggle->pending == sizeof haggle->out && !flush(haggle))
            return false;
    }
    return true;
}

bool haggle_reply(Haggle *haggle, uint32_t type, const void *head, size_t head_length,
                  const char *text)
{
    uint8_t header[NBD_OPTION_REPLY_HEADER];
    size_t text_length = text ? strlen(text) : 0;
    nbd_encode_option_reply(header, haggle->option, type, (uint32_t)(head_length + text_length));
    return haggle_put(haggle, header, sizeof header) && haggle_put(haggle, head, head_length) &&
           haggle_put(haggle, text, text_length);
}

Step haggle_ack(Haggle *haggle)
{
    return haggle_reply(haggle, NBD_REP_ACK, NULL, 0, NULL) ? STEP_ON : STEP_CLOSE;
}

Step haggle_refuse(Haggle *haggle, uint32_t error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    if (!haggle_skip(haggle, haggle->left))
        return STEP_CLOSE;
    return haggle_reply(haggle, error, NULL, 0, text) ? STEP_ON : STEP_CLOSE;
}

Step haggle_refuse_export(Haggle *haggle, Admission admission, const char *name, char *text)
{
    g_autofree char *reason = text;
    g_autofree char *valid = g_utf8_make_valid(name, -1);
    g_autofree char *echo =
        g_utf8_substring(valid, 0, MIN(g_utf8_strlen(valid, -1), ECHO_CHARACTERS));
    switch (admission) {
    case ADMIT_OK:
    case ADMIT_UNKNOWN:
        break;
    case ADMIT_TLS_REQUIRED:
        return haggle_refuse(haggle, NBD_REP_ERR_TLS_REQD, "export '%s' requires TLS", echo);
    case ADMIT_BUSY:
    case ADMIT_POLICY:
        return haggle_refuse(haggle, NBD_REP_ERR_POLICY, "%s",
                             reason ? reason : "the export takes no clients now");
    case ADMIT_SHUTDOWN:
        return haggle_refuse(haggle, NBD_REP_ERR_SHUTDOWN, "the server is shutting down");
    }
    return haggle_refuse(haggle, NBD_REP_ERR_UNKNOWN, "no export is named '%s'", echo);
}

bool haggle_read_name(Haggle *haggle, uint32_t behind, Step *ret_step)
{
    uint8_t number[4];
    if (haggle->left < sizeof number + behind) {
        *ret_step = haggle_refuse(haggle, NBD_REP_ERR_INVALID, "the option is too short");
        return false;
    }
    *ret_step = STEP_CLOSE;
    if (!haggle_read(haggle, number, sizeof number))
        return false;
    uint32_t length = nbd_get32(number);
    if (length > haggle->left - behind) {
        *ret_step =
            haggle_refuse(haggle, NBD_REP_ERR_INVALID, "the name is longer than the option");
        return false;
    }
    StringRead read = haggle_read_string(haggle, length);
    if (read == STRING_WRONG)
        *ret_step =
            haggle_refuse(haggle, NBD_REP_ERR_INVALID, "this cannot be the name of an export");
    return read == STRING_GOOD;
}

/* --- the short options --- */

static Step option_abort(Haggle *haggle)
{
    /* The client may be gone already, and need not wait for the answer. */
    if (haggle_skip(haggle, haggle->left) && haggle_reply(haggle, NBD_REP_ACK, NULL, 0, NULL))
        flush(haggle);
    return STEP_CLOSE;
}

static bool send_listed(Haggle *haggle, const char *name, const char *description)
{
    size_t length = strlen(name);
    g_autofree uint8_t *head = g_malloc(4 + length);
    nbd_put32(head, (uint32_t)length);
    memcpy(head + 4, name, length);
    return haggle_reply(haggle, NBD_REP_SERVER, head, 4 + length, description);
}

static Step option_list(Haggle *haggle)
{
    g_autofree char *after = NULL;
    for (;;) {
        GString *page = client_list_exports(haggle->client, after, LIST_BYTES);
        if (page == NULL)
            return haggle_refuse(haggle, NBD_REP_ERR_SHUTDOWN, "the server is shutting down");
        bool more = page->len > 0, good = true;
        for (const char *name = page->str, *end = name + page->len; good && name < end;) {
            const char *description = name + strlen(name) + 1;
            good = send_listed(haggle, name, description);
            g_free(after);
            after = g_strdup(name);
            name = description + strlen(description) + 1;
        }
        g_string_free(page, TRUE);
        if (!good)
            return STEP_CLOSE;
        if (!more)
            return haggle_ack(haggle);
    }
}

/* Registers who the client is, by the material it has passed. One that has come into force
 * meanwhile counts as well: whoever is revoked in the middle of a handshake does not get in by the
 * old. */
static bool enter_tls(Haggle *haggle, TlsMaterial *material, char **ret_why)
{
    TlsSession *tls = haggle->stream->tls;
    g_autofree char *identity = tls_session_identity(tls);
    g_autoptr(TlsMaterial) passed = tls_material_ref(material);
    while (!client_enter_tls(haggle->client, passed, identity)) {
        tls_material_unref(passed);
        passed = client_tls_material(haggle->client);
        if (passed == NULL) {
            *ret_why = g_strdup("the credential is gone");
            return false;
        }
        if (tls_session_check(tls, passed, ret_why) < 0)
            return false;
    }
    return true;
}

/* "NBD_OPT_STARTTLS": everything that was negotiated before is forgotten. Options are read byte by
 * byte as they are needed, so plaintext that came right behind this one is still in the socket: the
 * TLS handshake meets it, and fails. */
static Step option_starttls(Haggle *haggle)
{
    if (haggle->stream->tls != NULL)
        return haggle_refuse(haggle, NBD_REP_ERR_INVALID, "TLS is in use already");
    g_autoptr(TlsMaterial) material = client_tls_material(haggle->client);
    if (material == NULL)
        return haggle_refuse(haggle, NBD_REP_ERR_POLICY, "TLS is not configured here");
    if (haggle_ack(haggle) == STEP_CLOSE || !flush(haggle))
        return STEP_CLOSE;
    nbd_session_clear(&haggle->session);
    haggle->session = (NbdSession){.mode = NBD_MODE_SIMPLE, .minimum_block = 1};
    g_autofree char *why = NULL;
    if (stream_start_tls(haggle->stream, material, &haggle->patience, &why) < 0 ||
        !enter_tls(haggle, material, &why)) {
        client_tls_failed(haggle->client, why);
        return STEP_CLOSE;
    }
    return STEP_ON;
}

/* Nothing but STARTTLS and ABORT is heard in plaintext where TLS is required. */
static bool is_locked(const Haggle *haggle)
{
    return haggle->stream->tls == NULL && haggle->option != NBD_OPT_STARTTLS &&
           haggle->option != NBD_OPT_ABORT && client_tls_mode(haggle->client) == CLIENT_TLS_REQUIRE;
}

static Step option_structured_reply(Haggle *haggle)
{
    switch (haggle->session.mode) {
    case NBD_MODE_SIMPLE:
        haggle->session.mode = NBD_MODE_STRUCTURED;
        return haggle_ack(haggle);
    case NBD_MODE_STRUCTURED:
        return haggle_refuse(haggle, NBD_REP_ERR_INVALID, "structured replies are in use already");
    case NBD_MODE_EXTENDED:
        break;
    }
    return haggle_refuse(haggle, NBD_REP_ERR_EXT_HEADER_REQD, "extended headers are in use");
}

static Step option_extended_headers(Haggle *haggle)
{
    if (haggle->session.mode == NBD_MODE_EXTENDED)
        return haggle_refuse(haggle, NBD_REP_ERR_INVALID, "extended headers are in use already");
    haggle->session.mode = NBD_MODE_EXTENDED;
    return haggle_ack(haggle);
}

/* --- the table, and haggling --- */

typedef struct {
    uint32_t option;
    const char *name;
    bool bare; /* has no payload: one that has is answered ERR_INVALID */
    Step (*handle)(Haggle *haggle);
} OptionRow;

static const OptionRow options[] = {
    {NBD_OPT_EXPORT_NAME, "NBD_OPT_EXPORT_NAME", false, haggle_export_name},
    {NBD_OPT_ABORT, "NBD_OPT_ABORT", false, option_abort},
    {NBD_OPT_LIST, "NBD_OPT_LIST", true, option_list},
    {NBD_OPT_STARTTLS, "NBD_OPT_STARTTLS", true, option_starttls},
    {NBD_OPT_INFO, "NBD_OPT_INFO", false, haggle_info},
    {NBD_OPT_GO, "NBD_OPT_GO", false, haggle_info},
    {NBD_OPT_STRUCTURED_REPLY, "NBD_OPT_STRUCTURED_REPLY", true, option_structured_reply},
    {NBD_OPT_LIST_META_CONTEXT, "NBD_OPT_LIST_META_CONTEXT", false, haggle_meta_context},
    {NBD_OPT_SET_META_CONTEXT, "NBD_OPT_SET_META_CONTEXT", false, haggle_meta_context},
    {NBD_OPT_EXTENDED_HEADERS, "NBD_OPT_EXTENDED_HEADERS", true, option_extended_headers},
};

static const OptionRow *find_option(uint32_t option)
{
    for (size_t i = 0; i < G_N_ELEMENTS(options); i++)
        if (options[i].option == option)
            return &options[i];
    return NULL;
}

static Step answer(Haggle *haggle)
{
    const OptionRow *row = find_option(haggle->option);
    /* ABORT is heard whatever happens; EXPORT_NAME cannot be refused. */
    if (haggle->patience.woken && haggle->option != NBD_OPT_ABORT) {
        if (haggle->option == NBD_OPT_EXPORT_NAME)
            return STEP_CLOSE;
        return haggle_refuse(haggle, NBD_REP_ERR_SHUTDOWN, "the server is shutting down");
    }
    if (is_locked(haggle)) {
        if (haggle->option == NBD_OPT_EXPORT_NAME)
            return STEP_CLOSE;
        return haggle_refuse(haggle, NBD_REP_ERR_TLS_REQD, "this listener requires TLS");
    }
    if (row == NULL)
        return haggle_refuse(haggle, NBD_REP_ERR_UNSUP, "option %u is not known here",
                             haggle->option);
    if (row->bare && haggle->left > 0) {
        Step step = haggle_refuse(haggle, NBD_REP_ERR_INVALID, "%s has no payload", row->name);
        if (haggle->option != NBD_OPT_STARTTLS)
            return step;
        flush(haggle); /* who sends one with STARTTLS is up to something */
        return STEP_CLOSE;
    }
    return row->handle(haggle);
}

/* EXTENDED_HEADERS, SET_META_CONTEXT, GO, and nothing else: see bare_writes. What is in them counts
 * too, where they are handled. */
static void watch_for_qemu(Haggle *haggle)
{
    static const uint32_t order[QEMU_STEPS_GO] = {NBD_OPT_EXTENDED_HEADERS,
                                                  NBD_OPT_SET_META_CONTEXT, NBD_OPT_GO};
    if (haggle->option == NBD_OPT_STARTTLS)
        haggle->qemu_steps = 0;
    else if (haggle->qemu_steps < QEMU_STEPS_GO && haggle->option == order[haggle->qemu_steps])
        haggle->qemu_steps++;
    else
        haggle->qemu_steps = QEMU_STEPS_NOT;
}

static Step haggle_once(Haggle *haggle)
{
    uint8_t header[NBD_OPTION_HEADER];
    if (!receive(haggle, header, sizeof header) ||
        !nbd_decode_option(header, &haggle->option, &haggle->left))
        return STEP_CLOSE;
    if (haggle->left > client_limits(haggle->client)->option_bytes)
        return STEP_CLOSE;
    watch_for_qemu(haggle);
    return answer(haggle);
}

static bool greet(Haggle *haggle)
{
    uint8_t greeting[18], answered[4];
    nbd_put64(greeting, NBD_INIT_MAGIC);
    nbd_put64(greeting + 8, NBD_OPTION_MAGIC);
    nbd_put16(greeting + 16, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    if (!haggle_put(haggle, greeting, sizeof greeting) ||
        !receive(haggle, answered, sizeof answered))
        return false;
    uint32_t flags = nbd_get32(answered);
    haggle->no_zeroes = (flags & NBD_FLAG_C_NO_ZEROES) != 0;
    /* "Client flags": the connection must be dropped on one that we do not know. */
    return (flags & ~(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES)) == 0;
}

bool nbd_handshake(Stream *stream, Client *client, int wake_fd, NbdSession *ret_session)
{
    const Limits *limits = client_limits(client);
    Haggle haggle;
    haggle.stream = stream;
    haggle.client = client;
    haggle.patience = (StreamPatience){
        .deadline = g_get_monotonic_time() + (gint64)limits->handshake_seconds * G_USEC_PER_SEC,
        .wake_fd = wake_fd,
    };
    haggle.session = (NbdSession){.mode = NBD_MODE_SIMPLE, .minimum_block = 1};
    haggle.pending = 0;
    haggle.qemu_steps = 0;

    Step step = greet(&haggle) ? STEP_ON : STEP_CLOSE;
    for (uint64_t count = 0; step == STEP_ON; count++)
        step = count < limits->handshake_options ? haggle_once(&haggle) : STEP_CLOSE;
    if (step == STEP_TRANSMIT && flush(&haggle)) {
        *ret_session = haggle.session;
        return true;
    }
    nbd_session_clear(&haggle.session);
    return false;
}
