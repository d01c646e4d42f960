/* Claims on names: who may change what until its transaction ends. */
#include "daemon/core/txn_state.h"

static char *claim_key(ClaimKind kind, const char *name)
{
    static const char *const kinds[] = {
        [CLAIM_DISK] = "1disk", [CLAIM_EXPORT] = "2export", [CLAIM_FILE] = "3file"};
    return g_strdup_printf("%s/%s", kinds[kind], name);
}

/* Whether key comes after everything the transaction holds, so that waiting for it cannot make a
 * circle. */
static bool in_order(const Txn *txn, const char *key)
{
    for (guint i = 0; i < txn->claims->len; i++) {
        if (strcmp(txn->claims->pdata[i], key) > 0)
            return false;
    }
    return true;
}

bool txn_claim(Txn *txn, ClaimKind kind, const char *name, GError **error)
{
    Registry *registry = txn->registry;
    g_autofree char *key = claim_key(kind, name);
    bool may_wait = in_order(txn, key), in_time = true;

    registry_lock(registry);
    Txn *holder;
    while ((holder = g_hash_table_lookup(registry->claims, key)) && holder != txn && may_wait &&
           in_time)
        in_time = registry_wait(registry, &registry->claims_changed, txn->deadline);
    if (!holder) {
        g_hash_table_insert(registry->claims, g_strdup(key), txn);
        g_ptr_array_add(txn->claims, g_steal_pointer(&key));
    }
    registry_unlock(registry);

    if (holder && holder != txn) {
        api_error_set(error, may_wait ? ERROR_TIMEOUT : ERROR_BUSY, NULL,
                      "another request is changing '%s'", name);
        return false;
    }
    return true;
}

void txn_release_claims(Txn *txn)
{
    Registry *registry = txn->registry;
    registry_lock(registry);
    for (guint i = 0; i < txn->claims->len; i++)
        g_hash_table_remove(registry->claims, txn->claims->pdata[i]);
    pthread_cond_broadcast(&registry->claims_changed);
    registry_unlock(registry);
    g_ptr_array_set_size(txn->claims, 0);
}
