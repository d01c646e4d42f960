/* Answers for people. Each of these appends whole lines. */
#ifndef CTL_RENDER_H
#define CTL_RENDER_H

#include "ctl/json.h"
#include "ctl/table.h"
#include "ctl/terminal.h"
#include "schema/cli.h"

/* One member of an object as text, with the words of its view. full: for a line of its own. */
Style render_member(GString *out, const CliObject *type, const CliField *field, const Json *object,
                    bool full);

/* A table of objects of one type. lists: arrays (Json) whose items they are, page by page. */
void render_list(GString *out, const Terminal *terminal, const CliObject *type, GPtrArray *lists,
                 unsigned indent);

/* An object, one member a line, with tables for what is nested in it. */
void render_object(GString *out, const Terminal *terminal, const CliObject *type,
                   const Json *object);

/* "Disk vm1 added: /images/vm1.img, 64 MiB, read-write." params are those of the call. */
void render_sentence(GString *out, const Terminal *terminal, const CliMethod *method,
                     const Json *params, const Json *result);

/* What the transaction's actions did, a sentence each. */
void render_transaction(GString *out, const Terminal *terminal, const Json *params,
                        const Json *result);

/* Counters and latencies; pages of the method's answers. */
void render_stats(GString *out, const Terminal *terminal, GPtrArray *pages);

/* Dirty ranges: offset, length and end, exact. header: with the line of titles. */
void render_extents(GString *out, const Terminal *terminal, const Json *extents, bool header);

#endif
