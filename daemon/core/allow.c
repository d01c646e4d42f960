#include "daemon/core/allow.h"
#include "daemon/core/refs.h"
#include "daemon/core/x509_name.h"
#include <arpa/inet.h>
#include <string.h>

typedef enum { KIND_X509, KIND_PSK, KIND_UID, KIND_GROUP, KIND_IP } Kind;

/* IPv4 is kept in its IPv6-mapped form (RFC 4291, 2.5.5.2), so that a v4 client on a dual-stack
 * listener is matched by the same entry; v4 entries have prefixes of 96 and more. */
typedef struct {
    struct in6_addr bits;
    unsigned prefix; /* of an entry, in bits */
} Address;

typedef struct {
    Kind kind;
    AllowRight right;
    X509Name *name;
    char *text; /* the PSK's user or the group, as given */
    uid_t uid;
    Address address;
    int64_t until; /* from then on it matches nobody */
} Entry;

struct AllowList {
    RefCount refs;
    GArray *entries;
    char **texts;
    bool wants_groups;
    bool any_ends;
    int64_t made_at;
};

struct AllowIdentity {
    char *text;
    Kind kind;
    X509Name *name;
    uid_t uid;
    Address address;
    AllowGroups *groups; /* NULL: not looked up */
};

static bool parse_uid(const char *text, uid_t *ret_uid)
{
    guint64 value;
    /* The last value means "none" to the system calls that take a uid. */
    if (!g_ascii_string_to_unsigned(text, 10, 0, G_MAXUINT32 - 1, &value, NULL))
        return false;
    *ret_uid = (uid_t)value;
    return true;
}

static bool parse_address(const char *text, Address *ret_address)
{
    Address address = {.prefix = 128};
    struct in_addr v4;
    if (inet_pton(AF_INET, text, &v4) == 1) {
        memset(address.bits.s6_addr + 10, 0xff, 2);
        memcpy(address.bits.s6_addr + 12, &v4, 4);
    } else {
        /* A zone ("fe80::1%eth0") says through which link, not who. */
        const char *zone = strchr(text, '%');
        g_autofree char *bare = zone ? g_strndup(text, zone - text) : g_strdup(text);
        if (inet_pton(AF_INET6, bare, &address.bits) != 1)
            return false;
    }
    *ret_address = address;
    return true;
}

static bool parse_cidr(const char *text, Address *ret_address)
{
    const char *slash = strchr(text, '/');
    g_autofree char *host = slash ? g_strndup(text, slash - text) : g_strdup(text);
    Address address;
    if (strchr(host, '%') || !parse_address(host, &address))
        return false;
    if (slash) {
        unsigned base = strchr(host, ':') ? 0 : 96;
        guint64 prefix;
        if (!g_ascii_string_to_unsigned(slash + 1, 10, 0, 128 - base, &prefix, NULL))
            return false;
        address.prefix = base + (unsigned)prefix;
    }
    *ret_address = address;
    return true;
}

static bool in_network(const Address *network, const Address *address)
{
    unsigned bytes = network->prefix / 8, bits = network->prefix % 8;
    if (memcmp(&network->bits, &address->bits, bytes) != 0)
        return false;
    if (bits == 0)
        return true;
    unsigned mask = 0xffu << (8 - bits) & 0xffu;
    return ((network->bits.s6_addr[bytes] ^ address->bits.s6_addr[bytes]) & mask) == 0;
}

static void entry_clear(gpointer data)
{
    Entry *entry = data;
    x509_name_free(entry->name);
    g_free(entry->text);
}

/* An entry behind its time: NULL, or what is wrong with it (to be freed). *ret_entry is to be
 * cleared either way. */
static char *parse_rule(const char *p, Entry *ret_entry)
{
    ret_entry->right = ALLOW_WRITE;
    if (*p == '!') {
        ret_entry->right = ALLOW_NOTHING;
        p++;
    } else if (g_str_has_prefix(p, "ro:")) {
        ret_entry->right = ALLOW_READ;
        p += 3;
    }

    if (g_str_has_prefix(p, "x509:")) {
        char *reason = NULL;
        ret_entry->kind = KIND_X509;
        ret_entry->name = x509_name_parse(p + 5, true, &reason);
        return reason;
    }
    if (g_str_has_prefix(p, "psk:")) {
        ret_entry->kind = KIND_PSK;
        ret_entry->text = g_strdup(p + 4);
        return p[4] ? NULL : g_strdup("psk: wants the name of a user, as in psk:bob");
    }
    if (g_str_has_prefix(p, "unix:@")) {
        ret_entry->kind = KIND_GROUP;
        ret_entry->text = g_strdup(p + 6);
        return p[6] ? NULL : g_strdup("unix:@ wants the name of a group, as in unix:@kvm");
    }
    if (g_str_has_prefix(p, "unix:")) {
        ret_entry->kind = KIND_UID;
        if (!parse_uid(p + 5, &ret_entry->uid))
            return g_strdup("unix: wants a numeric uid or @GROUP, as in unix:1000 or unix:@kvm");
        return NULL;
    }
    if (g_str_has_prefix(p, "ip:")) {
        ret_entry->kind = KIND_IP;
        if (!parse_cidr(p + 3, &ret_entry->address))
            return g_strdup("ip: wants an address or a network, as in ip:192.0.2.0/24 or "
                            "ip:2001:db8::/32");
        return NULL;
    }
    return g_strdup("an entry is x509:TYPE=VALUE,..., psk:USER, unix:UID, unix:@GROUP or ip:CIDR, "
                    "with ro: or ! in front, and until:TIME: or for:TIME: before that");
}

static char *parse_entry(const char *text, Entry *ret_entry, char **ret_kept)
{
    if (strlen(text) > ALLOW_MAX_LENGTH)
        return g_strdup_printf("an entry has %d bytes at most", ALLOW_MAX_LENGTH);
    if (!g_utf8_validate(text, -1, NULL))
        return g_strdup("an entry is UTF-8");
    char *reason = allow_time_take(&text, g_get_real_time(), &ret_entry->until);
    if (!reason)
        reason = parse_rule(text, ret_entry);
    if (!reason)
        *ret_kept = allow_time_put(text, ret_entry->until);
    return reason;
}

AllowList *allow_list_new(const char *const *texts, size_t *ret_index, char **ret_reason)
{
    size_t count = g_strv_length((char **)texts);
    if (count > ALLOW_MAX_ENTRIES) {
        *ret_index = ALLOW_MAX_ENTRIES;
        *ret_reason = g_strdup_printf("a list has %d entries at most", ALLOW_MAX_ENTRIES);
        return NULL;
    }
    AllowList *list = g_new0(AllowList, 1);
    refs_init(&list->refs);
    list->made_at = g_get_real_time();
    list->texts = g_new0(char *, count + 1);
    list->entries = g_array_new(FALSE, FALSE, sizeof(Entry));
    g_array_set_clear_func(list->entries, entry_clear);
    for (size_t i = 0; i < count; i++) {
        Entry entry = {0};
        char *reason = parse_entry(texts[i], &entry, &list->texts[i]);
        g_array_append_val(list->entries, entry);
        if (reason) {
            allow_list_unref(list);
            *ret_index = i;
            *ret_reason = reason;
            return NULL;
        }
        list->wants_groups |= entry.kind == KIND_GROUP;
        list->any_ends |= entry.until != ALLOW_FOR_EVER;
    }
    return list;
}

AllowList *allow_list_ref(AllowList *list)
{
    refs_take(&list->refs);
    return list;
}

void allow_list_unref(AllowList *list)
{
    if (!list || !refs_drop(&list->refs))
        return;
    g_array_unref(list->entries);
    g_strfreev(list->texts);
    g_free(list);
}

const char *const *allow_list_entries(const AllowList *list)
{
    return (const char *const *)list->texts;
}

bool allow_list_wants_groups(const AllowList *list)
{
    return list->wants_groups;
}

static AllowMatch sure(bool matches)
{
    return matches ? ALLOW_YES : ALLOW_NO;
}

static AllowMatch match_entry(const Entry *entry, const AllowIdentity *identity)
{
    Kind kind = entry->kind == KIND_GROUP ? KIND_UID : entry->kind;
    if (identity->kind != kind)
        return ALLOW_NO;
    switch (entry->kind) {
    case KIND_X509:
        return sure(x509_name_matches(entry->name, identity->name));
    case KIND_PSK:
        return sure(g_str_equal(entry->text, identity->text + 4));
    case KIND_UID:
        return sure(entry->uid == identity->uid);
    case KIND_GROUP:
        return allow_groups_match(identity->groups, entry->text);
    case KIND_IP:
        return sure(in_network(&entry->address, &identity->address));
    }
    g_assert_not_reached();
}

static AllowMatch match_any(const Entry *entry, const GPtrArray *identities)
{
    AllowMatch best = ALLOW_NO;
    for (guint i = 0; i < identities->len && best != ALLOW_YES; i++)
        best = MAX(best, match_entry(entry, identities->pdata[i]));
    return best;
}

AllowRight allow_list_match(const AllowList *list, const GPtrArray *identities)
{
    return allow_list_match_at(list, identities, list && list->any_ends ? g_get_real_time() : 0);
}

bool allow_list_any_ends(const AllowList *list)
{
    return list->any_ends;
}

int64_t allow_list_made_at(const AllowList *list)
{
    return list->made_at;
}

bool allow_list_has_ended(const AllowList *list, size_t index, int64_t at)
{
    return g_array_index(list->entries, Entry, index).until <= at;
}

int64_t allow_list_next_end(const AllowList *list, int64_t after)
{
    int64_t next = ALLOW_FOR_EVER;
    for (guint i = 0; list->any_ends && i < list->entries->len; i++) {
        int64_t until = g_array_index(list->entries, Entry, i).until;
        if (until > after)
            next = MIN(next, until);
    }
    return next;
}

/* Where it is not known whether an entry matches, both ways are gone: the least, or the most, that
 * either leads to. */
static AllowRight match_at(const AllowList *list, const GPtrArray *identities, int64_t at,
                           bool least)
{
    if (!list)
        return ALLOW_WRITE;
    AllowRight bound = least ? ALLOW_WRITE : ALLOW_NOTHING, right = ALLOW_NOTHING;
    for (guint i = 0; i < list->entries->len; i++) {
        const Entry *entry = &g_array_index(list->entries, Entry, i);
        AllowMatch match = entry->until > at ? match_any(entry, identities) : ALLOW_NO;
        if (match == ALLOW_UNKNOWN)
            bound = least ? MIN(bound, entry->right) : MAX(bound, entry->right);
        if (match == ALLOW_YES) {
            right = entry->right;
            break;
        }
    }
    return least ? MIN(bound, right) : MAX(bound, right);
}

AllowRight allow_list_match_at(const AllowList *list, const GPtrArray *identities, int64_t at)
{
    return match_at(list, identities, at, true);
}

AllowRight allow_list_may_match_at(const AllowList *list, const GPtrArray *identities, int64_t at)
{
    return match_at(list, identities, at, false);
}

AllowIdentity *allow_identity_new(const char *text)
{
    AllowIdentity *identity = g_new0(AllowIdentity, 1);
    identity->text = g_strdup(text);
    bool good = false;
    if (g_str_has_prefix(text, "x509:")) {
        identity->kind = KIND_X509;
        identity->name = x509_name_parse(text + 5, false, NULL);
        good = identity->name != NULL;
    } else if (g_str_has_prefix(text, "psk:")) {
        identity->kind = KIND_PSK;
        good = text[4] != '\0';
    } else if (g_str_has_prefix(text, "unix:")) {
        identity->kind = KIND_UID;
        good = parse_uid(text + 5, &identity->uid);
    } else if (g_str_has_prefix(text, "ip:")) {
        identity->kind = KIND_IP;
        good = parse_address(text + 3, &identity->address);
    }
    if (!good)
        g_clear_pointer(&identity, allow_identity_free);
    return identity;
}

void allow_identity_free(AllowIdentity *identity)
{
    if (!identity)
        return;
    g_free(identity->text);
    x509_name_free(identity->name);
    allow_groups_unref(identity->groups);
    g_free(identity);
}

const char *allow_identity_text(const AllowIdentity *identity)
{
    return identity->text;
}

static int identity_weight(const AllowIdentity *identity)
{
    switch (identity->kind) {
    case KIND_X509:
    case KIND_PSK:
        return 3;
    case KIND_UID:
    case KIND_GROUP:
        return 2;
    case KIND_IP:
        return 1;
    }
    g_assert_not_reached();
}

const char *allow_identity_best(const GPtrArray *identities)
{
    const AllowIdentity *best = NULL;
    for (guint i = 0; i < identities->len; i++) {
        const AllowIdentity *identity = identities->pdata[i];
        if (!best || identity_weight(identity) > identity_weight(best))
            best = identity;
    }
    return best ? best->text : NULL;
}

bool allow_identity_may_have_groups(const AllowIdentity *identity)
{
    return identity->kind == KIND_UID;
}

void allow_identity_resolve(AllowIdentity *identity)
{
    if (identity->kind == KIND_UID && !identity->groups)
        identity->groups = allow_groups_look_up(identity->uid);
}

void allow_identity_take_groups(AllowIdentity *identity, const AllowIdentity *resolved)
{
    AllowGroups *old = identity->groups;
    identity->groups = resolved ? allow_groups_ref(resolved->groups) : NULL;
    allow_groups_unref(old);
}
