/* Who is admitted to an export, and how: pure decisions, no locks, no side effects. */
#include "daemon/core/client_state.h"

static uint32_t limit_of_identity(const ExportConfig *config, uint32_t otherwise)
{
    return config->max_clients_per_identity ? config->max_clients_per_identity : otherwise;
}

Admission export_admit(const ExportConfig *config, const Admitted *admitted, AllowRight right,
                       bool tls, bool listener_has_tls, bool want_read_only, bool *ret_read_only,
                       char **ret_text)
{
    if (right == ALLOW_NOTHING)
        return ADMIT_UNKNOWN;
    if (config->tls_required && !tls)
        return listener_has_tls ? ADMIT_TLS_REQUIRED : ADMIT_UNKNOWN;

    bool read_only = config->read_only || right == ALLOW_READ || want_read_only;
    uint32_t identity_limit = limit_of_identity(config, admitted->identity_limit);
    bool busy = false;
    g_autofree char *why = NULL;
    if (config->max_clients && admitted->clients >= config->max_clients)
        why = g_strdup_printf("has %u clients, and may have %u (max_clients)", admitted->clients,
                              config->max_clients);
    else if (identity_limit && admitted->of_identity >= identity_limit)
        why = g_strdup_printf("has %u clients of this identity, and may have %u "
                              "(max_clients_per_identity)",
                              admitted->of_identity, identity_limit);

    switch (config->sharing) {
    case SHARING_EXCLUSIVE:
        /* Before the other bounds: this one may pass. */
        busy = admitted->clients > 0 || admitted->waiting > 0;
        if (busy) {
            g_free(why);
            why = g_strdup(admitted->clients > 0 ? "is exclusive and has a client already"
                                                 : "is exclusive, and others wait for it");
        }
        break;
    case SHARING_SINGLE_WRITER:
        if (admitted->writers > 0)
            read_only = true;
        break;
    case SHARING_SHARED:
        break;
    }
    if (why) {
        if (ret_text)
            *ret_text = g_strdup_printf("export '%.80s' %s", config->name, why);
        return busy ? ADMIT_BUSY : ADMIT_POLICY;
    }
    *ret_read_only = read_only;
    return ADMIT_OK;
}

bool export_multi_conn(const ExportConfig *config, bool read_only, uint32_t identity_limit)
{
    if (config->max_clients == 1 || limit_of_identity(config, identity_limit) == 1)
        return false;
    switch (config->sharing) {
    case SHARING_EXCLUSIVE:
        return false;
    case SHARING_SINGLE_WRITER:
        return read_only;
    case SHARING_SHARED:
        return true;
    }
    g_assert_not_reached();
}
