/* SPDX-License-Identifier: Apache-2.0 */
/* Names, exit codes and messages of errors. */
#include <spc/status.h>

#include <criterion/criterion.h>
#include <string.h>

Test(host_status, every_status_has_a_name_of_its_own)
{
    for (int a = 0; a < SPC_STATUS_COUNT; a++) {
        const char *name = spc_status_name((spc_status)a);

        cr_assert_not_null(name);
        cr_expect_str_neq(name, "unknown");
        for (int b = 0; b < a; b++) cr_expect_str_neq(name, spc_status_name((spc_status)b));
    }
    cr_expect_str_eq(spc_status_name(SPC_OK), "ok");
    cr_expect_str_eq(spc_status_name(SPC_EFORMAT), "format");
}

Test(host_status, a_value_that_is_no_status_is_unknown_and_internal)
{
    int none[] = {-1, SPC_STATUS_COUNT, 1 << 20};

    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        cr_expect_str_eq(spc_status_name((spc_status)none[i]), "unknown");
        cr_expect_eq(spc_status_exit_code((spc_status)none[i]), 7);
    }
}

Test(host_status, exit_codes_go_by_class)
{
    static const int code[] = {
        [SPC_OK] = 0,           [SPC_EUSAGE] = 2,   [SPC_ERULE] = 2,  [SPC_EIO] = 3,
        [SPC_EUNSUPPORTED] = 2, [SPC_EFORMAT] = 3,  [SPC_ESHAPE] = 3, [SPC_EMODEL] = 3,
        [SPC_EDEVICE] = 4,      [SPC_ENOMEM] = 5,   [SPC_EINPUT] = 6, [SPC_EFULL] = 6,
        [SPC_ENUMERIC] = 3,     [SPC_EINTERNAL] = 7};

    cr_assert_eq(sizeof code / sizeof *code, SPC_STATUS_COUNT, "a new status needs a line here");
    for (int i = 0; i < SPC_STATUS_COUNT; i++) {
        cr_expect_eq(spc_status_exit_code((spc_status)i), code[i], "%s",
                     spc_status_name((spc_status)i));
    }
}

Test(host_status, an_error_returns_its_status_and_keeps_the_finding)
{
    spc_error err;

    cr_expect_eq(spc_error_set(&err, SPC_EFORMAT, "%s: expected %d", "a.bin", 7), SPC_EFORMAT);
    cr_expect_eq(err.status, SPC_EFORMAT);
    cr_expect_str_eq(err.message, "a.bin: expected 7");
    cr_expect_eq(spc_error_set(NULL, SPC_EIO, "%d", 1), SPC_EIO, "nobody listens");
}

Test(host_status, a_message_stays_one_line)
{
    spc_error err;

    (void)spc_error_set(&err, SPC_EINPUT, "%s", "a\nb\tc\x1b[31m\x7f \xc3\xa9");
    cr_expect_str_eq(err.message, "a?b?c?[31m? \xc3\xa9", "UTF-8 stays");
}

Test(host_status, a_long_message_is_cut_and_terminated)
{
    struct {
        spc_error err;
        char guard[8];
    } s;
    char text[2 * SPC_ERROR_BYTES];

    memset(&s, 'x', sizeof s);
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = '\0';
    (void)spc_error_set(&s.err, SPC_EINPUT, "%s", text);
    cr_expect_eq(strlen(s.err.message), SPC_ERROR_BYTES - 1);
    cr_expect_eq(memcmp(s.guard, "xxxxxxxx", sizeof s.guard), 0);
}
