/* SPDX-License-Identifier: Apache-2.0 */
/* cli.h - inside the program spc: commands as tables of options, errors, results on stdout.
 *
 * A command is a table: the parser and --help read the same one, so help cannot lie.  Only the
 * files cli*.c print. */
#ifndef SPC_HOST_CLI_H
#define SPC_HOST_CLI_H

#include <spc/spc.h>

#include <jansson.h>
#include <signal.h>
#include <stdio.h>

/* ---- options (cli_args.c) ------------------------------------------------------------------- */

/* What an option takes, and the type of its field. */
typedef enum {
    SPC_CLI_FLAG,   /* nothing; bool */
    SPC_CLI_INT,    /* a whole number of low to high; int32_t */
    SPC_CLI_AUTO,   /* the same, or the word auto; int32_t, -1 for it */
    SPC_CLI_SEED,   /* a whole number of 0 to 2^63 - 1; uint64_t */
    SPC_CLI_REAL,   /* a number of low to high; double */
    SPC_CLI_TEXT,   /* any text; const char * */
    SPC_CLI_CHOICE, /* one of the words in `value`, separated by '|'; int32_t, its index */
    SPC_CLI_LIST    /* any text, and the option may be repeated; spc_cli_list */
} spc_cli_kind;

typedef struct {
    const char **item; /* [count], items borrowed from argv */
    int32_t count;
} spc_cli_list;

typedef struct {
    const char *name;  /* without dashes: one before a name of one letter, else two */
    const char *value; /* what help calls the value; NULL for a flag */
    const char *help;  /* one line or two; the default is added from the command's init */
    spc_cli_kind kind;
    size_t offset;    /* of the field in the command's arguments */
    double low, high; /* INT, AUTO, REAL; low == high: any number */
} spc_cli_option;

enum { SPC_CLI_OPTIONS = 64 };

typedef struct spc_cli_command spc_cli_command;

/* What stood on the command line beside the values of options. */
typedef struct {
    const spc_cli_command *command;
    spc_cli_list words;          /* arguments that are no options; item is owned */
    bool given[SPC_CLI_OPTIONS]; /* by index in command->option */
    bool wrong[SPC_CLI_OPTIONS]; /* the same: given, and its value could not be read */
    int32_t faults;              /* options that are wrong or unknown */
    bool help;                   /* --help or -h: nothing else counts */
} spc_cli_line;

struct spc_cli_command {
    const char *name;
    const char *words;   /* what follows the options: "[PROMPT ...]"; where it begins with "--", a
                            command, to which options behind its name belong */
    const char *summary; /* one line */
    const char *about;   /* further lines of help; may be "" */
    int32_t words_low, words_high;
    const spc_cli_option *option; /* [option_count] */
    int32_t option_count;
    size_t bytes;             /* of its arguments */
    void (*init)(void *args); /* fill in defaults */
    /* Do it; returns the exit code, after telling of any error. */
    int (*run)(const void *args, const spc_cli_line *line);
    /* In its place where the line is wrong, as the error says; args have what could be read.  NULL:
     * spc_cli_fail. */
    int (*wrong)(const void *args, const spc_cli_line *line, const spc_error *err);
};

/* Read the command line behind the command's name into args, which hold the defaults.
 * SPC_EUSAGE names the first option that is wrong, what was expected and what was found; all others
 * are read nevertheless.  SPC_ENOMEM */
spc_status spc_cli_parse(const spc_cli_command *command, int argc, char **argv, void *args,
                         spc_cli_line *line, spc_error *err);
void spc_cli_parse_free(void *args, spc_cli_line *line);

/* Was this option given?  Can its value not be read?  It must be in the command's table. */
bool spc_cli_given(const spc_cli_line *line, const char *name);
bool spc_cli_wrong(const spc_cli_line *line, const char *name);

/* A guess at what a mistyped word was to be. */
typedef struct {
    const char *word; /* [bytes] */
    size_t bytes;
    const char *best; /* NULL: nothing is near */
    int32_t edits;    /* of best */
} spc_cli_guess;

spc_cli_guess spc_cli_guess_of(const char *word, size_t bytes);
void spc_cli_guess_try(spc_cli_guess *guess, const char *name);

/* The command's help on stdout. */
void spc_cli_help(const spc_cli_command *command);

/* A whole number, written in decimal digits and nothing else. */
bool spc_cli_read_int(const char *text, int64_t low, int64_t high, int64_t *out);
/* A finite number in decimal notation; low == high: any. */
bool spc_cli_read_real(const char *text, double low, double high, double *out);

/* ---- commands ------------------------------------------------------------------------------- */

extern const spc_cli_command spc_cli_run;      /* cli_run.c */
extern const spc_cli_command spc_cli_chat;     /* cli_chat.c */
extern const spc_cli_command spc_cli_demo;     /* cli_demo.c */
extern const spc_cli_command spc_cli_info;     /* cli_info.c */
extern const spc_cli_command spc_cli_kernels;  /* cli_kernels.c */
extern const spc_cli_command spc_cli_launch;   /* cli_launch.c */
extern const spc_cli_command spc_cli_logits;   /* cli_logits.c */
extern const spc_cli_command spc_cli_rules;    /* cli_rules.c */
extern const spc_cli_command spc_cli_tokenize; /* cli_tokenize.c */
extern const spc_cli_command spc_cli_tune;     /* cli_tune.c */

/* ---- errors, results (cli_io.c) ------------------------------------------------------------- */

/* Say on stderr, in one line, what went wrong; returns the exit code of its class. */
int spc_cli_fail(const spc_error *err);
/* The same for an error of the command's own. */
int spc_cli_fail_with(spc_status status, const char *format, ...) SPC_PRINTF(2, 3);

/* Put results on stdout.  A failed write is remembered: spc_cli_finish tells of it. */
void spc_cli_put(const char *text, size_t bytes);
void spc_cli_print(const char *format, ...) SPC_PRINTF(1, 2);
/* One JSON value and a newline; takes over the value.  A NULL value (no memory to build it) is
 * remembered like a failed write. */
void spc_cli_put_json(json_t *value);
/* Flush stdout.  False when something could not be written, now or before. */
bool spc_cli_flush(void);
/* The exit code of a command that ends with `code`: that of the failed output if there was one. */
int spc_cli_finish(int code);

/* Help of options that several commands have. */
#define SPC_CLI_WEIGHTS                                                           \
    "int8: quantise matrices of 16 and 32 bits at load, to 8-bit integers with\n" \
    "a scale per output (what is quantised stays as it is); by default weights\n" \
    "stay as in the checkpoint"
#define SPC_CLI_KV                                                                 \
    "type of both models' KV caches: f32, bf16 or f16; 16 bits halve the memory\n" \
    "and what attention reads, and bf16 is the safer type; default f32"
#define SPC_CLI_ISA                                                     \
    "vector unit: portable; avx2, avx512, avx512vnni; neon, neondot;\n" \
    "default: the widest"
#define SPC_CLI_DRAFTER_VOCAB                                                   \
    "tokens that the drafter drafts, for which its output layer is cut: the\n"  \
    "first N ids, frequent ones of byte-level BPE (GPT-2, Llama 3, Qwen); or\n" \
    "those in FILE, ids with blanks between; and those that end a sequence;\n"  \
    "by default all"
#define SPC_CLI_DEVICES "auto (the first GPU, or the CPU), cpu, cuda or cuda:N"

/* Exit codes after Ctrl-C and after other signals, as shells have them. */
enum { SPC_CLI_SIGNALLED = 128, SPC_CLI_INTERRUPTED = 130 };

/* Set, to the signal's number, by Ctrl-C once spc_cli_catch_interrupt has been called, and by
 * SIGTERM, which outweighs it, once spc_cli_catch_term has; the second of a kind kills. */
extern volatile sig_atomic_t spc_cli_interrupted;
void spc_cli_catch_interrupt(void);
void spc_cli_catch_term(void);
/* Ctrl-C, and none kills. */
void spc_cli_catch_interrupts(void);
/* A Ctrl-C has had its effect: it is 0 again, unless SIGTERM has come. */
void spc_cli_forget_interrupt(void);

/* Part of a text, written at once; and, behind the end of its last line, the end of that text. */
void spc_cli_stream(const char *text, size_t bytes);
void spc_cli_stream_ends(void);
/* A line on stderr, where a text is being written behind the end of that. */
void spc_cli_note(const char *line);

/* A line on stderr that later ones overwrite; nothing where stderr is no terminal.  NULL: erase. */
void spc_cli_progress(const char *text);
/* spc_progress_fn: loading of weights as such a line. */
void spc_cli_loading(void *user, uint64_t done, uint64_t total);

/* "9.6 MiB" for people. */
enum { SPC_CLI_SIZE_BYTES = 32 };
const char *spc_cli_size(uint64_t bytes, char text[SPC_CLI_SIZE_BYTES]);

/* Does a text from a stream have a line that a terminal may have cut?  It passes on 4095 bytes of
 * each and drops the rest without a word. */
bool spc_cli_cut_line(FILE *in, const char *text, size_t bytes);
#define SPC_CLI_CUT_LINE                                                               \
    "a terminal drops what is beyond 4095 bytes of a line, so this one may have lost " \
    "its end: write shorter lines, or have it read from a file or a pipe"

/* "-" as the name of a file to write is most likely meant as stdout, which no such file goes to:
 * SPC_EUSAGE.
 *
 * instead   what does go there, as a part of the message */
spc_status spc_cli_check_output(const char *path, const char *instead, spc_error *err);

/* Everything a stream holds from here on, malloc'd and terminated. */
spc_status spc_cli_read_all(FILE *in, const char *where, char **text, size_t *bytes,
                            spc_error *err);

/* A JSON array of ids; `where` names it in messages.
 *
 * ids   receives malloc'd ids; never NULL on success */
spc_status spc_cli_read_ids(const json_t *array, const char *where, int32_t **ids, int32_t *count,
                            spc_error *err);
json_t *spc_cli_json_ids(const int32_t *ids, int32_t count);
/* A text that may name a file, whose name may be no UTF-8; NULL for NULL. */
json_t *spc_cli_json_text(const char *text);

/* ---- prompts (cli_prompt.c) ---------------------------------------------------------------------
 */

/* What a line says of how it is decoded, in place of the command line. */
typedef struct {
    bool has_seed, has_stop, has_bias, has_logprobs;
    int32_t logprobs; /* as of the option */
    uint64_t seed;
    uint32_t has;               /* numbers that it says, by bit ... */
    spc_session_options number; /* ... in their fields */
    const char **stop;          /* [stop_count] */
    int32_t stop_count;
    spc_logit_bias *bias; /* [bias_count] */
    int32_t bias_count;
} spc_cli_own;

void spc_cli_own_free(spc_cli_own *own); /* cli_own.c */

typedef struct {
    char *text;             /* [bytes], terminated; NULL: given as ids */
    size_t bytes;           /* of text */
    int32_t *ids;           /* [count], where there is no text */
    int32_t count;          /* of ids */
    const json_t *messages; /* in line: a conversation in place of text and ids; or NULL */
    spc_cli_own own;        /* its texts lie in line */
    json_t *line;           /* it came from, or NULL */
    json_t *id;             /* what the file calls it, or NULL */
    char where[256];        /* "argument 1", "prompts.jsonl: line 7" */
} spc_cli_prompt;

/* Make a text the prompt's.  SPC_ENOMEM */
spc_status spc_cli_take_text(spc_cli_prompt *prompt, const char *text, size_t bytes,
                             spc_error *err);
void spc_cli_prompt_free(spc_cli_prompt *prompt);

/* Fill in a prompt from a line of a file, whose "where" is there (cli_lines.h). */
typedef spc_status (*spc_cli_reader)(spc_cli_prompt *prompt, const char *line, size_t bytes,
                                     spc_error *err);

/* Bytes of a line: many times what fits into any context.  A longer one is refused while it is
 * read; what it is too long for, memory and the tokenizer, would be told after minutes. */
enum { SPC_CLI_LINE_MOST = 64 << 20 };

/* Where prompts come from: words of the command line, lines of text, or lines of JSON. */
typedef struct {
    const spc_cli_list *words; /* NULL: a stream */
    FILE *in;
    const char *name;    /* of the stream */
    spc_cli_reader read; /* of lines of JSON; NULL: they are text */
    int64_t line;        /* words or lines handed out */
    char *buffer;        /* [capacity] from begin to end: read, and not handed out yet ... */
    size_t capacity, begin, end;
    size_t seen;   /* ... and up to here without the end of a line */
    bool dropping; /* what is read still belongs to a line that was too long */
    bool ended;    /* there is no more to read; ... */
    int failure;   /* ... if not 0, for this reason (errno) */
} spc_cli_source;

/* words where there are any; otherwise `input` ("-": stdin) as lines of JSON, for `read`; otherwise
 * stdin as text. */
spc_status spc_cli_source_open(spc_cli_source *source, const spc_cli_list *words, const char *input,
                               spc_cli_reader read, spc_error *err);
void spc_cli_source_close(spc_cli_source *source);
/* The next prompt; *got is false at the end.  With an error it is true where that is of one prompt
 * alone: others may follow. */
spc_status spc_cli_source_next(spc_cli_source *source, spc_cli_prompt *prompt, bool *got,
                               spc_error *err);
/* Would the next prompt have to be waited for: is there no whole line yet, and no end? */
bool spc_cli_source_waits(spc_cli_source *source);

/* ---- sequences (cli_prompt.c) -------------------------------------------------------------------
 */

/* Languages of the embedded pair, as words of an option and as marks of the prompt. */
#define SPC_CLI_LANGUAGES "de|es|fr"
enum { SPC_CLI_LANGUAGE_COUNT = 3 };

/* SPC_EUSAGE: the model has not the tokens of such prompts. */
spc_status spc_cli_check_language(const spc_engine *engine, int32_t language, spc_error *err);

/* Text as a prompt of the embedded pair: <s> <2de> text <sep>.  Errors as above. */
spc_status spc_cli_translation(const spc_engine *engine, int32_t language, const char *text,
                               size_t bytes, int32_t **ids, int32_t *count, spc_error *err);

/* What a rule text says, in canonical form.  SPC_ERULE
 *
 * sequential   receives: it runs one model alone, nothing is drafted and verified */
spc_status spc_cli_rule(const char *rule, char canonical[SPC_RULE_TEXT_BYTES], bool *sequential,
                        spc_error *err);

/* Greedy, or a temperature that sessions take. */
#define SPC_CLI_TEMPERATURE_LEAST 1e-4
#define SPC_CLI_TEMPERATURE_MOST  100.0
bool spc_cli_is_temperature(double temperature);
/* A bias beyond it, on either side, is a mistake: "-inf" says that a token never comes. */
#define SPC_CLI_BIAS_MOST 1e30
/* A number as sessions take it.  To a float 1e-300 is 0; but what is above 0 stays above it. */
float spc_cli_float(double x);

/* ---- ranks that are processes (cli_place.c) -------------------------------------------------- */

/* How spc launch tells a process its place; only the program reads the environment. */
#define SPC_CLI_ENV_RANK  "SPC_RANK"
#define SPC_CLI_ENV_WORLD "SPC_WORLD"
#define SPC_CLI_ENV_MEET  "SPC_MEET"

/* What a user says of this process's place. */
typedef struct {
    int32_t from; /* 0 nothing, 1 the environment of Open MPI, MPICH or Slurm */
    int32_t rank, world;
    const char *meet;
    double timeout; /* seconds */
} spc_cli_ranks;

/* Rows of a command's table whose arguments hold a spc_cli_ranks as `field`. */
#define SPC_CLI_RANK_ROW(args, field, name, value, help, kind, of, low, high)  \
    {                                                                          \
        name, value, help, SPC_CLI_##kind, offsetof(args, field.of), low, high \
    }
#define SPC_CLI_RANK_OPTIONS(args, field)                                                        \
    SPC_CLI_RANK_ROW(args, field, "rank", "R", "rank of this process, from 0", INT, rank, 0,     \
                     SPC_RANKS_MAX - 1),                                                         \
        SPC_CLI_RANK_ROW(                                                                        \
            args, field, "world", "N",                                                           \
            "number of processes; the verifier is sharded over all (spc launch starts\n"         \
            "them on one machine).  Rank 0 has prompts and results, and alone reads what\n"      \
            "says how to decode: rule, draft length, sampling, where to stop.  Models and\n"     \
            "what is reserved for them must be the same for all.  --device cuda: each\n"         \
            "takes the GPU of its place on its machine, cuda:N that one (with NCCL)",            \
            INT, world, 1, SPC_RANKS_MAX),                                                       \
        SPC_CLI_RANK_ROW(                                                                        \
            args, field, "meet", "PLACE",                                                        \
            "rendezvous: HOST:PORT of rank 0, or a path that all see.  Ranks neither\n"          \
            "encrypt nor sign what they say: for networks that you trust",                       \
            TEXT, meet, 0, 0),                                                                   \
        SPC_CLI_RANK_ROW(args, field, "ranks-from", "none|env",                                  \
                         "env: take rank and world from Open MPI, MPICH or Slurm", CHOICE, from, \
                         0, 0),                                                                  \
        SPC_CLI_RANK_ROW(args, field, "rank-timeout", "S",                                       \
                         "seconds after which a rank that does not answer ends them all", REAL,  \
                         timeout, 0.01, 86400)

/* No place said: one rank of one. */
#define SPC_CLI_RANKS_NONE ((spc_cli_ranks){.rank = 0, .world = 1, .timeout = 120})

/* This process's place: of the options, of spc launch, or of what has started it; one rank of one
 * where there is none.  SPC_EUSAGE */
spc_status spc_cli_place(const spc_cli_ranks *ranks, const spc_cli_line *line, spc_place *out,
                         spc_error *err);

/* The same where the line is wrong; false: nobody else can be told of it.  More than one option is
 * wrong, or one that says the place, or there are no others, or they have the same line from spc
 * launch. */
bool spc_cli_place_left(const spc_cli_ranks *ranks, const spc_cli_line *line, spc_place *out);

/* spc_cli_fail for what a rank finds wrong before it has met the others (spc_engine_open): they
 * know nothing of it, and would wait for it until the timeout.  They are told, and end too.
 *
 * options   what all ask of their engines: where that is wrong as well, the others have found it by
 *           themselves and do not come, so nobody is waited for */
int spc_cli_place_fail(const spc_place *place, const spc_engine_options *options,
                       const spc_error *err);
/* Did a command fail because SIGTERM has ended another rank before this one, as mpirun and srun
 * send it to all?  Then that is how it ended. */
bool spc_cli_place_ended(const spc_place *place, spc_status status);

/* ---- operating points (cli_point.c) --------------------------------------------------------- */

/* What a model is called wherever it lies: the last part of its path. */
enum { SPC_CLI_MODEL_BYTES = 128 };
typedef char spc_cli_model[SPC_CLI_MODEL_BYTES];

/* A measured way to decode. */
typedef struct {
    char rule[SPC_RULE_TEXT_BYTES];                 /* canonical */
    spc_cli_model verifier, drafter, drafter_vocab; /* that it was measured with; "": unknown */
    int32_t gamma, verify, bonus, top_k;
    bool nucleus;
    double temperature, top_p, min_p;
    double quality, latency; /* as measured; latency relative to the verifier alone */
} spc_cli_point;

/* How a point samples and verifies beside temperature and top-p, ", top-k 5, block verification":
 * what is not the default. */
enum { SPC_CLI_MORE_BYTES = 160 };
void spc_cli_point_more(const spc_cli_point *point, char text[SPC_CLI_MORE_BYTES]);

/* The same of a line of a sweep, which has the keys of a point, and of its batch. */
void spc_cli_line_more(const json_t *line, char text[SPC_CLI_MORE_BYTES]);

/* What a user asks of one. */
typedef struct {
    bool has_latency, has_quality;
    double most_latency, least_quality;
} spc_cli_limits;

/* Warn where a point was measured with other models than these, or with other tokens of the drafter
 * (NULL: all): what it promises is not known of them. */
void spc_cli_point_warn(const char *path, const spc_cli_point *point, const char *verifier,
                        const char *drafter, const char *drafter_vocab);

/* Of the points in a file, the fastest that is good enough, or the best that is fast enough. */
spc_status spc_cli_choose_point(const char *path, const spc_cli_limits *limits, spc_cli_point *out,
                                spc_error *err);

/* ---- counters (cli_prompt.c) ---------------------------------------------------------------- */

/* Sums of counters over sequences. */
void spc_cli_stats_add(spc_stats *total, const spc_stats *one);
int64_t spc_cli_sum(const int64_t *by_position);
json_t *spc_cli_json_counts(const int64_t *by_position, int32_t count);
/* What a count's noun ends with: "1 token", "2 tokens". */
static inline const char *spc_cli_plural(int64_t count)
{
    return count == 1 ? "" : "s";
}
/* a / b, 0 where b is 0. */
double spc_cli_ratio(double a, double b);
/* Seconds inside steps. */
double spc_cli_seconds(const spc_stats *stats);
/* Counters as fields of an object: tokens, rounds, ... by position up to gamma.  False: no memory.
 */
bool spc_cli_json_stats(json_t *object, const spc_stats *stats, int32_t gamma);
/* A draft length, "auto" where it is chosen. */
json_t *spc_cli_json_gamma(int32_t gamma);

#endif
