/* SPDX-License-Identifier: Apache-2.0 */
/* exp2 and log of the rules against libm in double. */
#include "rules/portable.h"

#include <criterion/criterion.h>
#include <math.h>

Test(rules_portable, exp2_stays_within_its_bound)
{
    double worst = 0;

    for (int32_t i = 1; i < 126 * 20011; i++) {
        float x = -(float)i / 20011.0f;
        double exact = exp2((double)x);

        worst = fmax(worst, fabs((double)spc_exp2(x) - exact) / exact);
    }
    for (int e = -40; e < 0; e++) { /* next to 0 */
        float x = -ldexpf(1, e);

        worst = fmax(worst, fabs((double)spc_exp2(x) - exp2((double)x)) / exp2((double)x));
    }
    cr_expect_leq(worst, 1.5 * 0x1p-23, "relative error %g", worst);
}

Test(rules_portable, exp2_is_exact_at_whole_numbers_and_0_far_down)
{
    for (int e = -125; e <= 0; e++) cr_expect_eq(spc_exp2((float)e), ldexpf(1, e), "2^%d", e);
    cr_expect_eq(spc_exp2(-126.0f), 0.0f);
    cr_expect_eq(spc_exp2(-1e30f), 0.0f);
    cr_expect_eq(spc_exp2(-INFINITY), 0.0f);
    cr_expect_eq(spc_exp2(-0.0f), 1.0f);
}

Test(rules_portable, log_stays_within_its_bound)
{
    double worst = 0;

    for (uint32_t bits = 0x00800000u; bits < 0x7f800000u; bits += 977) {
        float x = spc_bits_float(bits);
        double exact = log((double)x);

        if (x != 1.0f) worst = fmax(worst, fabs(((double)spc_log(x) - exact) / exact));
    }
    for (uint32_t bits = 0x3f7f0000u; bits < 0x3f810000u; bits++) { /* next to 1, every float */
        float x = spc_bits_float(bits);
        double exact = log((double)x);

        if (x != 1.0f) worst = fmax(worst, fabs(((double)spc_log(x) - exact) / exact));
    }
    cr_expect_lt(worst, 3e-7, "relative error %g", worst);
    cr_expect_eq(spc_log(1.0f), 0.0f);
}
