/* SPDX-License-Identifier: Apache-2.0 */
/* status.c - names, exit codes and one-line messages. */
#include <spc/status.h>

#include <stdarg.h>
#include <stdio.h>

#define TEXT_OF(x)       #x
#define VERSION(a, b, c) TEXT_OF(a) "." TEXT_OF(b) "." TEXT_OF(c)

const char *spc_version(void)
{
    return VERSION(SPC_VERSION_MAJOR, SPC_VERSION_MINOR, SPC_VERSION_PATCH);
}

const char *spc_status_name(spc_status status)
{
#define SPC_STATUS_NAME(id, text, code) text,
    static const char *const names[] = {SPC_STATUS_MAP(SPC_STATUS_NAME)};
#undef SPC_STATUS_NAME

    return (unsigned)status < SPC_STATUS_COUNT ? names[status] : "unknown";
}

int spc_status_exit_code(spc_status status)
{
#define SPC_STATUS_CODE(id, text, code) code,
    static const int codes[] = {SPC_STATUS_MAP(SPC_STATUS_CODE)};
#undef SPC_STATUS_CODE

    return (unsigned)status < SPC_STATUS_COUNT ? codes[status] : codes[SPC_EINTERNAL];
}

spc_status spc_error_set(spc_error *err, spc_status status, const char *format, ...)
{
    va_list arguments;

    if (!err) return status;
    err->status = status;
    va_start(arguments, format);
    (void)vsnprintf(err->message, sizeof err->message, format, arguments);
    va_end(arguments);
    for (char *c = err->message; *c; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
    }
    return status;
}
