/* Who is admitted to an export, and how: pure decisions, no locks, no side effects. */
#include "daemon/core/client_state.h"

Admission export_admit(const ExportConfig *config, const Admitted *admitted, AllowRight right,
                       bool tls, bool listener_has_tls, bool want_read_only, bool *ret_read_only,
                       char **ret_text)
{
    if (right == ALLOW_NOTHING)
        return ADMIT_UNKNOWN;
    if (config->tls_required && !tls)
        return listener_has_tls ? ADMIT_TLS_REQUIRED : ADMIT_UNKNOWN;

    bool read_only = config->read_only || right == ALLOW_READ || want_read_only;
    g_autofree char *why = NULL;
    if (config->max_clients && admitted->clients >= config->max_clients)
        why = g_strdup_printf("has %u clients, and may have %u (max_clients)", admitted->clients,
                              config->max_clients);

    switch (config->sharing) {
    case SHARING_EXCLUSIVE:
        if (!why && admitted->clients > 0)
            why = g_strdup("is exclusive and has a client already");
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
        return ADMIT_POLICY;
    }
    *ret_read_only = read_only;
    return ADMIT_OK;
}

bool export_multi_conn(const ExportConfig *config, bool read_only)
{
    if (config->max_clients == 1)
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
