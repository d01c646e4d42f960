/* The numbered migrations of schema/sql, embedded at build time. */
#ifndef STORAGE_STORE_MIGRATIONS_H
#define STORAGE_STORE_MIGRATIONS_H

extern const char *const store_migrations[]; /* [0] is number 1 */
extern const int store_migration_count;

#endif
