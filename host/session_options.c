/* SPDX-License-Identifier: Apache-2.0 */
/* session_options.c - what a session is asked for, and whether it can be had. */
#include "session.h"

#include "refuse.h"

#include <string.h>

void spc_session_options_init(spc_session_options *options)
{
    memset(options, 0, sizeof *options);
    options->rule = "strict";
    options->gamma = 5;
    options->temperature = 1.0f;
    options->top_p = 1.0f;
    options->repetition_penalty = 1.0f;
    options->nucleus = true;
}

/* Rule and sampling. */
static spc_status read_params(const spc_session_options *o, spc_row_params *params, spc_error *err)
{
    char message[SPC_RULE_MESSAGE_BYTES];

    memset(params, 0, sizeof *params);
    if (!o->rule) return spc_error_set(err, SPC_ERULE, "rule: expected a rule text, found none");
    if (!spc_rule_parse(o->rule, &params->rule, message)) {
        return spc_error_set(err, SPC_ERULE, "%s", message);
    }
    params->sampling.temperature = o->temperature;
    params->sampling.top_k = o->top_k;
    params->sampling.top_p = o->top_p;
    params->sampling.min_p = o->min_p;
    params->seed = o->seed;
    params->verify = (int32_t)o->verify;
    params->bonus = (int32_t)o->bonus;
    params->nucleus = o->nucleus;
    return spc_session_params_check(params, err);
}

/* Is the target distribution of a round another than the verifier's, which a bonus from the
 * verifier has?  Then the law depends on where rounds end. */
static bool changes_verifier(const spc_rule *rule)
{
    return spc_rule_uses_drafter(rule) || rule->path == SPC_RULE_TRUNCATE ||
           rule->path == SPC_RULE_TRUNCATE_P;
}

spc_status spc_session_options_check(const spc_session_options *o, spc_row_params *params,
                                     spc_error *err)
{
    spc_status status = read_params(o, params, err);

    if (status != SPC_OK) return status;
    if (o->gamma != SPC_GAMMA_AUTO && (o->gamma < 0 || o->gamma > SPC_GAMMA_MAX)) {
        return spc_error_set(err, SPC_EUSAGE, "gamma: expected 0 to %d or auto (%d), found %d",
                             SPC_GAMMA_MAX, SPC_GAMMA_AUTO, (int)o->gamma);
    }
    if (o->gamma == SPC_GAMMA_AUTO && params->bonus == SPC_BONUS_VERIFIER &&
        changes_verifier(&params->rule)) {
        return spc_error_set(
            err, SPC_EUNSUPPORTED,
            "gamma auto with bonus verifier: under rule %s the output distribution "
            "would depend on the draft lengths chosen; use a fixed gamma, or, with a "
            "model as drafter, bonus target or step",
            o->rule);
    }
    if ((o->details || o->logprobs) && !spc_rule_is_one_round(params->rule.kind) &&
        params->rule.kind != SPC_RULE_VERIFIER_ONLY) {
        return spc_error_set(err, SPC_EUNSUPPORTED,
                             "%s: rule %s runs one model at a time, and no round says why a "
                             "token came about: choose a rule that verifies drafts, or leave them "
                             "out",
                             o->details ? "details" : "logprobs", o->rule);
    }
    if (o->top_logprobs < 0 || o->top_logprobs > SPC_TOP_LOGPROBS_MAX) {
        return spc_error_set(err, SPC_EUSAGE, "top-logprobs: expected 0 to %d, found %d",
                             SPC_TOP_LOGPROBS_MAX, (int)o->top_logprobs);
    }
    if (o->top_logprobs > 0 && !o->logprobs) {
        return spc_error_set(err, SPC_EUSAGE,
                             "top-logprobs: found %d without logprobs, which they are kept with",
                             (int)o->top_logprobs);
    }
    if (o->max_tokens < 0) {
        return spc_error_set(err, SPC_EUSAGE, "max-tokens: expected 0 (no limit) or more, found %d",
                             (int)o->max_tokens);
    }
    status = spc_processor_check(o, err);
    if (status != SPC_OK) return status;
    if (o->stop_count < 0 || o->stop_count > SPC_STOP_STRINGS_MAX) {
        return spc_error_set(err, SPC_EUSAGE, "stop strings: expected 0 to %d, found %d",
                             SPC_STOP_STRINGS_MAX, (int)o->stop_count);
    }
    if (o->stop_count > 0 && !o->stop) {
        return spc_error_set(err, SPC_EUSAGE, "stop: expected %d strings, found NULL",
                             (int)o->stop_count);
    }
    for (int32_t i = 0; i < o->stop_count; i++) {
        if (o->stop[i] && o->stop[i][0]) continue;
        return spc_error_set(err, SPC_EUSAGE, "stop string %d is empty", (int)i + 1);
    }
    return SPC_OK;
}

spc_status spc_session_check_models(const spc_engine *engine, const spc_session_options *o,
                                    spc_error *err)
{
    if (o->stop_count > 0 && !engine->tokenizer) {
        return spc_error_set(err, SPC_EUSAGE,
                             "stop strings need a tokenizer, and this model has none "
                             "(tokenizer.json): leave them out");
    }
    return spc_processor_check_ids(o, engine->vocab, err);
}
