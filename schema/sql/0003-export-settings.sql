-- Further settings of exports. 0 is what exports had before: refuse, no bound, no limit.
ALTER TABLE exports ADD COLUMN on_busy INTEGER NOT NULL DEFAULT 0;
ALTER TABLE exports ADD COLUMN max_clients_per_identity INTEGER NOT NULL DEFAULT 0;
ALTER TABLE exports ADD COLUMN iops INTEGER NOT NULL DEFAULT 0;            -- operations a second
ALTER TABLE exports ADD COLUMN iops_burst INTEGER NOT NULL DEFAULT 0;      -- operations
ALTER TABLE exports ADD COLUMN bandwidth INTEGER NOT NULL DEFAULT 0;       -- bytes a second
ALTER TABLE exports ADD COLUMN bandwidth_burst INTEGER NOT NULL DEFAULT 0; -- bytes
