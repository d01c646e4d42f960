/* The groups of a user, as the system's user database has them.
 *
 * A look-up may block for as long as that database likes, and it may fail: then of a group that it
 * has not named nobody knows whether the user is in it. What is found is immutable and shared by
 * reference count. */
#ifndef CORE_ALLOW_GROUPS_H
#define CORE_ALLOW_GROUPS_H

#include <sys/types.h>

typedef struct AllowGroups AllowGroups;

typedef enum { ALLOW_NO, ALLOW_UNKNOWN, ALLOW_YES } AllowMatch;

/* A user that the database does not have is in no group. May block. */
AllowGroups *allow_groups_look_up(uid_t uid);
AllowGroups *allow_groups_ref(AllowGroups *groups); /* takes NULL */
void allow_groups_unref(AllowGroups *groups);       /* takes NULL */
/* group: a name or a number. groups NULL: they have not been looked up. */
AllowMatch allow_groups_match(const AllowGroups *groups, const char *group);

#endif
