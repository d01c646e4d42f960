/* The log that power_record.c writes and power_log.py reads: a record for the beginning of each
 * call that changes what a disk holds, and one for its end. All numbers little endian. */
#ifndef TESTS_CRASH_POWER_LOG_H
#define TESTS_CRASH_POWER_LOG_H

#include <stdbool.h>
#include <stdint.h>

typedef enum {
    POWER_START = 1, /* a process begins */
    POWER_OPEN,      /* payload: name; end: handle, whether or not it was new */
    POWER_WRITE,     /* payload: data; flags: POWER_DURABLE */
    POWER_ALLOCATE,  /* flags: fallocate's mode */
    POWER_TRUNCATE,  /* length */
    POWER_SYNC,      /* all of the file, or the names of a folder */
    POWER_DATASYNC,  /* data and size */
    POWER_RENAME,    /* payload: old name, 0, new name */
    POWER_UNLINK,    /* payload: name */
    POWER_XATTR,     /* payload: name, 0, value */
    POWER_MARK,      /* the driving client's: offset is its number; 0 in all else */
    POWER_UNKNOWN,   /* payload: name of a call that this does not model */
} PowerKind;

#define POWER_BEGIN   1
#define POWER_END     2
#define POWER_DURABLE 1

typedef struct {
    uint32_t size; /* of the record with its payload */
    uint8_t kind, phase;
    uint16_t zero;
    uint32_t pid, id; /* id: the same in a call's two records */
    uint32_t handle;  /* of an open file within its process */
    int32_t flags;
    int64_t result; /* what the call answered; at the end */
    uint64_t offset, length;
    int64_t mtime, ctime; /* the file's, after the call, in ns */
} PowerRecord;

_Static_assert(sizeof(PowerRecord) == 64, "power_log.py has the same layout");

/* Of power_boot.c. */
extern const char *power_log_path; /* NULL: nothing is recorded */
extern char power_folder[4096];    /* of the run, absolute */
bool power_active(void);
/* A file that says the boot id; the caller's to close. */
int power_boot_id(void);

#endif
