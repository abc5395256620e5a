/* SPDX-License-Identifier: Apache-2.0 */
/* cli_decode.h - what spc run and spc chat have in common: the models, the rule, the sampling, and
 * the statistics. */
#ifndef SPC_HOST_CLI_DECODE_H
#define SPC_HOST_CLI_DECODE_H

#include "cli.h"
#include "host/cpu/cpu_threads.h"
#include "host/engine.h"
#include "host/ranks/comm.h"

#include <stddef.h>

/* Values of SPC_CLI_DECODE_OPTIONS, and of --seed, whose help each command words for itself. */
typedef struct {
    const char *verifier, *drafter, *rule, *device, *drafter_device, *isa, *points, *weights;
    const char *kernels, *kv, *drafter_vocab;
    int32_t gamma, top_k, max_tokens, verify, bonus, threads, context, tp, drafter_tp, overlap;
    int32_t kv_tokens, prefill_rows, min_tokens;
    int32_t logprobs; /* -1: none; how many alternatives of each token */
    double temperature, top_p, min_p, most_latency, least_quality;
    double repetition_penalty, presence_penalty, frequency_penalty;
    uint64_t seed;
    spc_cli_list stop, logit_bias;
    spc_cli_ranks ranks;
    bool no_prefix_reuse, no_nucleus, ignore_stop, details, quiet, fast_prefill, plain_launches;
} spc_cli_decode;

/* Rows of a command's table whose arguments hold a spc_cli_decode as `decode`. */
#define SPC_CLI_DECODE_ROW(args, name, value, help, kind, field, low, high)        \
    {                                                                              \
        name, value, help, SPC_CLI_##kind, offsetof(args, decode.field), low, high \
    }
#define SPC_CLI_DECODE_OPTIONS(args)                                                               \
    SPC_CLI_DECODE_ROW(args, "verifier", "MODEL", "the large model", TEXT, verifier, 0, 0),        \
        SPC_CLI_DECODE_ROW(                                                                        \
            args, "drafter", "MODEL",                                                              \
            "the small model; 'none': decode with the verifier alone, under the\n"                 \
            "rule verifier-only; 'ngram', 'ngram:MAX' or 'ngram:MIN-MAX': no model,\n"             \
            "drafts are what followed the last MAX to MIN (4 to 2) tokens where they\n"            \
            "stood before in prompt or output; for strict and truncate, and with\n"                \
            "--bonus verifier and a fixed --gamma for lossy, token-v2, token-v3, bild,\n"          \
            "head, typical and lossy-greedy",                                                      \
            TEXT, drafter, 0, 0),                                                                  \
        SPC_CLI_DECODE_ROW(                                                                        \
            args, "rule", "RULE",                                                                  \
            "deferral rule: strict (lossless), lossy, lossy-greedy, chow, diff, opt,\n"            \
            "chow-log, diff-log, opt-log, token-v1, token-v2, token-v3, bild;\n"                   \
            "comparators: truncate, truncate-q, head, typical, ensemble, fuzzy,\n"                 \
            "mentored, cactus (with --bonus step); one model at a time: token-chow,\n"             \
            "seq-chow, bild-dynamic, verifier-only, drafter-only.  Most take a number\n"           \
            "(\"token-v3:alpha=0.5\"): spc rules lists keys, ranges and defaults",                 \
            TEXT, rule, 0, 0),                                                                     \
        SPC_CLI_DECODE_ROW(                                                                        \
            args, "operating-point", "FILE",                                                       \
            "take rule, draft length and sampling from a point that spc tune chose\n"              \
            "from a sweep, within one of the next two limits",                                     \
            TEXT, points, 0, 0),                                                                   \
        SPC_CLI_DECODE_ROW(args, "max-relative-latency", "X",                                      \
                           "the best point that takes at most X times the verifier's time", REAL,  \
                           most_latency, 0, 100),                                                  \
        SPC_CLI_DECODE_ROW(args, "min-quality", "Y",                                               \
                           "the fastest point with at least this quality", REAL, least_quality, 0, \
                           0),                                                                     \
        SPC_CLI_DECODE_ROW(                                                                        \
            args, "gamma", "N",                                                                    \
            "draft length, in tokens per round; auto: chosen for every round from\n"               \
            "measured times and acceptance, under strict possibly 0",                              \
            AUTO, gamma, 0, SPC_GAMMA_MAX),                                                        \
        SPC_CLI_DECODE_ROW(args, "temperature", "T",                                               \
                           "of both models: 0 (greedy, always the likeliest token), or 0.0001\n"   \
                           "to 100",                                                               \
                           REAL, temperature, 0, 0),                                               \
        SPC_CLI_DECODE_ROW(args, "top-k", "K", "keep the K likeliest tokens; 0: all", INT, top_k,  \
                           0, SPC_VOCAB_MAX),                                                      \
        SPC_CLI_DECODE_ROW(                                                                        \
            args, "top-p", "P",                                                                    \
            "keep the likeliest tokens that make up probability P, above 0 and at\n"               \
            "most 1",                                                                              \
            REAL, top_p, 0, 0),                                                                    \
        SPC_CLI_DECODE_ROW(args, "min-p", "P",                                                     \
                           "keep tokens with at least P times the probability of the likeliest",   \
                           REAL, min_p, 0, 1),                                                     \
        SPC_CLI_DECODE_ROW(args, "max-tokens", "N",                                                \
                           "new tokens per answer; 0: as many as the context holds", INT,          \
                           max_tokens, 0, INT32_MAX),                                              \
        SPC_CLI_DECODE_ROW(args, "min-tokens", "N",                                                \
                           "no end-of-sequence token among the first N new tokens", INT,           \
                           min_tokens, 0, INT32_MAX),                                              \
        SPC_CLI_DECODE_ROW(args, "repetition-penalty", "R",                                        \
                           "divide logits above 0 of tokens in prompt and output by R, multiply\n" \
                           "others; 1: off",                                                       \
                           REAL, repetition_penalty, 0.0001, 100),                                 \
        SPC_CLI_DECODE_ROW(args, "presence-penalty", "X",                                          \
                           "subtract X from logits of tokens in the output", REAL,                 \
                           presence_penalty, -100, 100),                                           \
        SPC_CLI_DECODE_ROW(args, "frequency-penalty", "X", "the same, as often as they are in it", \
                           REAL, frequency_penalty, -100, 100),                                    \
        SPC_CLI_DECODE_ROW(args, "logit-bias", "ID:X",                                             \
                           "add X to the logit of token ID; -inf: it never comes (spc tokenize\n"  \
                           "tells ids)",                                                           \
                           LIST, logit_bias, 0, 0),                                                \
        SPC_CLI_DECODE_ROW(args, "stop", "TEXT", "stop before this text", LIST, stop, 0, 0),       \
        SPC_CLI_DECODE_ROW(args, "ignore-stop", NULL, "continue after end-of-sequence tokens",     \
                           FLAG, ignore_stop, 0, 0),                                               \
        SPC_CLI_DECODE_ROW(args, "verify", "token|block",                                          \
                           "verify drafts one by one, or jointly as a block (same distribution)",  \
                           CHOICE, verify, 0, 0),                                                  \
        SPC_CLI_DECODE_ROW(args, "bonus", "target|verifier|step",                                  \
                           "where the token after a fully accepted draft comes from", CHOICE,      \
                           bonus, 0, 0),                                                           \
        SPC_CLI_DECODE_ROW(args, "no-nucleus", NULL,                                               \
                           "let token rules keep drafts outside the verifier's nucleus", FLAG,     \
                           no_nucleus, 0, 0),                                                      \
        SPC_CLI_DECODE_ROW(args, "context", "N",                                                   \
                           "tokens of prompt and answer together; 0: as many as the models allow", \
                           INT, context, 0, INT32_MAX),                                            \
        SPC_CLI_DECODE_ROW(args, "device", "NAME", SPC_CLI_DEVICES, TEXT, device, 0, 0),           \
        SPC_CLI_DECODE_ROW(                                                                        \
            args, "drafter-device", "NAME",                                                        \
            "run the drafter on its own device: cpu (with its own threads), cuda or\n"             \
            "cuda:N; or shard it over GPUs that no rank has, cuda:2,cuda:3; with\n"                \
            "several ranks, in the first rank's process alone; by default the\n"                   \
            "verifier's device",                                                                   \
            TEXT, drafter_device, 0, 0),                                                           \
        SPC_CLI_DECODE_ROW(args, "drafter-vocab", "N|FILE", SPC_CLI_DRAFTER_VOCAB, TEXT,           \
                           drafter_vocab, 0, 0),                                                   \
        SPC_CLI_DECODE_ROW(                                                                        \
            args, "tp", "N",                                                                       \
            "tensor parallelism: shard the verifier over N ranks, which share the\n"               \
            "CPU's threads, or over N GPUs (--device cuda, or cuda:0,cuda:1,...;\n"                \
            "with NCCL)",                                                                          \
            INT, tp, 1, SPC_RANKS_MAX),                                                            \
        SPC_CLI_DECODE_ROW(                                                                        \
            args, "drafter-tp", "N",                                                               \
            "as many as --tp: shard the drafter too (of --drafter-vocab each rank then\n"          \
            "has the tokens in its slice of the vocabulary); 1: run it whole, on the\n"            \
            "first rank, on every rank if they are processes or GPUs, or on the\n"                 \
            "--drafter-device",                                                                    \
            INT, drafter_tp, 1, SPC_RANKS_MAX),                                                    \
        SPC_CLI_RANK_OPTIONS(args, decode.ranks),                                                  \
        SPC_CLI_DECODE_ROW(args, "threads", "N",                                                   \
                           "CPU threads; 0: one per core, within a quota of CPU time", INT,        \
                           threads, 0, SPC_TEAM_MAX),                                              \
        SPC_CLI_DECODE_ROW(args, "isa", "NAME", SPC_CLI_ISA, TEXT, isa, 0, 0),                     \
        SPC_CLI_DECODE_ROW(args, "weights", "KIND", SPC_CLI_WEIGHTS, TEXT, weights, 0, 0),         \
        SPC_CLI_DECODE_ROW(args, "kv", "TYPE", SPC_CLI_KV, TEXT, kv, 0, 0),                        \
        SPC_CLI_DECODE_ROW(args, "fast-prefill", NULL,                                             \
                           "GPU: use cuBLASLt for prompts and large batches (not for quantised\n"  \
                           "weights); results may then depend on the batch",                       \
                           FLAG, fast_prefill, 0, 0),                                              \
        SPC_CLI_DECODE_ROW(                                                                        \
            args, "kernels", "FILE",                                                               \
            "one GPU: for linear layers use the kernels that spc tune-kernels found\n"             \
            "fastest; the last bits of logits depend on the file",                                 \
            TEXT, kernels, 0, 0),                                                                  \
        SPC_CLI_DECODE_ROW(args, "plain-launches", NULL,                                           \
                           "GPU: launch kernel by kernel instead of one CUDA graph per round;\n"   \
                           "slower, for debugging",                                                \
                           FLAG, plain_launches, 0, 0),                                            \
        SPC_CLI_DECODE_ROW(                                                                        \
            args, "overlap", "auto|on|off",                                                        \
            "one GPU or --drafter-device, one prompt at a time, --bonus step: draft\n"             \
            "the next round while this one is verified; one GPU, batches: draft for\n"             \
            "one half while the other is verified; auto: where measured to be faster",             \
            CHOICE, overlap, 0, 0),                                                                \
        SPC_CLI_DECODE_ROW(args, "quiet", NULL,                                                    \
                           "print no statistics on stderr, and no progress of prompts", FLAG,      \
                           quiet, 0, 0)

/* Of what has results in JSON. */
#define SPC_CLI_LOGPROBS_ROW(args)                                                          \
    SPC_CLI_DECODE_ROW(                                                                     \
        args, "logprobs", "N",                                                              \
        "with --json: log-probability of each token to the verifier, before temperature,\n" \
        "truncation and rule, and those of the N most probable tokens, as \"logprobs\"",    \
        INT, logprobs, 0, SPC_TOP_LOGPROBS_MAX)

/* The session's defaults; no models. */
void spc_cli_decode_init(spc_cli_decode *decode);

/* How to decode, once options and operating point have been read.  Not to be copied: options.rule
 * may lie in point, and options.logit_bias is bias. */
typedef struct {
    spc_session_options options;
    spc_cli_point point;            /* where --operating-point chose one */
    char rule[SPC_RULE_TEXT_BYTES]; /* in canonical form */
    spc_logit_bias bias[SPC_LOGIT_BIAS_MAX];
} spc_cli_way;

/* Read them, before any model is loaded.  Says on stderr which operating point was taken. */
spc_status spc_cli_decode_way(const spc_cli_decode *decode, const spc_cli_line *line,
                              spc_cli_way *out, spc_error *err);

/* --logprobs, where results are JSON or are not.  SPC_EUSAGE
 *
 * instead   what may be done about it, beside giving --json */
spc_status spc_cli_check_logprobs(const spc_cli_decode *decode, bool json, const char *instead,
                                  spc_error *err);

/* Open the models for so many sessions.  Warnings of the engine go to stderr, rank 0's only.
 *
 * check   of what the command asks of the models, before their weights are loaded; NULL: nothing */
spc_status spc_cli_decode_open(const spc_cli_decode *decode, const spc_place *place,
                               int32_t sessions, const spc_engine_check *check, spc_engine **out,
                               spc_error *err);

/* In place of spc_cli_decode_open, where rank 0 has found something wrong: spc_cli_place_fail. */
int spc_cli_decode_fail(const spc_cli_decode *decode, const spc_place *place, int32_t sessions,
                        const spc_error *err);
/* The same where any rank's line is wrong (spc_cli_command). */
int spc_cli_decode_wrong(const spc_cli_decode *decode, const spc_cli_line *line, int32_t sessions,
                         const spc_error *err);

/* --overlap on, where the device could and this number of sessions and --bonus leave it nothing to
 * do: what is left to be told once there is a device (spc_engine_check).  SPC_EUSAGE */
spc_status spc_cli_check_overlap(const spc_engine *engine, const spc_cli_decode *decode,
                                 const spc_session_options *options, int32_t sessions,
                                 spc_error *err);

/* The whole life of a rank other than 0: it has no prompts and no results.  Returns the exit code,
 * after telling of any error. */
int spc_cli_decode_follow(const spc_cli_decode *decode, const spc_place *place, int32_t sessions);

/* Say on a terminal how far the prompts of sessions are, where all of them wait for the end of
 * theirs, after a step; false, and nothing said: one has begun, or none runs. */
bool spc_cli_tell_prompts(spc_session *const *session, int32_t count);

/* Draft positions that counters are shown for: gamma, the longest draft there was where it is
 * chosen, or the window of bild-dynamic. */
int32_t spc_cli_positions(const spc_cli_way *way, const spc_stats *stats);

/* Sequences that were decoded, added up. */
typedef struct {
    spc_stats stats; /* output_hash: of all their tokens */
    int64_t sequences;
    int64_t finished[SPC_FINISH_COUNT];
} spc_cli_total;

void spc_cli_total_init(spc_cli_total *total);
/* Count one sequence in. */
void spc_cli_total_add(spc_cli_total *total, const spc_stats *stats, spc_finish finish,
                       const int32_t *tokens, int32_t count);
/* Two lines of statistics on stderr, and with gamma auto one of what was chosen, and one of what it
 * was chosen by.
 *
 * of   what they are of, "" for all there was */
void spc_cli_total_print(const char *of, const spc_cli_total *total, const spc_cli_way *way,
                         const spc_engine *engine);

#endif
