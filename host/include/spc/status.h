/* SPDX-License-Identifier: Apache-2.0 */
/* spc/status.h - the version, and how every call of spc reports what went wrong.
 *
 * A call that can fail returns a spc_status and takes a spc_error as its last parameter.  On
 * success the error is left untouched.  On failure it holds one line: what, where, expected, found,
 * what to do.  Nothing is stored in globals or thread-locals. */
#ifndef SPC_STATUS_H
#define SPC_STATUS_H

#include <stddef.h>

#if defined(_WIN32)
#define SPC_API
#else
#define SPC_API __attribute__((visibility("default")))
#endif

#if defined(__GNUC__)
#define SPC_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define SPC_PRINTF(text, first)
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Of these headers.  Before 1.0 structs may grow from one minor version to the next, and the shared
 * library's name (libspc_verify.so.0.1) changes with it. */
#define SPC_VERSION_MAJOR 0
#define SPC_VERSION_MINOR 1
#define SPC_VERSION_PATCH 0

/* Version of the library that runs, "0.1.0": a program that loads it by name can compare it with
 * SPC_VERSION_*, by which its structs are laid out.  Never NULL. */
SPC_API const char *spc_version(void);

/* name, text, exit code of the CLI: usage 2, model 3, device 4, memory 5, input 6, internal 7. */
#define SPC_STATUS_MAP(X)                                                                          \
    X(OK, "ok", 0)                                                                                 \
    X(EUSAGE, "usage", 2)             /* an option or argument is unknown or out of range */       \
    X(ERULE, "rule", 2)               /* a rule text does not parse, or does not fit here */       \
    X(EUNSUPPORTED, "unsupported", 2) /* understood, but not available in this build or device */  \
    X(EIO, "file", 3)                 /* a model file cannot be opened, read or mapped */          \
    X(EFORMAT, "format", 3)           /* a model file is truncated, corrupt or inconsistent */     \
    X(ESHAPE, "shape", 3)             /* a tensor has the wrong shape or type */                   \
    X(EMODEL, "model", 3)             /* unknown architecture, or two models that do not pair */   \
    X(EDEVICE, "device", 4)           /* no such device, or it failed; only close is left */       \
    X(ENOMEM, "memory", 5)            /* an allocation failed */                                   \
    X(EINPUT, "input", 6)             /* a prompt or a data file is wrong */                       \
    X(EFULL, "full", 6)               /* no room: context, sessions, KV caches */                  \
    X(ENUMERIC, "numeric", 3)         /* a model wrote NaN or infinity where a token was needed */ \
    X(EINTERNAL, "internal", 7)       /* a bug in spc; please report it */

#define SPC_STATUS_ENUM(id, text, code) SPC_##id,
typedef enum { SPC_STATUS_MAP(SPC_STATUS_ENUM) SPC_STATUS_COUNT } spc_status;
#undef SPC_STATUS_ENUM

#define SPC_ERROR_BYTES 512

/* What went wrong.  The caller owns it; it needs no initialisation. */
typedef struct {
    spc_status status;
    char message[SPC_ERROR_BYTES]; /* one line, no newline, NUL-terminated, cut if longer */
} spc_error;

/* Short lower-case name of a status ("format"); "unknown" for any other value.  Never NULL. */
SPC_API const char *spc_status_name(spc_status status);

/* Exit code by class that the CLI uses for a status: 0, 2 usage, 3 model, 4 device, 5 memory,
 * 6 input, 7 internal. */
SPC_API int spc_status_exit_code(spc_status status);

/* Write status and message into err (NULL: nothing is written) and return the status.  Control
 * characters in the message, which may quote a file, become '?', so it stays one line. */
SPC_API spc_status spc_error_set(spc_error *err, spc_status status, const char *format, ...)
    SPC_PRINTF(3, 4);

#ifdef __cplusplus
}
#endif

#endif
