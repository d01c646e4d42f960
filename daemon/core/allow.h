/* Who may use an export: identities and allow lists (README, "Who may connect").
 *
 * A client has identities, all of them together: "x509:" and an RFC 4514 name, "psk:" and a user,
 * "unix:" and a uid, "ip:" and an address. A list is read in order and the first entry that
 * matches any of them decides. Entries:
 *   x509:CN=alice,O=Acme   each attribute must be in the name; `*` and `?` match within one value
 *   psk:USER   unix:UID   unix:@GROUP   ip:CIDR (or one address)
 * with "ro:" in front (reading alone) or "!" (refused), and "until:TIME:" in front of that: from
 * then on the entry matches nobody (allow_time.h). No list: everyone; an empty one: nobody.
 *
 * A list is immutable and shared by reference count; matching is thread-safe and never blocks. An
 * entry "unix:@GROUP" needs the groups of a uid, and the system's user database may be slow: they
 * are looked up beforehand, outside any lock, and only where a list wants them. Before that, and
 * where the look-up has failed, such an entry refuses if it is one that refuses, holds to reading
 * if it is one that lets read, and admits nobody. */
#ifndef CORE_ALLOW_H
#define CORE_ALLOW_H

#include "daemon/core/allow_groups.h"
#include "daemon/core/allow_time.h"
#include <glib.h>
#include <stdbool.h>

#define ALLOW_MAX_ENTRIES 1024
#define ALLOW_MAX_LENGTH  4096 /* bytes of one entry */

typedef enum { ALLOW_NOTHING, ALLOW_READ, ALLOW_WRITE } AllowRight;

typedef struct AllowList AllowList;

/* entries: NULL-terminated, may be empty. NULL: *ret_index is the entry that is wrong, *ret_reason
 * says how. */
AllowList *allow_list_new(const char *const *entries, size_t *ret_index, char **ret_reason);
AllowList *allow_list_ref(AllowList *list);
void allow_list_unref(AllowList *list); /* takes NULL */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(AllowList, allow_list_unref)
/* As they were given, but for "for:", which has become "until:"; the list's. */
const char *const *allow_list_entries(const AllowList *list);
/* True when an entry names a group: call allow_identity_resolve before matching. */
bool allow_list_wants_groups(const AllowList *list);

/* What the identities may do now. list NULL: everyone writes. identities: of AllowIdentity. */
AllowRight allow_list_match(const AllowList *list, const GPtrArray *identities);
/* At that time: microseconds since 1970. */
AllowRight allow_list_match_at(const AllowList *list, const GPtrArray *identities, int64_t at);
/* The most that they might have been allowed, by groups that are not known. */
AllowRight allow_list_may_match_at(const AllowList *list, const GPtrArray *identities, int64_t at);
/* Whether any entry ends, or has ended; and when the list was made from its entries' texts. */
bool allow_list_any_ends(const AllowList *list);
int64_t allow_list_made_at(const AllowList *list);
/* Whether the entry's time is over then. */
bool allow_list_has_ended(const AllowList *list, size_t index, int64_t at);
/* When the next entry ends, after that time; ALLOW_FOR_EVER: none does. */
int64_t allow_list_next_end(const AllowList *list, int64_t after);

/* One identity, taken apart once so that matching only compares. NULL when it is none of the four
 * kinds or cannot be parsed (such an identity matches nothing). */
typedef struct AllowIdentity AllowIdentity;
AllowIdentity *allow_identity_new(const char *text);
void allow_identity_free(AllowIdentity *identity);
/* Of several, the text of the one that says best who it is: what TLS has proven (x509, psk), else
 * unix, else ip. NULL: none. Two connections whose best ones are equal are of the same identity. */
const char *allow_identity_best(const GPtrArray *identities);
const char *allow_identity_text(const AllowIdentity *identity);
bool allow_identity_may_have_groups(const AllowIdentity *identity);
/* Looks up the groups of a "unix:" identity, unless it has them. May block. Not to be called while
 * another thread matches it. */
void allow_identity_resolve(AllowIdentity *identity);
/* Those that were found for another identity of the same text; NULL: they are not known. The same
 * care about threads. */
void allow_identity_take_groups(AllowIdentity *identity, const AllowIdentity *resolved);

#endif
