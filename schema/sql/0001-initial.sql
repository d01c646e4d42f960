-- The first schema. Sizes and offsets are bytes, times nanoseconds since the epoch, booleans 0 or 1.

-- Facts about the database itself: 'id' (a UUID of its own) and 'sequence' (counts the commits that
-- changed tracking: storage/disk_identity.h says what for).
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

-- What is configured.
CREATE TABLE disks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- never used again: what is late finds nothing
    name TEXT NOT NULL UNIQUE,
    path TEXT NOT NULL,
    read_only INTEGER NOT NULL CHECK (read_only IN (0, 1)),
    cache INTEGER NOT NULL,
    implicit INTEGER NOT NULL CHECK (implicit IN (0, 1))
) STRICT;

CREATE TABLE exports (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    disk INTEGER NOT NULL REFERENCES disks (id) DEFERRABLE INITIALLY DEFERRED,
    description TEXT,
    read_only INTEGER NOT NULL CHECK (read_only IN (0, 1)),
    sharing INTEGER NOT NULL,
    max_clients INTEGER NOT NULL,
    every_bitmap INTEGER NOT NULL CHECK (every_bitmap IN (0, 1)), -- 1: export_bitmaps is empty
    everyone INTEGER NOT NULL CHECK (everyone IN (0, 1)),         -- 1: export_allow is empty
    tls_required INTEGER NOT NULL CHECK (tls_required IN (0, 1))
) STRICT;
CREATE INDEX exports_of_disk ON exports (disk);

CREATE TABLE export_bitmaps (
    export INTEGER NOT NULL REFERENCES exports (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (export, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE export_allow (
    export INTEGER NOT NULL REFERENCES exports (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    entry TEXT NOT NULL,
    PRIMARY KEY (export, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE listeners (
    name TEXT PRIMARY KEY,
    address TEXT NOT NULL,
    credential TEXT,
    tls_mode INTEGER NOT NULL,
    max_clients INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What is tracked. The promise these three tables keep is at the head of storage/track.c.
CREATE TABLE bitmaps (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    disk INTEGER NOT NULL REFERENCES disks (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    generation TEXT NOT NULL,
    granularity INTEGER NOT NULL,
    recording INTEGER NOT NULL CHECK (recording IN (0, 1)),
    missed_writes INTEGER NOT NULL CHECK (missed_writes IN (0, 1)),
    durability INTEGER NOT NULL,
    over_reported INTEGER NOT NULL, -- bytes
    invalid_reason TEXT,            -- NULL: valid
    UNIQUE (disk, name)
) STRICT;

-- 4096 blocks a row, block b in bit b % 8 of byte b / 8. NULL: all of them are dirty. No row: none.
CREATE TABLE bits (
    bitmap INTEGER NOT NULL REFERENCES bitmaps (id) ON DELETE CASCADE,
    page INTEGER NOT NULL,
    data BLOB,
    PRIMARY KEY (bitmap, page)
) STRICT, WITHOUT ROWID;

-- Regions that may be being written: dirty in every recording bitmap, whatever the bits say.
CREATE TABLE intents (
    disk INTEGER NOT NULL REFERENCES disks (id) ON DELETE CASCADE,
    offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    PRIMARY KEY (disk, offset)
) STRICT, WITHOUT ROWID;

-- What the backing file looked like, to notice changes behind the daemon's back.
CREATE TABLE watch (
    disk INTEGER PRIMARY KEY REFERENCES disks (id) ON DELETE CASCADE,
    clean INTEGER NOT NULL CHECK (clean IN (0, 1)), -- nothing was written since this row
    sequence INTEGER NOT NULL, -- meta.sequence when the file was last marked with it
    boot TEXT NOT NULL,        -- boot id at the time
    size INTEGER NOT NULL,
    filesystem TEXT NOT NULL,  -- '' for a block device
    inode INTEGER NOT NULL,
    birth INTEGER NOT NULL,    -- 0: unknown
    mtime INTEGER NOT NULL,    -- this and the next count only when clean
    ctime INTEGER NOT NULL,
    diskseq INTEGER NOT NULL,  -- of a block device, comparable within one boot
    sectors_written INTEGER NOT NULL
) STRICT;
