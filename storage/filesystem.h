/* What can be relied on of the file system that a file is on. Blocks as fstatfs() does. */
#ifndef STORAGE_FILESYSTEM_H
#define STORAGE_FILESYSTEM_H

#include <stdbool.h>

/* Whether a change of the file gives it a time of this machine's clock inside the call that makes
 * it. Over a network the clock is another's, and the times may be those of a while ago. */
bool filesystem_is_prompt(int fd);

/* Whether a write may succeed for which there is no room, so that its sync fails for it: over a
 * network, and maybe in user space, room is found when a page is sent. */
bool filesystem_finds_room_late(int fd);

#endif
