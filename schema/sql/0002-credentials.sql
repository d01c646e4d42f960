-- TLS credentials of listeners: where the material is, never the material.
CREATE TABLE credentials (
    name TEXT PRIMARY KEY,
    kind INTEGER NOT NULL,
    dir TEXT,
    keys TEXT,
    priority TEXT,
    verify_client INTEGER NOT NULL CHECK (verify_client IN (0, 1))
) STRICT, WITHOUT ROWID;
