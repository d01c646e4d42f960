/* Properties of the block device with a number, from sysfs. Blocks for moments only. */
#ifndef STORAGE_SYSFS_H
#define STORAGE_SYSFS_H

#include <stdint.h>
#include <sys/types.h>

/* queue/NAME of the device, or of the whole disk that a partition is on. missing: what to answer
 * where there is no such device or attribute (a file system without one, an old kernel). */
uint64_t sysfs_queue_value(dev_t device, const char *name, uint64_t missing);

#endif
