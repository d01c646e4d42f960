/* Option haggling: what the handlers of options share. Private to the handshake.
 *
 * To add an option: its number in wire.h, a handler, a row in handshake.c's table, a test. */
#ifndef NBD_HAGGLE_H
#define NBD_HAGGLE_H

#include "daemon/nbd/handshake.h"

typedef enum {
    STEP_ON,       /* the option was answered */
    STEP_TRANSMIT, /* the client has its export */
    STEP_CLOSE,
} Step;

typedef struct {
    Stream *stream;
    Client *client;
    StreamPatience patience;
    bool no_zeroes;
    unsigned qemu_steps; /* options heard since the start or STARTTLS, all as QEMU sends them */
    NbdSession session;

    /* The option being answered. Its payload is read piece by piece, so that what a client may
     * send does not say how much memory it gets. */
    uint32_t option;
    uint32_t left;                      /* bytes of the payload that have not been read */
    uint8_t string[NBD_MAX_STRING + 1]; /* the name or query read last, NUL-terminated */

    size_t pending; /* bytes in out */
    uint8_t out[4096];
} Haggle;

/* The next length bytes of the payload (<= left). False: the connection is gone. */
bool haggle_read(Haggle *haggle, void *buffer, uint32_t length);
/* Reads away what is left of the payload. */
bool haggle_skip(Haggle *haggle, uint32_t length);

/* A string of length bytes into haggle->string. WRONG: longer than a string may be, longer than
 * what is left, or with a NUL in it. */
typedef enum { STRING_GOOD, STRING_WRONG, STRING_GONE } StringRead;
StringRead haggle_read_string(Haggle *haggle, uint32_t length);

/* The name of an export, with its length ahead of it and `behind` bytes at least behind it, into
 * haggle->string. False: *ret_step is what comes of the option. */
bool haggle_read_name(Haggle *haggle, uint32_t behind, Step *ret_step);

/* The client is none of the QEMU that bare_writes is for. */
#define QEMU_STEPS_NOT 100u
/* It has sent what QEMU sends up to GO. */
#define QEMU_STEPS_GO 3u

/* Raw bytes, gathered. They go out before the next option is read. */
bool haggle_put(Haggle *haggle, const void *data, size_t length);
/* A reply to the option at hand, in two parts (for a fixed head and a string). */
bool haggle_reply(Haggle *haggle, uint32_t type, const void *head, size_t head_length,
                  const char *text);
Step haggle_ack(Haggle *haggle);
/* Reads away the rest of the payload, then answers this error. */
Step haggle_refuse(Haggle *haggle, uint32_t error, const char *format, ...) G_GNUC_PRINTF(3, 4);
/* The same for an export that was not admitted. text is freed. */
Step haggle_refuse_export(Haggle *haggle, Admission admission, const char *name, char *text);

/* client_attach, and waits where the export is to be waited for. *text as there. */
Admission haggle_attach(Haggle *haggle, const char *name, ExportView *view, char **text);

/* --- the handlers that have files of their own --- */
Step haggle_info(Haggle *haggle);         /* INFO, GO: options_info.c */
Step haggle_export_name(Haggle *haggle);  /* EXPORT_NAME: options_info.c */
Step haggle_meta_context(Haggle *haggle); /* LIST_ and SET_META_CONTEXT: options_meta.c */

#endif
