/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_ranks.c - one process of a group that decodes over NCCL, each with the same engine calls:
 *
 *   nccl_ranks CHECKPOINT TOKENS                                  one process alone
 *   nccl_ranks CHECKPOINT TOKENS RANK WORLD FILE [LIBRARY]        a rank; they meet by a new FILE
 *
 * Prints the tokens of a greedy and of a sampled session, drafted by the model itself.  Exit 77:
 * there is no NCCL here.  tests/nccl_ranks.sh compares processes. */
#include "host/backend_cuda_rank.h"
#include "host/comm_nccl.h"
#include "host/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TIMEOUT_MS = 60000, CONTEXT = 64, DRAFTS = 3, NO_NCCL = 77 };

typedef struct {
    int32_t rank, world;
    const char *file, *library;
} seat;

/* Rank 0 leaves the id under another name first: nobody reads half of one. */
static bool give_id(const char *path, const char *id)
{
    char draft[1024];
    FILE *f;
    bool written;

    (void)snprintf(draft, sizeof draft, "%s.part", path);
    f = fopen(draft, "wb");
    if (!f) return false;
    written = fwrite(id, SPC_NCCL_ID_BYTES, 1, f) == 1;
    return fclose(f) == 0 && written && rename(draft, path) == 0;
}

static bool take_id(const char *path, char *id)
{
    struct timespec pause = {0, 20000000};

    for (int32_t waited = 0; waited < TIMEOUT_MS; waited += 20) {
        FILE *f = fopen(path, "rb");
        bool read = f && fread(id, SPC_NCCL_ID_BYTES, 1, f) == 1;

        if (f) (void)fclose(f);
        if (read) return true;
        (void)nanosleep(&pause, NULL);
    }
    return false;
}

static spc_status join(void *user, spc_device_comm **out, spc_error *err)
{
    const seat *s = user;
    char id[SPC_NCCL_ID_BYTES];
    spc_status status = SPC_OK;
    bool met = true;

    if (s->rank == 0) status = spc_nccl_id(s->library, id, err);
    if (status != SPC_OK) return status;
    met = s->rank == 0 ? give_id(s->file, id) : take_id(s->file, id);
    if (!met) return spc_error_set(err, SPC_EIO, "%s: no id there", s->file);
    return spc_nccl_open(s->library, id, s->rank, s->world, TIMEOUT_MS, out, err);
}

static spc_status print_session(spc_engine *engine, float temperature, int32_t tokens,
                                spc_error *err)
{
    static const int32_t prompt[] = {1, 5, 9, 3};
    spc_session_options o;
    spc_session *session;
    const int32_t *token;
    int32_t count = 0;
    spc_status status;

    spc_session_options_init(&o);
    o.gamma = DRAFTS;
    o.temperature = temperature;
    o.max_tokens = tokens;
    o.ignore_stop = true;
    o.seed = 7;
    status = spc_session_open(engine, &o, prompt, sizeof prompt / sizeof *prompt, &session, err);
    if (status != SPC_OK) return status;
    status = spc_session_run(session, err);
    token = spc_session_tokens(session, &count);
    for (int32_t i = 0; i < count; i++) (void)printf("%d ", (int)token[i]);
    (void)printf("\n");
    spc_session_close(session);
    return status;
}

/* An engine over the rank, or over the device alone. */
static spc_status open_engine(const char *checkpoint, seat *s, spc_model models[2],
                              spc_engine **engine, spc_error *err)
{
    spc_limits limits = spc_engine_limits(1, CONTEXT);
    spc_runner *runner[2] = {NULL, NULL};
    spc_backend *backend = NULL;
    spc_status status = SPC_OK;

    for (int i = 0; i < 2 && status == SPC_OK; i++) {
        status = spc_open_model(checkpoint, &models[i], err);
    }
    if (status != SPC_OK) return status;
    models[0].plan->alone = true; /* the drafter */
    status = s->world > 0 ? spc_cuda_open_rank("0", join, s, &backend, err)
                          : spc_backend_cuda.open(&backend, 0, NULL, err);
    for (int i = 0; i < 2 && status == SPC_OK; i++) {
        status = spc_backend_cuda.load(backend, models[i].plan, models[i].bundle, &limits,
                                       &runner[i], err);
    }
    if (status == SPC_OK) {
        return spc_engine_assemble(&spc_backend_cuda_rank, backend, runner[0], runner[1],
                                   models[1].config.vocab, CONTEXT, 1, engine, err);
    }
    for (int i = 0; i < 2; i++) spc_backend_cuda.unload(runner[i]);
    spc_backend_cuda.close(backend);
    return status;
}

int main(int argc, char **argv)
{
    seat s = {0, 0, NULL, argc > 6 ? argv[6] : NULL};
    spc_model models[2];
    spc_engine *engine = NULL;
    spc_error error;
    int32_t tokens, version;
    spc_status status;

    if (argc != 3 && argc != 6 && argc != 7) {
        (void)fprintf(stderr, "usage: nccl_ranks CHECKPOINT TOKENS [RANK WORLD FILE [LIBRARY]]\n");
        return 2;
    }
    tokens = (int32_t)strtol(argv[2], NULL, 10);
    if (argc > 3) {
        s.rank = (int32_t)strtol(argv[3], NULL, 10);
        s.world = (int32_t)strtol(argv[4], NULL, 10);
        s.file = argv[5];
        if (spc_nccl_version(s.library, &version, &error) != SPC_OK) {
            (void)fprintf(stderr, "nccl_ranks: %s\n", error.message);
            return NO_NCCL;
        }
    }
    memset(models, 0, sizeof models);
    status = open_engine(argv[1], &s, models, &engine, &error);
    if (status == SPC_OK) status = print_session(engine, 0, tokens, &error);
    if (status == SPC_OK) status = print_session(engine, 0.8f, tokens, &error);
    spc_engine_close(engine);
    for (int i = 0; i < 2; i++) spc_close_model(&models[i]);
    if (status != SPC_OK) (void)fprintf(stderr, "nccl_ranks: %s\n", error.message);
    return status == SPC_OK ? 0 : 1;
}
