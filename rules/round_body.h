/* SPDX-License-Identifier: Apache-2.0 */
/* round_body.h - what a round decides, written once for the CPU and for kernels.
 *
 * Included by a file that has defined, for the rows it can walk:
 *   ROUND_FN                                    static, or static __device__
 *   row_statistics(pair, side, stats)           statistics of a side's row; leaves
 *                                               round->tile_weight
 *   fold(pair, what, x)                         sum over both rows; leaves round->tile_weight
 *   draw_row(pair, side, stats, key, stream)    a token from a row whose tile weights are there
 *   nucleus_cut(pair, side, top_p)              least logit of the top-p nucleus of a processed row
 *   entry_at(pair, token)                       spc_pair_entry of the rules
 *   draw_fold(pair, what, x, key, stream)       a token by the summand; -1: nothing weighs anything
 *   keeps(round, kept, drafter, key)            the coin
 *   put_detail(round, row, detail)              stores round->detail[row]
 * It may also define ROUND_RECALL(pair, part) and ROUND_KEEP(pair, part): part of a pair's target
 * (SPC_ROUND_DECIDED, SPC_ROUND_COMPLETE) that was found out before and is filled in, or that is
 * known now.
 * Sums are asked for in one order: shards answer them from a log.
 * Where others can work on a sum before it is asked for, ROUND_AHEAD is true and there are
 *   begin_fold(pair, what, x)                   fold of the same will be asked for
 *   fold_later(pair, what, x)                   begins it and returns anything, or its value;
 *   fold_value(row, what, x, later)             the value, from what fold_later returned
 *   judge_ahead(round, pair, out)               tells `out` of the first drafts, where they are
 * kept and nothing is summed to see it (keep_draft); true: *pair is decided for the draft behind
 * them Where several threads share walk->sums, ROUND_WRITES says whether this one writes it, and
 * behind ROUND_MEET() all may read it. On a device every thread of a block calls these together and
 * gets the same answer, so that all threads walk through this file side by side. */

#ifndef ROUND_RECALL
#define ROUND_RECALL(pair, part) false
#define ROUND_KEEP(pair, part)   ((void)0)
#endif
#ifndef ROUND_AHEAD
#define ROUND_AHEAD                     false
#define begin_fold(pair, what, x)       ((void)0)
#define fold_later(pair, what, x)       fold(pair, what, x)
#define fold_value(row, what, x, later) (later)
#define judge_ahead(round, pair, out)   false
#endif

#ifndef ROUND_WRITES
#define ROUND_WRITES true
#define ROUND_MEET() ((void)0)
#endif

ROUND_FN void prepare(spc_row_pair *pair, spc_side *s, const spc_row_stats *known)
{
    if (s->ready) return;
    if (!s->row.logits.data) {
        s->stats = spc_stats_one_hot(s->row.hot, pair->round->vocab);
    } else if (known) {
        s->stats = *known;
        if (s->stats.top < 0 || s->stats.top >= pair->round->vocab) s->stats.bad = 1;
    } else {
        row_statistics(pair, s, &s->stats);
    }
    s->softmax = spc_softmax_of(s->stats, pair->round->params->sampling.temperature);
    s->ready = true;
}

/* ---- what a rule makes of a pair ---------------------------------------------------------------
 */

/* beta solved: s = 1/beta, downwards from a bound of it. */
ROUND_FN float solve_scale(spc_row_pair *pair, float rejected, float bound)
{
    float s = rejected > 0.0f ? bound : 0.0f;

    for (int32_t step = 0; step < SPC_LOSSY_STEPS && rejected > 0.0f; step++) {
        spc_pair above;
        float next;

        above.drafter = fold(pair, SPC_SUM_ABOVE_DRAFTER, s);
        above.verifier = fold(pair, SPC_SUM_ABOVE_VERIFIER, s);
        next = spc_lossy_newton(s, rejected, above);

        if (next >= s) break;
        s = next;
    }
    return s;
}

/* mentored: the smallest l whose target keeps KL(p, pi) within the budget.  The scale falls with l,
 * so that of the last l that was found good is a bound for the next. */
ROUND_FN void solve_lenience(spc_row_pair *pair)
{
    spc_target *t = &pair->target;
    float low = SPC_LENIENCE_MIN, high = 0, bound = 1, budget = t->budget;

    for (int32_t step = 0; step < SPC_LENIENCE_STEPS; step++) {
        float middle = (low + high) / 2;

        t->inverse = 1 / spc_exp2(middle);
        t->scale = solve_scale(pair, fold(pair, SPC_SUM_REJECTED, 0), bound);
        if (fold(pair, SPC_SUM_TARGET_KL, 0) <= budget) {
            high = middle;
            bound = t->scale;
        } else {
            low = middle;
        }
    }
    t->inverse = 1 / spc_exp2(high);
    t->budget = 0;
}

/* The sums that pi, or a residual, needs beyond the decision: eta, or the scale of lossy. */
ROUND_FN void complete(spc_row_pair *pair)
{
    spc_target *t = &pair->target;

    if (ROUND_RECALL(pair, SPC_ROUND_COMPLETE)) return;
    if (t->form == SPC_TARGET_SELECT || t->form == SPC_TARGET_TYPICAL) {
        t->eta = fold(pair, SPC_SUM_OUTSIDE, 0);
        if (t->cut > 0) t->eta = 1; /* no token is above the maximum: pi is p, to the bit */
    }
    if (t->form == SPC_TARGET_CUT_Q) {
        float inside = fold(pair, SPC_SUM_INSIDE_DRAFTER, 0);

        t->scale = inside > 0 && inside < 1 ? 1 / inside : 1;
        if (!(inside > 0)) t->form = SPC_TARGET_CUT; /* nothing of the drafter is left */
    }
    if (t->form == SPC_TARGET_CUT) t->scale = 1 / fold(pair, SPC_SUM_INSIDE_VERIFIER, 0);
    if (t->form == SPC_TARGET_HEAD) {
        float missing = fold(pair, SPC_SUM_HEAD, 0);

        t->scale = spc_lossy_share(missing, fold(pair, SPC_SUM_TV, 0));
    }
    if (t->form == SPC_TARGET_LENIENT) {
        if (t->budget > 0) solve_lenience(pair);

        float rejected = fold(pair, SPC_SUM_REJECTED, 0);

        t->scale = t->solve ? solve_scale(pair, rejected, 1)
                            : spc_lossy_share(rejected, fold(pair, SPC_SUM_TV, 0));
    }
    ROUND_KEEP(pair, SPC_ROUND_COMPLETE);
}

/* A row that is needed and bad: say whose. */
ROUND_FN bool is_bad(const spc_row_pair *pair, uint32_t *status)
{
    if (pair->drafter.ready && pair->drafter.stats.bad) *status |= SPC_STATUS_BAD_DRAFTER;
    if (pair->verifier.ready && pair->verifier.stats.bad) *status |= SPC_STATUS_BAD_VERIFIER;
    return (*status & (SPC_STATUS_BAD_DRAFTER | SPC_STATUS_BAD_VERIFIER)) != 0;
}

/* Read the rows as far as the rule needs them and choose the target's form.  false: a needed row is
 * bad.  known: statistics of the drafter's row, or 0. */
ROUND_FN bool decide(spc_row_pair *pair, const spc_row_stats *known, uint32_t *status)
{
    const spc_row_params *params = pair->round->params;
    const spc_rule *rule = &params->rule;
    int32_t facts = spc_rule_facts((spc_rule_kind)rule->path);
    spc_row row;

    row.drafter.top = row.drafter.entropy = row.verifier.top = row.verifier.entropy = 0;
    row.surprise = row.tv = row.divergence = row.nucleus = 0;
    if (pair->drafter.there) {
        prepare(pair, &pair->drafter, known);
        if (is_bad(pair, status)) return false;
        row.drafter = spc_gate_of(pair->drafter.stats, (spc_gate)rule->gate);
    }
    if (!spc_defers_by_drafter(*rule) || spc_defers(*rule, row)) {
        prepare(pair, &pair->verifier, 0);
        if (is_bad(pair, status)) return false;
        row.verifier = spc_gate_of(pair->verifier.stats, (spc_gate)rule->gate);
    }
    if (ROUND_RECALL(pair, SPC_ROUND_DECIDED)) return true;
    if (facts & SPC_FACT_SURPRISE) {
        spc_entry top = entry_at(pair, pair->drafter.stats.top);

        row.surprise = -spc_log(row.verifier.top) - top.gap.verifier;
    }
    pair->target.form = SPC_TARGET_DEFER; /* no gaps needed for TV */
    if (facts & SPC_FACT_TV) row.tv = fold(pair, SPC_SUM_TV, 0);
    if (facts & SPC_FACT_DIVERGENCE) {
        row.divergence = fold(pair, rule->kl ? SPC_SUM_KL : SPC_SUM_JS, 0);
    }
    if (facts & SPC_FACT_NUCLEUS) {
        const spc_row_stats *v = &pair->verifier.stats;

        row.nucleus = spc_gate_gap(*v, (spc_gate)rule->gate, params->sampling.temperature,
                                   nucleus_cut(pair, &pair->verifier, (float)rule->alpha), v->top);
    }
    pair->target =
        spc_target_begin(*rule, row, params->nucleus && params->sampling.temperature > 0);
    ROUND_KEEP(pair, SPC_ROUND_DECIDED);
    return true;
}

/* ---- the round --------------------------------------------------------------------------------
 */

ROUND_FN void emit(spc_verdict *out, int32_t token)
{
    out->token[out->count++] = token;
}

ROUND_FN void mark_deferred(spc_verdict *out, int32_t row, bool deferred)
{
    if (deferred) out->deferred |= 1u << row;
}

/* pi itself. */
ROUND_FN int32_t draw_target(spc_row_pair *pair, spc_key key, spc_stream_id stream)
{
    spc_side *s = 0;

    if (pair->target.form == SPC_TARGET_KEEP) s = &pair->drafter;
    if (pair->target.form == SPC_TARGET_DEFER) s = &pair->verifier;
    if (s) {
        spc_row_stats stats;

        /* the tile weights of this row were not kept: they come with its statistics */
        row_statistics(pair, s, &stats);
        return draw_row(pair, s, stats, key, stream);
    }
    complete(pair);
    return draw_fold(pair, SPC_SUM_TARGET, 0, key, stream);
}

/* The rows that the token without a draft comes from, and what the rule makes of them.  false: a
 * needed row is bad. */
ROUND_FN bool decide_bonus(const spc_round *round, spc_row_pair *pair, uint32_t *status)
{
    bool reads = spc_rule_uses_drafter(&round->params->rule);
    bool named = !round->drafter.logits.data; /* such a drafter has no row where it names nothing */
    bool from_verifier =
        (round->params->bonus == SPC_BONUS_VERIFIER && round->drafts > 0) || (named && reads);

    *pair = spc_pair_at(round, round->drafts, reads && !from_verifier);
    if (!from_verifier) return decide(pair, 0, status);
    prepare(pair, &pair->verifier, 0);
    pair->target.form = SPC_TARGET_DEFER;
    return !is_bad(pair, status);
}

/* The token after a fully kept draft, or the only one of a round without drafts. */
ROUND_FN void draw_bonus(const spc_round *round, spc_row_pair *pair, spc_verdict *out)
{
    int32_t row = round->drafts;
    spc_key key = spc_key_at(round->params, round->position + row, round->salt);

    if (!decide_bonus(round, pair, &out->status)) return;

    int32_t token = draw_target(pair, key, SPC_STREAM_BONUS);

    if (spc_target_has_set(pair->target.form)) {
        mark_deferred(out, row, spc_target_defers(pair->target, entry_at(pair, token)));
    } else {
        mark_deferred(out, row, pair->target.form != SPC_TARGET_KEEP);
    }
    emit(out, token);
    out->drawn = 1;
}

/* The token in place of a rejected draft: from the residual, or from pi where rounding left none.
 */
ROUND_FN void draw_residual(spc_row_pair *pair, spc_summand what, float x, spc_key key,
                            spc_verdict *out)
{
    int32_t token = draw_fold(pair, what, x, key, SPC_STREAM_RESIDUAL);

    if (token < 0) {
        out->status |= SPC_STATUS_ZERO_RESIDUAL;
        token = draw_target(pair, key, SPC_STREAM_RESIDUAL);
    }
    emit(out, token);
    out->drawn = 1;
}

/* Is the draft a token that its own row could have given? */
ROUND_FN bool is_draft(const spc_round *round, int32_t row)
{
    return round->draft[row] >= 0 && round->draft[row] < round->vocab;
}

ROUND_FN const spc_row_stats *known_stats(const spc_round *round, int32_t row)
{
    return round->stats ? &round->stats[row] : 0;
}

/* Judge the draft of one row, whose target's form is chosen.  Returns true when it is kept;
 * otherwise a token was drawn in its place or a bad row ended the run. */
ROUND_FN bool judge(const spc_round *round, int32_t i, spc_row_pair *pair, spc_verdict *out)
{
    spc_key key = spc_key_at(round->params, round->position + i, round->salt);
    bool kept = false;

    out->verified++;
    if (is_draft(round, i)) {
        spc_entry e = entry_at(pair, round->draft[i]);
        bool deferred = spc_target_defers(pair->target, e);

        mark_deferred(out, i, deferred);
        if (!(e.mix.drafter > 0)) out->status |= SPC_STATUS_BAD_DRAFT;
        pair->target = spc_target_raise(pair->target, e);
        if (spc_target_coin_sums(pair->target, deferred)) complete(pair);
        kept = keeps(round, spc_target_kept(pair->target, e), e.mix.drafter, key);
    }
    if (kept) return true;

    /* A rejection draws from both rows; a rule that kept the drafter's row cannot reject, unless
     * the draft was not drawn from it. */
    prepare(pair, &pair->verifier, 0);
    if (is_bad(pair, &out->status)) return false;
    if (spc_target_residual_sums(pair->target)) complete(pair);
    draw_residual(pair, SPC_SUM_RESIDUAL, 0, key, out);
    return false;
}

/* What comes in front of that.  false: a bad row ended the run. */
ROUND_FN bool begin_judging(const spc_round *round, int32_t i, spc_row_pair *pair, spc_verdict *out)
{
    *pair = spc_pair_at(round, i, true);
    if (!is_draft(round, i)) out->status |= SPC_STATUS_BAD_DRAFT;
    return decide(pair, known_stats(round, i), &out->status);
}

/* The next draft is kept. */
ROUND_FN void keep_draft(const spc_round *round, spc_verdict *out)
{
    emit(out, round->draft[out->accepted]);
    out->accepted++;
}

/* The sums by which a rule decides a row, begun for all rows that have a draft.  Those behind the
 * first rejection are begun in vain. */
ROUND_FN bool begin_decision(const spc_round *round, spc_row_pair *pair)
{
    const spc_rule *rule = &round->params->rule;
    int32_t facts = spc_rule_facts((spc_rule_kind)rule->path);
    uint32_t trouble = 0;

    prepare(pair, &pair->drafter, known_stats(round, pair->row));
    prepare(pair, &pair->verifier, 0);
    if (is_bad(pair, &trouble)) return false;
    pair->target.form = SPC_TARGET_DEFER;
    if (facts & SPC_FACT_TV) begin_fold(pair, SPC_SUM_TV, 0);
    if (facts & SPC_FACT_DIVERGENCE) begin_fold(pair, rule->kl ? SPC_SUM_KL : SPC_SUM_JS, 0);
    return true;
}

/* The sums behind a target, which block verification asks for at every row. */
ROUND_FN bool begin_target(const spc_round *round, spc_row_pair *pair)
{
    const spc_target *t = &pair->target;
    uint32_t trouble = 0;

    if (!decide(pair, known_stats(round, pair->row), &trouble)) return false;
    prepare(pair, &pair->verifier, 0);
    if (is_bad(pair, &trouble)) return false;
    if (t->form == SPC_TARGET_SELECT || t->form == SPC_TARGET_TYPICAL) {
        begin_fold(pair, SPC_SUM_OUTSIDE, 0);
    }
    if (t->form == SPC_TARGET_LENIENT) begin_fold(pair, SPC_SUM_REJECTED, 0);
    if (t->form == SPC_TARGET_LENIENT && !t->solve) begin_fold(pair, SPC_SUM_TV, 0);
    return true;
}

ROUND_FN void look_ahead(const spc_round *round, spc_row_pair *pair)
{
    int32_t facts = spc_rule_facts((spc_rule_kind)round->params->rule.path);
    bool sums = (facts & (SPC_FACT_TV | SPC_FACT_DIVERGENCE)) != 0;
    bool block = round->params->verify == SPC_VERIFY_BLOCK && !(facts & SPC_FACT_NUCLEUS);

    for (int32_t i = 0; i < round->drafts && (sums || block); i++) {
        *pair = spc_pair_at(round, i, true);
        if (!(sums ? begin_decision(round, pair) : begin_target(round, pair))) return;
    }
}

ROUND_FN void verify_token(const spc_round *round, spc_row_pair *pair, spc_verdict *out)
{
    bool decided;

    if (ROUND_AHEAD) look_ahead(round, pair);
    decided = judge_ahead(round, pair, out);
    while (out->accepted < round->drafts) {
        const int32_t i = out->accepted;

        if (!decided && !begin_judging(round, i, pair, out)) return;
        if (!judge(round, i, pair, out)) return;
        decided = false;
        keep_draft(round, out);
    }
    if (round->bonus) draw_bonus(round, pair, out);
}

/* Weight of the draft up to a row's, from that of the draft before it. */
ROUND_FN float block_weight(const spc_round *round, int32_t i, spc_row_pair *pair, float weight,
                            spc_verdict *out)
{
    if (!is_draft(round, i)) {
        out->status |= SPC_STATUS_BAD_DRAFT;
        return 0.0f;
    }

    spc_entry e = entry_at(pair, round->draft[i]);
    bool deferred = spc_target_defers(pair->target, e);

    mark_deferred(out, i, deferred);
    if (!(e.mix.drafter > 0)) {
        out->status |= SPC_STATUS_BAD_DRAFT; /* weight 0 also where pi = q: never kept */
        return 0.0f;
    }
    if (!deferred && !spc_target_has_set(pair->target.form)) {
        return weight; /* pi = q: the factor is exactly 1 */
    }
    return spc_block_weight(weight, spc_target_probability(pair->target, e), e.mix.drafter);
}

/* Block verification looks at every row, so a bad row anywhere matters: drafts from it on are
 * dropped, as if the draft had been that much shorter, and the round ends in the row's status only
 * when every draft before it is kept. */
ROUND_FN void verify_block(const spc_round *round, spc_walk *walk, spc_verdict *out)
{
    spc_row_pair *pair = &walk->pair;
    float *weight = walk->sums->weight, *residual = walk->sums->residual;
    float chain = 1.0f; /* weight of the draft so far */
    int32_t g = round->drafts, kept = 0;
    uint32_t trouble = 0;

    if (ROUND_WRITES) weight[0] = chain;
    if (ROUND_AHEAD) look_ahead(round, pair);
    for (int32_t i = 0; i < g; i++) {
        *pair = spc_pair_at(round, i, true);
        if (!decide(pair, known_stats(round, i), &trouble)) {
            g = i;
            break;
        }
        prepare(pair, &pair->verifier, 0);
        if (is_bad(pair, &trouble)) {
            g = i;
            break;
        }
        complete(pair);

        const float behind = i > 0 ? fold_later(pair, SPC_SUM_BLOCK, chain) : 0.0f; /* 0: unused */

        chain = block_weight(round, i, pair, chain, out);
        if (!ROUND_WRITES) continue;
        residual[i] = behind;
        weight[i + 1] = chain;
    }
    ROUND_MEET();
    for (int32_t i = g; i >= 1 && kept == 0; i--) {
        float chance_of = weight[g];
        spc_key key = spc_key_at(round->params, round->position + i - 1, round->salt);

        if (i < g) {
            chance_of =
                spc_block_chance(weight[i], fold_value(i, SPC_SUM_BLOCK, weight[i], residual[i]));
        }
        if (keeps(round, chance_of, 1.0f, key)) kept = i;
    }
    out->accepted = kept;
    out->verified = kept + 1 < round->drafts ? kept + 1 : round->drafts;
    out->deferred &= (2u << (out->verified > 0 ? out->verified - 1 : 0)) - 1u;
    for (int32_t i = 0; i < kept; i++) emit(out, round->draft[i]);
    if (kept < g) {
        uint32_t fine = 0;

        *pair = spc_pair_at(round, kept, true);
        (void)decide(pair, known_stats(round, kept), &fine);
        prepare(pair, &pair->verifier, 0);
        complete(pair);
        draw_residual(pair, SPC_SUM_BLOCK, weight[kept],
                      spc_key_at(round->params, round->position + kept, round->salt), out);
    } else if (g < round->drafts) {
        out->status |= trouble;
        out->verified = kept;
    } else if (round->bonus) {
        draw_bonus(round, pair, out);
    }
}

/* ---- what became of the rows ------------------------------------------------------------------
 */

/* Rounding may leave a probability of a target a little above 1. */
ROUND_FN float log_or_none(float probability)
{
    if (!(probability >= 1.17549435e-38f)) return -SPC_INFINITY;
    return probability < 1.0f ? spc_log(probability) : 0.0f;
}

/* How the token of a row came about, draft by draft. */
ROUND_FN int32_t fate_of(const spc_row_pair *pair, int32_t row, const spc_verdict *out,
                         spc_entry draft)
{
    const spc_round *round = pair->round;
    bool certain;

    if (row == round->drafts) return SPC_FATE_BONUS;
    if (row >= out->accepted) return SPC_FATE_REJECTED;
    certain = round->params->verify == SPC_VERIFY_TOKEN &&
              spc_target_kept(pair->target, draft) >= draft.mix.drafter;
    return certain ? SPC_FATE_KEPT : SPC_FATE_LUCKY;
}

/* One row that gave a token. */
ROUND_FN void describe_row(const spc_round *round, int32_t row, spc_row_pair *pair,
                           const spc_verdict *out, spc_row_detail *detail)
{
    spc_entry draft, token;
    spc_target target;
    uint32_t fine = 0;

    if (row < round->drafts) {
        *pair = spc_pair_at(round, row, true);
        (void)decide(pair, known_stats(round, row), &fine);
        detail->coin = spc_uniform(spc_key_at(round->params, round->position + row, round->salt),
                                   SPC_STREAM_ACCEPT, 0);
    } else {
        (void)decide_bonus(round, pair, &fine);
    }
    prepare(pair, &pair->verifier, 0);
    if (is_bad(pair, &fine)) return; /* kept on the drafter's word: nothing is known of p */
    complete(pair);
    draft = token = entry_at(pair, out->token[row]);
    if (row < round->drafts && is_draft(round, row)) {
        draft = entry_at(pair, round->draft[row]);
        detail->drafter = draft.mix.drafter;
        detail->verifier = draft.mix.verifier;
        detail->target = spc_target_probability(pair->target, draft);
    }
    detail->deferred = (out->deferred >> row) & 1u;
    detail->log_verifier = log_or_none(token.mix.verifier);
    detail->log_target = log_or_none(spc_target_probability(pair->target, token));
    if (spc_reads_gate(round->params->rule.path)) {
        spc_gate gate = (spc_gate)round->params->rule.gate;

        if (pair->drafter.there) detail->top_drafter = spc_gate_of(pair->drafter.stats, gate).top;
        detail->top_verifier = spc_gate_of(pair->verifier.stats, gate).top;
    }
    if (spc_target_has_set(pair->target.form)) {
        detail->outside = fold(pair, SPC_SUM_OUTSIDE, 0);
        detail->inside = (int32_t)fold(pair, SPC_SUM_COUNT, 0);
    }
    target = pair->target;
    pair->target = spc_target_raise(target, draft);
    detail->fate = fate_of(pair, row, out, draft);
    pair->target.form = SPC_TARGET_DEFER; /* no gaps needed for TV */
    if (pair->drafter.there) detail->tv = fold(pair, SPC_SUM_TV, 0);
}

/* Fills round->detail from a verdict. */
ROUND_FN void describe_round(const spc_round *round, spc_row_pair *pair, const spc_verdict *out)
{
    for (int32_t row = 0; row <= round->drafts; row++) {
        spc_row_detail detail;

        detail.fate = SPC_FATE_NONE;
        detail.deferred = 0;
        detail.drafter = detail.verifier = detail.target = detail.coin = 0;
        detail.top_drafter = detail.top_verifier = detail.tv = detail.outside = 0;
        detail.inside = -1;
        detail.log_verifier = detail.log_target = 0;
        if (row < out->count) describe_row(round, row, pair, out, &detail);
        put_detail(round, row, &detail);
    }
}

/* ---- the round --------------------------------------------------------------------------------
 */

/* What only the device's memory can tell: numbers that no checked parameters have. */
ROUND_FN bool is_decidable(const spc_round *round)
{
    bool named = !round->drafter.logits.data;
    bool bonus = round->bonus && round->params->bonus != SPC_BONUS_VERIFIER &&
                 spc_rule_uses_drafter(&round->params->rule);

    if (round->drafts < 0 || round->drafts > SPC_GAMMA_MAX + 1) return false;
    if (!spc_params_decide(round->params)) return false;
    if (!spc_position_valid(round->position, round->drafts)) return false;
    if (named && bonus) return false; /* a row without a draft has no q */
    return !named || round->drafts == 0 || spc_rule_takes_names(round->params->rule.path);
}

/* The whole round.  walk: room for it, with room for its sums. */
ROUND_FN void decide_round(const spc_round *round, spc_walk *walk, spc_verdict *out)
{
    out->count = out->accepted = out->verified = out->drawn = 0;
    out->deferred = out->status = 0;
    for (int32_t i = 0; i < SPC_GAMMA_MAX + 2; i++) out->token[i] = -1;
    if (!is_decidable(round)) {
        out->status = SPC_STATUS_BAD_PARAM;
        return;
    }
    if (round->params->verify == SPC_VERIFY_BLOCK && round->drafts > 0) {
        verify_block(round, walk, out);
    } else {
        verify_token(round, &walk->pair, out);
    }
    if (round->detail) describe_round(round, &walk->pair, out);
}
