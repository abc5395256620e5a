/* SPDX-License-Identifier: Apache-2.0 */
/* A build without the embedded pair (SPC_EMBED=OFF): none.c is linked in place of demo.c. */
#include <spc/spc.h>

#include <criterion/criterion.h>
#include <string.h>

Test(host_no_pair, who_asks_for_the_pair_hears_that_there_is_none)
{
    spc_engine_options options;
    spc_engine *engine;
    spc_error err;

    spc_engine_options_init(&options);
    cr_assert_eq(spc_engine_open(&options, &engine, &err), SPC_EMODEL);
    cr_assert_null(engine);
    cr_assert(strstr(err.message, SPC_EMBEDDED_VERIFIER ": ") &&
                  strstr(err.message, "SPC_EMBED=OFF"),
              "%s", err.message);
}
