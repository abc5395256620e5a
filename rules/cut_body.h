/* SPDX-License-Identifier: Apache-2.0 */
/* cut_body.h - where truncation, and a nucleus, cut a row: written once for the CPU, for kernels
 * and for slices of the vocabulary.
 *
 * Included by a file that has log and has defined, for the rows that it can walk:
 *   ROUND_FN                                    static, or static __device__
 *   cut_row                                     a type: what tells a row, and how to walk it
 *   find_cut(row, softmax, by_mass, target)     least logit of the set that holds `target` counts,
 * or masses, from the top kept_mass(row, softmax)                     mass of what the softmax
 * keeps */

/* Top-k, then top-p on what it left, then min-p: the least logit kept.
 *
 * max, sum   of the whole row, at the temperature of p */
ROUND_FN float truncation_cut(cut_row row, int32_t vocab, const spc_sampling *p, float max,
                              float sum)
{
    const bool ranked = p->top_k > 0 && p->top_k < vocab;
    spc_softmax s = {max, spc_temperature_scale(p->temperature), 1.0f, -SPC_INFINITY, 0, false};

    if (ranked) s.cut = find_cut(row, s, false, (uint64_t)p->top_k);
    if (p->top_p < 1.0f) {
        const uint64_t mass = ranked ? kept_mass(row, s) : spc_mass_of(sum);
        const float cut = find_cut(row, s, true, spc_nucleus_target(p->top_p, mass));

        if (cut > s.cut) s.cut = cut;
    }
    if (p->min_p > 0.0f) {
        const float cut = spc_min_p_cut(max, p->temperature, (float)log((double)p->min_p));

        if (cut > s.cut) s.cut = cut;
    }
    return s.cut;
}

/* Least logit of the top-p nucleus of a processed row; one-hot at T = 0. */
ROUND_FN float processed_cut(cut_row row, const spc_side *side, float top_p)
{
    if (side->softmax.greedy) return side->stats.max;
    return find_cut(row, side->softmax, true,
                    spc_nucleus_target(top_p, spc_mass_of(side->stats.sum)));
}
