/* Distinguished names in their string form (RFC 4514), taken apart for comparing. */
#ifndef CORE_X509_NAME_H
#define CORE_X509_NAME_H

#include <glib.h>
#include <stdbool.h>

typedef struct X509Name X509Name;

/* patterns: `*` and `?` that are not escaped are wildcards. NULL when the text is malformed or has
 * no attribute: *ret_reason says how (not touched on success; may be NULL). */
X509Name *x509_name_parse(const char *text, bool patterns, char **ret_reason);
void x509_name_free(X509Name *name); /* takes NULL */

/* Every attribute of pattern is in name: same type (any case), value equal or matched by its
 * wildcards, which never see more than that one value. */
bool x509_name_matches(const X509Name *pattern, const X509Name *name);

#endif
